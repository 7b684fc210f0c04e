"""What the header of an image file says: size and orientation, without decoding; and the file itself, read later."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from PIL import (
    BmpImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)
from PIL.ExifTags import Base

from scenewise.errors import ImageError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff")  # compared in lower case
_FILES = (
    JpegImagePlugin.JpegImageFile,  # MPO too, which phones write into .jpg files: it begins as a JPEG
    PngImagePlugin.PngImageFile,
    WebPImagePlugin.WebPImageFile,
    BmpImagePlugin.BmpImageFile,
    TiffImagePlugin.TiffImageFile,
)
FORMATS = tuple(file.format for file in _FILES)  # PIL knows only the formats whose modules are imported
MAX_SIDE = 65_500  # pixels: libjpeg's limit on a side (JPEG_MAX_DIMENSION)
MAX_PIXELS = 2**28  # 0.8 GB of RGB bytes


class Header(NamedTuple):
    """What is known of a file before it is decoded; `reason` says why it cannot be used, or is None.

    height and width are upright, after the EXIF orientation (1..8). -1 and 0 stand for what is not known.
    """

    bytes: int = -1
    mtime_ns: int = -1
    height: int = 0
    width: int = 0
    orientation: int = 1
    reason: str | None = None


@contextmanager
def quiet_headers() -> Iterator[None]:
    """Read headers inside this block: PIL's warnings and its size limit, made for decoding, do not apply to headers."""
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_header(path: bytes) -> Header:
    """Return size, time, dimensions and orientation of an image file, or the reason why it cannot be used."""
    size, mtime_ns = -1, -1
    try:
        status = os.stat(path)  # noqa: PTH116 - bytes; before opening, as opening a pipe would wait for ever
        size, mtime_ns = status.st_size, status.st_mtime_ns
        if not stat.S_ISREG(status.st_mode):
            return Header(size, mtime_ns, reason="not a regular file")
        if size == 0:
            return Header(size, mtime_ns, reason="empty file")
        with open(path, "rb") as file:  # noqa: PTH123
            height, width, orientation = _dimensions(file)
    except FileNotFoundError:
        reason = "broken link" if os.path.islink(path) else "the file is gone"  # noqa: PTH114
        return Header(size, mtime_ns, reason=reason)
    except UnidentifiedImageError:
        return Header(size, mtime_ns, reason="no readable JPEG, PNG, WebP, BMP or TIFF header")
    except OSError as error:
        reason = os.strerror(error.errno).lower() if error.errno else f"broken header: {error}"
        return Header(size, mtime_ns, reason=reason)
    except Exception as error:  # PIL's plugins raise whatever their parsing of a stranger's bytes runs into
        return Header(size, mtime_ns, reason=f"broken header: {type(error).__name__}: {error}")
    return Header(size, mtime_ns, height, width, orientation, _refusal(height, width))


def _dimensions(file: BinaryIO) -> tuple[int, int, int]:
    with Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer versions of PIL swap the sides by themselves
            width = int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH])
            height = int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
        orientation = _orientation(image)
    return (width, height, orientation) if orientation >= 5 else (height, width, orientation)


def _orientation(image: Image.Image) -> int:
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif() would decode the whole image to look for one behind the pixels
    try:
        value = image.getexif().get(Base.Orientation, 1)
    except Exception:  # a broken EXIF block does not make the photo unreadable
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _refusal(height: int, width: int) -> str | None:
    if min(height, width) < 2:
        return f"1-pixel image ({width} x {height})"
    if max(height, width) > MAX_SIDE:
        return f"too large: {width} x {height} pixels, a side over {MAX_SIDE:,}"
    if height * width > MAX_PIXELS:
        return f"too large: {width} x {height} pixels, over {MAX_PIXELS:,}"
    return None


@dataclass(frozen=True, slots=True)
class FileReader:
    """Returns the bytes of a file that must still be the one that was indexed: same size, same modification time."""

    path: bytes
    length: int
    mtime_ns: int

    def __call__(self) -> bytes:
        """Read the file; ImageError when it is gone, unreadable, or changed since it was indexed."""
        try:
            with open(self.path, "rb") as file:  # noqa: PTH123 - a Path cannot hold bytes
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (self.length, self.mtime_ns):
                    raise ImageError("changed since it was indexed; use --reindex")
                content = file.read()
        except OSError as error:
            raise ImageError(f"cannot be read: {(error.strerror or str(error)).lower()}") from None
        if len(content) != self.length:
            raise ImageError("changed while it was read; use --reindex")
        return content
