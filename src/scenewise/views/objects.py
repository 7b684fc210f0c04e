"""Object-aware cropping: views cut from an object proposal and from its surroundings, for any method.

Paper: Mishra et al., "Object-Aware Cropping for Self-Supervised Learning", TMLR 2022, arXiv 2112.00319; code
shlokk/object-cropping-ssl. One proposal is drawn for a photo at each visit, and all views show it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, final

import numpy as np
from annotated_types import Gt, Le
from jaxtyping import Float32

from scenewise.errors import UserError
from scenewise.settings import Aspect, Count, NotNegative, Pixels, Share, check_fields
from scenewise.types import Size, View
from scenewise.views.instances import with_instances
from scenewise.views.regions import Range, RegionPolicy, Regions, Window, crop
from scenewise.views.scene import SCENE, scene_instead
from scenewise.views.slots import REFERENCE_SIZE, Slot, full_size
from scenewise.views.windows import (
    inside,
    object_range,
    object_windows,
    raised_range,
    released_windows,
    shifted_window,
    usable_proposals,
)

MeanArea = Annotated[float, Gt(0), Le(1)]  # mean share of its photo a proposal covers
KINDS = (View.OBJECT, View.CONTEXT)  # of the views in turn
SHIFT_TRIES = 100  # the authors' code: 101


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Object(RegionPolicy):
    """Obj-Obj+Dilate: views cut in turn inside an object's window and inside that window dilated.

    View 0 is cut in the object's window, view 1 in the dilated one, further ones alternate (slots in their order).
    Object views cover the slot's area range divided by `mean_area` (a proposal is a part already), the others at least
    `context_scale` of theirs. A photo without a usable proposal is cut as by the scene policy: figure `fallback`.

    Draws, in this order: the proposal, the exchange, the crops in the order of the slots, the instances.
    """

    needs_proposals: ClassVar[bool] = True
    title: ClassVar[str] = "one view of an object proposal, one of its dilation (object-aware cropping)"

    min_side: Pixels = 32.0  # pixels of a 224-pixel view; ours, the paper names no filter
    max_aspect: Aspect = 4.0  # longer side over shorter; ours
    limit: Count | None = 10  # proposals drawn from, the best (the authors' loaders); None: all
    nms_iou: Share | None = None  # of a proposal with a better one, at most; None: not looked at
    # side that a smaller object's window is grown to, share of the photo's short side; None: the pixels of a view (224
    # in the authors' code: 0.29 of OpenImages' short side, 0.47 of COCO's), so less of a photo the smaller the views
    min_window: Share | None = None
    dilation: NotNegative = 0.2  # the authors' code; 0.1 is the paper's other value
    # of what `dilation` is a share: the photo's sides (as read of the paper) or the box's own
    dilation_mode: Literal["image", "box"] = "image"
    # recommended: grow, dilate, clip; released: the arithmetic of the authors' code, cut off at the photo's borders
    geometry: Literal["recommended", "released"] = "recommended"
    # smallest share of its window an object view covers; None: the slot's divided by mean_area (0.2 / mean, the paper);
    # 0 in the authors' code for OpenImages, 0.2 in that for COCO
    object_scale: Share | None = None
    mean_area: MeanArea | None = None  # mean share of its photo a proposal covers; None: measured on the proposals
    # smallest share of the dilated window its views cover (the authors' code); None: the slot's, which for SimCLR and
    # BYOL is 0.08: a view that small often misses the object
    context_scale: Share | None = 0.2
    swap: Share = 0.5  # probability that the two kinds of view are exchanged (the authors' code)

    def __post_init__(self) -> None:
        check_fields("crops", self)
        if self.geometry == "released" and self.dilation_mode == "box":
            raise UserError("crops.dilation_mode: 'box' cannot be had with crops.geometry=released; leave it 'image'")

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return crops of one object and its surroundings."""
        box = _draw(self, size, proposals, slots, generator)
        if box is None:
            return scene_instead(size, proposals, slots, generator)
        first = int(generator.random() < self.swap)
        windows = self.windows(box, size, side=_least_side(self, size, slots))
        ranges = {
            name: (
                object_range(slot, mean_area=self.mean_area, smallest=self.object_scale),
                raised_range(slot, smallest=self.context_scale),
            )
            for name, slot in slots.items()
        }
        regions = _in_turn(windows, ranges, slots, first=first, generator=generator)
        return with_instances(regions, size, proposals, slots, generator)

    def windows(self, box: np.ndarray, size: Size, *, side: int) -> tuple[Window, Window]:
        """Return the object's window and the dilated one of a proposal, in the photo; no side is grown over `side`."""
        if self.geometry == "recommended":
            return object_windows(box, size, side=side, dilation=self.dilation, mode=self.dilation_mode)
        released, dilated = released_windows(box, size, side=side, dilation=self.dilation)
        return inside(released, size), inside(dilated, size)

    def decide(self, mean_area: float) -> Object:
        """Return the policy with `mean_area` as given, unless it was set."""
        return dataclasses.replace(self, mean_area=mean_area) if self.mean_area is None else self


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectScene(RegionPolicy):
    """Obj-Scene: one view is a whole proposal, resized without its aspect; all others are random crops of the photo.

    The proposal is view 0, or view 1 where the two are exchanged. (The authors' code grows a small proposal first;
    the paper's table does not.) A photo without a usable proposal is cut as by the scene policy: figure `fallback`.

    Draws, in this order: the proposal, the exchange, a crop for every view in the order of the slots (the object view's
    is not used), the instances.
    """

    needs_proposals: ClassVar[bool] = True
    title: ClassVar[str] = "one view is a whole object proposal, the others are random crops of the photo"

    min_side: Pixels = 32.0  # the filter as in the policy `object`
    max_aspect: Aspect = 4.0
    limit: Count | None = 10
    nms_iou: Share | None = None
    swap: Share = 0.5  # probability that views 0 and 1 are exchanged (the authors' code)

    def __post_init__(self) -> None:
        check_fields("crops", self)

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return one whole proposal and random crops."""
        box = _draw(self, size, proposals, slots, generator)
        if box is None:
            return scene_instead(size, proposals, slots, generator)
        shown = int(generator.random() < self.swap)
        regions = SCENE(size, proposals, slots, generator)
        views = [(name, row) for name, slot in slots.items() if not slot.instance for row in range(slot.count)]
        for name, row in views[shown : shown + 1] or views[:1]:
            regions.boxes[name][row] = box
            regions.kinds[name][row] = View.OBJECT
        return dataclasses.replace(regions, figures={"fallback": 0.0, **regions.figures})

    def decide(self, mean_area: float) -> ObjectScene:
        """Return the policy: nothing is open."""
        del mean_area
        return self


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectShift(RegionPolicy):
    """Obj-Obj+Shift: views cut in turn inside an object's window and inside that window moved by a random length.

    The paper's control for the dilation: how much is gained by nearness alone. Both kinds of view cover the area range
    of the policy `object`'s object views, as both windows are of one size. (The authors' code moves a window placed at
    random, with an angle for each axis, and cuts no further.) A photo without a usable proposal, or one in which none
    of 100 moves stays inside, is cut as by the scene policy: figure `fallback`.

    Draws, in this order: the proposal, the exchange, 100 lengths, 100 angles, the crops in the order of the slots, the
    instances.
    """

    needs_proposals: ClassVar[bool] = True
    title: ClassVar[str] = "one view of an object proposal, one of the same window moved by 40 to 120 pixels"

    min_side: Pixels = 32.0  # the filter as in the policy `object`
    max_aspect: Aspect = 4.0
    limit: Count | None = 10
    nms_iou: Share | None = None
    min_window: Share | None = None  # as in the policy `object`
    distance: tuple[Pixels, Pixels] = (40.0, 120.0)  # pixels of a 224-pixel view; ours, around the authors' 80
    object_scale: Share | None = None  # as in the policy `object`
    mean_area: MeanArea | None = None
    swap: Share = 0.5

    def __post_init__(self) -> None:
        check_fields("crops", self)
        if self.distance[0] > self.distance[1]:
            raise UserError(f"crops.distance: {self.distance} must be two lengths, the shorter first")

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        """Return crops of one object and of what lies beside it."""
        box = _draw(self, size, proposals, slots, generator)
        if box is None:
            return scene_instead(size, proposals, slots, generator)
        first = int(generator.random() < self.swap)
        window, _ = object_windows(box, size, side=_least_side(self, size, slots), dilation=0.0, mode="box")
        distance = (self.distance[0] * full_size(slots), self.distance[1] * full_size(slots))
        shifted = shifted_window(window, size, distance=distance, tries=SHIFT_TRIES, generator=generator)
        if shifted is None:
            return scene_instead(size, proposals, slots, generator)
        ranges = {
            name: (object_range(slot, mean_area=self.mean_area, smallest=self.object_scale),) * 2
            for name, slot in slots.items()
        }
        regions = _in_turn((window, shifted), ranges, slots, first=first, generator=generator)
        return with_instances(regions, size, proposals, slots, generator)

    def decide(self, mean_area: float) -> ObjectShift:
        """Return the policy with `mean_area` as given, unless it was set."""
        return dataclasses.replace(self, mean_area=mean_area) if self.mean_area is None else self


def _draw(
    policy: Object | ObjectScene | ObjectShift,
    size: Size,
    proposals: np.ndarray | None,
    slots: Mapping[str, Slot],
    generator: np.random.Generator,
) -> Float32[np.ndarray, "4"] | None:
    """Return one of the proposals that pass the policy's filter, each as likely; None, and no draw, where none does."""
    found = usable_proposals(
        size,
        proposals,
        min_side=policy.min_side * full_size(slots),
        max_aspect=policy.max_aspect,
        limit=policy.limit,
        nms_iou=policy.nms_iou,
    )
    return found[generator.integers(len(found))] if len(found) else None


def _least_side(policy: Object | ObjectShift, size: Size, slots: Mapping[str, Slot]) -> int:
    """Return the pixels that a side of an object's window has at least, where the photo is as long."""
    if policy.min_window is None:
        return round(REFERENCE_SIZE * full_size(slots))
    return round(policy.min_window * min(size))


def _in_turn(
    windows: tuple[Window, Window],
    ranges: Mapping[str, tuple[Range, Range]],
    slots: Mapping[str, Slot],
    *,
    first: int,
    generator: np.random.Generator,
) -> Regions:
    """Return the views that are no instances, cut in turn from the two windows, from the `first`-th on.

    ranges: slot -> the area range in each window.
    """
    turn = itertools.count(first)
    boxes, kinds = {}, {}
    for name, slot in slots.items():
        if slot.instance:
            continue
        chosen = [next(turn) % 2 for _ in range(slot.count)]
        crops = [crop(windows[which], slot, ranges[name][which], generator) for which in chosen]
        boxes[name] = np.array(crops, np.float32).reshape(slot.count, 4)
        kinds[name] = np.array([KINDS[which] for which in chosen], np.int8)
    return Regions(boxes, kinds, {"fallback": 0.0})
