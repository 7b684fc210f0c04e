"""UniVIP's joint sampling: two crops of the photo whose overlap contains the same objects.

Paper: Li et al., "UniVIP", CVPR 2022, arXiv 2203.06965, algorithm 1; its fallback as an author answered the
re-implementation (utkutpcgl/UniVIP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import Bool, Float32

from scenewise.settings import Aspect, Pixels, Share, Views, check_fields
from scenewise.types import Size, View
from scenewise.views.instances import (
    MAX_ASPECT,
    MAX_IOU,
    MIN_SIZE,
    InstanceRules,
    fill_up,
    instance_candidates,
    instance_count,
    place_instances,
)
from scenewise.views.regions import RegionPolicy, Regions, Window, area_range, crop, scene_crops, whole
from scenewise.views.slots import Slot, full_size
from scenewise.views.windows import is_small


@dataclass(frozen=True, slots=True)
class _Try:
    """Crops of the first views, what all of them show, and the candidates that lie in it."""

    crops: list[Window]
    shared: Window
    common: Float32[np.ndarray, "n 4"]

    @property
    def worth(self) -> tuple[int, int]:
        """How good a fallback it is: by its objects, then by its area."""
        left, top, right, bottom = self.shared
        return len(self.common), (right - left) * (bottom - top)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Overlap(RegionPolicy):
    """Random crops of the photo that share K objects: the first two views are drawn until their overlap contains them.

    K is the count of the method's instance slots, which then show these objects, else `instances`. After `tries` pairs
    the one with the most objects in its overlap is kept, then the largest overlap, and random boxes in it stand in for
    the missing objects; where every overlap was narrower than an object may be, the whole photo is both crops. Figures:
    `attempts`, `real_instances`, `fallback`.

    Further full views are drawn up to `tries` times until they contain the same K boxes; failing that the one with the
    most of them is kept. Small crops (of an area range that ends below 1) are free.

    Draws, in this order: the pairs, the choice (`pick=random` only), the random boxes, the further views and small
    crops in the order of the slots.
    """

    needs_proposals: ClassVar[bool] = True
    title: ClassVar[str] = "random crops of the photo whose overlap contains the same objects (UniVIP)"

    instances: Views = 4  # K, for methods without instance slots; the paper sees no gain beyond
    tries: Annotated[int, Ge(1), Le(1000)] = 20  # as the re-implementation reports it
    min_size: Pixels = MIN_SIZE  # pixels of a 224-pixel view, both sides of an object; 64 or 96 in the reports
    max_aspect: Aspect = MAX_ASPECT  # longer side over shorter
    max_iou: Share = MAX_IOU  # of an object with every one before it
    # which K of more than K common objects: the first of the list (algorithm 1 stops at the K-th), or any
    pick: Literal["first", "random"] = "first"

    def __post_init__(self) -> None:
        check_fields("crops", self)

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return crops that share objects."""
        rules = InstanceRules(
            min_side=self.min_size * full_size(slots), max_aspect=self.max_aspect, max_iou=self.max_iou
        )
        candidates = instance_candidates(size, proposals, rules)
        count = instance_count(slots) or self.instances
        full = [slot for slot in slots.values() if not slot.instance and not is_small(slot) for _ in range(slot.count)]
        first = full[:2]
        found, attempts = _search(
            size, first, candidates, count=count, tries=self.tries, least=rules.min_side, generator=generator
        )
        fallback = found is None or len(found.common) < count
        if found is None:
            found = _Try([whole(size)] * len(first), whole(size), candidates)
        real = _choose(found.common, count, self.pick, generator)
        chosen = fill_up(real, found.shared, count, rules=rules, generator=generator)
        pair = iter(found.crops)
        boxes, kinds = {}, {}
        for name, slot in slots.items():
            if slot.instance:
                continue
            if is_small(slot):
                boxes[name] = scene_crops(size, slot, area_range(slot), generator)
            else:
                crops = [
                    next(pair, None) or _containing(chosen, size, slot, tries=self.tries, generator=generator)
                    for _ in range(slot.count)
                ]
                boxes[name] = np.array(crops, np.float32).reshape(slot.count, 4)
            kinds[name] = np.full(slot.count, View.SCENE.value, np.int8)
        figures = {"attempts": float(attempts), "real_instances": float(len(real)), "fallback": float(fallback)}
        return place_instances(Regions(boxes, kinds, figures), chosen, slots)

    def decide(self, mean_area: float) -> Overlap:
        """Return the policy: nothing is open."""
        del mean_area
        return self


def _search(
    size: Size,
    views: Sequence[Slot],
    candidates: Float32[np.ndarray, "n 4"],
    *,
    count: int,
    tries: int,
    least: float,
    generator: np.random.Generator,
) -> tuple[_Try | None, int]:
    """Return the first crops of these views whose overlap contains `count` candidates, and the attempts it took.

    After `tries` attempts: the best of them, the earlier of equals. An overlap with a side shorter than `least` pixels
    (than the photo's where that is shorter) is none; None where no attempt had one.
    """
    height, width = size
    best, attempts = None, 0
    while attempts < tries and (best is None or len(best.common) < count):
        attempts += 1
        crops = [crop(whole(size), slot, area_range(slot), generator) for slot in views]
        shared = _intersection([whole(size), *crops])
        left, top, right, bottom = shared
        if right - left < min(max(1.0, least), width) or bottom - top < min(max(1.0, least), height):
            continue
        tried = _Try(crops, shared, candidates[_lie_in(candidates, shared)])
        if best is None or tried.worth > best.worth:
            best = tried
    return best, attempts


def _containing(
    chosen: Float32[np.ndarray, "K 4"], size: Size, slot: Slot, *, tries: int, generator: np.random.Generator
) -> Window:
    """Return a random crop that contains all the boxes; after `tries` of them, the first of those that contain most."""
    best, most = whole(size), -1
    for _ in range(tries):
        tried = crop(whole(size), slot, area_range(slot), generator)
        held = int(_lie_in(chosen, tried).sum())
        if held > most:
            best, most = tried, held
        if most == len(chosen):
            break
    return best


def _choose(
    common: Float32[np.ndarray, "n 4"], count: int, pick: str, generator: np.random.Generator
) -> Float32[np.ndarray, "k 4"]:
    """Return `count` of the boxes, or all where there are no more, in their order."""
    if pick == "first" or len(common) <= count:
        return common[:count]
    return common[np.sort(generator.choice(len(common), count, replace=False))]


def _intersection(windows: Sequence[Window]) -> Window:
    lefts, tops, rights, bottoms = zip(*windows, strict=True)
    return max(lefts), max(tops), min(rights), min(bottoms)


def _lie_in(boxes: Float32[np.ndarray, "n 4"], window: Window) -> Bool[np.ndarray, " n"]:
    """Return which boxes lie in the window; its borders belong to it."""
    left, top, right, bottom = window
    return (boxes[:, 0] >= left) & (boxes[:, 1] >= top) & (boxes[:, 2] <= right) & (boxes[:, 3] <= bottom)
