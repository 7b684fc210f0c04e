"""What an evaluation is told to use, and what it says about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise.engine.config import build
from scenewise.engine.display import Quiet
from scenewise.engine.run import pretrain_run
from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.tools.comparison import comparison_markdown
from scenewise.tools.judge import evaluate, identities, open_splits, protocol_options

SUBJECT = "random:test_resnet"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with train.csv and test.csv over photos of two plain kinds."""
    folder = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(0)
    for part in ("train", "test"):
        rows = ["image,labels"]
        for number in range(24):
            kind = number % 2
            pixels = np.full((40, 48, 3), 40 + 170 * kind) + generator.integers(0, 40, (40, 48, 3))
            name = f"{part}-{number}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name)
            rows.append(f"{name},{'light' if kind else 'dark'}")
        (folder / f"{part}.csv").write_text("\n".join(rows) + "\n")
    return folder


def of(tables: Path) -> dict[str, str]:
    """Return where to learn and where to be tested."""
    return {"data": f"csv:{tables}/train.csv", "test_data": f"csv:{tables}/test.csv"}


def test_light_and_dark_photos_are_told_apart(tables: Path) -> None:
    found = evaluate(SUBJECT, **of(tables), protocol="knn", size=32)
    assert found.protocols["knn"]["top1"].value == 1.0
    assert found.subject == SUBJECT
    assert any("random weights" in note for note in found.notes)
    table = comparison_markdown([found])
    assert table.splitlines()[2].startswith(f"| {SUBJECT} | 100.0 [100.0, 100.0] |")


def test_every_wrong_protocol_is_named_before_anything_is_opened() -> None:
    with pytest.raises(UserError) as caught:
        evaluate("nothing", data="nowhere", protocol=["kn", "linar"])
    assert [problem.partition("Did you mean ")[2][:6] for problem in caught.value.problems] == ["'knn'?", "'linea"]
    with pytest.raises(UserError, match="device: unknown name 'gpu'"):
        evaluate("nothing", data="nowhere", device="gpu")
    with pytest.raises(UserError, match="none is named"):
        evaluate("nothing", data="nowhere", protocol=[])


def test_settings_reach_their_protocol(tables: Path) -> None:
    settings = {"knn.k": 3, "knn.temperature": 0.2}
    found = evaluate(SUBJECT, **of(tables), protocol=" knn,", size=32, settings=settings, epochs=5)
    assert "knn: k = 3, temperature = 0.2" in found.notes
    assert any("the length has no effect" in note for note in found.notes)
    with pytest.raises(UserError, match=r"--set k: write PROTOCOL\.SETTING=VALUE"):
        protocol_options({"k": 3, "knn.k": 4})


def test_data_without_splits_need_test_data(tables: Path) -> None:
    with pytest.raises(UserError, match="--test-data"):
        open_splits(f"csv:{tables}/train.csv", None, Quiet())
    with pytest.raises(UserError, match="names one split"):
        open_splits("synthetic:9?split=train", None, Quiet())
    train, test = open_splits("synthetic:9?seed=4", None, Quiet())
    assert (train.spec, test.spec) == ("synthetic:9?seed=4&split=train", "synthetic:9?seed=4&split=test")


def test_test_images_that_were_in_the_pool_are_counted(tables: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for number in range(8):
        (pool / f"{number}.png").symlink_to(tables / f"train-{number}.png")
    (pool / "test.png").symlink_to(tables / "test-3.png")
    settings = {
        "data": {"source": str(pool), "size": 32},
        "method": {"name": "mocov2"},
        "backbone": {"name": "test_resnet"},
        "engine": {"epochs": 0, "batch_size": 8, "threads": 1, "device": "cpu"},
    }
    run = pretrain_run(build(settings), tmp_path / "run")
    found = evaluate(run.folder, **of(tables), protocol="knn")
    assert any(note.startswith("1 of the 24 test images were in the pre-training pool") for note in found.notes)
    shutil.rmtree(pool)
    later = evaluate(run.folder, **of(tables), protocol="knn")
    assert any("is not known" in note for note in later.notes)


def test_a_file_is_the_same_image_by_any_path(tables: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tables)
    first, second = open_source(f"csv:{tables}/train.csv"), open_source(f"csv:{tmp_path}/linked/train.csv")
    assert set(identities(first)) == set(identities(second))
    assert len(set(identities(first))) == 24
    train, test = open_source("synthetic:3"), open_source("synthetic:3?split=test")
    assert not set(identities(train)) & set(identities(test))


def test_a_file_is_the_same_image_in_a_folder_and_in_tables_that_lie_elsewhere(tables: Path, tmp_path: Path) -> None:
    """Who is asked whether a test image was chosen on, or was in the pool, must not be told by where a table lies."""
    header, *rows = (tables / "train.csv").read_text().splitlines()
    (tmp_path / "elsewhere").mkdir()
    table = tmp_path / "elsewhere" / "other.csv"
    table.write_text("\n".join([header, *rows[:4]]) + "\n")
    other = set(identities(open_source(f"csv:{table}?root={tables}")))
    assert len(other) == 4
    assert other <= set(identities(open_source(f"csv:{tables / 'train.csv'}")))
    assert other <= set(identities(open_source(str(tables))))


def test_a_copy_of_the_data_has_the_same_test_images(tables: Path, tmp_path: Path) -> None:
    """Figures on it can be paired: a study may go on where its photos were copied to, with other times."""
    shutil.copytree(tables, tmp_path / "copy")
    for file in (tmp_path / "copy").rglob("*"):
        os.utime(file, (10**9, 10**9))
    found = [
        evaluate(
            "random:test_resnet",
            data=f"csv:{root / 'train.csv'}",
            test_data=f"csv:{root / 'test.csv'}",
            protocol="knn",
            size=32,
            settings={"knn.k": 3},
        ).outcomes["knn"]
        for root in (tables, tmp_path / "copy")
    ]
    assert found[0].images == found[1].images
    assert len(set(found[0].images)) == len(found[0].images) > 0
