"""Where to cut: what a region policy is. Geometry only, no pixel is drawn (law 1), so it is known before the decode.

A policy is called with the photo's size, its object proposals (or None), the slots to fill and the generator of
(seed, epoch, image); it returns the boxes of every slot. Policies are frozen values; `policies` lists them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from scenewise.types import Size
from scenewise.views.augmentations import RATIO, augmentation
from scenewise.views.slots import Slot

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, right and bottom exclusive
Range = tuple[float, float]  # smallest and largest share of a window's area
ATTEMPTS = 10  # torchvision's RandomResizedCrop, before it falls back to the central crop


@dataclass(frozen=True, slots=True)
class Regions:
    """Where the views of one image are cut.

    boxes: slot -> (count, 4) float32 `x1, y1, x2, y2` in pixels of the upright photo.
    kinds: slot -> (count,) int8, a `scenewise.types.View` each.
    figures: what the policy counted, logged as the mean over images; the same names for every image. `fallback` is 1
    where the policy could not do as its name says and cut as the scene policy does.
    """

    boxes: Mapping[str, np.ndarray]
    kinds: Mapping[str, np.ndarray]
    figures: Mapping[str, float] = field(default_factory=dict)


class RegionPolicy(ABC):
    """Fills slots with boxes: a pure function of its arguments; the generator is the only source of chance.

    A subclass is a final, frozen dataclass: its fields are the settings `crops.NAME` of a run.
    """

    __slots__ = ()
    needs_proposals: ClassVar[bool]  # whether it is of no use without object proposals
    title: ClassVar[str]  # one line for lists

    @abstractmethod
    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return the regions inside the image of `size` (height, width).

        `proposals` is (N, 4) `x1, y1, x2, y2` in pixels of the upright photo, best first and not filtered, or None.
        The slots have the run's sizes: lengths in pixels given for 224-pixel views are scaled by `full_size(slots)`.
        """

    @abstractmethod
    def decide(self, mean_area: float) -> RegionPolicy:
        """Return the policy with every open value decided; mean_area: mean share of an image that a proposal covers."""


def random_resized_crop(
    window: Window,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float] = RATIO,
    generator: np.random.Generator,
) -> Window:
    """Return a random box of whole pixels inside `window`, drawn as torchvision's RandomResizedCrop draws it.

    Its area is uniform in `scale` (share of the window's area), its aspect log-uniform in `ratio`, its place uniform.
    After ten draws that do not fit: the largest central box whose aspect is within `ratio`.
    """
    left, top, right, bottom = window
    width, height = right - left, bottom - top
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(ATTEMPTS):
        area = width * height * generator.uniform(scale[0], scale[1])
        aspect = math.exp(generator.uniform(low, high))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            y = top + int(generator.integers(height - tall + 1))
            x = left + int(generator.integers(width - wide + 1))
            return x, y, x + wide, y + tall
    wide = min(width, max(1, round(height * ratio[1])))
    tall = min(height, max(1, round(width / ratio[0])))
    x, y = left + (width - wide) // 2, top + (height - tall) // 2
    return x, y, x + wide, y + tall


def whole(size: Size) -> Window:
    """Return the window that is the photo."""
    return 0, 0, size[1], size[0]


def area_range(slot: Slot) -> Range:
    """Return the share of the photo that a scene crop of the slot covers: the slot's own, else its augmentation's."""
    return augmentation(slot.augmentation).scale if slot.scale is None else slot.scale


def crop(window: Window, slot: Slot, scale: Range, generator: np.random.Generator) -> Window:
    """Return a random resized crop of the window, of the aspects that the slot's augmentation draws."""
    ratio = augmentation(slot.augmentation).ratio
    return random_resized_crop(window, scale=scale, ratio=ratio, generator=generator)


def scene_crops(size: Size, slot: Slot, scale: Range, generator: np.random.Generator) -> Float32[np.ndarray, "count 4"]:
    """Return `slot.count` random resized crops of the whole photo; each covers a share of it in the range `scale`.

    An instance slot is filled alike: with crops that stand in for objects where none are known.
    """
    crops = [crop(whole(size), slot, scale, generator) for _ in range(slot.count)]
    return np.asarray(crops, dtype=np.float32).reshape(slot.count, 4)
