"""Where to cut: region policies. Geometry only, no pixel is drawn here (law 1), so they are known before the decode.

A policy is called with the photo's size, its object proposals (or None), the slots to fill and the generator of
(seed, epoch, image); it returns the boxes of every slot. Policies are frozen values and can wrap one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from scenewise.errors import UserError, unknown_name
from scenewise.types import Size
from scenewise.views.augmentations import RATIO, augmentation
from scenewise.views.slots import Slot

Window = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels, right and bottom exclusive
Regions = dict[str, np.ndarray]  # slot -> (count, 4) float32 boxes x1, y1, x2, y2 in pixels of the upright photo
ATTEMPTS = 10  # torchvision's RandomResizedCrop, before it falls back to the central crop


@runtime_checkable
class RegionPolicy(Protocol):
    """Fills slots with boxes: a pure function of its arguments; the generator is the only source of chance."""

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return slot -> (slot.count, 4) float32 boxes inside the image of `size` (height, width).

        `proposals` is (N, 4) `x1, y1, x2, y2` in pixels of the upright photo, best first, or None.
        """
        ...


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


@dataclass(frozen=True, slots=True)
class Scene:
    """Random resized crops of the whole photo, drawn independently: the baseline of every method.

    The area range is the slot's `scale`, else its augmentation's. Views are drawn in the order of the slots.
    """

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return slot -> (slot.count, 4) float32 boxes; the proposals are not looked at."""
        return {name: self._crops(size, slot, generator) for name, slot in slots.items()}

    def _crops(self, size: Size, slot: Slot, generator: np.random.Generator) -> Float32[np.ndarray, "count 4"]:
        wanted = augmentation(slot.augmentation)
        scale = wanted.scale if slot.scale is None else slot.scale
        photo = (0, 0, size[1], size[0])
        crops = [
            random_resized_crop(photo, scale=scale, ratio=wanted.ratio, generator=generator) for _ in range(slot.count)
        ]
        return np.asarray(crops, dtype=np.float32).reshape(slot.count, 4)


_POLICIES: Mapping[str, Callable[[], RegionPolicy]] = MappingProxyType({"scene": Scene})

POLICIES: Mapping[str, str] = MappingProxyType({"scene": "independent random crops of the whole photo (the baseline)"})


def policy(name: str) -> RegionPolicy:
    """Return the region policy of that name; UserError with the nearest name where there is none."""
    if name not in _POLICIES:
        raise UserError(unknown_name("crops", name, _POLICIES))
    return _POLICIES[name]()
