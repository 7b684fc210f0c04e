"""Selective search (Uijlings et al., IJCV 2013) through OpenCV, in an order of our own.

OpenCV orders its boxes by `random * level` of a generator of its own, small regions first: the set of boxes is the same
at every call, the order is not, and its first ten are poor. So all boxes are sorted by a fixed key, then ranked by
`coverage_order`. The rule and the default settings were chosen on the train split of VOC 2007; it learns nothing.

The defaults on 250 photos of VOC 2007 val at 224 px (`python benchmarks/proposals.py`), beside OpenCV's fast mode as it
comes: 83 ms to 273 on one core, recall at IoU 0.5 of the first 10, 100, 1000 boxes 51, 75, 86 % to 11, 60, 89 %. More
figures, and the reasons: docs/decisions/0005-proposals.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8

from scenewise.errors import UserError, unknown_name
from scenewise.proposals.base import Proposals

MODES = ("light", "fast", "quality", "single")
WORKING_SIZE = 224  # pixels; ours, by the figures above
MIN_WORKING_SIZE = 16  # ours: under it a photo has no regions left
_SCALE = 100  # Felzenszwalb's k of the light mode, the smallest region worth its own: ours, one instead of fast's three
_SIGMA = 0.8  # blur before the segmentation; OpenCV's default
_LISTED = 1000  # boxes that are ranked by what they cover; beyond, by size alone


@dataclass(frozen=True)
class SelectiveSearch:
    """Boxes of the regions that meet when the segments of a photo are merged, the most alike first.

    mode: `fast` (12 hierarchies), `quality` (100) or `single` (1) as OpenCV sets them up, or our `light`: the two
    colour spaces of fast, HSV and Lab, one segmentation each (k = 100), grouped once by colour, fill and size and once
    by fill and size (4 hierarchies), without the costly texture.
    working_size: the shorter side in pixels to which a larger photo is shrunk before; boxes are scaled back. None: not.
    """

    mode: str = "light"
    working_size: int | None = WORKING_SIZE
    name: ClassVar[str] = "selective-search"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UserError(unknown_name("mode", self.mode, MODES))
        if self.working_size is not None and self.working_size < MIN_WORKING_SIZE:
            raise UserError(
                f"working_size: {self.working_size}; allowed: {MIN_WORKING_SIZE} pixels or more, or none for full size"
            )

    @property
    def settings(self) -> Mapping[str, object]:
        """Mode, working size and OpenCV's version."""
        return {"mode": self.mode, "working_size": self.working_size, "opencv": cv2.__version__}

    def __call__(self, pixels: UInt8[np.ndarray, "H W 3"], chance: np.random.Generator) -> Proposals:
        """Return the boxes of an image; nothing is drawn."""
        del chance
        height, width = pixels.shape[:2]
        working = _shrink(pixels, self.working_size)
        found = _search(working, self.mode)
        boxes = np.unique(np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1), axis=0)  # sorts
        ranked = boxes[coverage_order(boxes)]
        scale = np.array([width, height] * 2) / np.array([*working.shape[1::-1]] * 2)
        return Proposals(np.rint(ranked * scale).astype(np.int32), None)


def _shrink(pixels: UInt8[np.ndarray, "H W 3"], shorter: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with a shorter side of `shorter` pixels, or as it is where that is no less."""
    height, width = pixels.shape[:2]
    if shorter is None or shorter >= min(height, width):
        return np.ascontiguousarray(pixels)
    factor = shorter / min(height, width)
    smaller = round(width * factor), round(height * factor)
    return np.asarray(cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA))


def _search(pixels: UInt8[np.ndarray, "H W 3"], mode: str) -> Int32[np.ndarray, "N 4"]:
    """Return OpenCV's boxes `x, y, width, height`, in no order that can be relied on."""
    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    if mode == "light":
        _set_up_light(search, pixels)
    else:
        search.setBaseImage(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
        if mode == "fast":
            search.switchToSelectiveSearchFast()
        elif mode == "quality":
            search.switchToSelectiveSearchQuality()
        else:
            search.switchToSingleStrategy()
    return np.asarray(search.process(), dtype=np.int32).reshape(-1, 4)


def _set_up_light(search: Any, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
    parts = cv2.ximgproc.segmentation
    search.addImage(cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV))
    search.addImage(cv2.cvtColor(pixels, cv2.COLOR_RGB2Lab))
    search.addGraphSegmentation(parts.createGraphSegmentation(_SIGMA, _SCALE))
    colour = parts.createSelectiveSearchSegmentationStrategyColor()
    fill = parts.createSelectiveSearchSegmentationStrategyFill()
    size = parts.createSelectiveSearchSegmentationStrategySize()
    search.addStrategy(parts.createSelectiveSearchSegmentationStrategyMultiple(colour, fill, size))
    search.addStrategy(parts.createSelectiveSearchSegmentationStrategyMultiple(fill, size))


def coverage_order(boxes: Int32[np.ndarray, "N 4"]) -> Int[np.ndarray, " N"]:
    """Return the order in which boxes say most about all of them, early.

    Greedy cover: a box covers those that it overlaps by an IoU of 0.6 or more, itself among them; next comes the box
    that covers most of what no box before it did, each counted by its side (square root of its area, rounded). Boxes
    that cover nothing new follow, largest first. So near copies come late, and where many hierarchies found nearly the
    same region its middle comes early. Ties go to the box that is first. Whole numbers throughout: any thread count
    gives the same order. Ours; 0.6 and the weight were chosen on VOC 2007 train (0.5 and 0.7 cost 3 points at 100).
    """
    sides = np.rint(np.sqrt((boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1)))
    covers = _covers(boxes)
    left = sides.copy()
    gain = np.concatenate([block @ left for block in np.array_split(covers, len(covers) // 256 + 1)])
    order: list[int] = []
    while len(order) < min(len(boxes), _LISTED) and gain[best := int(gain.argmax())] > 0:
        order.append(best)
        new = np.flatnonzero(covers[best] & (left > 0))
        gain -= left[new] @ covers[new]
        left[new] = 0
    rest = np.setdiff1d(np.arange(len(boxes)), order)
    return np.concatenate([np.array(order, dtype=np.int64), rest[np.argsort(-sides[rest], kind="stable")]])


def _covers(boxes: Int32[np.ndarray, "N 4"]) -> Bool[np.ndarray, "N N"]:
    """Return which boxes overlap which by an IoU of 0.6 or more, that is 5 common >= 3 union, without a division."""
    left, top, right, bottom = np.ascontiguousarray(boxes.T, dtype=np.int64)
    areas = (right - left) * (bottom - top)
    covers = np.empty((len(boxes), len(boxes)), dtype=bool)
    for rows in np.array_split(np.arange(len(boxes)), len(boxes) // 256 + 1):
        one = boxes[rows, :, None]
        wide = np.minimum(one[:, 2], right) - np.maximum(one[:, 0], left)
        high = np.minimum(one[:, 3], bottom) - np.maximum(one[:, 1], top)
        common = np.maximum(wide, 0) * np.maximum(high, 0)
        covers[rows] = 8 * common >= 3 * (areas[rows, None] + areas)  # 5 c >= 3 (a + b - c)
    return covers
