"""From a record to what is seen of it: regions, one decode, views. A pure function of (seed, epoch, image, view)."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from scenewise import keys
from scenewise.errors import UserError, unknown_name
from scenewise.types import Record
from scenewise.views.augmentations import augmentation
from scenewise.views.decode import decode
from scenewise.views.meter import Meter
from scenewise.views.photometric import CHANCES, Photometry, apply, crop_and_resize, draw
from scenewise.views.regions import RegionPolicy, Regions
from scenewise.views.slots import Slot, full_size

TEST_RATIO = 256 / 224  # the field's test transform: resize the shorter side to 256, cut the central 224
_FILTERS = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}


def make_views(
    record: Record,
    *,
    policy: RegionPolicy,
    slots: Mapping[str, Slot],
    seed: int,
    epoch: int,
    proposals: np.ndarray | None = None,
    finished: bool = True,
    meter: Meter | None = None,
) -> tuple[dict[str, np.ndarray], Regions]:
    """Return the views of one image, slot -> (V, S, S, 3) uint8, and where they were cut.

    The slots have the run's sizes (`scale_slots`). Boxes are in pixels of the full-size upright photo. Not `finished`:
    cut and resized only, for what `draw_views` says to be done on the device. `meter` is told what reading and decoding
    took. Raises ImageError where the image cannot be read.
    """
    chance = keys.generator(seed, "regions", epoch, record.index)
    regions = policy(record.size, proposals, slots, chance)
    crops = [(box, slots[name].size) for name, boxes in regions.boxes.items() for box in boxes]
    drawn = draw_views(slots, seed=seed, epoch=epoch, index=record.index) if finished else None
    began = time.perf_counter()
    data = record.read()
    there = time.perf_counter()
    decoded = decode(data, record.size, record.orientation, boxes_and_outputs=crops)
    if meter is not None:
        meter.add(data, record.size, read=there - began, decode=time.perf_counter() - there)
    views = {name: np.empty((slot.count, slot.size, slot.size, 3), np.uint8) for name, slot in slots.items()}
    for name, slot in slots.items():
        for number, box in enumerate(decoded.locate(regions.boxes[name])):
            view = crop_and_resize(decoded.pixels, box, size=slot.size)
            views[name][number] = view if drawn is None else apply(view, drawn[name][number])
    return views, regions


def draw_views(slots: Mapping[str, Slot], *, seed: int, epoch: int, index: int) -> dict[str, list[Photometry]]:
    """Return what each view of an image gets beside its region, slot -> V of them, each from its own key (law 2).

    The largest of the slots over 224 scales the blur.
    """
    scale = full_size(slots)
    return {
        name: [
            draw(
                augmentation(slot.augmentation),
                keys.uniforms(seed, "pixels", epoch, index, name, number, count=CHANCES),
                blur_scale=scale,
            )
            for number in range(slot.count)
        ]
        for name, slot in slots.items()
    }


def test_view(
    record: Record, *, size: int, interpolation: str = "bilinear", ratio: float = TEST_RATIO, square: bool = False
) -> UInt8[np.ndarray, "size size 3"]:
    """Return the one view of an image that evaluation sees, without chance.

    The shorter side is resized to round(size * ratio), anti-aliased, and the centre is cut (torchvision's rounding); a
    picture of size x size is taken as it is, as CIFAR's, STL-10's and Tiny ImageNet's are in every paper. With `square`
    the whole photo is resized to size x size, its aspect not kept (the VOC07 SVM protocol). `interpolation` is
    `bilinear` or `bicubic`. Raises ImageError where the image cannot be read.
    """
    if interpolation not in _FILTERS:
        raise UserError(unknown_name("interpolation", interpolation, _FILTERS))
    height, width = record.size
    whole = square or (height, width) == (size, size)
    tall, wide = (size, size) if whole else _shorter_side((height, width), max(size, round(size * ratio)))
    photo = np.array([0, 0, width, height], dtype=np.float32)
    decoded = decode(record.read(), record.size, record.orientation, boxes_and_outputs=[(photo, min(tall, wide))])
    x, y = round((wide - size) / 2.0), round((tall - size) / 2.0)
    # Only the centre is computed: the whole of a photo 30,000 pixels wide and 20 high would be 100 million pixels.
    centre = np.array([x, y, x + size, y + size]) * np.array([width / wide, height / tall] * 2)
    left, top, right, bottom = decoded.locate(centre).tolist()
    image = PIL.Image.fromarray(decoded.pixels)
    return np.asarray(image.resize((size, size), _FILTERS[interpolation], (left, top, right, bottom)))


def _shorter_side(size: tuple[int, int], short: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side `short`; the longer is rounded down, as torchvision does."""
    height, width = size
    return (short, int(short * width / height)) if height <= width else (int(short * height / width), short)
