"""UniVIP's joint sampling against its algorithm written down a second time, its fallback, its further views."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.types import View
from scenewise.views import overlap
from scenewise.views.augmentations import RATIO
from scenewise.views.instances import InstanceRules, fill_up, instance_candidates
from scenewise.views.overlap import Overlap
from scenewise.views.regions import Regions, Window, random_resized_crop
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot, multi_crop, scale_slots

SIZE = (480, 640)
PAIR = {"first": Slot(augmentation="byol-first"), "second": Slot(augmentation="byol-second")}
UNIVIP = {**PAIR, "part": Slot(augmentation="byol-first", size=96, count=4, instance=True)}


def proposals(size: tuple[int, int], count: int, seed: int, *, sides: tuple[float, float] = (40, 250)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.uniform(*sides, (count, 2)), [size[1], size[0]])
    corners = rng.uniform(0, 1, (count, 2)) * ([size[1], size[0]] - lengths)
    return np.concatenate([corners, corners + lengths], axis=1).round().astype(np.int32)


def lies_in(box: np.ndarray, window: np.ndarray | Window) -> bool:
    return bool(box[0] >= window[0] and box[1] >= window[1] and box[2] <= window[2] and box[3] <= window[3])


def draw(policy: Overlap, slots: dict[str, Slot], count: int, boxes: np.ndarray) -> list[Regions]:
    generator = np.random.default_rng(0)
    return [policy(SIZE, boxes, slots, generator) for _ in range(count)]


def algorithm(
    size: tuple[int, int], boxes: np.ndarray, count: int, generator: np.random.Generator
) -> tuple[list[Window], list[list[float]], int, int]:
    """Algorithm 1 with its fallback, box by box: the crops, K boxes, how many are real, the attempts."""
    rules, photo = InstanceRules(min_side=64.0), (0, 0, size[1], size[0])
    candidates = instance_candidates(size, boxes, rules)
    tried: list[tuple[int, int, list[Window], Window, list[np.ndarray]]] = []
    for _ in range(20):
        crops = [random_resized_crop(photo, scale=(0.08, 1.0), ratio=RATIO, generator=generator) for _ in range(2)]
        (a, b, c, d), (e, f, g, h) = crops
        shared = (max(a, e), max(b, f), min(c, g), min(d, h))
        wide, tall = shared[2] - shared[0], shared[3] - shared[1]
        tried.append((-1, 0, [photo, photo], photo, list(candidates)))
        if wide < min(64, size[1]) or tall < min(64, size[0]):
            continue
        common = [box for box in candidates if lies_in(box, shared)]
        tried[-1] = (len(common), wide * tall, crops, shared, common)
        if len(common) >= count:
            return crops, [box.tolist() for box in common[:count]], count, len(tried)
    _, _, crops, shared, common = max(tried, key=lambda each: each[:2])  # the first of the best
    common = common[:count]
    stacked = np.array(common, np.float32).reshape(-1, 4)
    return crops, fill_up(stacked, shared, count, rules=rules, generator=generator).tolist(), len(common), 20


@pytest.mark.parametrize("size", [(480, 640), (150, 200), (70, 400), (40, 30), (1, 500), (500, 1), (1, 1)])
@pytest.mark.parametrize("count", [0, 3, 60])
def test_overlap_is_algorithm_1(size: tuple[int, int], count: int) -> None:
    """Many objects, few, none; photos that are smaller than an object may be; as many draws as the algorithm has."""
    for seed in range(8):
        boxes = proposals(size, count, seed)
        generator, again = np.random.default_rng(seed), np.random.default_rng(seed)
        found = Overlap()(size, boxes, UNIVIP, generator)
        crops, chosen, real, attempts = algorithm(size, boxes, 4, again)
        assert [tuple(found.boxes[name][0]) for name in PAIR] == crops
        assert found.boxes["part"].tolist() == chosen
        assert found.figures["attempts"] == attempts and found.figures["real_instances"] == real
        assert generator.random() == again.random()


def test_the_papers_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops [0,0,10,8] and [4,2,10,10]: of four boxes the first two are common, one of them at all four borders."""
    crops = itertools.cycle([(0, 0, 10, 8), (4, 2, 14, 12)])
    monkeypatch.setattr(overlap, "crop", lambda *_: next(crops))
    boxes = np.array([(4, 2, 10, 8), (5, 3, 7, 5), (3, 3, 5, 5), (9, 7, 11, 8)])
    slots = {**PAIR, "part": Slot(augmentation="byol-first", count=2, instance=True)}
    found = Overlap(min_size=1.0, max_iou=1.0)((12, 14), boxes, slots, np.random.default_rng(0))
    assert found.boxes["part"].tolist() == boxes[:2].tolist()
    assert found.figures == {"attempts": 1.0, "real_instances": 2.0, "fallback": 0.0}


