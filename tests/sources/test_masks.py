"""Masks from outlines and run lengths, beside pycocotools, and the map of classes beside an obvious one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as pycocotools

from scenewise.errors import UserError
from scenewise.sources.masks import paint, polygon_mask, read_counts, runs_mask, stacked

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept")  # in pycocotools 2 to 6

SIDE = st.integers(1, 40)
CORNER = st.floats(-9, 50, width=32) | st.integers(-3, 45).map(float)


@settings(max_examples=150, deadline=None)
@given(SIDE, SIDE, st.lists(st.tuples(CORNER, CORNER), min_size=3, max_size=9))
def test_an_outline_is_filled_pixel_for_pixel_as_pycocotools_fills_it(
    height: int, width: int, corners: list[tuple[float, float]]
) -> None:
    numbers = [number for corner in corners for number in corner]
    (runs,) = pycocotools.frPyObjects([numbers], height, width)
    assert np.array_equal(polygon_mask(np.array(corners), (height, width)), pycocotools.decode(runs) == 1)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), SIDE, SIDE, st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
def test_run_lengths_are_read_as_pycocotools_wrote_them(seed: int, height: int, width: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    runs = pycocotools.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = read_counts(runs["counts"].decode())
    assert np.array_equal(runs_mask(counts, (height, width)), mask)
    assert runs == pycocotools.frPyObjects({"counts": counts, "size": [height, width]}, height, width)


@pytest.mark.parametrize("counts", [[], [5], [7], [-1, 7], [3, 3, 1]])
def test_runs_that_do_not_fill_the_image_are_refused(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="the image has 3 x 2"):
        runs_mask(counts, (2, 3))


@pytest.mark.parametrize("text", ["é", "0 ", "P"])
def test_what_is_no_compressed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="compressed run length"):
        read_counts(text)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
@settings(max_examples=50)
def test_smaller_objects_are_painted_over_larger_and_all_over_what_is_not_judged(seed: int, count: int) -> None:
    generator = np.random.default_rng(seed)
    masks = stacked([generator.random((4, 5)) < generator.random() for _ in range(count)], (4, 5))
    classes, ignored = generator.integers(0, 254, count), generator.random(count) < 0.3
    painted = paint(masks, classes, ignored, count=254)
    for y, x in np.ndindex(4, 5):
        there = [place for place in range(count) if masks[place, y, x]]
        objects = [place for place in there if not ignored[place]]
        expected = 255 if there else 0
        if objects:
            expected = 1 + classes[min(objects, key=lambda place: (masks[place].sum(), -place))]
        assert painted[y, x] == expected


def test_a_byte_has_no_room_for_more_than_254_classes() -> None:
    with pytest.raises(UserError, match="254 apart, but there are 255"):
        paint(np.zeros((0, 2, 2), bool), np.zeros(0, np.int64), np.zeros(0, bool), count=255)
