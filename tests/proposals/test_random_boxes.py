"""The random control: sizes as in the file it follows, places anywhere; and the grid beside it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstest

from scenewise.errors import UserError
from scenewise.proposals.grid import Grid
from scenewise.proposals.random_boxes import AREAS, ASPECTS, COUNT, RandomBoxes
from scenewise.proposals.rows import Row
from scenewise.proposals.store import Origin, write_store

PIXELS = np.zeros((300, 400, 3), np.uint8)


def drawn(generator: RandomBoxes, times: int, pixels: np.ndarray = PIXELS) -> list[np.ndarray]:
    chance = np.random.default_rng(0)
    return [generator(pixels, chance).boxes for _ in range(times)]


def sides(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2:] - boxes[:, :2]


@pytest.fixture
def followed(tmp_path: Path, rows: Callable[[int], list[Row]], origin: Callable[..., Origin]) -> tuple[Path, list[Row]]:
    """A proposal file of 120 images, some of them without boxes, and its rows."""
    content = rows(120)
    assert any(len(row.boxes) == 0 for row in content)
    write_store(tmp_path / "like.arrow", origin(images=120), content)
    return tmp_path / "like.arrow", content


@pytest.mark.parametrize("first", [1, 5, None])
def test_sizes_are_distributed_as_in_the_file(followed: tuple[Path, list[Row]], first: int | None) -> None:
    """Of all boxes and of the best ones, which the file's order puts first: sizes in shares of the photo."""
    file, rows = followed
    large = np.zeros((3000, 4000, 3), np.uint8)  # rounding to pixels does not show
    ours = np.concatenate([sides(boxes[:first]) / [4000, 3000] for boxes in drawn(RandomBoxes(file), 1200, large)])
    theirs = np.concatenate([sides(row.boxes[:first]) / row.size[::-1] for row in rows])
    for axis in (0, 1):
        assert ks_2samp(ours[:, axis], theirs[:, axis]).statistic < 0.1
    assert ks_2samp(ours.prod(axis=1), theirs.prod(axis=1)).statistic < 0.1
    assert ks_2samp(ours[:, 0], theirs[:, 0] / 2).statistic > 0.2  # the test can tell


def test_counts_are_distributed_as_in_the_file(followed: tuple[Path, list[Row]]) -> None:
    file, rows = followed
    ours = [len(boxes) for boxes in drawn(RandomBoxes(file), 1200)]
    assert ks_2samp(ours, [len(row.boxes) for row in rows if len(row.boxes)]).statistic < 0.1


@pytest.mark.parametrize("like", [False, True])
def test_places_are_uniform_inside_the_image(followed: tuple[Path, list[Row]], like: bool) -> None:
    boxes = np.concatenate(drawn(RandomBoxes(followed[0] if like else None), 300))
    assert boxes.dtype == np.int32
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [400, 300]).all()
    assert (sides(boxes) >= 1).all()
    room = np.array([400, 300]) - sides(boxes)
    free = room[:, 0] > 50
    assert kstest(boxes[free, 0] / room[free, 0], "uniform").statistic < 0.05


def test_without_a_file_areas_and_aspects_are_log_uniform() -> None:
    square = np.zeros((2000, 2000, 3), np.uint8)
    found = drawn(RandomBoxes(), 30, square)
    assert [len(boxes) for boxes in found] == [COUNT] * 30
    wide, high = sides(np.concatenate(found)).T / 2000
    uncut = (wide < 1) & (high < 1)
    assert uncut.mean() > 0.8
    areas = np.log(wide * high)[uncut & (wide * high < 0.4)]  # below, none is cut
    low, top = np.log([AREAS[0], 0.4])
    assert kstest((areas - low) / (top - low), "uniform").statistic < 0.05
    aspects = np.log(wide / high)[wide * high < 0.4]
    low, top = np.log(ASPECTS)
    assert kstest((aspects - low) / (top - low), "uniform").statistic < 0.05


