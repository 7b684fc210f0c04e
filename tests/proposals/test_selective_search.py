"""Selective search: the same boxes in the same order at every call, and an order that says much early."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.proposals.kept import keep
from scenewise.proposals.selective_search import MODES, SelectiveSearch, coverage_order
from scenewise.sources import open_source
from scenewise.sources.base import HasBoxes
from scenewise.views.decode import decode

CHANCE = np.random.default_rng(0)
EDGE = st.integers(0, 30)
SIDE = st.integers(1, 30)
CORNERS = st.lists(st.tuples(EDGE, EDGE, SIDE, SIDE), max_size=20, unique=True)


def slow_order(boxes: list[tuple[int, int, int, int]]) -> list[int]:
    """Return the greedy cover, step by step as its docstring says it."""

    def area(box: tuple[int, int, int, int]) -> int:
        return max(box[2] - box[0], 0) * max(box[3] - box[1], 0)

    def covers(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
        common = area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))
        return 10 * common >= 6 * (area(one) + area(other) - common)

    sides = [round(area(box) ** 0.5) for box in boxes]
    covered: set[int] = set()
    order: list[int] = []
    while len(covered) < len(boxes):
        gains = [
            sum(sides[n] for n, other in enumerate(boxes) if n not in covered and covers(box, other)) for box in boxes
        ]
        best = gains.index(max(gains))
        order.append(best)
        covered |= {n for n, other in enumerate(boxes) if covers(boxes[best], other)}
    return order + sorted(set(range(len(boxes))) - set(order), key=lambda n: (-sides[n], n))


@settings(max_examples=60)
@given(corners=CORNERS)
@example(corners=[(0, 0, 10, 10), (0, 0, 10, 6), (0, 0, 10, 5), (20, 20, 3, 3)])  # an IoU of 0.6 exactly covers
@example(corners=[])
def test_the_order_is_the_greedy_cover(corners: list[tuple[int, int, int, int]]) -> None:
    boxes = sorted((x, y, x + wide, y + high) for x, y, wide, high in corners)
    found = coverage_order(np.array(boxes, dtype=np.int32).reshape(-1, 4))
    assert found.tolist() == slow_order(boxes)


def test_the_order_of_many_boxes() -> None:
    """More boxes than one block of the comparison holds, more than are ranked by what they cover."""
    rng = np.random.default_rng(1)
    corners, sides = rng.integers(0, 900, (1300, 2)), rng.integers(2, 40, (1300, 2))
    boxes = np.unique(np.concatenate([corners, corners + sides], axis=1).astype(np.int32), axis=0)
    order = coverage_order(boxes)
    assert sorted(order.tolist()) == list(range(len(boxes)))
    rest = (boxes[order[1000:], 2:] - boxes[order[1000:], :2]).prod(axis=1)
    assert (np.diff(np.rint(np.sqrt(rest))) <= 0).all()


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Discs and boxes of many colours on a ramp, with some noise."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:180, :240].astype(np.float64)
    image = np.stack([255 * x / 240, 255 * y / 180, 0 * x + 90], axis=-1)
    for _ in range(14):
        left, top, side = rng.integers(0, 240), rng.integers(0, 180), rng.integers(6, 40)
        inside = (x - left) ** 2 + (y - top) ** 2 < side**2 if side % 2 else abs(x - left) + abs(y - top) < side
        image[inside] = rng.integers(0, 256, 3)
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def _threads_kept() -> Iterator[None]:
    before = cv2.getNumThreads()
    yield
    cv2.setNumThreads(before)


@pytest.mark.parametrize("mode", ["light", "fast", "single"])
@pytest.mark.usefixtures("_threads_kept")
def test_every_call_and_any_thread_count_gives_the_same(scene: np.ndarray, mode: str) -> None:
    """OpenCV's own order differs from call to call, so this fails without the sorting."""
    search = SelectiveSearch(mode, 96)
    first = search(scene, CHANCE).boxes
    assert len(first) > 10
    for threads in (1, 1, 4):
        cv2.setNumThreads(threads)
        assert np.array_equal(search(scene, CHANCE).boxes, first)