def test_crops_that_only_touch_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty failures: both crops are the whole photo."""
    crops = itertools.cycle([(0, 0, 100, 100), (100, 0, 200, 100)])
    monkeypatch.setattr(overlap, "crop", lambda *_: next(crops))
    boxes = np.array([(10, 10, 90, 90)])
    found = Overlap(min_size=0.0)((100, 200), boxes, UNIVIP, np.random.default_rng(0))
    assert [found.boxes[name][0].tolist() for name in PAIR] == [[0, 0, 200, 100]] * 2
    assert found.figures == {"attempts": 20.0, "real_instances": 1.0, "fallback": 1.0}
    assert found.boxes["part"][0].tolist() == [10, 10, 90, 90]


def test_the_fallback_keeps_the_most_objects_then_the_largest_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [((0, 0, 100, 100), (0, 0, 100, 100)), ((0, 0, 210, 90), (0, 0, 300, 300)), ((0, 0, 300, 100),) * 2]
    crops = itertools.chain.from_iterable([*pairs, *[((0, 0, 9, 9),) * 2] * 17])
    monkeypatch.setattr(overlap, "crop", lambda *_: next(crops))
    boxes = np.array([(0, 0, 64, 64), (90, 0, 160, 70)])
    found = Overlap()((300, 300), boxes, UNIVIP, np.random.default_rng(0))
    assert [found.boxes[name][0].tolist() for name in PAIR] == [[0, 0, 300, 100]] * 2
    assert found.boxes["part"][:2].tolist() == boxes.tolist()
    assert found.figures == {"attempts": 20.0, "real_instances": 2.0, "fallback": 1.0}


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    count=st.integers(0, 40),
    instances=st.integers(1, 8),
    size=st.sampled_from([32, 96, 224]),
    seed=st.integers(0, 2**32),
)
def test_every_box_lies_in_both_crops_and_there_are_exactly_k(
    height: int, width: int, count: int, instances: int, size: int, seed: int
) -> None:
    part = Slot(augmentation="byol-first", size=96, count=instances, instance=True)
    slots = scale_slots({**PAIR, "part": part}, size)
    boxes = proposals((height, width), count, seed)
    found = Overlap()((height, width), boxes, slots, np.random.default_rng(seed))
    assert found.boxes["part"].shape == (instances, 4)
    for box in found.boxes["part"]:
        assert (box[2:] > box[:2]).all()
        assert all(lies_in(box, found.boxes[name][0]) for name in PAIR)
    real = int(found.figures["real_instances"])
    known = {tuple(map(float, box)) for box in boxes}
    assert all(tuple(box) in known for box in found.boxes["part"][:real])
    assert 1 <= found.figures["attempts"] <= 20
    if not found.figures["fallback"]:
        assert real == instances


def test_the_fallback_is_rarer_for_fewer_and_smaller_objects() -> None:
    """The fewer objects are wanted the rarer the fallback, and the fewer the attempts."""
    photos = [proposals(SIZE, 18, seed, sides=(70, 200)) for seed in range(30)]

    def means(**given_settings: float) -> tuple[float, float]:
        policy = Overlap(**given_settings)
        drawn = [policy(SIZE, boxes, PAIR, np.random.default_rng(i)).figures for i, boxes in enumerate(photos)]
        fallbacks, attempts = ([each[name] for each in drawn] for name in ("fallback", "attempts"))
        return float(np.mean(fallbacks)), float(np.mean(attempts))

    few, some, many = means(instances=2), means(instances=6), means(instances=12)
    assert few[0] == 0 and few[0] < some[0] < many[0] and few[1] < some[1] < many[1]
    assert means(instances=6, min_size=100.0)[0] > some[0]
    assert means(instances=6, tries=2)[0] > some[0]


def test_the_count_of_the_instance_slots_wins() -> None:
    boxes = proposals(SIZE, 60, 0)
    found = draw(Overlap(instances=1), UNIVIP, 5, boxes)
    assert all(each.figures["real_instances"] == 4 or each.figures["fallback"] for each in found)
    plain = draw(Overlap(instances=1), PAIR, 5, boxes)
    assert all(each.figures["real_instances"] == 1 for each in plain)
    assert list(plain[0].boxes) == list(PAIR)


def test_pick_random_is_any_of_the_common_objects_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chi-square over the ten pairs of five objects, 9 degrees of freedom, p = 1e-4."""
    monkeypatch.setattr(overlap, "crop", lambda *_: (0, 0, 640, 480))
    boxes = np.array([(100 * i, 10, 100 * i + 90, 100) for i in range(5)])
    slots = {**PAIR, "part": Slot(augmentation="byol-first", count=2, instance=True)}
    counts = dict.fromkeys(itertools.combinations(range(5), 2), 0)
    for each in draw(Overlap(pick="random"), slots, 400, boxes):
        first, second = (each.boxes["part"][:, 0] // 100).astype(int).tolist()
        counts[first, second] += 1
    assert ((np.array(list(counts.values())) - 40) ** 2 / 40).sum() < 33.7
    assert all(each.boxes["part"][:, 0].tolist() == [0, 100] for each in draw(Overlap(), slots, 5, boxes))


def test_further_views_contain_the_same_objects() -> None:
    """Four views of one slot; where the first two agreed without a fallback the others nearly always can too."""
    slots, boxes = {"view": Slot(augmentation="simclr", count=4)}, proposals(SIZE, 30, 1)
    together = []
    for each in draw(Overlap(instances=2), slots, 40, boxes):
        crops = each.boxes["view"]
        common = [
            box for box in instance_candidates(SIZE, boxes, InstanceRules(min_side=64.0)) if lies_in(box, crops[0])
        ]
        chosen = [box for box in common if lies_in(box, crops[1])][:2]
        assert len(chosen) == 2 and each.figures["fallback"] == 0
        together.append([all(lies_in(box, crop) for box in chosen) for crop in crops])
        assert each.kinds["view"].tolist() == [View.SCENE] * 4
    rates = np.mean(together, axis=0)
    assert rates[:2].tolist() == [1, 1] and rates[2:].min() > 0.9
    free = [Scene()(SIZE, None, slots, np.random.default_rng(i)).boxes["view"][2] for i in range(60)]
    assert np.mean([lies_in(boxes[0], crop) for crop in free]) < 0.9


def test_a_further_view_that_cannot_contain_all_contains_most(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, half, other = (0, 0, 640, 480), (0, 0, 320, 480), (200, 0, 520, 480)
    crops = itertools.chain([whole, whole], [other, half, half], itertools.repeat(other))
    monkeypatch.setattr(overlap, "crop", lambda *_: next(crops))
    boxes = np.array([(0, 0, 100, 100), (110, 0, 210, 100), (220, 0, 320, 100), (540, 0, 640, 100)])
    found = Overlap()(SIZE, boxes, {"view": Slot(augmentation="simclr", count=3)}, np.random.default_rng(0))
    assert found.boxes["view"].tolist() == [list(whole), list(whole), list(half)]


def test_small_crops_are_free() -> None:
    """Drawn as the scene policy draws them, after the full views; small crops alone follow no rule."""
    slots, boxes = multi_crop("simclr", large=("large", 2), small=4), proposals(SIZE, 30, 2)
    for each in draw(Overlap(instances=1), slots, 20, boxes):
        areas = (each.boxes["small"][:, 2:] - each.boxes["small"][:, :2]).prod(axis=1) / (480 * 640)
        assert areas.min() >= 0.97 * 0.05 and areas.max() <= 1.03 * 0.14
        large = (each.boxes["large"][:, 2:] - each.boxes["large"][:, :2]).prod(axis=1) / (480 * 640)
        assert large.min() >= 0.97 * 0.14
        assert each.kinds["small"].tolist() == [View.SCENE] * 4
    alone = {"small": slots["small"]}
    found = Overlap(instances=1)(SIZE, boxes, alone, np.random.default_rng(0))
    scene = Scene()(SIZE, None, alone, np.random.default_rng(0))
    assert np.array_equal(found.boxes["small"], scene.boxes["small"])


def test_lengths_follow_the_runs_size() -> None:
    """Objects of 40 pixels are too small for views of 224 pixels and large enough for views of 112."""
    boxes = np.array([(x, y, x + 40, y + 40) for x in range(0, 600, 50) for y in range(0, 440, 50)])
    for size, real in ((224, 0), (112, 4)):
        found = Overlap()(SIZE, boxes, scale_slots(UNIVIP, size), np.random.default_rng(0))
        assert found.figures["real_instances"] == real and found.figures["fallback"] == (real == 0)


def test_settings_out_of_range_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Overlap(instances=0, tries=0, min_size=-1.0, max_aspect=0.0, max_iou=2.0)
    assert caught.value.problems == (
        "crops.instances: 0 must be 1 to 64",
        "crops.tries: 0 must be 1 to 1000",
        "crops.min_size: -1.0 must be 0 pixels or more",
        "crops.max_aspect: 0.0 must be at least 1",
        "crops.max_iou: 2.0 must be 0 to 1",
    )
    assert Overlap().decide(0.3) == Overlap()