def test_the_same_state_of_chance_gives_the_same_boxes(followed: tuple[Path, list[Row]]) -> None:
    generator = RandomBoxes(followed[0])
    generator(PIXELS, np.random.default_rng(9))  # the file is open now, and pickles all the same
    copy = pickle.loads(pickle.dumps(generator))
    first, second = (one(PIXELS, np.random.default_rng(4)).boxes for one in (generator, copy))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, generator(PIXELS, np.random.default_rng(5)).boxes)


def test_tiny_images(followed: tuple[Path, list[Row]]) -> None:
    for like in (None, followed[0]):
        for size in ((1, 1), (2, 900)):
            boxes = RandomBoxes(like)(np.zeros((*size, 3), np.uint8), np.random.default_rng(0)).boxes
            assert (sides(boxes) >= 1).all()
            assert (boxes[:, 2:] <= size[::-1]).all()


def test_settings_tell_files_apart(
    tmp_path: Path, followed: tuple[Path, list[Row]], origin: Callable[..., Origin], rows: Callable[[int], list[Row]]
) -> None:
    write_store(tmp_path / "other.arrow", origin(images=120, seed=1), rows(120))
    assert RandomBoxes(followed[0]).settings != RandomBoxes(tmp_path / "other.arrow").settings
    assert RandomBoxes().settings == {"count": 100, "areas": [0.05, 0.8], "aspects": [0.5, 2.0]}


def test_a_file_without_boxes_is_refused(
    tmp_path: Path, origin: Callable[..., Origin], rows: Callable[[int], list[Row]]
) -> None:
    empty = [row._replace(boxes=row.boxes[:0], scores=None) for row in rows(5)]
    write_store(tmp_path / "empty.arrow", origin(images=5), empty)
    with pytest.raises(UserError, match=r"like: .*empty\.arrow has no boxes to take sizes from"):
        RandomBoxes(tmp_path / "empty.arrow")


def test_a_file_with_impossible_boxes_is_refused(
    tmp_path: Path, origin: Callable[..., Origin], rows: Callable[[int], list[Row]]
) -> None:
    wrong = [row._replace(boxes=row.boxes + 5000) for row in rows(5)]
    write_store(tmp_path / "wrong.arrow", origin(images=5), wrong)
    with pytest.raises(UserError, match=r"--like: .*wrong\.arrow: .* is empty, reversed, or reaches outside"):
        RandomBoxes(tmp_path / "wrong.arrow")


def test_no_file_at_all_is_told_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        RandomBoxes(tmp_path / "missing.arrow")


@pytest.mark.parametrize("size", [(1, 1), (7, 500), (300, 400)])
def test_the_grid_goes_from_the_whole_photo_to_small_windows(size: tuple[int, int]) -> None:
    pixels = np.zeros((*size, 3), np.uint8)
    boxes, scores = Grid()(pixels, np.random.default_rng(0))
    assert scores is None
    assert boxes[0].tolist() == [0, 0, size[1], size[0]]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size[::-1]).all()
    if min(size) > 100:
        areas = sides(boxes).prod(axis=1)
        assert (areas[1:] <= 1.03 * areas[:-1]).all()  # rounding to pixels
        assert len(np.unique(boxes, axis=0)) == len(boxes) < 1000
        assert {(wide, high) for wide, high in sides(boxes).tolist() if wide > 390} == {
            (400, 300),
            (400, 210),
            (400, 150),
        }


def test_neighbours_of_the_grid_overlap_by_half_a_side_at_least() -> None:
    boxes = Grid()(np.zeros((1000, 1000, 3), np.uint8), np.random.default_rng(0)).boxes
    for wide in np.unique(sides(boxes)[:, 0]):
        starts = np.unique(boxes[sides(boxes)[:, 0] == wide][:, 0])
        assert (np.diff(starts) <= 0.5 * wide + 2).all()
        assert starts[0] == 0
        assert starts[-1] == 1000 - wide
