from __future__ import annotations

import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from scenewise.errors import ImageError
from scenewise.sources import headers
from scenewise.sources.headers import FileReader, read_header

from .conftest import SaveImage


def _png(path: Path, width: int, height: int) -> Path:
    """Write a PNG whose header promises width x height pixels, and that holds none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".tif"])
def test_size_is_that_of_the_upright_image(tmp_path: Path, save: SaveImage, ending: str, orientation: int) -> None:
    path = save(tmp_path / f"a{ending}", (6, 9), orientation=orientation)
    header = read_header(os.fsencode(path))
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        assert (header.width, header.height) == upright.size
    assert header.orientation == orientation
    assert header.reason is None


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        ("CMYK", ".jpg"),
        ("L", ".jpg"),
        ("RGBA", ".png"),
        ("P", ".png"),
        ("I;16", ".png"),
        ("I;16", ".tif"),
        ("1", ".bmp"),
    ],
)
def test_every_pixel_format_has_a_readable_header(tmp_path: Path, save: SaveImage, mode: str, ending: str) -> None:
    header = read_header(os.fsencode(save(tmp_path / f"a{ending}", (5, 7), mode=mode)))
    assert (header.height, header.width, header.reason) == (5, 7, None)


def test_the_true_format_counts_not_the_ending(tmp_path: Path, save: SaveImage) -> None:
    path = save(tmp_path / "a.png").rename(tmp_path / "b.jpg")
    assert read_header(os.fsencode(path)).reason is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"these are words, not pixels" * 20, "no readable JPEG"),
        (b"\xff\xd8\xff\xe0", "header"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "header"),
        (b"GIF89a\x05\0\x05\0\0\0\0;", "no readable JPEG"),
        (b"BM" + b"\xff" * 60, "header"),
        (b"II*\0" + b"\xff" * 60, "header"),
        (b"RIFF\xff\xff\0\0WEBPVP8 " + b"\0" * 30, "header"),
    ],
)
def test_a_broken_file_has_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    header = read_header(os.fsencode(path))
    assert header.reason is not None and reason in header.reason
    assert header.bytes == len(content)


@pytest.mark.parametrize(
    ("width", "height", "reason"),
    [
        (1, 1, "1-pixel image"),
        (800, 1, "1-pixel image"),
        (2, 2, None),
        (30_000, 200, None),
        (30_000, 8_000, None),
        (65_501, 20, "a side over 65,500"),
        (20_000, 20_000, "over 268,435,456"),
    ],
)
def test_limits_of_size(tmp_path: Path, width: int, height: int, reason: str | None) -> None:
    path = os.fsencode(_png(tmp_path / "a.png", width, height))
    with headers.quiet_headers():
        header = read_header(path)
    assert (header.reason is None) == (reason is None)
    assert (header.height, header.width) == (height, width)
    assert reason is None or reason in str(header.reason)


def test_quiet_headers_leaves_pil_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with headers.quiet_headers():
        warnings.warn("of a library", stacklevel=1)
    assert before == Image.MAX_IMAGE_PIXELS


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert read_header(os.fsencode(tmp_path / "pipe.jpg")).reason == "not a regular file"
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    assert read_header(os.fsencode(tmp_path / "link.jpg")).reason == "broken link"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_has_a_reason(tmp_path: Path, save: SaveImage) -> None:
    path = save(tmp_path / "a.jpg")
    path.chmod(0)
    assert read_header(os.fsencode(path)).reason == "permission denied"


def test_a_file_without_permission_has_a_reason_even_for_root(
    tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = save(tmp_path / "a.jpg")
    monkeypatch.setattr(headers, "open", refuse, raising=False)
    assert read_header(os.fsencode(path)).reason == "permission denied"
    with pytest.raises(ImageError, match="permission denied"):
        FileReader(os.fsencode(path), 1, 1)()


def test_a_file_is_read_only_while_it_is_the_one_indexed(tmp_path: Path, save: SaveImage) -> None:
    path = save(tmp_path / "a.png")
    header = read_header(os.fsencode(path))
    read = FileReader(os.fsencode(path), header.bytes, header.mtime_ns)
    assert read() == path.read_bytes()
    os.utime(path, ns=(0, header.mtime_ns + 1))
    with pytest.raises(ImageError, match="changed since it was indexed; use --reindex"):
        read()
    os.utime(path, ns=(0, header.mtime_ns))
    assert read() == path.read_bytes()
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=(0, header.mtime_ns))
    with pytest.raises(ImageError, match="--reindex"):
        read()
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read"):
        read()


def test_random_bytes_after_a_true_beginning_never_raise(tmp_path: Path, save: SaveImage) -> None:
    generator = np.random.default_rng(0)
    with headers.quiet_headers():
        for ending in (".jpg", ".png", ".webp", ".bmp", ".tif"):
            whole = save(tmp_path / f"a{ending}", orientation=6).read_bytes()
            for _ in range(40):
                broken = bytearray(whole)
                for place in generator.integers(0, len(whole), 6):
                    broken[place] = generator.integers(0, 256)
                path = tmp_path / "b.jpg"
                path.write_bytes(broken[: generator.integers(1, len(whole) + 1)])
                header = read_header(os.fsencode(path))
                assert header.reason is not None or min(header.height, header.width) >= 2
