"""What a method wants to see of each image: named slots, filled by a region policy and rendered by an augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from scenewise.views.augmentations import augmentation

REFERENCE_SIZE = 224  # pixels: the size the papers' crops, patches and blurs are given for
SMALL_SIZE = 96  # pixels of a small crop beside full ones (SwAV)


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """`count` square views of `size` pixels, rendered with the augmentation of that name.

    A method declares sizes for 224-pixel crops (small crops 96, instance patches 96); `scale_slots` fits them to a
    run's size.
    `scale` (share of the photo's area a scene crop covers) overrides the augmentation's own range. The views of an
    `instance` slot are whole objects, `count` different ones, instead of crops at random; all instance slots of a
    method show the same objects in the same order. Raises UserError for an unknown augmentation.
    """

    augmentation: str
    size: int = REFERENCE_SIZE
    count: int = 1
    scale: tuple[float, float] | None = None
    instance: bool = False

    def __post_init__(self) -> None:
        augmentation(self.augmentation)  # UserError for an unknown name, before any work starts


def full_views(slots: Mapping[str, Slot]) -> float:
    """Return how many full-size views the slots amount to: a small one counts by its area."""
    return sum(slot.count * (slot.size / REFERENCE_SIZE) ** 2 for slot in slots.values())


def multi_crop(augmentation: str, *, large: tuple[str, int], small: int) -> dict[str, Slot]:
    """Return SwAV's multi-crop: full views (name of their slot and count) and `small` ones of 96 pixels.

    Areas are 0.14 to 1 and 0.05 to 0.14 of the photo (arXiv 2006.09882, section 3.2).
    """
    name, count = large
    return {
        name: Slot(augmentation=augmentation, count=count, scale=(0.14, 1.0)),
        "small": Slot(augmentation=augmentation, size=SMALL_SIZE, count=small, scale=(0.05, 0.14)),
    }


def full_size(slots: Mapping[str, Slot]) -> float:
    """Return the size of the largest view over 224: what lengths given for the papers' views are multiplied by."""
    return max(slot.size for slot in slots.values()) / REFERENCE_SIZE


def scale_slots(slots: Mapping[str, Slot], size: int) -> dict[str, Slot]:
    """Return the slots with their sizes multiplied by `size` / 224, rounded to whole pixels."""
    return {
        name: dataclasses.replace(slot, size=max(1, round(slot.size * size / REFERENCE_SIZE)))
        for name, slot in slots.items()
    }
