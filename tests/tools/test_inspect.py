"""The inspection sheet as a user meets it: what it is made of, its transport plans, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import api, cli
from scenewise.engine.checkpoints import load_checkpoint
from scenewise.engine.config import RunConfig, build
from scenewise.engine.config_tree import read_yaml
from scenewise.engine.display import Quiet
from scenewise.engine.plan import make_plan
from scenewise.engine.run import pretrain_run
from scenewise.errors import UserError
from scenewise.methods.univip import UniVIP
from scenewise.sources import open_source
from scenewise.tools import inspect as inspecting
from scenewise.tools.inspect import transport_plans
from scenewise.tools.report import run_sheets
from scenewise.tools.seen import see
from scenewise.types import View
from scenewise.views.collate import normalise
from scenewise.views.loading import load_batch

DATA = "synthetic:8"
ENGINE = {"epochs": 1, "batch_size": 4, "workers": 0, "threads": 1, "device": "cpu", "precision": "32"}
SMALL = {"backbone": {"name": "test_resnet"}, "engine": {**ENGINE, "tensorboard": False}}


class Said(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def univip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = {"name": "univip", "hidden": 16, "width": 8, "instances": 3, "momentum": 0.5}
    data = {"source": DATA, "size": 32, "proposals": "labels"}
    return pretrain_run(build({"data": data, "method": method, **SMALL}), tmp_path_factory.mktemp("univip")).folder


@pytest.fixture(scope="module")
def byol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    method = {"name": "byol", "hidden": 16, "width": 8}
    data = {"source": DATA, "size": 32}
    return pretrain_run(build({"data": data, "method": method, **SMALL}), tmp_path_factory.mktemp("byol")).folder


def recorded(run: Path) -> RunConfig:
    return build(read_yaml(run / "config.yaml"))


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        assert opened.format == "PNG"
        return np.asarray(opened.convert("RGB"))


def test_the_same_call_gives_the_same_sheet_and_every_choice_shows(tmp_path: Path) -> None:
    def sheet(name: str, **changed: Any) -> bytes:
        arguments: dict[str, Any] = {
            "method": "mocov2",
            "crops": "object",
            "proposals": "labels",
            "size": 32,
            "count": 1,
        }
        return api.inspect(DATA, out=tmp_path / name, **arguments | changed).file.read_bytes()

    first = sheet("first.png")
    assert sheet("again.png") == first
    assert picture(tmp_path / "first.png").shape[1] <= 1600
    others = {
        sheet(f"{number}.png", **changed)
        for number, changed in enumerate(
            [{"seed": 1}, {"epoch": 2}, {"crops": "scene"}, {"count": 2}, {"method": "byol"}]
        )
    }
    assert first not in others
    assert len(others) == 5


def test_epochs_count_from_one(univip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(inspecting, "view_sheet", lambda photos, heading: drawn.append((photos, heading)) or b"png")
    api.inspect(out=tmp_path / "sheet.png", run=univip, count=3)
    photos, heading = drawn[0]
    expected = see(recorded(univip), open_source(DATA), [0, 4, 7], epoch=0)
    assert heading[:-1] == expected.heading
    assert heading[-1] == f"transport plans by the weights of {univip}, step 2"
    for photo, other in zip(photos, expected.photos, strict=True):
        assert all(np.array_equal(photo.views[slot], other.views[slot]) for slot in other.views)


def test_a_run_needs_nothing_else_and_shows_its_plans(univip: Path, tmp_path: Path) -> None:
    whole = picture(api.inspect(out=tmp_path / "run.png", run=univip, count=2).file)
    views = picture(
        api.inspect(
            DATA, out=tmp_path / "views.png", method="univip", proposals="labels", size=32, count=2,
            settings={"method.instances": 3},
        ).file
    )  # fmt: skip
    assert whole.shape[1] != views.shape[1]


@pytest.mark.parametrize("aug", ["independent", "shared"])
def test_plans_are_those_of_the_checkpoint(univip: Path, aug: str) -> None:
    config, source = recorded(univip), open_source(DATA)
    config = dataclasses.replace(config, method_config=dataclasses.replace(config.method_config, instance_aug=aug))
    saved = load_checkpoint(univip / "checkpoints" / "last.ckpt")
    plans = transport_plans(config, saved, see(config, source, [5, 2]).photos)
    assert plans.shape == (2, 3, 3)
    np.testing.assert_allclose(plans.sum(axis=(1, 2)), 1, atol=1e-5)
    plan = make_plan(config, source, fresh=False)
    method = plan.method
    assert isinstance(method, UniVIP)
    batch = load_batch(
        source.__getitem__, len(source), [5, 2],
        policy=plan.config.crops, slots=plan.slots, seed=config.seed, epoch=0, proposals=plan.proposals,
    )  # fmt: skip
    batch = dataclasses.replace(batch, views={name: normalise(view) for name, view in batch.views.items()})
    method.eval()
    untrained = method.match(batch).plan
    method.load_state_dict(saved.model)
    expected = method.match(batch).plan
    np.testing.assert_allclose(plans, expected.numpy(), atol=1e-6)
    assert not torch.allclose(untrained, expected, atol=1e-4)


def test_a_photos_plan_does_not_depend_on_the_others(univip: Path) -> None:
    config, source = recorded(univip), open_source(DATA)
    saved = load_checkpoint(univip / "checkpoints" / "last.ckpt")
    both, alone = (transport_plans(config, saved, see(config, source, which).photos) for which in ([5, 2], [2]))
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_a_run_without_a_matching_says_so(byol: Path, tmp_path: Path) -> None:
    display = Said()
    api.inspect(out=tmp_path / "sheet.png", run=byol, count=1, display=display)
    assert any("no transport plan is drawn: this run of byol matches no objects" in said for said in display.said)


def test_a_run_can_be_looked_at_on_other_photos_and_crops(univip: Path, tmp_path: Path) -> None:
    out = api.inspect("synthetic:5?seed=9", out=tmp_path / "sheet.png", run=univip, crops="scene", seed=4, count=2)
    assert out.file.exists()  # fewer photos than a batch has


def test_a_runs_report_shows_its_proposals(univip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("scenewise.tools.report.view_sheet", lambda photos, **_: drawn.append(photos) or b"png")
    assert "What the method sees" in run_sheets(univip)
    assert len(drawn[0]) == 6
    assert all(len(photo.proposals) for photo in drawn[0])
    assert drawn[0][0].views.keys() == {"first", "second", "instances", "target_instances"}


def test_proposals_that_were_packed_are_drawn(tmp_path: Path) -> None:
    api.propose("synthetic:4", out=tmp_path / "p.arrow", generator="grid", workers=0)
    api.pack("synthetic:4", out=tmp_path / "s", proposals=tmp_path / "p.arrow", workers=0)
    found = api.inspect(
        f"shards:{tmp_path / 's'}", out=tmp_path / "sheet.png", method="byol", crops="object", size=32, count=2
    )
    assert [len(photo.proposals) for photo in found.photos] == [10, 10]


def test_photos_that_cannot_be_read_are_left_out_and_said(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((70, 60)).save(folder / name)
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-300])
    display = Quiet()
    out = tmp_path / "sheet.png"
    api.inspect(folder, out=out, method="mls", size=32, display=display)
    assert any(text.startswith("left out a.jpg: truncated") for text in display.warnings)
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:-300])
    with pytest.raises(UserError, match=r"data: none of 2 photos can be read, e\.g\. a\.jpg"):
        api.inspect(folder, out=out, method="mls", size=32, overwrite=True)
    assert picture(out).size  # the former sheet is left alone


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no method": ({"method": None}, r"method: say which one"),
    "method": ({"method": "moco"}, r"method: unknown name 'moco'\. Did you mean 'mocov2'\?"),
    "crops": ({"crops": "objekt"}, r"crops: unknown name 'objekt'\. Did you mean 'object'\?"),
    "no proposals": (
        {"crops": "overlap"},
        r"crops\.name: 'overlap' needs object proposals; make them once with `scenewise propose synthetic:8",
    ),
    "auto": (
        {"crops": "object", "proposals": "auto"},
        r"data\.proposals: 'auto' keeps .*`scenewise propose synthetic:8",
    ),
    "no such proposals": (
        {"crops": "object", "proposals": "no.arrow"},
        r"data\.proposals: no such file: 'no\.arrow",
    ),
    "no folder": ({"out": "nowhere/sheet.png"}, r"--out: cannot write .*nowhere/sheet\.png'; name a file in a folder"),
    "folder": ({"out": "."}, r"--out: cannot write"),
    "no png": ({"out": "sheet.jpg"}, r"--out: .*sheet\.jpg'; the sheet is a PNG, name it so, for example sheet\.png"),
    "exists": ({"out": "there.png"}, r"--out: .*there\.png' exists; .*--overwrite"),
    "count": ({"count": 0}, r"--count: 0; at least 1 photo"),
    "epoch": ({"epoch": 0}, r"--epoch: 0; the first epoch is 1"),
    "size": ({"size": 3}, r"data\.size: 3 must be at least 16 pixels"),
    "setting": ({"method": "univip", "settings": {"method.instance_weight": -1.0}}, r"method\.instance_weight: -1"),
    "data": ({"data": "vok:photos"}, r"data: .*'vok.*voc"),
    "no run": (
        {"run": ".", "method": None},
        r"--run: .* holds no config\.yaml; name a folder that `scenewise pretrain",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_input_is_refused_before_any_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, message = BAD[name]
    (tmp_path / "there.png").write_bytes(b"the user's")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inspecting, "open_with_display", lambda *_, **__: pytest.fail("the data were opened"))
    arguments: dict[str, Any] = {"data": DATA, "method": "mocov2", "size": 32, "out": "sheet.png"}
    with pytest.raises(UserError, match=message):
        api.inspect(**arguments | changed)
    assert [path.name for path in tmp_path.iterdir()] == ["there.png"]
    assert (tmp_path / "there.png").read_bytes() == b"the user's"


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        api.inspect(DATA, out=tmp_path, method="univip", count=0)
    assert [problem.partition(":")[0] for problem in refused.value.problems] == ["--count", "crops.name", "--out"]


def test_without_data_the_example_is_of_this_command(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        api.inspect(out=tmp_path / "sheet.png", method="mls")
    example = "scenewise inspect PHOTOS --method mls --out sheet.png"
    assert refused.value.problems == (f"data.source: say which images, for example `{example}`, or a run: --run RUN",)


def test_a_runs_network_cannot_be_changed(univip: Path, byol: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    with pytest.raises(UserError, match=r"method: .* is a run of 'byol', not of 'univip'"):
        api.inspect(out=out, run=byol, method="univip", proposals="labels")
    with pytest.raises(UserError) as refused:
        api.inspect(out=out, run=univip, size=64, settings={"method.instances": 2})
    first, second = sorted(refused.value.problems)
    assert first.startswith("data.size: 64 was asked for") and "has 32; with --run only data, crops, proposals" in first
    assert second.startswith("method.instances: 2 was asked for")


def test_a_run_without_a_checkpoint_is_none(univip: Path, tmp_path: Path) -> None:
    shutil.copytree(univip, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"--run: .* holds no checkpoints/last\.ckpt"):
        api.inspect(out=tmp_path / "sheet.png", run=tmp_path / "run")


def test_the_command(univip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    assert cli.run(["inspect", "--run", str(univip), "--out", str(out), "--count", "1"]) == 0
    assert f"done: {out}" in capsys.readouterr().err
    assert cli.run(["inspect", "--run", str(univip), "--out", str(out), "--count", "1"]) == 2
    said = capsys.readouterr().err
    assert "exists; name another file or replace it with --overwrite" in said
    assert "Traceback" not in said
    replace = ["--overwrite", "--set", "data.proposals=labels", "method.epsilon=0.1"]
    assert cli.run(["inspect", "--run", str(univip), "--out", str(out), "--count", "1", *replace]) == 0


def test_a_run_without_proposals_of_its_own_has_none_to_give(univip: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.proposals: 'auto' keeps its file in a run's folder; make one with"):
        api.inspect(out=tmp_path / "sheet.png", run=univip, proposals="auto")


def test_the_json_says_where_each_view_was_cut(univip: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "sheet.png", tmp_path / "crops.json"
    arguments = ["inspect", "--run", str(univip), "--out", str(out), "--count", "2", "--epoch", "3"]
    assert cli.run([*arguments, "--json", str(file)]) == 0
    content = json.loads(file.read_text())
    assert {name: content[name] for name in ("file", "method", "crops", "size", "seed", "epoch", "skipped")} == {
        "file": str(out), "method": "univip", "crops": "overlap", "size": 32, "seed": 0, "epoch": 3, "skipped": [],
    }  # fmt: skip
    config, source = recorded(univip), open_source(DATA)
    plan = make_plan(config, source, fresh=False)
    batch = load_batch(
        source.__getitem__, len(source), [0, 7],
        policy=plan.config.crops, slots=plan.slots, seed=config.seed, epoch=2, proposals=plan.proposals,
    )  # fmt: skip
    for number, photo in enumerate(content["photos"]):
        record = source[[0, 7][number]]
        assert (photo["image"], photo["index"]) == (record.key, record.index)
        assert (photo["height"], photo["width"]) == record.size
        assert photo["views"].keys() == batch.boxes.keys()
        for slot, views in photo["views"].items():
            assert [view["box"] for view in views] == batch.boxes[slot][:, number].tolist()
            assert [View[view["kind"].upper()] for view in views] == batch.kinds[slot][:, number].tolist()
        assert photo["figures"] == pytest.approx({name: float(each[number]) for name, each in batch.figures.items()})
        assert np.array(photo["transport_plan"]).shape == (3, 3)
    assert cli.run([*arguments, "--overwrite", "--json", str(out)]) == 2  # it is the sheet
    assert picture(out).size


def test_real_photos(data_root: Path, tmp_path: Path) -> None:
    data = f"voc:{data_root / 'voc'}?split=train"
    out = api.inspect(data, out=tmp_path / "sheet.png", method="univip", proposals="labels", count=2)
    assert picture(out.file).shape[1] <= 1600
