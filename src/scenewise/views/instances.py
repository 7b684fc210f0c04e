"""Whole objects as views: which boxes fill the instance slots (UniVIP's patches), and what stands in for missing ones.

Paper: Li et al., "UniVIP", arXiv 2203.06965. Its filter and its random boxes as the re-implementation
(utkutpcgl/UniVIP) reports them from the paper and an author.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from scenewise.types import Size, View
from scenewise.views.regions import Regions, Window
from scenewise.views.slots import Slot, full_size
from scenewise.views.windows import usable_proposals

MIN_SIZE = 64.0  # pixels of a 224-pixel view
MAX_ASPECT = 3.0
MAX_IOU = 0.5
DRAWS = 100  # of a random box, before the best of them is taken


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceRules:
    """Which boxes may be shown as whole objects.

    Both sides are at least `min_side` pixels of the photo, the longer is at most `max_aspect` times the shorter, and
    the IoU with every box kept before is at most `max_iou`.
    """

    min_side: float
    max_aspect: float = MAX_ASPECT
    max_iou: float = MAX_IOU


def instance_count(slots: Mapping[str, Slot]) -> int:
    """Return how many objects the instance slots show: 0 where there is none."""
    return max((slot.count for slot in slots.values() if slot.instance), default=0)


def instance_candidates(
    size: Size, proposals: np.ndarray | None, rules: InstanceRules, *, limit: int | None = None
) -> Float32[np.ndarray, "n 4"]:
    """Return the first `limit` proposals that may be shown as whole objects, in order and clipped to the photo."""
    return usable_proposals(
        size, proposals, min_side=rules.min_side, max_aspect=rules.max_aspect, limit=limit, nms_iou=rules.max_iou
    )


def with_instances(
    regions: Regions,
    size: Size,
    proposals: np.ndarray | None,
    slots: Mapping[str, Slot],
    generator: np.random.Generator,
) -> Regions:
    """Return the regions with the instance slots filled: the first objects of the photo, then random boxes.

    Without instance slots: the regions as they are, and no draw.
    """
    count = instance_count(slots)
    if not count:
        return regions
    rules = InstanceRules(min_side=MIN_SIZE * full_size(slots))
    found = instance_candidates(size, proposals, rules, limit=count)
    chosen = fill_up(found, (0, 0, size[1], size[0]), count, rules=rules, generator=generator)
    regions = dataclasses.replace(regions, figures={**regions.figures, "real_instances": float(len(found))})
    return place_instances(regions, chosen, slots)


def place_instances(regions: Regions, chosen: Float32[np.ndarray, "K 4"], slots: Mapping[str, Slot]) -> Regions:
    """Return the regions in the order of the slots, every instance slot showing the first of the chosen boxes."""
    boxes = {name: chosen[: slot.count] if slot.instance else regions.boxes[name] for name, slot in slots.items()}
    kinds = {
        name: np.full(slot.count, View.INSTANCE.value, np.int8) if slot.instance else regions.kinds[name]
        for name, slot in slots.items()
    }
    return dataclasses.replace(regions, boxes=boxes, kinds=kinds)


def fill_up(
    found: Float32[np.ndarray, "n 4"],
    window: Window,
    count: int,
    *,
    rules: InstanceRules,
    generator: np.random.Generator,
) -> Float32[np.ndarray, "count 4"]:
    """Return `count` boxes: the first of those found, then random ones inside the window under the same rules.

    For each missing box 100 are drawn. The first whose IoU with all boxes before it is within the rules is taken, else
    the one whose largest IoU is smallest.
    """
    boxes = found[:count]
    while len(boxes) < count:
        drawn = _random_boxes(window, rules, generator)  # (DRAWS, 4)
        overlap = _largest_iou(drawn, boxes)  # (DRAWS,)
        allowed = overlap <= rules.max_iou
        best = allowed.argmax() if allowed.any() else overlap.argmin()
        boxes = np.concatenate([boxes, drawn[best : best + 1]])
    return boxes


def _random_boxes(
    window: Window, rules: InstanceRules, generator: np.random.Generator
) -> Float32[np.ndarray, "draws 4"]:
    """Return random boxes of whole pixels: the width uniform, then the height, then the place.

    Where the window is too narrow for `min_side`, its own side is the smallest; the aspect is kept in any window.
    """
    left, top, right, bottom = window
    widest = int(min(right - left, rules.max_aspect * (bottom - top)))
    tallest = int(min(bottom - top, rules.max_aspect * (right - left)))
    least = max(1, math.ceil(rules.min_side))
    wide = generator.integers(min(least, widest), widest + 1, DRAWS)
    highest = np.minimum(tallest, (rules.max_aspect * wide).astype(np.int64))
    lowest = np.maximum(min(least, tallest), np.ceil(wide / rules.max_aspect).astype(np.int64))
    tall = generator.integers(np.minimum(lowest, highest), highest + 1)
    x, y = left + generator.integers(0, right - left - wide + 1), top + generator.integers(0, bottom - top - tall + 1)
    return np.stack([x, y, x + wide, y + tall], axis=1).astype(np.float32)


def _largest_iou(
    drawn: Float32[np.ndarray, "draws 4"], boxes: Float32[np.ndarray, "n 4"]
) -> Float32[np.ndarray, " draws"]:
    """Return the largest intersection over union of each drawn box with the others, 0 where there are none."""
    near = np.maximum(drawn[:, None, :2], boxes[None, :, :2])  # (draws, 1, 2), (1, n, 2) -> (draws, n, 2)
    far = np.minimum(drawn[:, None, 2:], boxes[None, :, 2:])
    common = np.maximum(far - near, 0).prod(axis=2)
    areas = [(each[:, 2:] - each[:, :2]).prod(axis=1) for each in (drawn, boxes)]
    shares = common / (areas[0][:, None] + areas[1][None] - common)
    largest: np.ndarray = shares.max(axis=1, initial=0.0)
    return largest
