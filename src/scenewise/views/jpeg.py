"""What a JPEG file says of itself, without decoding it: its size, its components, and whether it is complete."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scenewise.errors import ImageError
from scenewise.types import Size

# A pattern that begins with one plain byte is searched several times faster.
_MARKER = re.compile(rb"\xff[\x01-\xff]")
_AFTER_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xff]")  # stuffed zeros and restart markers belong to the scan
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # markers without a length
_SCAN, _END, _FILL = 0xDA, 0xD9, 0xFF


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """size: (height, width) as stored; components: 1 grey, 3 colour, 4 CMYK; end: offset of the end-of-image marker."""

    size: Size
    components: int
    end: int


def is_jpeg(data: bytes) -> bool:
    """Tell whether the file starts as a JPEG does."""
    return data[:3] == b"\xff\xd8\xff"


def read_header(data: bytes) -> JpegHeader:
    """Walk the file's segments to the end-of-image marker, which a truncated file lacks; ImageError if it is missing.

    Segments are stepped over by their length, so the end marker of an EXIF thumbnail does not count; whatever follows
    the end of the first image (a motion clip, a second picture, garbage) is not looked at.
    """
    position, pattern = 2, _MARKER
    frame: tuple[Size, int] | None = None
    while found := pattern.search(data, position):
        marker, position = data[found.end() - 1], found.end()
        if marker == _FILL:  # any number of these may stand before a marker
            position -= 1
            continue
        pattern = _MARKER
        if marker == _END:
            if frame is None:
                raise ImageError("corrupt JPEG: no picture in the file")
            return JpegHeader(size=frame[0], components=frame[1], end=found.start())
        if marker in _BARE:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        if marker in _FRAMES and length >= 8 and position + 8 <= len(data):
            height, width = (int.from_bytes(data[position + k : position + k + 2], "big") for k in (3, 5))
            frame = (height, width), data[position + 7]
        position += max(2, length)
        if marker == _SCAN:
            pattern = _AFTER_SCAN
    raise ImageError("truncated JPEG: the end of the picture is missing")
