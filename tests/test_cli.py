"""The command line as a user meets it: exit status, what is said where, and the files that come out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import rich.console
import torch
from PIL import Image
from typer.main import get_group

from scenewise import api, cli
from scenewise.backbones import load_subject
from scenewise.cli.options import PROTOCOL_NAMES
from scenewise.engine.config_tree import flat_settings
from scenewise.engine.display import Terminal
from scenewise.errors import Interrupted, UserError
from scenewise.evaluate.protocols import load_protocol
from scenewise.evaluate.run import choose_protocols
from scenewise.outputs import check_output
from scenewise.tools.judge import Terms, protocol_options

TINY = ["--backbone", "test_resnet", "--size", "32", "--epochs", "1", "--batch-size", "8", "--workers", "0"]
TINY += ["--precision", "32", "--device", "cpu", "--set", "engine.threads=1", "--set", "engine.tensorboard=false"]
TINY += ["--set", "method.width=16"]
COMMANDS = tuple(get_group(cli.app).commands)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deeper").mkdir()
    generator = np.random.default_rng(0)
    for number in range(16):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("deeper" if number % 2 else ".") / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.csv and test.csv over its eight images of two classes."""
    folder = tmp_path_factory.mktemp("labelled")
    for number in range(8):
        Image.new("RGB", (40, 48), (30 * number, 90, 200)).save(folder / f"{number}.png")
    for part, numbers in {"train": range(4), "test": range(4, 8)}.items():
        rows = [f"{number}.png,{'odd' if number % 2 else 'even'}" for number in numbers]
        (folder / f"{part}.csv").write_text("\n".join(["image,labels", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert (
        cli.run(["pretrain", str(photos), "--method", "mls", "--out", str(folder), *TINY, "--set", "method.k=2"]) == 0
    )
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a command that exits with 2 says on stderr; it is short, and no traceback."""
    status = cli.run(list(arguments))
    captured = capsys.readouterr()
    assert status == 2, captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert len([line for line in captured.err.splitlines() if not line.endswith(" ...")]) <= 3  # a bar's line aside
    return captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage: scenewise" in said
    if command not in ("methods", "backbones"):
        assert "Example" in said


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    assert cli.run(["--version"]) == 0
    assert re.fullmatch(r"scenewise \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_help_and_version_need_no_heavy_library() -> None:
    code = (
        "import sys; from scenewise import cli; cli.run(['pretrain', '--help']); cli.run(['evaluate', '--help']); "
        "sys.exit(', '.join({'torch', 'cv2', 'pyarrow', 'timm', 'lightning_fabric'} & sys.modules.keys()) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lists_are_one_line_an_entry(capsys: pytest.CaptureFixture[str]) -> None:
    for command, expected in (
        ("methods", "mls"),
        ("protocols", "knn"),
        ("recipes", "mls-coco-400"),
        ("backbones", "resnet50"),
    ):
        assert cli.run([command]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert any(line.split()[0] == expected for line in lines), lines


def test_pretrain_writes_the_run_folder(run: Path) -> None:
    for name in ("config.yaml", "environment.json", "metrics.jsonl", "backbone.safetensors", "report.html"):
        assert (run / name).is_file(), name
    assert (run / "checkpoints" / "last.ckpt.sha256").is_file()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all({"step", "epoch", "loss", "lr"} <= line.keys() for line in lines)
    assert "<html" in (run / "report.html").read_text()


def test_a_run_repeats_from_its_config_alone(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "report_run", lambda folder: folder)
    assert cli.run(["pretrain", "--config", str(run / "config.yaml"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/backbone.safetensors").read_bytes() == (run / "backbone.safetensors").read_bytes()


def test_a_finished_run_resumes_with_nothing_but_its_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "backbone.safetensors").read_bytes()
    assert cli.run(["pretrain", "--out", str(run), "--resume", "--workers", "1"]) == 0
    assert (run / "backbone.safetensors").read_bytes() == before
    capsys.readouterr()
    assert "seed: 5 was asked for, the run has 0" in refused(
        capsys, "pretrain", "--out", str(run), "--resume", "--seed", "5"
    )
    other = refused(capsys, "pretrain", "--out", str(run), "--resume", "--method", "mocov2")
    assert "the checkpoint is of 'mls', not of 'mocov2'" in other


BAD = {
    "no such folder": (["{tmp}/nowhere"], "no such folder"),
    "empty folder": (["{tmp}/empty"], "is empty"),
    "folder without images": (["{tmp}/texts"], "endings seen: .txt (2)"),
    "unknown kind": (["vov:{tmp}"], "Did you mean 'voc'?"),
    "unknown method": (["{photos}", "--method", "mocov3"], "Did you mean 'mocov2'?"),
    "unknown backbone": (["{photos}", "--backbone", "resnet51"], "backbone: unknown name 'resnet51'. Did you mean"),
    "unknown flag": (["{photos}", "--metod", "mls"], "--method"),
    "unknown setting": (["{photos}", "--set", "method.kk=3"], "method.kk: no such setting. Did you mean 'method.k'?"),
    "unknown section": (["{photos}", "--set", "methd.k=3"], "methd: no such setting. Did you mean 'method'?"),
    "setting without value": (["{photos}", "--set", "method.k"], "write name=value"),
    "k longer than the dictionary": (
        ["{photos}", "--set", "method.k=17", "--set", "method.dictionary_size=16"],
        "method.k: 17",
    ),
    "batch larger than the data": (["{photos}", "--batch-size", "32"], "larger than the data set of 16"),
    "dictionary not larger than a batch": (
        ["{photos}", "--set", "method.dictionary_size=8"],
        "larger than the 8 keys that a step writes",
    ),
    "size that no patch divides": (["{photos}", "--backbone", "test_vit", "--size", "40"], "nearest valid: 32 and 48"),
    "unknown recipe": (["{photos}", "--recipe", "mls-coco-40"], "Did you mean 'mls-coco-400'?"),
    "unknown crops": (["{photos}", "--crops", "scen"], "Did you mean 'scene'?"),
    "wrong number": (["{photos}", "--epochs", "ten"], "'ten'"),
    "wrong type": (["{photos}", "--set", "engine.epochs=ten"], "engine.epochs: 'ten'"),
    "negative seed": (["{photos}", "--seed", "-1"], "seed: -1 must be a whole number, 0 or more"),
    "unknown precision": (["{photos}", "--precision", "fp16"], "engine.precision: 'fp16'"),
    "unknown device": (["{photos}", "--device", "gpu"], "engine.device: 'gpu'"),
    "no such start": (["{photos}", "--init", "{tmp}/nothing"], "no file or folder here"),
    "no such config": (["--config", "{tmp}/no.yaml"], "--config: cannot read"),
    "no data": ([], "data.source: say which images, for example `scenewise pretrain PHOTOS --out RUN`"),
    "label file without its image": (["csv:{tmp}/labels.csv"], "missing.png"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_in_a_line_or_two(
    case: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "b.TXT"):
        (tmp_path / "texts" / name).write_text("words")
    (tmp_path / "labels.csv").write_text(f"image,labels\n{photos / '00.png'},cat\nmissing.png,dog\n")
    arguments, message = BAD[case]
    given = [argument.format(photos=photos, tmp=tmp_path) for argument in arguments]
    method = [] if "--method" in given else ["--method", "mls"]
    tiny = [
        word
        for name, word in zip(TINY[::2], TINY[1::2], strict=True)
        if name not in given or name == "--set"
        for word in (name, word)
    ]
    said = refused(capsys, "pretrain", "--out", str(tmp_path / "run"), *method, *tiny, *given)
    assert message in said
    assert not (tmp_path / "run").exists()


def test_all_errors_of_a_configuration_are_told_at_once_and_before_those_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: {source: nowhere}\nmethod: {name: mls, kk: 3}\nengine: {epoch: 3}\noptimizer: {lr: 1}\n")
    assert cli.run(["pretrain", "--config", str(file), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    for name in ("method.kk", "engine.epoch", "optimizer"):
        assert f"{name}: no such setting. Did you mean" in said
    assert "nowhere" not in said
    assert len(said.splitlines()) == 3


def test_an_output_that_exists_is_refused(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, "pretrain", str(photos), "--method", "mls", "--out", str(run), *TINY)
    assert "exists and is not empty" in said
    assert "--overwrite" in said
    (tmp_path / "table.parquet").touch()
    assert "exists" in refused(capsys, "embed", str(run), str(photos), "--out", str(tmp_path / "table.parquet"))
    (tmp_path / "file").touch()
    assert "is a file" in refused(capsys, "demo", "--out", str(tmp_path / "file"))
    assert "not empty" in refused(capsys, "demo", "--out", str(tmp_path))


def test_evaluate_prints_a_table_and_writes_json(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    arguments = ["--data", "synthetic:60", "--protocol", "knn", "--limit", "40", "--size", "32", "--json", str(file)]
    assert cli.run(["evaluate", str(run), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "| knn | mAP |" in printed
    assert "| knn | AP/star |" in printed
    assert "note: knn: k = 20" in printed
    content: dict[str, Any] = json.loads(file.read_text())
    assert content.keys() == {"subject", "data", "protocols", "counts", "notes"}
    assert content["subject"] == str(run)
    figure = content["protocols"]["knn"]["mAP"]
    assert figure.keys() == {"value", "low", "high"}
    assert 0 <= figure["low"] <= figure["value"] <= figure["high"] <= 1
    assert content["counts"]["test_images"] <= 40


def test_compare_prints_a_table_and_sentences_and_writes_json_and_a_page(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, html = tmp_path / "figures.json", tmp_path / "page.html"
    arguments = ["--data", "synthetic:60", "--protocol", "knn", "--limit", "40", "--size", "32"]
    arguments += ["--set", "knn.k=5", "knn.temperature=0.1", "--json", str(file), "--html", str(html)]
    assert cli.run(["compare", "random:test_resnet", str(run), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "| subject | knn mAP (%) |" in printed
    assert f"{run} is" in printed
    assert "knn: k = 5, temperature = 0.1" in printed
    content: dict[str, Any] = json.loads(file.read_text())
    assert [subject["subject"] for subject in content["subjects"]] == ["random:test_resnet", str(run)]
    assert all(subject.keys() == {"subject", "data", "protocols", "counts", "notes"} for subject in content["subjects"])
    assert all((item["first"], item["second"]) == (str(run), "random:test_resnet") for item in content["differences"])
    assert "knn AP/star" in html.read_text()
    assert "exists" in refused(capsys, "compare", "random:test_resnet", str(run), *arguments)


def test_compare_needs_every_subject_unless_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    common = ["--data", "synthetic:60", "--protocol", "knn", "--size", "32"]
    absent = [str(tmp_path / "one"), str(tmp_path / "two")]
    said = refused(capsys, "compare", "random:test_resnet", *absent, *common)
    assert all(f"{name}: subject:" in said for name in absent)
    assert cli.run(["compare", "random:test_resnet", *absent, *common, "--skip-missing"]) == 0
    printed = capsys.readouterr().out
    assert all(f"left out: {name}: " in printed for name in absent)


def test_protocols_are_listed_with_what_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["protocols", "--settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  knn.k=20  # at least 1" in lines and "  knn.vote=exp  # exp, majority" in lines
    assert any(line.startswith("  linear.iterations=") for line in lines)
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert ", ".join(names) == PROTOCOL_NAMES
    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    assert [name for name in names if f"| `{name}` |" not in page] == []
    given = [line.strip() for line in lines if line.startswith(" ")]
    options = protocol_options(flat_settings(given))
    for name, (_, config) in choose_protocols(names, options).protocols.items():
        assert config == load_protocol(name).config(), name  # each line sets what is there


EVALUATE_BAD = {
    "unknown protocol": (["--protocol", "knnn"], "Did you mean 'knn'?"),
    "no protocol": (["--protocol", ","], "none is named"),
    "k larger than the bank": (["--protocol", "knn", "--set", "knn.k=41"], "knn.k: 41 is not possible with 40"),
    "unknown setting": (["--protocol", "knn", "--set", "knn.kk=3"], "Did you mean 'k'?"),
    "setting of an unknown protocol": (["--protocol", "knn", "--set", "kn.k=3"], "Did you mean 'knn'?"),
    "setting of a protocol that is not run": (["--protocol", "knn", "--set", "linear.epochs=3"], "is not run"),
    "setting without a protocol": (["--protocol", "knn", "--set", "k=3"], "PROTOCOL.SETTING=VALUE"),
    "setting without a value": (
        ["--protocol", "knn", "--set", "knn.k"],
        "write name=value, for example --set knn.k=200",
    ),
    "setting of a wrong type": (["--protocol", "knn", "--set", "knn.k=many"], "knn.k:"),
    "epochs and iterations": (["--protocol", "linear", "--epochs", "2", "--iterations", "3"], "give one of them"),
    "no epoch": (["--protocol", "linear", "--epochs", "0"], "(given: '0')"),
    "one image": (["--limit", "1"], "--limit"),
    "data without labels": (["--data", "{labelled}", "--test-data", "{photos}"], "has no labels"),
    "data without boxes": (
        ["--data", "csv:{labelled}/train.csv", "--test-data", "csv:{labelled}/test.csv", "--protocol", "knn,detect"],
        "has no labelled boxes; use voc:",
    ),
    "the same images twice": (
        ["--data", "csv:{labelled}/test.csv", "--test-data", "csv:{labelled}/test.csv"],
        "holds the images that are learnt from",
    ),
    "unknown device": (["--device", "gpu"], "Did you mean 'cpu'?"),
}


@pytest.mark.parametrize("case", EVALUATE_BAD)
@pytest.mark.parametrize("command", ["evaluate", "compare"])
def test_what_evaluate_and_compare_refuse(
    command: str, case: str, photos: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = EVALUATE_BAD[case]
    given = [argument.format(photos=photos, labelled=labelled) for argument in arguments]
    subjects = ["random:test_resnet", "random:test_vit"][: 1 if command == "evaluate" else 2]
    defaults = {"--data": "synthetic:60", "--size": "32", "--limit": "40", "--device": "cpu"}
    usual = [word for name, value in defaults.items() if name not in given for word in (name, value)]
    said = refused(capsys, command, *subjects, *usual, *given)
    assert message in said
    assert len(re.findall("^scenewise:", said, re.MULTILINE)) <= 2


def test_the_length_reaches_what_is_trained(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Terms] = []

    def stop(terms: Terms, *_: object) -> None:
        seen.append(terms)
        raise UserError("seen")

    monkeypatch.setattr("scenewise.tools.judge.check_names", stop)
    refused(capsys, "evaluate", str(run), "--data", "synthetic:60", "--iterations", "7", "--set", "linear.momentum=0.5")
    assert (seen[0].iterations, seen[0].epochs) == (7, None)
    assert seen[0].options == {"linear": {"momentum": 0.5}}


def test_evaluate_refuses_names_before_it_reads_data(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "Did you mean 'knn'?" in refused(capsys, "evaluate", str(run), "--data", "nowhere", "--protocol", "kn")
    assert "name at least one" not in refused(capsys, "evaluate", str(run), "--data", "nowhere")
    assert "--json" in refused(
        capsys, "evaluate", str(run), "--data", "nowhere", "--json", str(tmp_path / "no" / "file")
    )
    assert "Allowed:" in refused(capsys, "evaluate", "nothing", "--data", "synthetic:60")
    assert "one split" in refused(
        capsys, "evaluate", "random:test_resnet", "--size", "32", "--data", "synthetic:60?split=test"
    )


def test_embed_writes_one_row_an_image(run: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "embeddings.parquet"
    assert cli.run(["embed", str(run), str(photos), "--out", str(file), "--device", "cpu"]) == 0
    table = pq.read_table(file)
    assert table.column_names == ["path", "embedding"]
    assert sorted(table["path"].to_pylist())[:2] == ["00.png", "02.png"]
    assert table.num_rows == 16
    width = load_subject(str(run)).backbone.width
    assert all(len(row) == width for row in table["embedding"].to_pylist())


def test_export_prints_lines_that_load_the_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "backbone.safetensors"
    assert cli.run(["export", str(run), "--format", "timm", "--out", str(file)]) == 0
    found: dict[str, Any] = {}
    exec(capsys.readouterr().out, found)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(found["model"](images), load_subject(str(run)).backbone(images), atol=1e-5, rtol=0)
    assert "Did you mean 'timm'?" in refused(
        capsys, "export", str(run), "--format", "tim", "--out", str(tmp_path / "b.pth")
    )


@pytest.mark.parametrize(
    ("error", "status"),
    [(Interrupted(15), 143), (Interrupted(2), 130), (KeyboardInterrupt(), 130), (cli.Terminated(15), 143)],
)
def test_an_interrupted_command_exits_by_its_signal(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(api, "pretrain", stop)
    assert cli.run(["pretrain", "photos", "--method", "mls", "--out", str(tmp_path / "run")]) == status


def test_a_fault_of_ours_shows_where_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(api, "pretrain", fail)
    assert cli.run(["pretrain", "photos", "--method", "mls", "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "ZeroDivisionError: ours" in said
    assert "please report it" in said


def test_one_set_carries_several_settings() -> None:
    given = ["pretrain", "DATA", "--set", "method.k=10", "svm-lowshot.k=[1]", "seed=3", "--out", "a.b=c"]
    one_each = ["--set", "method.k=10", "--set", "svm-lowshot.k=[1]", "--set", "seed=3"]
    expected = ["pretrain", "DATA", *one_each, "--out", "a.b=c"]
    assert cli._repeat_set(given) == expected
    assert cli._repeat_set(["--set", "a.b=1", "DATA"]) == ["--set", "a.b=1", "DATA"]
    assert cli._repeat_set([]) == []


@pytest.mark.parametrize(
    "command",
    [
        ["evaluate", "random:test_resnet", "--data", "synthetic:60"],
        ["compare", "random:test_resnet", "random:test_vit", "--data", "synthetic:60"],
        ["audit", "synthetic:20"],
        ["propose", "synthetic:20", "--generator", "grid", "--out", "proposals.arrow"],
    ],
    ids=lambda command: command[0],
)
def test_a_file_is_not_replaced_by_figures_unless_asked(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    precious = tmp_path / "photo.jpg"
    precious.write_bytes(b"a photo")
    assert "--overwrite" in refused(capsys, *command, "--json", "photo.jpg")
    assert precious.read_bytes() == b"a photo"
    if "--out" in command:
        assert "itself writes" in refused(capsys, *command, "--json", "proposals.arrow")


def test_figures_are_written_before_they_are_shown(tmp_path: Path) -> None:
    """Whoever closes the pipe (`| head`) still has the file that was asked for, whole."""
    file = tmp_path / "audit.json"
    command = f"{sys.executable} -m scenewise audit synthetic:8 --json {file} | true"
    subprocess.run(["bash", "-c", command], capture_output=True, check=False, timeout=300)
    assert json.loads(file.read_text())["images"]["read"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["audit.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused_before_the_work(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="nothing may be written to its folder"):
        check_output("--json", tmp_path / "file.json", overwrite=False)


def test_a_path_in_brackets_is_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    console = rich.console.Console(force_terminal=True, file=sys.stderr, width=100)
    display = Terminal()
    display._console = console
    with display.bar("reading a[/b]/c", 3) as bar:
        bar.update(1, text="[/x]")
    assert "a[/b]/c" in capsys.readouterr().err
