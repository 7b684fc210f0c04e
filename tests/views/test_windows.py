"""Windows of whole pixels against `scenewise.geometry` and the published code's documented cases, and by properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.geometry import dilate, filter_proposals, grow
from scenewise.views.regions import area_range
from scenewise.views.slots import Slot
from scenewise.views.windows import (
    inside,
    is_small,
    object_range,
    object_windows,
    released_windows,
    shifted_window,
    usable_proposals,
)

SIDES = st.integers(1, 3000)
SHARES = st.floats(0, 1)
EXAMPLES = settings(max_examples=150, deadline=None)


def box_in(size: tuple[int, int], x: float, y: float, wide: float, tall: float) -> np.ndarray:
    """A box of at least a pixel inside the image, from four shares."""
    height, width = size
    w, h = 1 + wide * (width - 1), 1 + tall * (height - 1)
    return np.array([x * (width - w), y * (height - h), x * (width - w) + w, y * (height - h) + h])


@pytest.mark.parametrize("nms_iou", [None, 0.3])
@pytest.mark.parametrize("limit", [None, 1, 7])
def test_the_filter_is_geometrys(nms_iou: float | None, limit: int | None) -> None:
    """Good boxes, bad ones of every kind, at the limits; the boxes come back clipped."""
    rng, size = np.random.default_rng(0), (200, 300)
    boxes = np.concatenate([rng.uniform(-50, 350, (300, 4)), np.round(rng.uniform(0, 200, (50, 4)))]).astype(np.float32)
    boxes[::2] = np.concatenate([np.minimum(boxes[::2, :2], boxes[::2, 2:]), boxes[::2, :2] + 60], axis=1)
    boxes[5, 1], boxes[6, 2] = np.nan, np.inf
    boxes[:3] = [(10, 10, 42, 138), (10, 10, 42, 139), (10, 10, 41, 100)]  # at min_side and max_aspect, past each
    given_options = {"max_aspect": 4.0, "limit": limit, "nms_iou": nms_iou}
    expected = filter_proposals(torch.from_numpy(boxes), size, min_side=32.0, **given_options).numpy()
    found = usable_proposals(size, boxes, min_side=32.0, **given_options)
    assert found.dtype == np.float32 and len(found) > 0
    assert np.array_equal(found, np.clip(boxes[expected], 0, [300, 200, 300, 200]).astype(np.float32))


def test_what_a_store_may_hand_over() -> None:
    options = {"min_side": 0.0, "max_aspect": 4.0, "limit": 10, "nms_iou": 0.5}
    assert usable_proposals((50, 60), None, **options).shape == (0, 4)
    assert usable_proposals((50, 60), np.zeros((0, 4), np.int32), **options).shape == (0, 4)
    assert usable_proposals((50, 60), np.full((3, 4), np.nan), **options).shape == (0, 4)
    whole = np.array([[0, 0, 60, 50], [3, 3, 3, 9]], np.int32)
    whole.setflags(write=False)  # as a memory map is
    assert usable_proposals((50, 60), whole, **options).tolist() == [[0, 0, 60, 50]]
    thin = np.array([[1.0, 1, 1.5, 1.5]])  # under a pixel, whatever the smallest side
    assert not len(usable_proposals((50, 60), thin, **options))


@EXAMPLES
@given(height=SIDES, width=SIDES, place=st.tuples(SHARES, SHARES, SHARES, SHARES), side=st.integers(1, 512))
@pytest.mark.parametrize("mode", ["image", "box"])
def test_windows_are_geometrys(
    mode: str, height: int, width: int, place: tuple[float, float, float, float], side: int
) -> None:
    size = (height, width)
    box = box_in(size, *place)
    grown = grow(torch.from_numpy(box), size, minimum=side)
    dilated = dilate(grown, size, fraction=0.2, mode=mode)
    found = object_windows(box, size, side=side, dilation=0.2, mode=mode)
    for window, exact in zip(found, (grown, dilated), strict=True):
        assert np.abs(np.subtract(window, exact.numpy())).max() <= 0.5 + 1e-6  # the nearest whole pixels


@EXAMPLES
@given(
    height=SIDES,
    width=SIDES,
    place=st.tuples(SHARES, SHARES, SHARES, SHARES),
    side=st.integers(1, 512),
    dilation=st.floats(0, 5),
)
@pytest.mark.parametrize("mode", ["image", "box"])
def test_the_dilated_window_contains_the_objects_and_both_lie_in_the_photo(
    mode: str, height: int, width: int, place: tuple[float, float, float, float], side: int, dilation: float
) -> None:
    size = (height, width)
    box = box_in(size, *place)
    first, second = object_windows(box, size, side=side, dilation=dilation, mode=mode)
    for left, top, right, bottom in (first, second):
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert second[0] <= first[0] and second[1] <= first[1] and second[2] >= first[2] and second[3] >= first[3]
    assert first[2] - first[0] >= min(side, width) and first[3] - first[1] >= min(side, height)
    if dilation == 0:
        assert first == second


def test_windows_by_hand() -> None:
    """1024 x 768: both sides grow to 224 around the centre; then 0.2 of the photo's sides, half of it on each side."""
    first, second = object_windows(np.array([400.0, 300, 600, 420]), (768, 1024), side=224, dilation=0.2, mode="image")
    assert first == (388, 248, 612, 472)
    assert second == (286, 171, 714, 549)  # 388 - 102.4, 248 - 76.8, 612 + 102.4, 472 + 76.8
    corner, _ = object_windows(np.array([1000.0, 0, 1024, 300]), (768, 1024), side=224, dilation=0.2, mode="image")
    assert corner == (800, 0, 1024, 300)  # shifted inside; the long side stays as it is
    small, _ = object_windows(np.array([10.0, 10, 40, 40]), (100, 90), side=224, dilation=0.2, mode="image")
    assert small == (0, 0, 90, 100)


