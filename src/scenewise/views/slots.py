"""What a method wants to see of each image: named slots, filled by a region policy and rendered by an augmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from scenewise.views.augmentations import augmentation

REFERENCE_SIZE = 224  # pixels: the size the papers' crops, patches and blurs are given for


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """`count` square views of `size` pixels, rendered with the augmentation of that name.

    A method declares sizes for 224-pixel crops (small crops 96, instance patches 96); `scale_slots` fits them to a
    run's size.
    `scale` (share of the photo's area a scene crop covers) overrides the augmentation's own range. Raises UserError
    for an unknown augmentation.
    """

    augmentation: str
    size: int = REFERENCE_SIZE
    count: int = 1
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        augmentation(self.augmentation)  # UserError for an unknown name, before any work starts


def scale_slots(slots: Mapping[str, Slot], size: int) -> dict[str, Slot]:
    """Return the slots with their sizes multiplied by `size` / 224, rounded to whole pixels."""
    return {
        name: dataclasses.replace(slot, size=max(1, round(slot.size * size / REFERENCE_SIZE)))
        for name, slot in slots.items()
    }
