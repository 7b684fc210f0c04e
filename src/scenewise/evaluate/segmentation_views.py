"""How a photo with a class for each pixel is seen: cut, mirrored and coloured in training, whole in the test.

Sizes follow the run: `size` px stand where the publications have crops of 512 (mmsegmentation) or 513 px (MoCo's).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from scenewise.sources.base import NOT_JUDGED
from scenewise.types import Colour, Size
from scenewise.views.decode import Decoded

SCALES = (0.5, 2.0)  # of the photo in training, drawn uniformly: both publications
LONGEST = 4  # times the shorter side, of a photo's longer one: mmsegmentation's img_scale=(2048, 512)
ATTEMPTS = 10  # crops drawn again while one class fills too much of them (mmsegmentation's RandomCrop)


@dataclass(frozen=True, slots=True)
class Scene:
    """A photo of that full `size`, decoded perhaps at a reduced scale, and the class of each of its full-size pixels.

    class_map: 0 background, class number + 1, 255 not judged. digest: of the file, or of the pixels without one.
    """

    index: int
    size: Size
    photo: Decoded
    class_map: UInt8[np.ndarray, "height width"]
    digest: int

    @property
    def bytes(self) -> int:
        """Return the memory it takes."""
        return self.photo.pixels.nbytes + self.class_map.nbytes


def fitted(size: Size, side: float | int) -> Size:
    """Return (height, width) of a photo resized to a shorter side of `side` px; the longer is at most 4 times that."""
    scale = min(side / min(size), LONGEST * side / max(size))
    height, width = (max(1, math.floor(scale * edge + 0.5)) for edge in size)
    return height, width


def whole_view(scene: Scene, *, size: int) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return the whole photo at a shorter side of `size` px, anti-aliased: the test view of both publications."""
    height, width = scene.size
    return _resized(scene, (0.0, 0.0, float(width), float(height)), fitted(scene.size, size))


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How a training view is made: size in pixels; whether colours are distorted (`distort`).

    fullest: while one class fills this share of the judged pixels or more, another crop is drawn; 1 takes the first.
    fill: the colour (0..1) of what a photo smaller than the crop leaves open, which is not judged.
    """

    size: int
    distort: bool
    fullest: float
    fill: Colour


def training_view(
    scene: Scene, cut: Cut, chance: np.random.Generator
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """Return a random crop of the photo, scaled by 0.5 to 2 and perhaps mirrored, and the class of each pixel.

    What lies below and to the right of a smaller photo is filled, and not judged.
    """
    tall, wide = fitted(scene.size, cut.size * chance.uniform(*SCALES))
    rows, columns = min(tall, cut.size), min(wide, cut.size)
    across, down = scene.size[1] / wide, scene.size[0] / tall
    for _ in range(ATTEMPTS + 1):
        top, left = int(chance.integers(tall - rows + 1)), int(chance.integers(wide - columns + 1))
        box = (left * across, top * down, (left + columns) * across, (top + rows) * down)
        classes = _nearest(scene.class_map, box, (rows, columns))
        if cut.fullest >= 1 or _fullest(classes) < cut.fullest:
            break
    pixels = _resized(scene, box, (rows, columns))
    if chance.random() < 0.5:
        pixels, classes = pixels[:, ::-1], classes[:, ::-1]
    if cut.distort:
        pixels = distort(np.ascontiguousarray(pixels), chance)
    image = np.empty((cut.size, cut.size, 3), np.uint8)
    image[:] = np.floor(255 * np.array(cut.fill) + 0.5)
    target = np.full((cut.size, cut.size), NOT_JUDGED, np.uint8)
    image[:rows, :columns], target[:rows, :columns] = pixels, classes
    return image, target


def _fullest(classes: UInt8[np.ndarray, "rows columns"]) -> float:
    """Return the largest share of a class among the judged pixels, 1 where there is none."""
    counts = np.bincount(classes[classes != NOT_JUDGED], minlength=1)
    return float(counts.max() / max(1, counts.sum())) if counts.any() else 1.0


def _resized(scene: Scene, box: tuple[float, float, float, float], size: Size) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return what lies under a box of the full-size photo: bilinear, anti-aliased where it shrinks."""
    pixels = scene.photo.pixels
    left, top, right, bottom = scene.photo.locate(np.array(box, np.float64)).tolist()
    edges = (max(left, 0.0), max(top, 0.0), min(right, pixels.shape[1]), min(bottom, pixels.shape[0]))
    image = PIL.Image.fromarray(pixels)
    return np.asarray(image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR, edges))


def _nearest(
    class_map: UInt8[np.ndarray, "height width"], box: tuple[float, float, float, float], size: Size
) -> UInt8[np.ndarray, "rows columns"]:
    """Return the class under the centre of each pixel of a box that is resized to that size."""
    left, top, right, bottom = box
    rows = top + (np.arange(size[0]) + 0.5) * ((bottom - top) / size[0])
    columns = left + (np.arange(size[1]) + 0.5) * ((right - left) / size[1])
    inside = np.ix_(
        rows.astype(int).clip(max=class_map.shape[0] - 1), columns.astype(int).clip(max=class_map.shape[1] - 1)
    )
    classes: np.ndarray = class_map[inside]
    return classes


def distort(
    view: UInt8[np.ndarray, "rows columns 3"], chance: np.random.Generator
) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return the view with other colours, each change with probability 1/2 (mmsegmentation's PhotoMetricDistortion).

    Brightness by up to 32 levels; contrast, a factor of 0.5 to 1.5, before or after saturation, the same, and hue, up
    to 18 steps of 2 degrees either way. From SSD (Liu et al. 2016, arXiv 1512.02325).
    """
    brighter, contrasted, first, saturated, turned = chance.random(5) < 0.5
    shift, contrast, saturation = chance.uniform(-32, 32), chance.uniform(0.5, 1.5), chance.uniform(0.5, 1.5)
    hue = int(chance.integers(-18, 18))
    if brighter:
        view = _scaled(view, 1.0, shift)
    if contrasted and first:
        view = _scaled(view, contrast, 0.0)
    if saturated or turned:
        hsv = cv2.cvtColor(view, cv2.COLOR_RGB2HSV)  # hue in 0..179
        if saturated:
            hsv[..., 1] = _scaled(hsv[..., 1], saturation, 0.0)
        if turned:
            hsv[..., 0] = (hsv[..., 0].astype(np.int64) + hue) % 180
        view = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))
    if contrasted and not first:
        view = _scaled(view, contrast, 0.0)
    return view


def _scaled(values: np.ndarray, factor: float, shift: float) -> np.ndarray:
    """Return factor * values + shift, rounded and clamped to 0..255."""
    return np.asarray(cv2.addWeighted(values, factor, values, 0.0, shift))
