"""The scene policy: random crops of the whole photo, what every method was published with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from scenewise.settings import Share, check_fields
from scenewise.types import Size, View
from scenewise.views.instances import with_instances
from scenewise.views.regions import RegionPolicy, Regions, scene_crops
from scenewise.views.slots import Slot
from scenewise.views.windows import raised_range


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Scene(RegionPolicy):
    """Random resized crops of the whole photo, drawn independently: the baseline of every method.

    The area range is the slot's `scale`, else its augmentation's, from `scene_scale` on where that is set. Views are
    drawn in the order of the slots, instances after them.
    """

    needs_proposals: ClassVar[bool] = False
    title: ClassVar[str] = "independent random crops of the whole photo (the baseline)"

    # smallest share of the photo a view covers; small crops keep theirs. None: the slot's. Raised, it is the control of
    # object-aware crops: pairs that share more because they are larger (Mishra et al., ablation of the area's bound)
    scene_scale: Share | None = None

    def __post_init__(self) -> None:
        check_fields("crops", self)

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return random crops; the proposals are looked at for instance slots only."""
        views = {name: slot for name, slot in slots.items() if not slot.instance}
        boxes = {
            name: scene_crops(size, slot, raised_range(slot, smallest=self.scene_scale), generator)
            for name, slot in views.items()
        }
        kinds = {name: np.full(slot.count, View.SCENE.value, np.int8) for name, slot in views.items()}
        return with_instances(Regions(boxes, kinds), size, proposals, slots, generator)

    def decide(self, mean_area: float) -> Scene:
        """Return the policy: nothing is open."""
        del mean_area
        return self


SCENE = Scene()


def scene_instead(
    size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
) -> Regions:
    """Return the scene policy's regions for a photo that another policy can do nothing with, counted as `fallback`."""
    regions = SCENE(size, proposals, slots, generator)
    return dataclasses.replace(regions, figures={"fallback": 1.0, **regions.figures})
