"""Object-aware cropping: what each view is cut from, what is drawn in which order, what happens without objects."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.types import View
from scenewise.views.augmentations import RATIO
from scenewise.views.objects import Object, ObjectScene, ObjectShift
from scenewise.views.regions import RegionPolicy, Regions, random_resized_crop
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot, multi_crop, scale_slots
from scenewise.views.windows import object_windows, shifted_window

SIZE = (768, 1024)
PAIR = {"query": Slot(augmentation="moco"), "key": Slot(augmentation="moco")}
FOUR = {"view": Slot(augmentation="simclr", count=4)}
ONE_AND_THREE = {"strong": Slot(augmentation="msvq-strong"), "weak": Slot(augmentation="msvq-weak", count=3)}
MULTI = multi_crop("moco", large=("large", 2), small=3)
BOXES = np.array([[400, 300, 640, 560], [20, 30, 320, 400], [700, 100, 1000, 380], [5, 5, 9, 9]], np.int32)
KINDS = {"object": Object, "object-scene": ObjectScene, "object-shift": ObjectShift}


def contains(window: tuple[int, int, int, int], box: np.ndarray) -> bool:
    return bool((box[:2] >= window[:2]).all() and (box[2:] <= window[2:]).all())


def draw(policy: RegionPolicy, slots: dict[str, Slot], count: int, boxes: np.ndarray | None = BOXES) -> list[Regions]:
    generator = np.random.default_rng(0)
    return [policy(SIZE, boxes, slots, generator) for _ in range(count)]


def kinds(regions: Regions) -> list[int]:
    return [int(kind) for each in regions.kinds.values() for kind in each]


@pytest.mark.parametrize("slots", [PAIR, FOUR, ONE_AND_THREE, MULTI], ids=["pair", "four", "one and three", "multi"])
@pytest.mark.parametrize("seed", range(6))
def test_object_draws_as_documented(slots: dict[str, Slot], seed: int) -> None:
    """The whole policy written a second time from its description, on the same random numbers and no more of them."""
    policy, generator, again = Object().decide(0.405), np.random.default_rng(seed), np.random.default_rng(seed)
    found = policy(SIZE, BOXES, slots, generator)
    box = BOXES[again.integers(3)].astype(np.float32)  # the fourth is too small
    exchanged = again.random() < 0.5
    windows = object_windows(box, SIZE, side=224, dilation=0.2, mode="image")
    number = 0
    for name, slot in slots.items():
        for row in range(slot.count):
            in_object = (number % 2 == 0) != exchanged
            number += 1
            low, high = slot.scale or {"simclr": (0.08, 1.0)}.get(slot.augmentation, (0.2, 1.0))
            context = (low if high < 1 else 0.2, high)
            scale = (min(1.0, low / 0.405), min(1.0, high / 0.405)) if in_object else context
            window = windows[0] if in_object else windows[1]
            expected = random_resized_crop(window, scale=scale, ratio=RATIO, generator=again)
            assert tuple(found.boxes[name][row]) == expected
            assert found.kinds[name][row] == (View.OBJECT if in_object else View.CONTEXT)
    assert found.figures == {"fallback": 0.0}
    assert generator.random() == again.random()  # as many numbers were drawn


def test_object_shift_draws_as_documented() -> None:
    policy = ObjectShift().decide(0.405)
    for seed in range(10):
        generator, again = np.random.default_rng(seed), np.random.default_rng(seed)
        found = policy(SIZE, BOXES, PAIR, generator)
        box = BOXES[again.integers(3)].astype(np.float32)
        exchanged = again.random() < 0.5
        window, _ = object_windows(box, SIZE, side=224, dilation=0.0, mode="image")
        shifted = shifted_window(window, SIZE, distance=(40.0, 120.0), tries=100, generator=again)
        assert shifted is not None
        order = (shifted, window) if exchanged else (window, shifted)
        for name, cut_from in zip(PAIR, order, strict=True):
            expected = random_resized_crop(cut_from, scale=(0.2 / 0.405, 1.0), ratio=RATIO, generator=again)
            assert tuple(found.boxes[name][0]) == expected
        assert kinds(found) == ([2, 1] if exchanged else [1, 2])
        assert generator.random() == again.random()


@pytest.mark.parametrize("seed", range(6))
def test_object_scene_is_the_scene_with_one_whole_proposal(seed: int) -> None:
    generator, again = np.random.default_rng(seed), np.random.default_rng(seed)
    found = ObjectScene()(SIZE, BOXES, MULTI, generator)
    box, exchanged = BOXES[again.integers(3)], int(again.random() < 0.5)
    scene = Scene()(SIZE, None, MULTI, again)
    assert found.boxes["large"][exchanged].tolist() == box.tolist()
    assert np.array_equal(found.boxes["large"][1 - exchanged], scene.boxes["large"][1 - exchanged])
    assert np.array_equal(found.boxes["small"], scene.boxes["small"])
    assert kinds(found) == [View.OBJECT if row == exchanged else View.SCENE for row in range(5)]
    assert generator.random() == again.random()
    single = ObjectScene(swap=1.0)(SIZE, BOXES, {"only": Slot(augmentation="moco")}, generator)
    assert kinds(single) == [View.OBJECT]


def test_views_alternate() -> None:
    """View 0 the object, view 1 its surroundings, and so on through all slots; small crops too."""
    for slots, count in ((PAIR, 2), (FOUR, 4), (ONE_AND_THREE, 4), (MULTI, 5)):
        for policy in (Object, ObjectShift):
            assert kinds(draw(policy(swap=0.0), slots, 1)[0]) == [1, 2, 1, 2, 1][:count]
            assert kinds(draw(policy(swap=1.0), slots, 1)[0]) == [2, 1, 2, 1, 2][:count]


@pytest.mark.parametrize("name", KINDS)
def test_proposals_are_drawn_alike_and_exchanged_half_the_time(name: str) -> None:
    """Chi-square over the proposals (2 degrees of freedom) and over the exchange (1), p = 1e-4."""
    apart = np.array([[50, 50, 300, 300], [400, 400, 650, 650], [750, 60, 1000, 310]], np.float32)
    drawn = draw(KINDS[name](**({} if name == "object-scene" else {"object_scale": 1.0})), PAIR, 900, apart)
    assert sum(each.figures["fallback"] for each in drawn) == 0
    first = np.array([each.kinds["query"][0] == View.OBJECT for each in drawn])
    assert abs(first.mean() - 0.5) < 0.065
    shown = np.array([each.boxes["query" if each.kinds["query"][0] == View.OBJECT else "key"][0] for each in drawn])
    counts = (np.abs(shown[:, None] - apart[None]).max(axis=2) <= 1).sum(axis=0)
    assert counts.sum() == 900 and ((counts - 300) ** 2 / 300).sum() < 18.4


@settings(max_examples=80, deadline=None)
@example(height=301, width=19, corners=[(0, 0, 3, 301)], seed=0, size=16, mode="image")  # longer than it may be
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    corners=st.lists(st.tuples(*[st.integers(-100, 3000)] * 4), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
    size=st.sampled_from([16, 96, 224]),
    mode=st.sampled_from(["image", "box"]),
)
def test_crops_lie_in_their_windows(
    height: int, width: int, corners: list[tuple[int, int, int, int]], seed: int, size: int, mode: str
) -> None:
    """With one proposal the windows are known."""
    boxes = np.array(corners, np.float32)[:1]
    policy, slots = Object(dilation_mode=mode, max_aspect=100.0).decide(0.2), scale_slots(MULTI, size)
    found = policy((height, width), boxes, slots, np.random.default_rng(seed))
    clipped = np.clip(boxes[0], 0, [width, height, width, height])
    sides = clipped[2:] - clipped[:2]
    if sides.min() < 32 * size / 224 or sides.max() > 100 * sides.min():
        assert found.figures["fallback"] == 1
        return
    windows = object_windows(clipped, (height, width), side=size, dilation=0.2, mode=mode)
    for name in slots:
        for box, kind in zip(found.boxes[name], found.kinds[name], strict=True):
            assert contains(windows[0] if kind == View.OBJECT else windows[1], box)


def test_the_object_views_area_range() -> None:
    """Divided by the mean area of a proposal for object views; a fifth at least for full views of the context."""
    decided = Object().decide(0.405)
    drawn = draw(decided, MULTI, 400)
    shares: dict[tuple[str, int], list[float]] = {}
    for each in drawn:
        for name in MULTI:
            for (x1, y1, x2, y2), kind in zip(each.boxes[name], each.kinds[name], strict=True):
                shares.setdefault((name, int(kind)), []).append((x2 - x1) * (y2 - y1))
    windows = [object_windows(box.astype(float), SIZE, side=224, dilation=0.2, mode="image") for box in BOXES[:3]]
    areas = np.array([[(w[2] - w[0]) * (w[3] - w[1]) for w in pair] for pair in windows])
    for name, (low, high) in {"large": (0.14, 1.0), "small": (0.05, 0.14)}.items():
        for kind, divisor in ((1, 0.405), (2, 1.0)):
            low = 0.2 if (name, kind) == ("large", 2) else low
            found = np.array(shares[name, kind])
            assert found.min() >= 0.97 * areas[:, kind - 1].min() * low / divisor
            assert found.max() <= 1.03 * areas[:, kind - 1].max() * min(1, high / divisor)
    assert decided.decide(0.9) is decided and Object(mean_area=0.3).decide(0.9).mean_area == 0.3
    assert ObjectShift().decide(0.3).mean_area == 0.3 and ObjectScene().decide(0.3) == ObjectScene()


def test_released_geometry() -> None:
    """The documented case through the policy: windows as the authors' code has them, and in the photo."""
    policy = Object(geometry="released")
    assert policy.windows(np.array([400.0, 300, 600, 420]), SIZE, side=224) == (
        (288, 188, 712, 532),
        (320, 240, 720, 504),
    )
    assert policy.windows(np.array([20.0, 30, 80, 90]), (150, 200), side=224) == ((0, 0, 200, 150), (0, 0, 200, 150))
    for each in draw(policy, PAIR, 50, np.array([[400, 300, 600, 420]])):
        for name in PAIR:
            window = (288, 188, 712, 532) if each.kinds[name][0] == View.OBJECT else (320, 240, 720, 504)
            assert contains(window, each.boxes[name][0])


