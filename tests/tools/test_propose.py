"""`scenewise propose` as a user meets it: one file, figures, errors before any work, and how to go on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise import api, cli
from scenewise.errors import Interrupted
from scenewise.proposals.store import Store

FAST = ["--generator", "grid", "--workers", "0"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(generator.integers(0, 256, (90, 120, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Return what a command that exits with 2 says on stderr; it is short, and no traceback."""
    status = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert status == 2, captured.err
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) <= 3
    return captured.err


def test_the_command_writes_the_file_and_the_figures(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figures = tmp_path / "p.arrow", tmp_path / "figures.json"
    assert cli.run(["propose", str(photos), "--out", str(out), *FAST, "--keep", "7", "--json", str(figures)]) == 0
    said = capsys.readouterr().err
    assert "6 images, 7.0 boxes an image" in said
    assert f"done: {out}" in said
    content = json.loads(figures.read_text())
    assert (content["images"], content["boxes"], content["generator"]) == (6, 42, "grid")
    assert [len(Store(out)[row].boxes) for row in range(6)] == [7] * 6
    assert api.propose(str(photos), out=out, generator="grid", keep=7, resume=True).made == 0
    control = api.propose(str(photos), out=tmp_path / "r.arrow", generator="random", like=out, workers=0)
    assert control.header.origin.settings["like"]["generator"] == "grid"


def test_the_settings_of_selective_search_reach_it(photos: Path, tmp_path: Path) -> None:
    for given, settings in (
        ([], {"mode": "light", "working_size": 224}),
        (["--mode", "single", "--working-size", "0"], {"mode": "single", "working_size": None}),
    ):
        out = tmp_path / f"{len(given)}.arrow"
        assert cli.run(["propose", str(photos), "--out", str(out), "--workers", "0", *given]) == 0
        assert settings.items() <= Store(out).header.origin.settings.items()


def test_labels_are_named_for_what_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--out", str(tmp_path / "p.arrow"), "--generator", "labels", "--workers", "0"]
    assert cli.run(["propose", "synthetic:3", *arguments]) == 0
    assert "LABELLED" in capsys.readouterr().err
    assert "ablations only" in Store(tmp_path / "p.arrow").header.origin.generator


def test_boxes_made_elsewhere_take_the_place_of_a_generator(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, out = tmp_path / "boxes.csv", tmp_path / "p.arrow"
    rows = ["image,score,x1,y1,x2,y2", "2.png,0.1,0,0,120.8,90", "2.png,0.9,10.4,5,60,50", "2.png,0.8,10,5,60,50"]
    table.write_text("\n".join([*rows, "gone.png,1,0,0,5,5"]))
    given = ["--generator", "table", "--boxes", str(table), "--workers", "0"]
    assert cli.run(["propose", str(photos), "--out", str(out), *given]) == 0
    said = capsys.readouterr().err
    assert "names 1 image that" in said and "nothing was found in 5 of 6 images" in said
    row = Store(out)[2]
    assert row.boxes.tolist() == [[10, 5, 60, 50], [0, 0, 120, 90]]  # best first, inside, no near copy
    assert np.asarray(row.scores).tolist() == pytest.approx([0.9, 0.1])
    origin = Store(out).header.origin
    assert origin.generator == "table" and set(origin.settings) == {"sha256"}
    assert api.propose(str(photos), out=out, generator="table", boxes=table, resume=True).made == 0

    table.write_text("\n".join([*rows, "1.png,1,0,0,5,5"]))
    assert "settings" in refused(capsys, "propose", photos, "--out", out, *given, "--resume")
    other = tmp_path / "other.arrow"
    assert "add --boxes FILE" in refused(capsys, "propose", photos, "--out", other, "--generator", "table")
    assert "'grid' has no use for it" in refused(capsys, "propose", photos, "--out", other, *FAST, "--boxes", table)
    assert "'table' has no use for it" in refused(capsys, "propose", photos, "--out", other, *given, "--mode", "fast")
    assert not other.exists()


def test_bad_input_is_told_before_any_work(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p.arrow"
    said = refused(capsys, "propose", "nowhere", "--out", out, "--generator", "selectiv-search")
    assert "Did you mean 'selective-search'?" in said
    assert "nowhere" not in said
    assert "labels" in said
    assert "no such folder" in refused(capsys, "propose", "nowhere", "--out", out, *FAST)
    assert "does not exist" in refused(capsys, "propose", photos, "--out", tmp_path / "no" / "p.arrow", *FAST)
    (tmp_path / "file").write_text("mine")
    for beneath in ("p.arrow", "no/p.arrow"):
        said = refused(capsys, "propose", photos, "--out", tmp_path / "file" / beneath, *FAST)
        assert f"--out: '{tmp_path}/file' is a file, not a folder" in said and "does not exist" not in said
    (tmp_path / "file").unlink()
    small = refused(capsys, "propose", photos, "--out", out, "--working-size", "1")
    assert "working_size: 1; allowed: 16 pixels or more, or 0 for full size" in small
    assert "is a folder" in refused(capsys, "propose", photos, "--out", tmp_path, *FAST)
    assert "--keep" in refused(capsys, "propose", photos, "--out", out, "--keep", "0", *FAST)
    assert "has no labelled boxes" in refused(capsys, "propose", photos, "--out", out, "--generator", "labels")
    assert "--like: no such file" in refused(
        capsys, "propose", photos, "--out", out, "--generator", "random", "--like", tmp_path / "none.arrow"
    )
    out.write_text("mine")
    assert "--overwrite" in refused(capsys, "propose", photos, "--out", out, *FAST)
    assert out.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["p.arrow"]


def test_an_interrupted_command_says_how_to_go_on(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise Interrupted(15)

    monkeypatch.setattr("scenewise.engine.proposing.propose", stop)
    out = tmp_path / "p.arrow"
    assert cli.run(["propose", str(photos), "--out", str(out), *FAST]) == 143
    said = capsys.readouterr().err
    assert "Go on with the same command and --resume" in said
    assert f"{out}.partial" in said
