"""What is kept of a generator's boxes, against a slow oracle in whole numbers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scenewise.proposals.kept import keep

SIZE = (60, 90)
EDGE = st.floats(-30, 120, allow_nan=False) | st.integers(-10, 100).map(float)
BOXES = st.lists(st.tuples(EDGE, EDGE, EDGE, EDGE), max_size=25)


def slow_iou(one: list[int], other: list[int]) -> Fraction:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    common = max(wide, 0) * max(high, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return Fraction(common, sum(areas) - common)


def slow_keep(
    boxes: np.ndarray, size: tuple[int, int], limit: int, max_iou: Fraction
) -> tuple[list[list[int]], list[int]]:
    """Return the boxes kept and their places."""
    height, width = size
    kept: list[list[int]] = []
    places: list[int] = []
    for place, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        if not np.isfinite([x1, y1, x2, y2]).all() or x1 >= x2 or y1 >= y2:
            continue
        box = [round(min(max(edge, 0), side)) for edge, side in zip((x1, y1, x2, y2), (width, height) * 2, strict=True)]
        if box[0] == box[2] or box[1] == box[3] or any(slow_iou(box, other) > max_iou for other in kept):
            continue
        kept.append(box)
        places.append(place)
    return kept[:limit], places[:limit]


@settings(max_examples=60)
@given(corners=BOXES, limit=st.integers(1, 12), tenths=st.integers(0, 10))
@example(corners=[(0, 0, 10, 10), (0, 0, 10, 9), (0, 0, 9, 9)], limit=9, tenths=9)  # IoU 0.9 exactly stays
@example(corners=[(float("nan"), 0, 9, 9), (0, 0, float("inf"), 9), (9, 0, 0, 9), (4, 4, 4, 9)], limit=9, tenths=9)
@example(corners=[(-20, 5, -3, 9), (0.4, 0, 0.45, 9), (88, 58, 300, 300)], limit=9, tenths=9)
def test_equals_the_slow_one(corners: list[tuple[float, float, float, float]], limit: int, tenths: int) -> None:
    boxes = np.array(corners, dtype=np.float64).reshape(-1, 4)
    scores = np.arange(len(boxes), 0, -1).astype(np.float32)
    found, kept_scores = keep(boxes, scores, SIZE, limit=limit, max_iou=tenths / 10)
    expected, places = slow_keep(boxes, SIZE, limit, Fraction(tenths, 10))
    assert found.dtype == np.int32
    assert found.tolist() == expected
    assert kept_scores is not None
    assert kept_scores.tolist() == scores[places].tolist()


@pytest.mark.parametrize("max_iou", [0.9, 0.7, 0.5, 0.3])
def test_an_iou_at_the_limit_stays_whatever_its_fraction(max_iou: float) -> None:
    """Boxes in one corner have the IoU of their areas; a count over the limit by one in thousands is dropped."""
    share = Fraction(str(max_iou))
    for side in (10, 70, 1000, 30_000):
        whole = [0, 0, side, side]
        exact, over = ([0, 0, side, int(side * share) + more] for more in (0, 1))
        assert len(keep(np.array([whole, exact]), None, (side, side), max_iou=max_iou)[0]) == 2
        assert len(keep(np.array([whole, over]), None, (side, side), max_iou=max_iou)[0]) == 1


def many(count: int) -> np.ndarray:
    """Return boxes that crowd around a few places, so that many are near copies."""
    rng = np.random.default_rng(0)
    centres = rng.integers(50, 400, (40, 2))[rng.integers(0, 40, count)]
    sides = rng.integers(20, 60, (count, 2))
    return np.concatenate([centres - sides, centres + sides], axis=1).astype(np.int32)


@pytest.mark.parametrize("limit", [1, 50, 10_000])
def test_many_boxes(limit: int) -> None:
    """More than are looked at first, with and without reaching the limit."""
    boxes = many(250)
    found, none = keep(boxes, None, (480, 480), limit=limit)
    expected, _ = slow_keep(boxes, (480, 480), limit, Fraction(9, 10))
    assert found.tolist() == expected
    assert none is None
    assert len(found) == min(limit, len(expected))
    assert len(expected) < len(boxes)


def test_keeping_twice_changes_nothing() -> None:
    once, _ = keep(many(400), None, (480, 480))
    assert np.array_equal(keep(once, None, (480, 480))[0], once)


def test_any_number_of_threads_keeps_the_same() -> None:
    boxes, before = many(3000), torch.get_num_threads()
    try:
        found = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            found.append(keep(boxes, None, (480, 480))[0])
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*found)


def test_no_boxes() -> None:
    found, scores = keep(np.empty((0, 4), np.float32), np.empty(0, np.float32), SIZE)
    assert found.shape == (0, 4)
    assert scores is not None
    assert scores.shape == (0,)