@pytest.mark.parametrize("slots", [PAIR, MULTI, {**PAIR, "part": Slot(augmentation="moco", count=3, instance=True)}])
@pytest.mark.parametrize("boxes", [None, np.zeros((0, 4)), BOXES[3:], np.array([[2000, 5, 2300, 400], [9, 9, 3, 3]])])
@pytest.mark.parametrize("name", KINDS)
def test_without_a_usable_proposal_it_is_the_scene_policy(
    name: str, boxes: np.ndarray | None, slots: dict[str, Slot]
) -> None:
    found = KINDS[name]()(SIZE, boxes, slots, np.random.default_rng(3))
    scene = Scene()(SIZE, boxes, slots, np.random.default_rng(3))
    assert all(np.array_equal(found.boxes[slot], scene.boxes[slot]) for slot in slots)
    assert all(np.array_equal(found.kinds[slot], scene.kinds[slot]) for slot in slots)
    assert found.figures == {"fallback": 1.0, **scene.figures}
    assert set(KINDS[name]()(SIZE, BOXES, slots, np.random.default_rng(3)).figures) == set(found.figures)


def test_no_room_to_shift() -> None:
    """A window as large as the photo has nowhere to go: scene crops, counted."""
    whole = np.array([[0, 0, 300, 200]], np.float32)
    found = ObjectShift()((200, 300), whole, PAIR, np.random.default_rng(0))
    assert found.figures == {"fallback": 1.0} and kinds(found) == [View.SCENE] * 2


