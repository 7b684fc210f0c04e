"""A study carried out, small: interrupted and resumed, skipped, refused, chosen, and its table made again."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenewise.engine.display import Bar, Quiet
from scenewise.errors import Interrupted, UserError
from scenewise.evaluate.evaluation import Evaluation, differences
from scenewise.studies import Arm, Boxes, Claim, Split, Study, rates
from scenewise.tools import study_job, study_pool
from scenewise.tools.judge import evaluate
from scenewise.tools.study import StudyResult, remake_table, run_study, study
from scenewise.tools.study_folder import StudyFolder
from scenewise.tools.study_table import table_markdown

FORK = multiprocessing.get_context("fork")
TIMES = {"seconds", "test_seconds", "tested_at", "at"}
SETTINGS = {
    "backbone.name": "test_resnet",
    "engine.batch_size": 8,
    "engine.workers": 0,
    "engine.threads": 1,
    "engine.tensorboard": False,
    "engine.precision": "32",
    "engine.checkpoint_steps": 1,
}
MOCO = {"method.width": 8, "method.dictionary_size": 16}


class Told(Quiet):
    """Keeps what is said; sends SIGINT to this process after so many steps of bars with a total."""

    def __init__(self, *, steps: int | None = None) -> None:
        super().__init__()
        self.words: list[str] = []
        self.steps = steps

    def say(self, text: str) -> None:
        self.words.append(text)

    @contextmanager
    def bar(self, task: str, total: int | None) -> Iterator[Bar]:
        yield Counting(self) if task.startswith("pre-training") else Bar()


class Counting(Bar):
    def __init__(self, told: Told) -> None:
        self.told = told

    def update(self, done: int, *, total: int | None = None, text: str = "") -> None:
        if self.told.steps is not None:
            self.told.steps -= 1
            if self.told.steps == 0:
                signal.raise_signal(signal.SIGINT)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a pool of 16 photos, and train.csv, val.csv, test.csv over photos of two kinds."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for part, count in {"pool": 16, "train": 12, "val": 12, "test": 12}.items():
        (folder / part).mkdir()
        rows = ["image,labels"]
        for number in range(count):
            pixels = generator.integers(0, 120, (24, 24, 3)) + 60 * (number % 2)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / part / f"{number}.png")
            rows.append(f"{part}/{number}.png,{'light' if number % 2 else 'dark'}")
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(autouse=True)
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_job, "report_run", lambda folder: folder)


def a_study(photos: Path, *arms: Arm, **changed: Any) -> Study:
    study = Study(
        name="Tiny",
        data=str(photos / "pool"),
        size=16,
        test_on=Split(train=f"csv:{photos}/train.csv", test=f"csv:{photos}/test.csv"),
        choose_on=Split(train=f"csv:{photos}/train.csv", test=f"csv:{photos}/val.csv"),
        arms=arms,
        protocols=("knn",),
        protocol_settings={"knn.k": 3},
        passes=8.0,
        settings=SETTINGS,
    )
    return replace(study, **changed)


def three_arms(photos: Path) -> Study:
    return a_study(
        photos,
        Arm(label="random init", init="random:test_resnet", seeds=(0, 1)),
        Arm(
            label="MoCo v2", method="mocov2", settings=MOCO, seeds=(0, 1), tries=rates(0.01, 0.3), control="random init"
        ),
        Arm(label="SimCLR", method="simclr", settings={"method.width": 8}, control="MoCo v2"),
    )


def carried_out(study: Study, out: Path, **options: Any) -> StudyResult:
    return run_study(study, out, command="scenewise study", device="cpu", **options)


def timeless(content: Any) -> Any:
    """Return the table without what no two runs have in common."""
    if isinstance(content, Mapping):
        return {name: timeless(value) for name, value in content.items() if name not in TIMES}
    return (
        [timeless(value) for value in content]
        if isinstance(content, Sequence) and not isinstance(content, str)
        else content
    )


def row(result: StudyResult, label: str) -> dict[str, Any]:
    return next(arm for arm in result.to_json()["arms"] if arm["label"] == label)


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, StudyResult]:
    out = tmp_path_factory.mktemp("studies") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_job, "report_run", lambda folder: folder)
        return out, carried_out(three_arms(photos), out)


def test_the_table_holds_every_arm_with_its_figures_and_origin(whole: tuple[Path, StudyResult]) -> None:
    out, result = whole
    assert [arm["label"] for arm in result.content["arms"]] == ["random init", "MoCo v2", "SimCLR"]
    moco = row(result, "MoCo v2")
    values = [run["figures"]["knn"]["top1"]["value"] for run in moco["runs"]]
    assert moco["figures"]["knn"]["value"] == pytest.approx(np.mean(values))
    assert moco["figures"]["knn"]["spread"] == pytest.approx(np.std(values, ddof=1))
    for run in moco["runs"]:
        assert run["torch"] == version("torch")
        assert run["command"].startswith("scenewise pretrain ")
        assert run["seconds"] > 0
        assert {"commit", "machine"} <= run.keys()
    markdown = result.to_markdown()
    assert all(f"| {run['name']} | " in markdown for run in moco["runs"])
    assert (out / "table.md").read_text() == markdown
    curves = json.loads((out / "curves.json").read_text())
    for name in moco["jobs"]:
        assert (out / "runs" / name / "config.yaml").is_file()
        assert [epoch for epoch, _ in curves[name]["loss"]] == [1, 2]
        assert "health/effective_rank" in curves[name]


def test_arms_are_compared_at_equal_passes(whole: tuple[Path, StudyResult]) -> None:
    _, result = whole
    for label, cost in {"MoCo v2": 4, "SimCLR": 6}.items():
        arm = row(result, label)
        assert arm["cost"] == cost
        assert arm["passes"] == arm["epochs"] * cost
        assert abs(arm["passes"] - 8) <= cost / 2


def test_the_commands_of_the_table_repeat_the_runs(whole: tuple[Path, StudyResult]) -> None:
    import shlex

    from scenewise.engine.config import build, flatten
    from scenewise.engine.config_tree import assign, flat_settings, read_yaml

    out, result = whole
    (run,) = row(result, "SimCLR")["runs"]
    words = shlex.split(run["command"])
    tree: dict[str, Any] = {"data": {"source": words[2]}}
    for name, value in flat_settings(words[words.index("--set") + 1 :]).items():
        assign(tree, name, value)
    asked, made = flatten(build(tree)), flatten(build(read_yaml(out / "runs" / run["name"] / "config.yaml")))
    open_values = {name for name, value in asked.items() if value in (None, "auto")}
    assert {name for name in asked if asked[name] != made[name]} <= open_values | {"data.source"}


def test_a_study_interrupted_anywhere_and_resumed_gives_the_same_table(
    whole: tuple[Path, StudyResult], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = three_arms(photos), tmp_path / "again"
    for steps in (1, 3, 3):  # in the first run; in the next, once the first is done; in one of the second part
        with pytest.raises(Interrupted):
            carried_out(study, out, display=Told(steps=steps))
    judged = study_job.judge_subject
    calls = 0

    def killed(*given: Any, **named: Any) -> Evaluation:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return judged(*given, **named)

    monkeypatch.setattr(study_job, "judge_subject", killed)
    with pytest.raises(KeyboardInterrupt):
        carried_out(study, out)
    partial = json.loads((out / "table.json").read_text())
    assert any("not finished yet" in note for note in partial["notes"])
    assert "figures" not in row(StudyResult(content=partial, file=None), "SimCLR")["runs"][0]
    resumed = timeless(carried_out(study, out).to_json())
    uninterrupted = timeless(whole[1].to_json())
    assert json.dumps(resumed).replace(str(out), "OUT") == json.dumps(uninterrupted).replace(str(whole[0]), "OUT")


def test_an_interruption_in_the_last_step_of_a_run_ends_the_study(photos: Path, tmp_path: Path) -> None:
    study = a_study(photos, Arm(label="MoCo v2", method="mocov2", settings=MOCO, seeds=(0, 1)))
    out = tmp_path / "out"
    with pytest.raises(Interrupted):
        carried_out(study, out, display=Told(steps=4))
    assert [folder.name for folder in (out / "runs").iterdir()] == ["moco-v2-seed-0"]
    assert (out / "runs" / "moco-v2-seed-0" / "backbone.safetensors").is_file()
    assert "figures" not in json.loads((out / "table.json").read_text())["arms"][0]["runs"][0]


def test_a_study_that_another_process_carries_out_is_refused(photos: Path, tmp_path: Path) -> None:
    folder, ready = StudyFolder(tmp_path / "out"), FORK.Event()

    def hold() -> None:
        with folder.locked("study"):
            ready.set()
            signal.pause()

    study = a_study(photos, Arm(label="a", init="random:test_resnet"))
    process = FORK.Process(target=hold)
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UserError, match=r"--out: another process is at work on 'study' in"):
            carried_out(study, folder.root)
    finally:
        process.kill()
        process.join()
    assert carried_out(study, folder.root).file


def test_a_process_whose_study_was_killed_is_told_to_stop() -> None:
    reading, writing = os.pipe()

    def work() -> None:
        os.close(writing)
        study_job.stop_with_parent(reading)
        signal.pause()

    process = FORK.Process(target=work)
    process.start()
    os.close(reading)
    assert process.is_alive()
    os.close(writing)
    process.join(60)
    assert process.exitcode == -signal.SIGTERM


def test_what_is_done_is_not_done_again(
    whole: tuple[Path, StudyResult], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, result = whole

    def refuse(*given: Any, **named: Any) -> None:
        raise AssertionError("everything is done already")

    for name in ("pretrain_run", "judge_subject"):
        monkeypatch.setattr(study_job, name, refuse)
    assert carried_out(three_arms(photos), out).to_json() == result.to_json()


def test_a_row_outlives_its_run(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    study = a_study(photos, Arm(label="a", method="mocov2", settings=MOCO), passes=4.0)
    result = carried_out(study, out)
    curves = (out / "curves.json").read_bytes()
    shutil.rmtree(out / "runs")
    assert carried_out(study, out).to_json() == result.to_json()
    assert (out / "curves.json").read_bytes() == curves
    carried_out(a_study(photos, Arm(label="c", init="random:test_resnet")), out)
    assert (out / "curves.json").read_bytes() == curves, "another study in the folder keeps them too"
    display = Told()
    other = replace(study, protocol_settings={"knn.k": 2})
    again = carried_out(other, out, overwrite=["a"], display=display)
    assert any(words.startswith("a-seed-0 is made anew: ") for words in display.words)
    assert (out / "runs" / "a-seed-0" / "backbone.safetensors").is_file()
    assert row(again, "a")["runs"][0]["commit"] == row(result, "a")["runs"][0]["commit"]


@pytest.mark.slow  # two processes import everything anew
def test_processes_side_by_side_give_the_same_table(photos: Path, tmp_path: Path) -> None:
    study = a_study(photos, Arm(label="a", init="random:test_resnet", seeds=(0, 1)))
    display = Told()
    alone = carried_out(study, tmp_path / "alone")
    together = carried_out(study, tmp_path / "together", jobs=2, display=display)
    assert timeless(alone.to_json()) == timeless(together.to_json())
    assert sum("done: a-seed-" in words for words in display.words) == 2
    assert (tmp_path / "together" / "logs" / "a-seed-0.log").is_file()


def test_the_difference_is_the_paired_bootstrap_of_compare(whole: tuple[Path, StudyResult], photos: Path) -> None:
    out, result = whole
    runs = [row(result, label)["runs"][0]["name"] for label in ("SimCLR", "MoCo v2")]
    data = {"data": f"csv:{photos}/train.csv", "test_data": f"csv:{photos}/test.csv"}
    terms = {"protocol": "knn", "settings": {"knn.k": 3}, "size": 16, "device": "cpu"}
    first, second = (evaluate(out / "runs" / name, **data, **terms) for name in runs)
    expected = differences(first, second)["knn"]["top1"]
    found = row(result, "SimCLR")["differences"]["knn"]
    assert (found["value"], found["low"], found["high"]) == (expected.value, expected.low, expected.high)


def test_a_row_of_one_seed_is_undecided(whole: tuple[Path, StudyResult]) -> None:
    _, result = whole
    lines = {line.split("|")[1].strip(): line for line in result.to_markdown().splitlines() if line.startswith("| ")}
    assert "one seed, undecided" in lines["SimCLR"]
    assert "one seed" not in lines["MoCo v2"]
    assert row(result, "SimCLR")["figures"]["knn"]["spread"] is None
    assert len(row(result, "MoCo v2")["differences"]["knn"]["by_seed"]) == 2


def test_choices_are_made_before_the_test_split_is_looked_at(photos: Path, tmp_path: Path) -> None:
    study, out = three_arms(photos), tmp_path / "out"
    chosen = carried_out(study, out, choose_only=True)
    assert sorted(file.name for file in (out / "evaluations").glob("*.json")) == [
        "moco-v2-lr-0.01-seed-0.choose.json",
        "moco-v2-lr-0.3-seed-0.choose.json",
    ]
    choice = row(chosen, "MoCo v2")["choice"]
    values = [tried["value"] for tried in choice["tried"]]
    assert values[choice["variant"]] == max(values)
    assert not any("figures" in run for arm in chosen.to_json()["arms"] for run in arm["runs"])


def test_the_choice_does_not_see_the_test_split(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []
    split = study_job.open_splits

    def noted(data: str, test_data: str | None, *given: Any, **named: Any) -> Any:
        seen.append((data, str(test_data)))
        return split(data, test_data, *given, **named)

    monkeypatch.setattr(study_job, "open_splits", noted)
    study = a_study(photos, Arm(label="a", method="mocov2", settings=MOCO, tries=rates(0.01, 0.1)), passes=4.0)
    carried_out(study, tmp_path / "out", choose_only=True)
    assert len(seen) == 2
    assert not any("test.csv" in spec for pair in seen for spec in pair)
    with pytest.raises(UserError, match="is the test split"):
        carried_out(replace(study, choose_on=study.test_on), tmp_path / "other")
    hidden = Split(train=f"csv:{photos}/train.csv", test=f"csv:{photos}/test.csv?root={photos}")
    with pytest.raises(UserError, match="12 of its images are test images"):
        carried_out(replace(study, choose_on=hidden), tmp_path / "other")


def test_a_changed_arm_is_refused_and_made_anew_alone(photos: Path, tmp_path: Path) -> None:
    study = a_study(
        photos,
        Arm(label="a", method="mocov2", settings=MOCO),
        Arm(label="b", method="simclr", settings={"method.width": 8}),
        passes=6.0,
    )
    out = tmp_path / "out"
    before = carried_out(study, out)
    changed = replace(study, arms=(replace(study.arms[0], settings=MOCO | {"method.temperature": 0.5}), study.arms[1]))
    with pytest.raises(UserError) as caught:
        carried_out(changed, out)
    (problem,) = caught.value.problems
    assert "method.temperature: 0.2, now 0.5" in problem
    assert "--overwrite 'a'" in problem
    with pytest.raises(UserError, match=r"--overwrite: unknown name 'c'"):
        carried_out(changed, out, overwrite=["c"])
    weights = (out / "runs" / "a-seed-0" / "backbone.safetensors").read_bytes()
    after = carried_out(changed, out, overwrite=["a", "b"])
    assert (out / "runs" / "a-seed-0" / "backbone.safetensors").read_bytes() != weights
    assert row(after, "b") == row(before, "b")
    same = carried_out(replace(changed, settings=SETTINGS | {"engine.workers": 1}), out)
    assert timeless(row(same, "a"))["figures"] == timeless(row(after, "a"))["figures"]


def test_other_protocols_judge_a_run_anew_and_do_not_train_it_again(photos: Path, tmp_path: Path) -> None:
    arms = (
        Arm(label="a", method="mocov2", settings=MOCO, tries=rates(0.01, 0.1)),
        Arm(label="b", init="random:test_resnet"),
    )
    study, out = a_study(photos, *arms, passes=4.0), tmp_path / "out"
    before = carried_out(study, out)
    more = replace(study, protocols=("knn", "retrieve"), choose_by="knn")
    with pytest.raises(UserError, match=r"protocols: \['knn'\], now \['knn', 'retrieve'\]"):
        carried_out(more, out)
    weights = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/backbone.safetensors")}
    trained = {path: json.loads(path.read_text()).get("seconds") for path in out.glob("records/*.json")}
    assert len(weights) == 2 and len(trained) == 3
    after = carried_out(more, out, overwrite=["a", "b"])
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/backbone.safetensors")} == weights
    assert {path: json.loads(path.read_text()).get("seconds") for path in out.glob("records/*.json")} == trained
    for label in ("a", "b"):
        (old,), (new,) = row(before, label)["runs"], row(after, label)["runs"]
        assert new["figures"].keys() == {"knn", "retrieve"}
        assert new["figures"]["knn"] == old["figures"]["knn"]


def test_a_run_that_fails_is_told_and_the_others_go_on(photos: Path, tmp_path: Path) -> None:
    settings = {"method.width": 8, "optimiser.name": "sgd", "optimiser.scaling": "none"}
    study = a_study(
        photos,
        Arm(label="hot", method="simclr", settings=settings | {"optimiser.lr": 1e38}),
        Arm(label="tried", method="simclr", settings=settings, tries=rates(1e38, 0.01)),
        passes=12.0,
    )
    with pytest.raises(UserError, match=r"hot-seed-0 failed: .*(loss became|not finite)"):
        carried_out(study, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "table.json").read_text())
    choice = content["arms"][1]["choice"]
    assert choice["variant"] == 1
    assert choice["tried"][0]["value"] is None
    assert "figures" in content["arms"][1]["runs"][0]
    assert "failed" in table_markdown(content)


def test_weights_that_are_not_here_leave_their_row_open(photos: Path, tmp_path: Path) -> None:
    study = a_study(
        photos,
        Arm(label="ImageNet", init=str(tmp_path / "missing.pth")),
        Arm(label="continued", method="simclr", init=str(tmp_path / "missing.pth"), control="ImageNet"),
        Arm(label="random", init="random:test_resnet", control="ImageNet"),
        settings={**SETTINGS, "backbone.name": None},
    )
    result = carried_out(study, tmp_path / "out")
    assert "no file or folder" in row(result, "ImageNet")["open"]
    assert row(result, "continued")["runs"] == []
    assert "| ImageNet | – | – | – | open |" in result.to_markdown()
    assert any(note.startswith("continued stays open") for note in result.content["notes"])
    assert len(row(result, "random")["runs"]) == 1


def test_protocols_that_do_not_fit_the_data_are_refused_before_any_run(photos: Path, tmp_path: Path) -> None:
    study = a_study(photos, Arm(label="a", method="simclr"))
    with pytest.raises(UserError, match="boxes"):
        carried_out(replace(study, protocols=("objects",), protocol_settings={}), tmp_path / "out")
    with pytest.raises(UserError, match=r"a: engine\.batch_size: 32 is larger than the data set of 16"):
        carried_out(replace(study, settings=SETTINGS | {"engine.batch_size": 32}), tmp_path / "out")
    assert not (tmp_path / "out" / "runs").exists()


def test_the_table_is_made_again_from_its_json_alone(whole: tuple[Path, StudyResult], tmp_path: Path) -> None:
    out, result = whole
    file = tmp_path / "study.json"
    file.write_bytes((out / "table.json").read_bytes())
    again = remake_table(file)
    assert again.to_markdown() == result.to_markdown()
    assert (tmp_path / "study.md").read_bytes() == (out / "table.md").read_bytes()
    assert (tmp_path / "study.svg").read_bytes() == (out / "table.svg").read_bytes()
    with pytest.raises(UserError, match="no such file"):
        remake_table(tmp_path / "other.json")
    file.write_text("{}")
    with pytest.raises(UserError, match="holds no arms"):
        remake_table(file)


def test_each_claim_has_its_verdict_and_its_figure(photos: Path, tmp_path: Path) -> None:
    arms = (
        Arm(label="a", init="random:test_resnet", seeds=(0, 1)),
        Arm(label="b & <c>", init="random:test_resnet", seeds=(2, 3), control="a"),
        Arm(label="other", init="random:test_resnet"),
    )
    claim = Claim(name="Weights $1", says="Random weights differ.", arms=("a", "b & <c>"), verdict="They do not.")
    out = tmp_path / "out"
    result = carried_out(a_study(photos, *arms, claims=(claim,)), out)
    page = (out / "table.md").read_text()
    assert "Random weights differ." in page
    assert "They do not." in page
    assert "(table.weights-1.svg)" in page
    drawn = (out / "table.weights-1.svg").read_text()
    assert "other" not in drawn
    shutil.copy(out / "table.json", tmp_path / "copy.json")
    assert remake_table(tmp_path / "copy.json").to_json() == result.to_json()
    assert (tmp_path / "copy.weights-1.svg").read_text() == drawn
    wrong = replace(claim, name="weights-1", arms=("a", "oter"))
    with pytest.raises(UserError, match="two claims would have one file") as told:
        carried_out(a_study(photos, *arms, claims=(wrong, claim)), out)
    assert any("'other'" in problem for problem in told.value.problems)


def test_several_pools_become_one_and_boxes_are_made_once(photos: Path, tmp_path: Path) -> None:
    arms = (
        Arm(label="grid", method="mocov2", settings=MOCO, crops="object", proposals="grid"),
        Arm(label="random", method="mocov2", settings=MOCO, crops="object", proposals="random"),
    )
    study = a_study(
        photos,
        *arms,
        data=(str(photos / "pool"), f"csv:{photos}/train.csv"),
        boxes={"grid": Boxes(generator="grid"), "random": Boxes(generator="random", like="grid")},
        passes=4.0,
    )
    out = tmp_path / "out"
    result = carried_out(study, out, workers=0)
    assert len(list((out / "pool").rglob("*.png"))) == 28
    made = (out / "proposals" / "random.arrow").stat().st_mtime_ns
    assert carried_out(study, out, workers=0).to_json() == result.to_json()
    assert (out / "proposals" / "random.arrow").stat().st_mtime_ns == made
    with pytest.raises(UserError, match="was made of other data"):
        study_pool.make_pool((str(photos / "pool"), f"csv:{photos}/val.csv"), out, Quiet())


@pytest.mark.parametrize("unused", [{"choose": True}, {"jobs": 2}, {"overwrite": ["one"]}])
def test_options_without_effect_are_refused(tmp_path: Path, unused: dict[str, Any]) -> None:
    name = next(iter(unused))
    with pytest.raises(UserError, match=f"^--{name}: has no effect with --plan"):
        study(tmp_path / "study.py", plan=True, **unused)
    with pytest.raises(UserError, match=f"^--{name}: has no effect with --table"):
        study(table=tmp_path / "table.json", **unused)