def test_opencv_orders_its_boxes_anew_at_each_call(scene: np.ndarray) -> None:
    """Why the sorting is there; when this fails, OpenCV has changed and the docstring must."""

    def raw() -> list[tuple[int, ...]]:
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(scene)
        search.switchToSingleStrategy()
        return [tuple(box) for box in search.process().tolist()]

    first, second = raw(), raw()
    assert first != second
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("working_size", [None, 64, 500])
def test_boxes_lie_inside_the_photo_at_its_scale(scene: np.ndarray, mode: str, working_size: int | None) -> None:
    """The whole photo is a region of every hierarchy, so its box comes back at full size."""
    boxes, scores = SelectiveSearch(mode, working_size)(scene, CHANCE)
    assert boxes.dtype == np.int32
    assert scores is None
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= [240, 180]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert [0, 0, 240, 180] in boxes.tolist()


def test_a_larger_working_size_is_the_full_image(scene: np.ndarray) -> None:
    full, larger = (SelectiveSearch("light", side)(scene, CHANCE).boxes for side in (None, 4000))
    assert np.array_equal(full, larger)


def test_an_object_is_found_early() -> None:
    image = np.full((120, 160, 3), 200, np.uint8)
    image[30:90, 40:100] = (180, 20, 30)
    boxes = SelectiveSearch()(image, CHANCE).boxes
    assert [40, 30, 100, 90] in boxes[:5].tolist()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 50), (60, 3), (16, 300)])
def test_tiny_and_long_images(mode: str, size: tuple[int, int]) -> None:
    for pixels in (np.zeros((*size, 3), np.uint8), np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)):
        boxes = SelectiveSearch(mode)(pixels, CHANCE).boxes
        assert [0, 0, size[1], size[0]] in boxes.tolist()


def test_red_is_not_blue() -> None:
    """OpenCV's modes want BGR: hue and Lab of a photo with its channels exchanged give other regions."""
    rng = np.random.default_rng(5)
    pixels = cv2.resize(rng.integers(0, 256, (12, 16, 3), np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
    reference = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    reference.setBaseImage(np.ascontiguousarray(pixels[..., ::-1]))
    reference.switchToSelectiveSearchFast()
    corners = {(x, y, x + wide, y + high) for x, y, wide, high in reference.process().tolist()}
    assert {tuple(box) for box in SelectiveSearch("fast", None)(pixels, CHANCE).boxes.tolist()} == corners


def test_settings_name_all_that_matters() -> None:
    assert SelectiveSearch("fast", 99).settings == {"mode": "fast", "working_size": 99, "opencv": cv2.__version__}


def test_an_unknown_mode_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"mode: unknown name 'quick'\..*Known: fast, light, quality, single"):
        SelectiveSearch("quick")
    with pytest.raises(UserError, match="Did you mean 'quality'"):
        SelectiveSearch("qualty")


@pytest.mark.parametrize("side", [-5, 0, 15])
def test_a_working_size_too_small_is_refused(side: int) -> None:
    with pytest.raises(UserError, match=f"working_size: {side}; allowed: 16 pixels or more"):
        SelectiveSearch("light", side)


def test_finds_more_of_the_labelled_objects_than_opencv_does_early(data_root: Path) -> None:
    """Eight photos at half size: the default's first ten boxes against the first ten of OpenCV's fast mode."""
    source = open_source(f"coco:{data_root / 'coco_mini'}")
    assert isinstance(source, HasBoxes)
    hits = np.zeros(2)
    for index in range(8):
        record = source[index]
        pixels = decode(record.read(), record.size, record.orientation).pixels
        half = cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        opencv = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        opencv.setBaseImage(np.ascontiguousarray(half[..., ::-1]))
        opencv.switchToSelectiveSearchFast()
        raw = opencv.process()
        theirs = np.concatenate([raw[:, :2], raw[:, :2] + raw[:, 2:]], axis=1)
        ours = keep(SelectiveSearch()(half, CHANCE).boxes, None, half.shape[:2])[0]
        for place, boxes in enumerate((ours, theirs)):
            hits[place] += sum(best_iou(boxes[:10], box / 2) >= 0.5 for box in source.boxes(index)[0])
    assert hits[0] > 1.5 * hits[1]


def best_iou(boxes: np.ndarray, box: np.ndarray) -> float:
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    common = np.clip(sides, 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return float((common / (areas - common)).max())