def test_a_box_over_the_whole_photo() -> None:
    """Object, surroundings and scene are one then."""
    whole = np.array([[-5, 0, 2000, 768]], np.float32)
    for each in draw(
        Object(object_scale=1.0), {"view": Slot(augmentation="moco", scale=(1.0, 1.0), count=2)}, 5, whole
    ):
        assert each.boxes["view"].tolist() == [[0, 0, 1024, 768]] * 2 and each.figures["fallback"] == 0


def test_the_filter_follows_the_settings_and_the_runs_size() -> None:
    """32 pixels of a 224-pixel view are 16 of one of 112; the best `limit` are drawn from."""
    small = np.array([[100, 100, 120, 120]], np.float32)
    assert draw(Object(), PAIR, 1, small)[0].figures["fallback"] == 1
    assert Object()(SIZE, small, scale_slots(PAIR, 112), np.random.default_rng(0)).figures["fallback"] == 0
    assert draw(Object(min_side=20.0), PAIR, 1, small)[0].figures["fallback"] == 0
    long = np.array([[100, 100, 700, 200]], np.float32)
    assert draw(Object(), PAIR, 1, long)[0].figures["fallback"] == 1
    assert draw(Object(max_aspect=6.0), PAIR, 1, long)[0].figures["fallback"] == 0
    twice = np.array([[100, 100, 400, 400], [101, 100, 400, 400], [600, 300, 900, 600]], np.float32)

    def lefts(**settings: float) -> set[float]:
        drawn = draw(ObjectScene(swap=0.0, **settings), PAIR, 40, twice)
        return {float(each.boxes["query"][0, 0]) for each in drawn}

    assert lefts() == {100, 101, 600}
    assert lefts(limit=1) == {100}
    assert lefts(nms_iou=0.9) == {100, 600}


