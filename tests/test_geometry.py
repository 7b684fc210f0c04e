"""Boxes against slow oracles that count pixels or walk through the boxes one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scenewise.geometry import area, clip, dilate, filter_proposals, grow, intersection, iou

SIZE = (60, 90)
EDGE = st.integers(0, 60)
CORNERS = st.lists(st.tuples(EDGE, EDGE, EDGE, EDGE), min_size=1, max_size=6)
FLOATS = st.floats(-30, 120, allow_nan=False, width=32)
ANY = st.lists(st.tuples(FLOATS, FLOATS, FLOATS, FLOATS), min_size=1, max_size=8)
INSIDE = st.lists(
    st.tuples(st.floats(0, 89), st.floats(0, 59), st.floats(0.5, 90), st.floats(0.5, 60)), min_size=1, max_size=6
)


def boxes_inside(corners: list[tuple[float, float, float, float]]) -> Tensor:
    return torch.tensor([(x, y, min(x + w, 90), min(y + h, 60)) for x, y, w, h in corners], dtype=torch.float64)


def mask(box: tuple[int, int, int, int]) -> np.ndarray:
    x1, y1, x2, y2 = box
    pixels = np.zeros((64, 64), bool)
    pixels[y1:y2, x1:x2] = True
    return pixels


@settings(max_examples=60, deadline=None)
@given(first=CORNERS, second=CORNERS)
def test_iou_counts_pixels(first: list[tuple[int, int, int, int]], second: list[tuple[int, int, int, int]]) -> None:
    """Reversed and empty boxes have no pixels."""
    found = iou(torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            union = (mask(a) | mask(b)).sum()
            expected = (mask(a) & mask(b)).sum() / union if union else 0.0
            assert found[i, j].item() == pytest.approx(expected, abs=1e-12)
    assert torch.isfinite(found).all()


@settings(max_examples=40, deadline=None)
@given(corners=CORNERS)
def test_area_and_intersection_count_pixels(corners: list[tuple[int, int, int, int]]) -> None:
    boxes = torch.tensor(corners, dtype=torch.float64)
    assert area(boxes).tolist() == [mask(box).sum() for box in corners]
    common = area(intersection(boxes, boxes[:1]))
    assert common.tolist() == [(mask(box) & mask(corners[0])).sum() for box in corners]


@settings(max_examples=100, deadline=None)
@given(corners=INSIDE, fraction=st.floats(0, 3), mode=st.sampled_from(["image", "box"]))
def test_a_dilation_contains_its_box_and_stays_in_the_image(
    corners: list[tuple[float, float, float, float]], fraction: float, mode: str
) -> None:
    boxes = boxes_inside(corners)
    found = dilate(boxes, SIZE, fraction=fraction, mode=mode)
    assert (found[:, :2] <= boxes[:, :2]).all() and (found[:, 2:] >= boxes[:, 2:]).all()
    assert (found >= 0).all() and (found[:, 2:] <= torch.tensor([90.0, 60.0])).all()
    for box, dilated in zip(boxes.tolist(), found.tolist(), strict=True):
        x1, y1, x2, y2 = box
        across, down = (90, 60) if mode == "image" else (x2 - x1, y2 - y1)
        dx, dy = across * fraction / 2, down * fraction / 2
        expected = [max(x1 - dx, 0), max(y1 - dy, 0), min(x2 + dx, 90), min(y2 + dy, 60)]
        assert dilated == pytest.approx(expected, abs=1e-9)


def test_dilate_by_nothing_and_wrong_arguments() -> None:
    boxes = torch.tensor([[3.0, 4, 20, 30]])
    assert torch.equal(dilate(boxes, SIZE, fraction=0.0), boxes)
    with pytest.raises(ValueError, match=r"mode: unknown name 'coord'\. Known: box, image"):
        dilate(boxes, SIZE, fraction=0.1, mode="coord")
    with pytest.raises(ValueError, match=r"fraction: -0\.1 is negative"):
        dilate(boxes, SIZE, fraction=-0.1)


@settings(max_examples=100, deadline=None)
@given(corners=INSIDE, minimum=st.floats(0, 120))
def test_grown_boxes_are_long_enough_central_and_inside(
    corners: list[tuple[float, float, float, float]], minimum: float
) -> None:
    boxes = boxes_inside(corners)
    found = grow(boxes, SIZE, minimum=minimum)
    for box, grown in zip(boxes.tolist(), found.tolist(), strict=True):
        for axis, limit in ((0, 90), (1, 60)):
            start, end, low, high = box[axis], box[axis + 2], grown[axis], grown[axis + 2]
            wanted = max(end - start, min(minimum, limit))
            assert high - low == pytest.approx(wanted, abs=1e-9)
            assert -1e-9 <= low <= start + 1e-9 and end - 1e-9 <= high <= limit + 1e-9
            if wanted > end - start and low > 1e-6 and high < limit - 1e-6:
                assert (low + high) / 2 == pytest.approx((start + end) / 2, abs=1e-9)
            elif end - start >= minimum:
                assert (low, high) == (start, end)
    dilated = dilate(found, SIZE, fraction=0.2)  # what object-aware cropping relies on
    assert (dilated[:, :2] <= found[:, :2]).all() and (dilated[:, 2:] >= found[:, 2:]).all()


def test_boxes_across_the_border_are_clipped_before_they_grow() -> None:
    found = grow(torch.tensor([[-20.0, 10, 10, 80], [85, 5, 200, 6]]), SIZE, minimum=20)
    assert found.tolist() == [[0, 10, 20, 60], [70, 0, 90, 20]]


def oracle_filter(
    boxes: list[tuple[float, ...]], *, min_side: float, max_aspect: float, limit: int | None, nms_iou: float | None
) -> list[int]:
    height, width = SIZE
    kept: list[int] = []
    clipped: dict[int, tuple[float, float, float, float]] = {}
    for number, (x1, y1, x2, y2) in enumerate(boxes):
        if limit is not None and len(kept) == limit:
            break
        if not all(math.isfinite(edge) for edge in (x1, y1, x2, y2)) or x2 <= x1 or y2 <= y1:
            continue
        box = (max(x1, 0), max(y1, 0), min(x2, width), min(y2, height))
        wide, tall = box[2] - box[0], box[3] - box[1]
        if wide <= 0 or tall <= 0 or min(wide, tall) < min_side or max(wide, tall) > max_aspect * min(wide, tall):
            continue
        rivals = [iou(torch.tensor([box]).double(), torch.tensor([clipped[k]]).double()).item() for k in kept]
        if nms_iou is not None and any(overlap > nms_iou for overlap in rivals):
            continue
        clipped[number] = box
        kept.append(number)
    return kept


@settings(max_examples=100, deadline=None)
@given(
    corners=ANY,
    broken=st.sampled_from([None, math.nan, math.inf, -math.inf]),
    min_side=st.floats(0, 40),
    max_aspect=st.floats(1, 5),
    limit=st.none() | st.integers(0, 5),
    nms_iou=st.none() | st.floats(0, 1),
)
def test_the_filter_keeps_what_the_oracle_keeps(
    corners: list[tuple[float, ...]],
    broken: float | None,
    min_side: float,
    max_aspect: float,
    limit: int | None,
    nms_iou: float | None,
) -> None:
    boxes = [*corners, *[(c[0], c[1], c[0] + 50, c[1] + 40) for c in corners]]
    if broken is not None:
        boxes[0] = (broken, *boxes[0][1:])
    rules = {"min_side": min_side, "max_aspect": max_aspect, "limit": limit, "nms_iou": nms_iou}
    tensor = torch.tensor(boxes, dtype=torch.float64)
    found = filter_proposals(tensor, SIZE, **rules)
    assert found.dtype == torch.int64
    assert found.tolist() == oracle_filter(boxes, **rules)
    again = filter_proposals(tensor[found], SIZE, **rules)
    assert again.tolist() == list(range(len(found)))


def test_the_limits_of_the_filter_are_kept() -> None:
    """The worked example of UniVIP's rules: sides of 64, aspect 3, IoU 0.5 are still good."""
    boxes = torch.tensor(
        [[0, 0, 100, 100], [5, 5, 105, 105], [200, 0, 263, 100], [200, 0, 264, 192], [200, 0, 264, 193],
         [0, 200, 300, 300], [0, 200, 301, 300]], dtype=torch.float64
    )  # fmt: skip
    found = filter_proposals(boxes, (400, 400), min_side=64, max_aspect=3.0, limit=None, nms_iou=0.5)
    assert found.tolist() == [0, 3, 5]
    half = torch.tensor([[0, 0, 40, 40], [0, 0, 40, 80]], dtype=torch.float64)
    assert filter_proposals(half, (400, 400), nms_iou=0.5).tolist() == [0, 1]
    assert filter_proposals(half, (400, 400), nms_iou=0.499).tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_precisions_and_empty_input(dtype: torch.dtype) -> None:
    boxes = torch.tensor([[0, 0, 32, 40], [16, 8, 64, 56]], dtype=dtype)
    lifted = torch.float64 if dtype == torch.float64 else torch.float32
    none = torch.empty(0, 4, dtype=dtype)
    assert (
        iou(boxes, boxes).dtype
        == dilate(boxes, SIZE, fraction=0.1).dtype
        == grow(boxes, SIZE, minimum=3).dtype
        == lifted
    )
    assert iou(none, boxes).shape == (0, 2) and iou(boxes, none).shape == (2, 0)
    assert (
        dilate(none, SIZE, fraction=0.1).shape == grow(none, SIZE, minimum=3).shape == clip(none, SIZE).shape == (0, 4)
    )
    assert filter_proposals(none, SIZE, nms_iou=0.5).tolist() == []
    assert filter_proposals(boxes, SIZE).tolist() == [0, 1]
    assert grow(boxes[None], SIZE, minimum=3).shape == (1, 2, 4)
