"""What is said of pairs of crops is what counting pixels says."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from scenewise.sources import open_source
from scenewise.tools.audit_pairs import DRAWS, Cut, Judged, crop_pairs, inside, judge_cut, pair_figures, pair_slots
from scenewise.views.pipeline import make_views
from scenewise.views.policies import POLICIES
from scenewise.views.scene import Scene

SIDE = 12


@st.composite
def boxes(draw: st.DrawFn, least: int = 1) -> np.ndarray:
    corners = []
    for _ in range(draw(st.integers(least, 4))):
        x1, y1 = draw(st.integers(0, SIDE - 1)), draw(st.integers(0, SIDE - 1))
        corners.append((x1, y1, draw(st.integers(x1 + 1, SIDE)), draw(st.integers(y1 + 1, SIDE))))
    return np.array(corners, np.float32).reshape(-1, 4)


def mask(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box.astype(int)
    drawn = np.zeros((SIDE, SIDE), bool)
    drawn[y1:y2, x1:x2] = True
    return drawn


@settings(max_examples=60)
@given(boxes(), boxes())
def test_an_object_is_inside_when_a_quarter_of_its_pixels_is(objects: np.ndarray, crops: np.ndarray) -> None:
    counted = [[(mask(thing) & mask(crop)).sum() / mask(thing).sum() >= 0.25 for crop in crops] for thing in objects]
    assert inside(objects, crops).tolist() == counted


@settings(max_examples=60)
@given(boxes(least=0), boxes(), boxes())
def test_pairs_are_judged_as_pixels_say(objects: np.ndarray, firsts: np.ndarray, seconds: np.ndarray) -> None:
    draws = min(len(firsts), len(seconds))
    pairs = np.stack([firsts[:draws], seconds[:draws]], axis=1).astype(np.float64)
    judged = judge_cut(Cut(pairs, 0.25), objects)
    overlaps, common = [], []
    for first, second in pairs:
        both, either = mask(first) & mask(second), mask(first) | mask(second)
        overlaps.append(both.sum() / either.sum())
        common.append(
            any(
                min((mask(thing) & mask(crop)).sum() for crop in (first, second)) >= 0.25 * mask(thing).sum()
                for thing in objects
            )
        )
    assert judged.overlap == pytest.approx(np.mean(overlaps))
    assert judged.fallback == 0.25
    if len(objects):
        assert judged.common == pytest.approx(np.mean(common))
    else:
        assert np.isnan(judged.common)


def test_crops_are_those_of_a_run_with_this_seed() -> None:
    source, slots = open_source("synthetic:4"), pair_slots(64)
    cut = crop_pairs(Scene(), source[2].size, None, slots, seed=5, index=2)
    assert cut.boxes.shape == (DRAWS, 2, 4)
    for epoch in (0, 3):
        _, regions = make_views(source[2], policy=Scene(), slots=slots, seed=5, epoch=epoch)
        np.testing.assert_array_equal(cut.boxes[epoch], np.stack([regions.boxes["query"][0], regions.boxes["key"][0]]))
    other = crop_pairs(Scene(), source[2].size, None, slots, seed=6, index=2)
    assert not np.array_equal(cut.boxes, other.boxes)


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_gives_pairs_and_says_where_it_fell_back(name: str) -> None:
    slots, policy = pair_slots(64), POLICIES[name]().decide(0.3)
    proposals = np.array([[10, 10, 60, 70], [40, 40, 120, 110]], np.float32)
    for given_boxes in (proposals, None):
        cut = crop_pairs(policy, (128, 150), given_boxes, slots, seed=0, index=0)
        assert cut.boxes.shape == (DRAWS, 2, 4)
        assert (cut.boxes[..., 2:] > cut.boxes[..., :2]).all()
        assert 0 <= cut.fallback <= 1
    assert cut.fallback == float(POLICIES[name].needs_proposals)


def test_figures_are_means_over_images_that_have_objects() -> None:
    nan = float("nan")
    figures = pair_figures([Judged(1.0, 0.2, 0.0), Judged(nan, 0.4, 1.0), Judged(0.5, 0.9, 0.5)], seed=0)
    assert figures.common is not None
    assert figures.common.value == pytest.approx(0.75)
    assert figures.overlap.value == pytest.approx(0.5)
    assert figures.fallback == pytest.approx(0.5)
    assert 0.5 <= figures.common.low <= 0.75 <= figures.common.high <= 1.0
    assert pair_figures([Judged(nan, 0.4, 0.0)], seed=0).common is None