@pytest.mark.parametrize("policy", [Object, ObjectShift])
def test_the_least_window_in_pixels_of_a_view_or_as_a_share_of_the_photo(policy: type[Object | ObjectShift]) -> None:
    """The whole window of a small object, at any size of the views: theirs, or the share of the photo's short side."""
    small = np.array([[500, 300, 530, 330]], np.float32)

    def side(size: int, share: float | None) -> set[float]:
        slots = {"view": Slot(augmentation="moco", scale=(1.0, 1.0), size=size)}
        cut = policy(object_scale=1.0, swap=0.0, min_side=1.0, min_window=share)
        drawn = cut(SIZE, small, slots, np.random.default_rng(0))
        left, top, right, bottom = drawn.boxes["view"][0]
        return {right - left, bottom - top}

    for size in (32, 64, 224):
        assert side(size, None) == {size}
        assert side(size, 0.5) == {384}
        assert side(size, 0.75) == {576}
    assert side(16, 0.0) == {30}


def test_settings_out_of_range_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Object(dilation=-0.1, swap=1.5, min_side=float("nan"), limit=0, object_scale=2.0, mean_area=0.0)
    assert caught.value.problems == (
        "crops.min_side: nan must be a finite number",
        "crops.limit: 0 must be at least 1",
        "crops.dilation: -0.1 must be 0 or more",
        "crops.object_scale: 2.0 must be 0 to 1",
        "crops.mean_area: 0.0 must be more than 0 and at most 1",
        "crops.swap: 1.5 must be 0 to 1",
    )
    with pytest.raises(UserError, match=r"crops\.dilation_mode: 'box' cannot be had with crops\.geometry=released"):
        Object(geometry="released", dilation_mode="box")
    with pytest.raises(UserError, match=r"crops\.max_aspect: 0\.5 must be at least 1"):
        ObjectScene(max_aspect=0.5)
    with pytest.raises(UserError, match=r"crops\.nms_iou: 1\.5 must be 0 to 1"):
        ObjectScene(nms_iou=1.5)
    with pytest.raises(UserError, match=r"crops\.distance: \(9\.0, 4\.0\) must be two lengths, the shorter first"):
        ObjectShift(distance=(9.0, 4.0))
