"""PASCAL VOC's masks: pictures whose colour numbers are objects, or classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from scenewise.errors import UserError
from scenewise.sources.base import NOT_JUDGED
from scenewise.sources.voc_layout import CLASSES
from scenewise.types import Size

OBJECTS, KINDS = "SegmentationObject", "SegmentationClass"  # k is the k-th object of the XML; k is class k - 1


def masked_ids(folder: Path) -> set[str]:
    """Return the ids of the images that have both pictures of masks, in the folder of a year."""
    pictures = ({path.stem for path in (folder / part).glob("*.png")} for part in (OBJECTS, KINDS))
    return set.intersection(*pictures)


def read_objects(folder: Path, identity: str, *, size: Size, listed: int) -> UInt8[np.ndarray, "height width"]:
    """Return the number of the object at each pixel: 0 none, 255 void, else its place in the XML, which lists so many.

    UserError, with the file, for what is no picture of numbers, another size than the photo's, or a higher number.
    """
    file = folder / OBJECTS / f"{identity}.png"
    numbers = _read(file, size)
    most = int(numbers.max(where=numbers != NOT_JUDGED, initial=0))
    if most > listed:
        raise UserError(f"data: {file} has pixels of object {most}, but Annotations/{identity}.xml lists {listed}")
    return numbers


def read_classes(folder: Path, identity: str, *, size: Size) -> UInt8[np.ndarray, "height width"]:
    """Return the class number + 1 of each pixel, among the 20: 0 background, 255 void; UserError as `read_objects`."""
    file = folder / KINDS / f"{identity}.png"
    numbers = _read(file, size)
    most = int(numbers.max(where=numbers != NOT_JUDGED, initial=0))
    if most > len(CLASSES):
        raise UserError(f"data: {file} has pixels of number {most}; there are {len(CLASSES)} classes, 0 and 255 (void)")
    return numbers


def _read(file: Path, size: Size) -> UInt8[np.ndarray, "height width"]:
    try:
        with Image.open(file, formats=[PngImagePlugin.PngImageFile.format]) as picture:
            if picture.mode not in ("P", "L"):
                raise UserError(f"data: {file} has colours ({picture.mode}) instead of numbers: VOC has palette PNGs")
            numbers = np.asarray(picture)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise UserError(f"data: {file} cannot be read: {error}") from None
    if numbers.shape != size:
        shown = f"{numbers.shape[1]} x {numbers.shape[0]} pixels, but its photo has {size[1]} x {size[0]}"
        raise UserError(f"data: {file} has {shown}")
    return numbers
