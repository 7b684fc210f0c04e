"""What a detector is shown of a photo, and where the objects are in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from faster_coco_eval.core import mask as run_lengths
from jaxtyping import UInt8
from torch import Tensor

from scenewise.evaluate.detection_matches import Objects
from scenewise.types import Size
from scenewise.views.decode import Decoded

LONGEST = 1333 / 800  # longest side over the shorter side's test size: detectron2


@dataclass(frozen=True, slots=True)
class Photo:
    """An image of a source with its objects, in pixels of the photo; size: (height, width) of the photo."""

    index: int
    key: str
    size: Size
    decoded: Decoded
    objects: Objects
    digest: int


def seen_at(size: Size, short: int, full: int) -> Size:
    """Return (height, width) with the shorter side `short` and the longer at most 1333/800 of `full`, as detectron2."""
    height, width = size
    scale = min(short / min(size), round(LONGEST * full) / max(size))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(photo: Photo, size: Size) -> UInt8[np.ndarray, "height width 3"]:
    """Return the whole photo at that size, anti-aliased (PIL's bilinear filter, as detectron2)."""
    height, width = photo.size
    left, top, right, bottom = photo.decoded.locate(np.array([0.0, 0.0, width, height])).tolist()
    rows, columns = photo.decoded.pixels.shape[:2]
    inner = (max(0.0, left), max(0.0, top), min(float(columns), right), min(float(rows), bottom))
    image = PIL.Image.fromarray(photo.decoded.pixels)
    return np.array(image.resize(size[::-1], PIL.Image.Resampling.BILINEAR, inner))


def training_view(
    photo: Photo,
    *,
    sides: Sequence[int],
    full: int,
    labels: Mapping[int, int],
    ignored: bool,
    generator: np.random.Generator,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return a photo at one of the shorter `sides`, half of the time mirrored, and its target.

    labels: class number -> label of the detector, of the classes to learn. ignored: whether ignored objects are learnt
    too.
    """
    height, width = seen_at(photo.size, sides[int(generator.integers(len(sides)))], full)
    mirrored = bool(generator.random() < 0.5)
    pixels = resized(photo, (height, width))
    objects = photo.objects
    wanted = [
        place
        for place, number in enumerate(objects.classes.tolist())
        if number in labels and (ignored or not objects.ignored[place])
    ]
    boxes = objects.boxes[wanted] * np.array([width / photo.size[1], height / photo.size[0]] * 2)
    if mirrored:
        pixels = pixels[:, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    target = {
        "boxes": torch.from_numpy(boxes.astype(np.float32)),
        "labels": torch.tensor([labels[int(number)] for number in objects.classes[wanted]], dtype=torch.int64),
    }
    if objects.masks:
        shapes = [_resized_mask(run_lengths.decode(objects.masks[place]), (height, width)) for place in wanted]
        stacked = np.stack(shapes) if shapes else np.zeros((0, height, width), np.uint8)
        target["masks"] = torch.from_numpy(np.ascontiguousarray(stacked[:, :, ::-1] if mirrored else stacked))
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1), target


def _resized_mask(mask: UInt8[np.ndarray, "rows columns"], size: Size) -> UInt8[np.ndarray, "height width"]:
    """Return the mask at that size, each pixel that of the nearest (torchvision)."""
    return np.array(PIL.Image.fromarray(mask).resize(size[::-1], PIL.Image.Resampling.NEAREST))
