"""How two views of a photo lie: whether they have an object in common, and how far they overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewise import keys
from scenewise.evaluate.intervals import Figure, bootstrap
from scenewise.geometry import area, intersection, iou
from scenewise.types import Size
from scenewise.views.regions import RegionPolicy
from scenewise.views.slots import Slot, scale_slots

INSIDE = 0.25  # an object is in a crop when at least this share of its area is
DRAWS = 8  # pairs of crops of an image: those of as many epochs
FIRST, SECOND = "query", "key"


@dataclass(frozen=True, slots=True)
class Cut:
    """Pairs of crops of one image.

    boxes: (draws, 2, 4) float64, in pixels of the upright photo. fallback: share of the pairs, 0..1, that the policy
    could not cut as its name says.
    """

    boxes: np.ndarray
    fallback: float


@dataclass(frozen=True, slots=True)
class Judged:
    """What the pairs of one image are like: share with a common object (NaN without objects), mean IoU, fallbacks."""

    common: float
    overlap: float
    fallback: float


@dataclass(frozen=True, slots=True)
class PairFigures:
    """What a policy's pairs of crops are like, with 95 % intervals over images, all 0..1.

    common: share of the pairs that have an object in common, over images with objects; None when there is none.
    overlap: mean intersection over union of the two crops. fallback: share of the pairs that
    the policy could not cut as its name says.
    """

    common: Figure | None
    overlap: Figure
    fallback: float


def pair_slots(size: int) -> dict[str, Slot]:
    """Return the two views of MoCo v2 (area 0.2 to 1 of what they are cut from), for a run of `size` pixels."""
    return scale_slots({FIRST: Slot(augmentation="moco"), SECOND: Slot(augmentation="moco")}, size)


def crop_pairs(
    policy: RegionPolicy,
    size: Size,
    proposals: np.ndarray | None,
    slots: Mapping[str, Slot],
    *,
    seed: int,
    index: int,
    draws: int = DRAWS,
) -> Cut:
    """Return the pairs of crops that a run with this seed cuts from image `index` in its first `draws` epochs."""
    regions = [policy(size, proposals, slots, keys.generator(seed, "regions", epoch, index)) for epoch in range(draws)]
    pairs = [(each.boxes[FIRST][0], each.boxes[SECOND][0]) for each in regions]
    return Cut(np.array(pairs, np.float64), float(np.mean([each.figures.get("fallback", 0.0) for each in regions])))


def inside(
    objects: Float[np.ndarray, "objects 4"], crops: Float[np.ndarray, "crops 4"]
) -> Bool[np.ndarray, "objects crops"]:
    """Tell which objects are in which crops: at least 25 % of the object's area lies in the crop."""
    things, cuts = (torch.from_numpy(np.asarray(boxes, np.float64)) for boxes in (objects, crops))
    common = area(intersection(things[:, None], cuts[None]))  # (objects, 1, 4), (1, crops, 4) -> (objects, crops)
    return (common >= INSIDE * area(things)[:, None]).numpy()


def judge_cut(cut: Cut, objects: Float[np.ndarray, "objects 4"]) -> Judged:
    """Return what the pairs of an image with these objects are like."""
    first, second = cut.boxes[:, 0], cut.boxes[:, 1]
    overlap = iou(torch.from_numpy(first), torch.from_numpy(second)).diagonal().mean().item()
    if not len(objects):
        return Judged(float("nan"), overlap, cut.fallback)
    both = (inside(objects, first) & inside(objects, second)).any(axis=0)
    return Judged(float(both.mean()), overlap, cut.fallback)


def pair_figures(judged: Sequence[Judged], *, seed: int) -> PairFigures:
    """Return the means over images."""
    table = torch.tensor([(each.common, each.overlap) for each in judged], dtype=torch.float64)  # (images, 2)
    known = torch.isfinite(table)

    def statistic(weights: Tensor) -> dict[str, Tensor]:
        counts = weights.double()
        means = counts @ table.nan_to_num() / (counts @ known.double())  # (samples, 2), 0 / 0 = NaN
        return {"common": means[:, 0], "overlap": means[:, 1]}

    figures = bootstrap(statistic, len(judged), seed=seed)
    fallback = float(np.mean([each.fallback for each in judged]))
    return PairFigures(figures.get("common"), figures["overlap"], fallback)
