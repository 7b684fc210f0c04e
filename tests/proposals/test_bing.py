"""BING through OpenCV: silent, tidy, counted from 0; and what is said of model files that are not there or damaged."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.proposals.bing import FILES, Bing, _silence

CHANCE = np.random.default_rng(0)


@pytest.fixture
def model(data_root: Path) -> Path:
    return data_root / "bing"


@pytest.fixture
def copied(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that may be damaged."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in FILES:
        shutil.copyfile(model / name, folder / name)
    return folder


def picture() -> np.ndarray:
    image = np.full((120, 200, 3), 210, np.uint8)
    image[30:94, 50:114] = (30, 90, 160)
    return image


def test_boxes_lie_inside_and_reach_all_borders(model: Path) -> None:
    """OpenCV counts left and top from 1: unless that is undone, no box begins at 0."""
    boxes, scores = Bing(model)(picture(), CHANCE)
    assert boxes.dtype == np.int32
    assert boxes[:, :2].min(axis=0).tolist() == [0, 0]
    assert boxes[:, 2:].max(axis=0).tolist() == [200, 120]
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert scores is not None
    assert scores.dtype == np.float32
    assert (np.diff(scores) <= 0).all()


def test_the_order_joins_the_colour_spaces(model: Path) -> None:
    """OpenCV leaves them one behind the other; the object is among the first boxes of the joined order."""
    boxes = Bing(model)(picture(), CHANCE).boxes[:60]
    sides = np.minimum(boxes[:, 2:], [114, 94]) - np.maximum(boxes[:, :2], [50, 30])
    common = np.clip(sides, 0, None).prod(axis=1)
    overlap = common / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + 64 * 64 - common)
    assert overlap.max() > 0.6


def test_every_call_gives_the_same(model: Path) -> None:
    generator = pickle.loads(pickle.dumps(Bing(model)))
    first, second = generator(picture(), CHANCE), Bing(model)(picture(), CHANCE)
    assert np.array_equal(first.boxes, second.boxes)
    assert np.array_equal(first.scores, second.scores)


def test_nothing_is_printed_and_nothing_left_behind(model: Path, tmp_path: Path) -> None:
    """In a process of its own whose output is a pipe: what OpenCV prints waits in the C library's buffer there."""
    code = f"""
import numpy as np
from pathlib import Path
from scenewise.proposals.bing import Bing
print("before")
boxes, _ = Bing(Path({str(model)!r}))(np.zeros((64, 64, 3), np.uint8), np.random.default_rng(0))
print("after", len(boxes) > 0)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert ran.stdout.split("\n") == ["before", "after True", ""]
    assert list(tmp_path.iterdir()) == []


def test_printing_works_again_after_a_failure(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), _silence():
        os.write(1, b"unheard")
        raise KeyError
    print("heard")
    assert capfd.readouterr().out == "heard\n"


@pytest.mark.parametrize("size", [(1, 1), (2, 900), (7, 7), (8, 8), (40, 9)])
def test_tiny_images(model: Path, size: tuple[int, int]) -> None:
    """No window fits under 8 pixels; the image's own is the first above."""
    boxes, scores = Bing(model)(np.zeros((*size, 3), np.uint8), CHANCE)
    assert scores is not None
    assert len(scores) == len(boxes)
    assert (len(boxes) > 0) == (min(size) >= 8)
    assert (boxes[:, 2:] <= size[::-1]).all()


def test_settings_tell_models_apart_by_content(model: Path, copied: Path) -> None:
    assert Bing(model).settings == Bing(copied).settings
    file = copied / FILES[2]
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()) + b"\n"))
    assert Bing(model).settings != Bing(copied).settings


def test_missing_files_are_named(copied: Path) -> None:
    (copied / FILES[0]).unlink()
    (copied / FILES[4]).unlink()
    with pytest.raises(UserError, match=f"bing_model: .* lacks {FILES[0]}, {FILES[4]}; wanted is the folder"):
        Bing(copied)
    with pytest.raises(UserError, match=r"bing_model: .*nowhere"):
        Bing(copied / "nowhere")


def test_a_file_that_is_no_matrix_is_named(copied: Path) -> None:
    (copied / FILES[4]).write_bytes(gzip.compress(b"%YAML:1.0\n---\nbroken: [\n"))
    with pytest.raises(UserError, match=f"bing_model: .*{FILES[4]} is damaged"):
        Bing(copied)


def test_matrices_that_do_not_fit_together_are_refused(copied: Path) -> None:
    """OpenCV reads beyond the re-scoring weights when there are fewer of them than window sizes."""
    stem = FILES[2].removesuffix(".wS2.yml.gz")
    writer = cv2.FileStorage(str(copied / FILES[2]), cv2.FILE_STORAGE_WRITE)
    writer.write(stem, np.zeros((3, 2), np.float32))
    writer.release()
    with pytest.raises(UserError, match=f"{stem}.* hold no BING model"):
        Bing(copied)
