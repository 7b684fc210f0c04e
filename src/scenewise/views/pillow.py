"""The formats that OpenCV does not read as their users expect, decoded to 8-bit RGB by Pillow, quietly."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from scenewise.errors import ImageError

# Not all that Pillow knows: some formats run a program (EPS) or are no photos. (Phones' MPO is opened as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "DIB", "TIFF")
_SIXTEEN_BIT = 257  # 65535 / 255


def decode(data: bytes) -> tuple[UInt8[np.ndarray, "H W 3"], bool]:
    """Return the first picture of the file in 8-bit RGB, and whether Pillow has already applied its EXIF rotation.

    Alpha is dropped, palettes are looked up, CMYK is converted as Pillow's `convert("RGB")` does (Adobe's inverted
    JPEGs too), 16-bit values are scaled. ImageError where the file is truncated, broken, no image, or has 32-bit
    pixels, whose range is not known.
    """
    with _quiet():
        try:
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
                image.load()
                turned = image.format == "TIFF"  # Pillow rotates TIFFs by itself, and no other format
                return _to_rgb(image), turned
        except ImageError:
            raise
        except PIL.UnidentifiedImageError:
            raise ImageError("not a JPEG, PNG, WebP, BMP or TIFF image") from None
        except Exception as error:  # Pillow's plugins raise whatever their parsing of a stranger's bytes runs into
            raise ImageError(f"truncated or corrupt image: {error}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No warning of Pillow reaches the user from here; its own size limit is left to the caller."""
    limit = PIL.Image.MAX_IMAGE_PIXELS
    PIL.Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        PIL.Image.MAX_IMAGE_PIXELS = limit


def _to_rgb(image: PIL.Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    if image.mode in ("I", "F") and image.format != "PNG":
        raise ImageError(f"32-bit pixels (mode {image.mode}) have no known range; save the image with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):  # older Pillows read a 16-bit PNG as mode I
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + _SIXTEEN_BIT // 2) // _SIXTEEN_BIT).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))