def test_the_released_codes_documented_cases() -> None:
    """A small box: its "dilated" window is smaller than the object's and does not contain it."""
    box = np.array([400.0, 300, 600, 420])
    first, second = released_windows(box, (768, 1024), side=224, dilation=0.2)
    assert first == (288, 188, 712, 532)
    assert second == (320, 240, 720, 504)
    tiny, _ = released_windows(np.array([20.0, 30, 80, 90]), (150, 200), side=224, dilation=0.2)
    assert tiny == (0, 0, 224, 224)  # out of a photo of 200 x 150 pixels
    assert inside(tiny, (150, 200)) == (0, 0, 200, 150)


def test_the_released_code_at_the_borders() -> None:
    """By half the side both ways where there is room; to the side from the far edge; past the side at the near one."""
    size = (1000, 1000)
    assert released_windows(np.array([500.0, 10, 530, 40]), size, side=224, dilation=0.0)[0] == (388, 0, 642, 336)
    assert released_windows(np.array([950.0, 500, 980, 800]), size, side=224, dilation=0.0)[0] == (756, 500, 980, 800)
    # a share of the coordinate: nothing is added at the left and the top border
    assert released_windows(np.array([0.0, 0, 500, 300]), size, side=224, dilation=0.2)[1] == (0, 0, 600, 360)


@EXAMPLES
@given(
    height=SIDES,
    width=SIDES,
    place=st.tuples(SHARES, SHARES, SHARES, SHARES),
    side=st.integers(1, 512),
    dilation=st.floats(0, 5),
)
def test_released_windows_are_never_empty_in_the_photo(
    height: int, width: int, place: tuple[float, float, float, float], side: int, dilation: float
) -> None:
    size = (height, width)
    for window in released_windows(box_in(size, *place), size, side=side, dilation=dilation):
        left, top, right, bottom = inside(window, size)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height


def test_shifted_windows() -> None:
    """Same size, a length within the range, every direction as likely; None where there is no room."""
    generator, window = np.random.default_rng(0), (400, 400, 500, 480)
    moves = []
    for _ in range(2000):
        found = shifted_window(window, (1000, 1000), distance=(40.0, 120.0), tries=100, generator=generator)
        assert found is not None and (found[2] - found[0], found[3] - found[1]) == (100, 80)
        moves.append((found[0] - 400, found[1] - 400))
    x, y = np.array(moves).T
    lengths = np.hypot(x, y)
    assert lengths.min() >= 39 and lengths.max() <= 121 and abs(lengths.mean() - 80) < 3
    counts, _ = np.histogram(np.arctan2(y, x), bins=8, range=(-math.pi, math.pi))
    assert ((counts - 250) ** 2 / 250).sum() < 29.9  # chi-square, 7 degrees of freedom, p = 1e-4
    assert shifted_window(window, (480, 500), distance=(600.0, 700.0), tries=100, generator=generator) is None
    for _ in range(50):  # in a corner only some directions are left
        found = shifted_window((0, 0, 50, 50), (200, 200), distance=(40.0, 120.0), tries=100, generator=generator)
        assert found is not None and min(found) >= 0 and max(found) <= 200


def test_area_ranges() -> None:
    full, small = Slot(augmentation="moco"), Slot(augmentation="moco", size=96, scale=(0.05, 0.14))
    large = Slot(augmentation="moco", scale=(0.14, 1.0))
    assert area_range(full) == (0.2, 1.0) and area_range(small) == (0.05, 0.14)
    assert not is_small(full) and not is_small(large) and is_small(small)
    assert object_range(full, mean_area=0.405, smallest=None) == pytest.approx((0.2 / 0.405, 1.0))  # 0.49, the paper's
    assert object_range(small, mean_area=0.405, smallest=None) == pytest.approx((0.05 / 0.405, 0.14 / 0.405))
    assert object_range(small, mean_area=0.1, smallest=None) == pytest.approx((0.5, 1.0))
    assert object_range(full, mean_area=0.1, smallest=None) == (1.0, 1.0)
    assert object_range(full, mean_area=None, smallest=None) == (0.2, 1.0)
    assert object_range(full, mean_area=0.405, smallest=0.0) == (0.0, 1.0)
    assert object_range(small, mean_area=0.405, smallest=0.0) == pytest.approx((0.05 / 0.405, 0.14 / 0.405))
