"""Bytes become one upright RGB image, decoded once, at the smallest JPEG scale that still gives every crop its pixels.

Plain JPEG goes through OpenCV, everything else through Pillow. A file that is not complete, not an image, or not the
image the index knows raises ImageError: it is never half grey.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from scenewise.errors import ImageError
from scenewise.types import Size
from scenewise.views import jpeg, pillow

MAX_PIXELS = 2**28  # decoded pixels of one image: 0.8 GB as RGB bytes
MIN_SIDE = 2  # pixels: a photo one pixel wide or high shows nothing to learn from
_AS_STORED = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # RGB from the decoder costs nothing
_FLAGS = {  # the bits of a reduction are named for grey pictures; those named for colour hold BGR's as well
    1: _AS_STORED,
    2: _AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: _AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: _AS_STORED | cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_MIRRORED_X, _MIRRORED_Y = (2, 3, 6, 7), (3, 4, 7, 8)  # EXIF orientations, after the transposition of 5..8
_GREY_FILL = [128, 128, 128]  # what libjpeg paints where a file's data ends too early
_PADDING = bytes((37 * k) % 251 for k in range(1, 513))  # entropy-coded data that is no picture


@dataclass(frozen=True, slots=True)
class Decoded:
    """An upright RGB image, perhaps smaller than the photo. A photo's pixel `x` lies at `x / reduction + offset`.

    The offset (x, y) is under one pixel and not zero only where the photo's right or bottom edge, padded to a whole
    reduced pixel, came to lie left or on top through the EXIF rotation.
    """

    pixels: UInt8[np.ndarray, "H W 3"]
    reduction: int = 1
    offset: tuple[float, float] = (0.0, 0.0)

    def locate(self, boxes: Float[np.ndarray, "*batch 4"]) -> Float32[np.ndarray, "*batch 4"]:
        """Return boxes of the full-size photo in pixels of this image."""
        if self.reduction == 1 and not any(self.offset):
            return np.asarray(boxes, dtype=np.float32)  # most photos: three calls of NumPy less
        return np.asarray(boxes / self.reduction + np.array(self.offset * 2), dtype=np.float32)


def decode(
    data: bytes | np.ndarray,
    size: Size,
    orientation: int,
    *,
    boxes_and_outputs: Iterable[tuple[Float[np.ndarray, "4"], int]] = (),
) -> Decoded:
    """Decode one image, given as its file or as its upright RGB pixels (then passed on).

    `size` is the (height, width) of the upright photo and `orientation` its EXIF rotation (1..8), as the index knows
    them. `boxes_and_outputs` are the crops to come: box in full-size pixels, output size in pixels; without any the
    photo is decoded at full size. ImageError where the file cannot be read or is another image.
    """
    if min(size) < MIN_SIDE:
        raise ImageError(f"too small: {size[1]} x {size[0]} pixels")
    if isinstance(data, np.ndarray):
        _check_size(data.shape[:2], size)
        return Decoded(data)
    if not data:
        raise ImageError("empty file")
    if jpeg.is_jpeg(data):
        header = jpeg.read_header(data)
        _check_size(header.size if orientation <= 4 else header.size[::-1], size)
        if header.components != 4:
            return _decode_jpeg(data, header, orientation, reduction=smallest_scale(boxes_and_outputs))
    _check_pixels(size)
    stored, turned = pillow.decode(data)
    pixels = stored if turned else upright(stored, orientation)
    _check_size(pixels.shape[:2], size)
    return Decoded(pixels)


def smallest_scale(boxes_and_outputs: Iterable[tuple[Float[np.ndarray, "4"], int]]) -> int:
    """Return the largest reduction in 1, 2, 4, 8 at which every box keeps at least its output pixels both ways."""
    ratios = [min(box[2] - box[0], box[3] - box[1]) / output for box, output in boxes_and_outputs]
    return max(k for k in _FLAGS if k == 1 or k <= min(ratios, default=1))


def _check_size(found: tuple[int, ...], size: Size) -> None:
    if tuple(found) != tuple(size):
        raise ImageError(f"another image than indexed: {found[1]} x {found[0]} pixels, expected {size[1]} x {size[0]}")


def _check_pixels(size: Size) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"too large: {size[1]} x {size[0]} pixels, at most {MAX_PIXELS} are decoded")


def _decode_jpeg(data: bytes, header: jpeg.JpegHeader, orientation: int, *, reduction: int) -> Decoded:
    height, width = (-(-side // reduction) for side in header.size)
    _check_pixels((height, width))
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), _FLAGS[reduction])
    except cv2.error as error:
        raise ImageError("corrupt JPEG: the decoder refused it") from error
    if stored is None:
        raise ImageError("corrupt JPEG: the decoder refused it")
    if stored.shape[:2] != (height, width):
        raise ImageError(f"corrupt JPEG: {stored.shape[1]} x {stored.shape[0]} pixels came out of it")
    if stored[-1, -1].tolist() == _GREY_FILL and _ends_early(data, header.end):
        raise ImageError("truncated JPEG: its data ends before the picture does")
    padding = height - header.size[0] / reduction, width - header.size[1] / reduction
    return Decoded(
        upright(stored, orientation),
        reduction=reduction,
        offset=_offset(orientation, padding),
    )


def _ends_early(data: bytes, end: int) -> bool:
    """Tell whether the picture changes when more data stands before its end marker: then some was missing there."""
    complete, _ = pillow.decode(data)  # Pillow says nothing of the extra data, libjpeg under OpenCV would on stderr
    padded, _ = pillow.decode(data[:end] + _PADDING + data[end:])
    return not np.array_equal(complete, padded)


def upright(stored: UInt8[np.ndarray, "h w 3"], orientation: int) -> UInt8[np.ndarray, "H W 3"]:
    """Return the image as it was seen, from the image as stored and its EXIF orientation (1..8)."""
    if orientation >= 5:
        stored = cv2.transpose(stored)
    if orientation in _MIRRORED_X:
        stored = cv2.flip(stored, 1)
    if orientation in _MIRRORED_Y:
        stored = cv2.flip(stored, 0)
    return stored


def _offset(orientation: int, padding: tuple[float, float]) -> tuple[float, float]:
    """Return where the photo begins (x, y), when its stored (bottom, right) edges are padded by so many pixels."""
    bottom, right = padding if orientation <= 4 else padding[::-1]
    return right if orientation in _MIRRORED_X else 0.0, bottom if orientation in _MIRRORED_Y else 0.0
