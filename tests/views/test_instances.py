"""Whole objects as views: UniVIP's filter, and the random boxes that stand in for missing objects."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.types import View
from scenewise.views.instances import InstanceRules, fill_up, instance_candidates, instance_count
from scenewise.views.policies import POLICIES, policy_class
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot, scale_slots

RULES = InstanceRules(min_side=64.0)
SLOTS = {
    "online": Slot(augmentation="byol-first", size=96, count=4, instance=True),
    "first": Slot(augmentation="byol-first"),
    "target": Slot(augmentation="byol-second", size=96, count=3, instance=True),
    "second": Slot(augmentation="byol-second"),
}
NOTHING = np.zeros((0, 4), np.float32)
SIDES = st.integers(1, 3000)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, wide) * max(0.0, tall)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def test_the_filters_hand_example() -> None:
    """64 pixels, aspect 3, IoU 0.5: 1st, 4th and 6th stay."""
    boxes = np.array(
        [
            (0, 0, 100, 100),
            (5, 5, 105, 105),
            (200, 0, 263, 100),
            (200, 0, 264, 192),
            (200, 0, 264, 193),
            (0, 200, 300, 300),
            (0, 200, 301, 300),
        ]
    )
    assert instance_candidates((1000, 1000), boxes, RULES).tolist() == boxes[[0, 3, 5]].tolist()
    assert instance_candidates((1000, 1000), boxes, RULES, limit=2).tolist() == boxes[[0, 3]].tolist()
    again = instance_candidates((1000, 1000), instance_candidates((1000, 1000), boxes, RULES), RULES)
    assert again.tolist() == boxes[[0, 3, 5]].tolist()


def test_an_iou_at_the_limit_stays() -> None:
    boxes = np.array([(0, 0, 200, 100), (0, 0, 100, 100), (0, 0, 201, 100)])
    assert instance_candidates((500, 500), boxes[:2], RULES).tolist() == boxes[:2].tolist()
    assert len(instance_candidates((500, 500), boxes[[2, 1]], InstanceRules(min_side=64.0, max_iou=0.49))) == 1


@settings(max_examples=150, deadline=None)
@given(
    left=SIDES,
    top=SIDES,
    width=SIDES,
    height=SIDES,
    side=st.floats(0.3, 200),
    aspect=st.floats(1, 5),
    seed=st.integers(0, 2**32),
)
def test_random_boxes_obey_the_rules_where_the_window_lets_them(
    left: int, top: int, width: int, height: int, side: float, aspect: float, seed: int
) -> None:
    rules = InstanceRules(min_side=side, max_aspect=aspect)
    window = (left, top, left + width, top + height)
    boxes = fill_up(NOTHING, window, 4, rules=rules, generator=np.random.default_rng(seed))
    assert boxes.shape == (4, 4) and boxes.dtype == np.float32 and np.array_equal(boxes, np.round(boxes))
    for x1, y1, x2, y2 in boxes:
        assert left <= x1 < x2 <= left + width and top <= y1 < y2 <= top + height
        wide, tall = float(x2 - x1), float(y2 - y1)
        assert max(wide, tall) <= aspect * min(wide, tall) + 1e-6
        if min(width, height) >= max(1, math.ceil(side)):
            assert min(wide, tall) >= side


def test_random_boxes_keep_apart_where_there_is_room() -> None:
    found = np.array([[0, 0, 100, 100]], np.float32)
    for seed in range(20):
        boxes = fill_up(found, (0, 0, 600, 500), 5, rules=RULES, generator=np.random.default_rng(seed))
        assert np.array_equal(boxes[0], found[0])
        assert max(iou(boxes[i], boxes[j]) for i in range(5) for j in range(i)) <= 0.5
    tight = fill_up(found, (0, 0, 64, 64), 3, rules=RULES, generator=np.random.default_rng(0))
    assert tight[1:].tolist() == [[0, 0, 64, 64]] * 2  # there is only one box, and it is taken


def test_without_room_the_box_that_overlaps_least_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = np.array([[0, 0, 90, 100], [0, 0, 60, 100], [0, 0, 100, 100]], np.float32)
    monkeypatch.setattr("scenewise.views.instances._random_boxes", lambda *_: drawn)
    found = np.array([[0, 0, 100, 100]], np.float32)
    boxes = fill_up(found, (0, 0, 100, 100), 2, rules=RULES, generator=np.random.default_rng(0))
    assert boxes[1].tolist() == [0, 0, 60, 100]
    boxes = fill_up(
        found, (0, 0, 100, 100), 2, rules=InstanceRules(min_side=64.0, max_iou=0.95), generator=np.random.default_rng(0)
    )
    assert boxes[1].tolist() == [0, 0, 90, 100]  # the first within the rules


def test_more_objects_than_wanted_draw_nothing() -> None:
    found = np.array([[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 100, 300]], np.float32)
    generator, untouched = np.random.default_rng(0), np.random.default_rng(0)
    assert fill_up(found, (0, 0, 500, 500), 2, rules=RULES, generator=generator).tolist() == found[:2].tolist()
    assert generator.random() == untouched.random()


@pytest.mark.parametrize("name", POLICIES)
def test_every_instance_slot_shows_the_same_objects(name: str) -> None:
    """The photo's first objects under every policy but `overlap`, which shows those its crops share."""
    boxes = np.array([(10, 10, 150, 150), (12, 12, 150, 150), (300, 50, 420, 200), (200, 250, 330, 360)], np.float32)
    for seed in range(5):
        found = policy_class(name)()((480, 640), boxes, SLOTS, np.random.default_rng(seed))
        assert list(found.boxes) == list(found.kinds) == list(SLOTS)
        assert np.array_equal(found.boxes["online"][:3], found.boxes["target"])
        assert found.kinds["online"].tolist() == [View.INSTANCE] * 4
        real = int(found.figures["real_instances"])
        if name != "overlap":
            assert real == 3 and found.boxes["online"][:3].tolist() == boxes[[0, 2, 3]].tolist()
        for i in range(4):
            assert max((iou(found.boxes["online"][i], found.boxes["online"][j]) for j in range(i)), default=0) <= 0.5


def test_instances_are_drawn_after_the_views() -> None:
    """So the crops of a method with instance slots are those without them; the smallest side follows the run's size."""
    views = {name: slot for name, slot in SLOTS.items() if not slot.instance}
    plain = Scene()((480, 640), None, views, np.random.default_rng(1))
    found = Scene()((480, 640), None, SLOTS, np.random.default_rng(1))
    assert all(np.array_equal(plain.boxes[name], found.boxes[name]) for name in views)
    assert plain.figures == {} and found.figures == {"real_instances": 0.0}
    boxes = np.array([(10, 10, 60, 60)], np.float32)
    for size, real in ((224, 0), (112, 1)):
        found = Scene()((480, 640), boxes, scale_slots(SLOTS, size), np.random.default_rng(1))
        assert found.figures["real_instances"] == real
    assert instance_count(SLOTS) == 4 and instance_count(views) == 0
