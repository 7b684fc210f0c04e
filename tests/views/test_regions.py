"""Boxes before pixels: the scene policy against torchvision's random resized crop, and what every policy must hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.v2 as v2
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise import keys
from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.types import View
from scenewise.views.augmentations import AUGMENTATIONS, RATIO, augmentation
from scenewise.views.policies import POLICIES, policy_class, policy_name
from scenewise.views.regions import RegionPolicy, random_resized_crop
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot, multi_crop, scale_slots

SIDES = st.integers(1, 3000)
SLOTS = {
    "query": Slot(augmentation="moco"),
    "small": Slot(augmentation="simclr", size=96, count=3, scale=(0.05, 0.14)),
}

METHOD_SLOTS = {
    "two slots": {"query": Slot(augmentation="moco"), "key": Slot(augmentation="moco")},
    "one slot of four": {"view": Slot(augmentation="simclr", count=4)},
    "one and three": {"strong": Slot(augmentation="moco"), "weak": Slot(augmentation="weak", count=3)},
    "multi-crop": multi_crop("simclr", large=("large", 2), small=3),
    "small crops alone": {"small": Slot(augmentation="moco", size=96, count=2, scale=(0.05, 0.14))},
    "instances": {
        "first": Slot(augmentation="byol-first"),
        "online": Slot(augmentation="byol-first", size=96, count=4, instance=True),
        "second": Slot(augmentation="byol-second"),
        "target": Slot(augmentation="byol-second", size=96, count=4, instance=True),
    },
    "instances alone": {"part": Slot(augmentation="moco", count=2, instance=True)},
}


def torchvision_crops(size: tuple[int, int], scale: tuple[float, float], count: int) -> np.ndarray:
    """(count, 4) boxes drawn by torchvision itself."""
    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(8, scale=scale), torch.empty(3, *size)
    drawn = [transform.make_params([image]) for _ in range(count)]
    return np.array([[d["left"], d["top"], d["left"] + d["width"], d["top"] + d["height"]] for d in drawn])


def describe(boxes: np.ndarray, size: tuple[int, int]) -> dict[str, np.ndarray]:
    wide, tall = (boxes[:, 2:] - boxes[:, :2]).T
    return {
        "scale": wide * tall / (size[0] * size[1]),
        "aspect": np.log(wide / tall),
        "x": (boxes[:, 0] + boxes[:, 2]) / 2 / size[1],
        "y": (boxes[:, 1] + boxes[:, 3]) / 2 / size[0],
        "left": boxes[:, 0] / size[1],
        "bottom": boxes[:, 3] / size[0],
    }


@pytest.mark.parametrize("size", [(427, 640), (300, 300), (900, 300), (100, 1000)])
@pytest.mark.parametrize("scale", [(0.2, 1.0), (0.08, 1.0), (0.05, 0.14)])
def test_scene_crops_are_torchvisions(size: tuple[int, int], scale: tuple[float, float]) -> None:
    """Means, spreads and nine deciles of area, aspect and place; 4,000 draws of each, 5 standard errors allowed.

    The last two sizes are so long that many draws fail and some crops are the central ones.
    """
    count = 4000
    generator = np.random.default_rng(1)
    window = (0, 0, size[1], size[0])
    ours = np.array([random_resized_crop(window, scale=scale, generator=generator) for _ in range(count)])
    theirs = torchvision_crops(size, scale, count)
    reference = describe(theirs, size)
    for name, found in describe(ours, size).items():
        expected = reference[name]
        error = 5 * max(expected.std(), 1e-3) * (2 / count) ** 0.5
        assert abs(found.mean() - expected.mean()) <= error, name
        assert abs(found.std() - expected.std()) <= error, name
        # Kolmogorov-Smirnov: the two-sample limit at p = 1e-6 is 2.7 / sqrt(count / 2)
        grid = np.sort(np.concatenate([found, expected]))
        cumulated = [np.searchsorted(np.sort(sample), grid, side="right") / count for sample in (found, expected)]
        assert abs(cumulated[0] - cumulated[1]).max() <= 2.7 / (count / 2) ** 0.5, name


def test_fallback_is_the_central_crop_of_torchvision() -> None:
    for height, width in ((10, 1000), (1000, 10), (7, 31), (1, 50), (50, 1), (1, 1)):
        box = random_resized_crop((0, 0, width, height), scale=(3.0, 3.0), generator=np.random.default_rng(0))
        expected = torchvision_crops((height, width), (3.0, 3.0), 1)[0]
        assert box == tuple(expected), (height, width)


@settings(max_examples=150, deadline=None)
@given(left=SIDES, top=SIDES, width=SIDES, height=SIDES, low=st.floats(0.01, 1), seed=st.integers(0, 2**32))
def test_a_crop_lies_in_its_window_and_in_its_ranges(
    left: int, top: int, width: int, height: int, low: float, seed: int
) -> None:
    window = (left, top, left + width, top + height)
    box = random_resized_crop(window, scale=(low, 1.0), generator=np.random.default_rng(seed))
    x1, y1, x2, y2 = box
    assert left <= x1 < x2 <= left + width and top <= y1 < y2 <= top + height
    if min(x2 - x1, y2 - y1) > 20:  # whole pixels change an aspect by up to one in twenty there
        assert RATIO[0] * 0.95 <= (x2 - x1) / (y2 - y1) <= RATIO[1] * 1.05
        if width / height < RATIO[1] and height / width < RATIO[1]:
            assert (x2 - x1) * (y2 - y1) >= low * width * height * 0.9


@settings(max_examples=40, deadline=None)
@given(
    height=SIDES,
    width=SIDES,
    corners=st.lists(st.tuples(*[st.floats(-200, 3200)] * 4), max_size=8),
    size=st.sampled_from([16, 96, 224]),
    seed=st.integers(0, 2**32),
)
@pytest.mark.parametrize("asked", METHOD_SLOTS)
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_fills_every_slot_inside_the_image(
    name: str, asked: str, height: int, width: int, corners: list[tuple[float, ...]], size: int, seed: int
) -> None:
    """Any photo, any boxes (outside, reversed, empty), any slots; the same generator gives the same regions."""
    proposals = np.array([*corners, (0, 0, width, height), (np.nan, 0, 5, 5)], np.float32)
    proposals.setflags(write=False)  # as a memory map is
    slots, policy = scale_slots(METHOD_SLOTS[asked], size), policy_class(name)().decide(0.3)
    found = policy((height, width), proposals, slots, np.random.default_rng(seed))
    again = policy((height, width), proposals, slots, np.random.default_rng(seed))
    without = policy((height, width), None, slots, np.random.default_rng(seed))
    for regions in (found, without):
        assert list(regions.boxes) == list(regions.kinds) == list(slots)
        assert set(regions.figures) == set(found.figures)
        for slot, boxes in regions.boxes.items():
            assert boxes.shape == (slots[slot].count, 4) and boxes.dtype == np.float32
            assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= (width, height)).all()
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
            kinds = regions.kinds[slot]
            assert kinds.shape == (slots[slot].count,) and kinds.dtype == np.int8
            assert ((kinds == View.INSTANCE) == slots[slot].instance).all()
    for slot in slots:
        assert np.array_equal(found.boxes[slot], again.boxes[slot])
        assert np.array_equal(found.kinds[slot], again.kinds[slot])
    assert found.figures == again.figures
    assert ("fallback" in found.figures) == policy.needs_proposals


@pytest.fixture(scope="module")
def generated() -> list[tuple[tuple[int, int], np.ndarray]]:
    """Size and labelled boxes of 300 generated scenes."""
    source = open_source("synthetic:300")
    return [(source[index].size, source.boxes(index)[0]) for index in range(300)]  # type: ignore[attr-defined]


def without_common_object(
    policy: RegionPolicy, scenes: list[tuple[tuple[int, int], np.ndarray]], size: int, *, epochs: int
) -> float:
    """Share of the view pairs in which no object has a quarter of its area in both views."""
    slots = scale_slots({"query": Slot(augmentation="moco"), "key": Slot(augmentation="moco")}, size)
    lacking = 0
    for epoch, (index, (photo, objects)) in itertools.product(range(epochs), enumerate(scenes)):
        regions = policy(photo, objects, slots, keys.generator(0, "regions", epoch, index))
        in_both = np.ones(len(objects), bool)
        for (crop,) in regions.boxes.values():
            near, far = np.maximum(objects[:, :2], crop[:2]), np.minimum(objects[:, 2:], crop[2:])
            inside = np.maximum(far - near, 0).prod(axis=1)
            in_both &= inside >= 0.25 * (objects[:, 2:] - objects[:, :2]).prod(axis=1)
        lacking += not in_both.any()
    return lacking / (epochs * len(scenes))


def test_views_share_an_object_more_often(generated: list[tuple[tuple[int, int], np.ndarray]]) -> None:
    """Why there are policies: pairs WITHOUT a common object are at most half as frequent as for the scene policy."""
    areas = [(b[:, 2:] - b[:, :2]).prod(axis=1) / (s[0] * s[1]) for s, b in generated]
    mean_area = float(np.concatenate(areas).mean())
    scene = without_common_object(Scene(), generated, 224, epochs=4)  # of any size
    assert scene > 0.03
    for size in (64, 128, 224):
        cut = policy_class("object")().decide(mean_area)
        assert without_common_object(cut, generated, size, epochs=4) <= scene / 2
        assert without_common_object(policy_class("overlap")(), generated[::3], size, epochs=1) <= scene / 2


def test_scene_ignores_proposals_and_global_chance() -> None:
    boxes = np.array([[1, 2, 50, 60]], np.float32)
    np.random.seed(1)
    first = Scene()((100, 200), boxes, SLOTS, keys.generator(0, "regions", 0, 7))
    np.random.seed(2)
    torch.manual_seed(5)
    second = Scene()((100, 200), None, SLOTS, keys.generator(0, "regions", 0, 7))
    assert all(np.array_equal(first.boxes[name], second.boxes[name]) for name in SLOTS)


def test_scene_draws_its_crops_and_nothing_else() -> None:
    """The plain pipeline, written down: one random resized crop after the other from the generator of the image."""
    generator, again = keys.generator(0, "regions", 3, 7), keys.generator(0, "regions", 3, 7)
    found, photo = Scene()((100, 200), None, SLOTS, generator), (0, 0, 200, 100)
    assert tuple(found.boxes["query"][0]) == random_resized_crop(photo, scale=(0.2, 1.0), generator=again)
    for box in found.boxes["small"]:
        assert tuple(box) == random_resized_crop(photo, scale=(0.05, 0.14), generator=again)
    assert generator.random() == again.random()
    assert found.figures == {} and all((kinds == View.SCENE).all() for kinds in found.kinds.values())


def test_slots_scale_overrides_the_augmentations() -> None:
    generator = np.random.default_rng(0)
    drawn = [Scene()((500, 500), None, SLOTS, generator) for _ in range(300)]
    areas = {name: np.concatenate([describe(d.boxes[name], (500, 500))["scale"] for d in drawn]) for name in SLOTS}
    assert areas["query"].min() >= 0.2 * 0.98 and areas["query"].max() > 0.8
    assert areas["small"].min() >= 0.05 * 0.97 and areas["small"].max() <= 0.14 * 1.03


def test_a_raised_lower_bound_leaves_small_crops_alone() -> None:
    """The control of object-aware crops: larger crops share more without any proposal."""
    raised, plain = Scene(scene_scale=0.6), Scene(scene_scale=0.1)
    drawn = [raised((500, 500), None, SLOTS, np.random.default_rng(i)) for i in range(200)]
    areas = {name: np.concatenate([describe(d.boxes[name], (500, 500))["scale"] for d in drawn]) for name in SLOTS}
    assert areas["query"].min() >= 0.6 * 0.98 and areas["query"].max() > 0.9
    assert areas["small"].max() <= 0.14 * 1.03
    for seed in range(20):  # a bound below the slot's own changes nothing
        low, usual = (p((300, 500), None, SLOTS, np.random.default_rng(seed)) for p in (plain, Scene()))
        assert all(np.array_equal(low.boxes[name], usual.boxes[name]) for name in SLOTS)
    with pytest.raises(UserError, match=r"crops.scene_scale: 1.5 must be 0 to 1"):
        Scene(scene_scale=1.5)


def test_names() -> None:
    assert policy_class("scene") is Scene and policy_name(Scene()) == "scene"
    assert all(policy_name(kind()) == name and kind.title for name, kind in POLICIES.items())
    with pytest.raises(UserError, match=r"crops: unknown name 'scenes'. Did you mean 'scene'\?"):
        policy_class("scenes")
    with pytest.raises(UserError, match=r"augmentation: unknown name 'mocov2'. Did you mean 'moco'\?"):
        augmentation("mocov2")
    assert {"moco", "simclr", "byol-first", "byol-second", "weak"} <= set(AUGMENTATIONS)


def test_the_papers_numbers() -> None:
    """The table of the papers, written a second time: crop, flip, jitter p and strengths, grey, blur, solarise."""
    table = {
        "moco": (0.2, 0.5, 0.8, (0.4, 0.4, 0.4, 0.1), 0.2, 0.5, 0.0),
        "simclr": (0.08, 0.5, 0.8, (0.8, 0.8, 0.8, 0.2), 0.2, 0.5, 0.0),
        "byol-first": (0.08, 0.5, 0.8, (0.4, 0.4, 0.2, 0.1), 0.2, 1.0, 0.0),
        "byol-second": (0.08, 0.5, 0.8, (0.4, 0.4, 0.2, 0.1), 0.2, 0.1, 0.2),
        "weak": (0.2, 0.5, 0.0, (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, 0.0),
    }
    for name, expected in table.items():
        a = AUGMENTATIONS[name]
        strengths = (a.brightness, a.contrast, a.saturation, a.hue)
        assert (a.scale[0], a.flip, a.jitter, strengths, a.grey, a.blur, a.solarise) == expected
        assert (a.scale[1], a.ratio, a.blur_sigma, a.solarise_threshold) == (1.0, (0.75, 4 / 3), (0.1, 2.0), 128)


def test_slots_scale_with_the_run() -> None:
    scaled = scale_slots(SLOTS, 112)
    assert {name: slot.size for name, slot in scaled.items()} == {"query": 112, "small": 48}
    assert scaled["small"].scale == (0.05, 0.14) and scaled["small"].count == 3
