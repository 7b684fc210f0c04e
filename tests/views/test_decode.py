"""One decode at the smallest scale, upright, complete or refused; every format as its users expect it."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from scenewise.errors import ImageError
from scenewise.views import decode as decode_module
from scenewise.views import jpeg
from scenewise.views.decode import Decoded, decode, smallest_scale
from scenewise.views.photometric import crop_and_resize

Encode = Callable[..., bytes]

# how Pillow turns an upright picture into what a camera with this EXIF orientation stores
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def as_stored(image: np.ndarray, orientation: int) -> tuple[Image.Image, Image.Exif]:
    picture = Image.fromarray(image)
    turn = STORED[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return (picture if turn is None else picture.transpose(turn)), exif


def box_covers(image: np.ndarray, output: int) -> list[tuple[np.ndarray, int]]:
    return [(np.array([0, 0, image.shape[1], image.shape[0]], np.float32), output)]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_every_orientation_gives_the_same_upright_picture(
    scene: np.ndarray, encode: Encode, orientation: int, kind: str
) -> None:
    scene = np.ascontiguousarray(scene[100:277, 150:401])
    picture, exif = as_stored(scene, orientation)
    data = encode(picture, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(np.asarray(ImageOps.exif_transpose(picture_with(picture, exif))), scene)
    found = decode(data, scene.shape[:2], orientation)
    assert found.pixels.flags.c_contiguous
    if kind == "JPEG":
        assert abs(found.pixels.astype(int) - scene).mean() < 3
        reference = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        assert abs(found.pixels.astype(int) - reference).mean() < 0.1
    else:
        assert np.array_equal(found.pixels, scene)


def picture_with(picture: Image.Image, exif: Image.Exif) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_boxes_are_located_in_the_reduced_upright_picture(encode: Encode, orientation: int, reduction: int) -> None:
    """A bright block on black, in photos whose sides are no multiples of 8, is found where `locate` says it is."""
    height, width = 181, 251
    image = np.zeros((height, width, 3), np.uint8)
    box = np.array([97, 45, 161, 125], np.float32)
    image[45:125, 97:161] = 255
    picture, exif = as_stored(image, orientation)
    data = encode(picture, exif=exif)
    whole = box_covers(image, 181 // reduction)
    found = decode(data, (height, width), orientation, boxes_and_outputs=whole)
    assert found.reduction == reduction
    light = found.pixels.mean(axis=2) / 255
    assert light.sum() * reduction**2 == pytest.approx(64 * 80, rel=0.03)
    y, x = np.mgrid[: light.shape[0], : light.shape[1]] + 0.5
    left, top, right, bottom = found.locate(box)
    assert (light * x).sum() / light.sum() == pytest.approx((left + right) / 2, abs=0.05)
    assert (light * y).sum() / light.sum() == pytest.approx((top + bottom) / 2, abs=0.05)


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_red_comes_first_without_another_picture(encode: Encode, scene: np.ndarray, reduction: int, mode: str) -> None:
    """The decoder's RGB is its BGR turned round, bit for bit, at every scale."""
    data = encode(Image.fromarray(scene).convert(mode))
    flags = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    plain = cv2.imdecode(np.frombuffer(data, np.uint8), flags.get(reduction, cv2.IMREAD_REDUCED_COLOR_8))
    found = decode(data, scene.shape[:2], 1, boxes_and_outputs=box_covers(scene, 427 // reduction))
    assert found.reduction == reduction
    assert np.array_equal(found.pixels, plain[..., ::-1])


@given(edges=st.lists(st.floats(-10, 5000, width=32), min_size=4, max_size=4))
def test_a_box_lies_in_a_full_decode_where_it_lies_in_the_photo(edges: list[float]) -> None:
    box = np.array([edges, edges], np.float32)
    found = Decoded(np.zeros((1, 1, 3), np.uint8)).locate(box)
    assert found.dtype == np.float32 and np.array_equal(found, box)


@settings(max_examples=100, deadline=None)
@given(
    boxes=st.lists(
        st.tuples(st.integers(0, 900), st.integers(0, 900), st.integers(1, 2000), st.integers(1, 2000)), min_size=1
    ),
    output=st.integers(1, 256),
    size=st.tuples(st.integers(2901, 2950), st.integers(2901, 2950)),
)
def test_the_smallest_scale_still_covers_every_crop(
    boxes: list[tuple[int, int, int, int]], output: int, size: tuple[int, int]
) -> None:
    crops = [(np.array([x, y, x + w, y + h], np.float32), output) for x, y, w, h in boxes]
    reduction = smallest_scale(crops)
    located = np.stack([Decoded(np.zeros((1, 1, 3), np.uint8), reduction).locate(box) for box, _ in crops])
    sides = np.floor(located[:, 2:] + 0.5) - np.floor(located[:, :2] + 0.5)  # as they are cut
    assert reduction == 1 or sides.min() >= output
    halved = np.array([min(w, h) for _, _, w, h in boxes]) / (2 * reduction)
    assert reduction == 8 or halved.min() < output  # one more halving would be too much


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_reduced_decode_shows_the_same_views(encode: Encode, scene: np.ndarray, reduction: int) -> None:
    """Mean difference of a view from that of the full decode: under 3 grey levels on a textured scene.

    Some of it is that a crop begins and ends at whole pixels of whatever was decoded.
    """
    large = cv2.resize(scene, (1281, 855), interpolation=cv2.INTER_CUBIC)
    data = encode(large, quality=95)
    size = 400 // reduction
    box = np.array([333, 211, 833, 631], np.float32)
    full = decode(data, (855, 1281), 1)
    reduced = decode(data, (855, 1281), 1, boxes_and_outputs=[(box, size)])
    assert (full.reduction, reduced.reduction) == (1, reduction)
    assert reduced.pixels.shape == (-(-855 // reduction), -(-1281 // reduction), 3)
    views = [crop_and_resize(d.pixels, d.locate(box), size=size).astype(int) for d in (full, reduced)]
    assert abs(views[0] - views[1]).mean() < 3
    assert abs(views[0].mean() - views[1].mean()) < 0.5


def test_reduced_decode_of_real_photos_shows_the_same_views(photos: list[bytes]) -> None:
    """Crops of half the photo at 48 pixels: at most 3.5 grey levels from the full decode's in the mean over photos."""
    means = []
    for data in photos:
        width, height = Image.open(io.BytesIO(data)).size
        box = np.array([width // 5, height // 5, width // 5 + width // 2, height // 5 + height // 2], np.float32)
        full = decode(data, (height, width), 1)
        reduced = decode(data, (height, width), 1, boxes_and_outputs=[(box, 44)])
        assert reduced.reduction >= 2
        views = [crop_and_resize(d.pixels, d.locate(box), size=44).astype(int) for d in (full, reduced)]
        means.append(abs(views[0] - views[1]).mean())
    assert np.mean(means) < 3.5


def test_plain_jpeg_is_pillows_picture(photos: list[bytes]) -> None:
    for data in photos[::4]:
        reference = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        found = decode(data, reference.shape[:2], 1).pixels
        assert abs(found.astype(int) - reference).max() <= 3
        assert abs(found.astype(int) - reference).mean() <= 0.1


def test_pixels_are_passed_on(scene: np.ndarray) -> None:
    assert decode(scene, scene.shape[:2], 1).pixels is scene
    with pytest.raises(ImageError, match="another image than indexed: 640 x 427 pixels, expected 10 x 427"):
        decode(scene, (427, 10), 1)


def sixteen(scene: np.ndarray) -> np.ndarray:
    return scene.astype(np.uint16) * 257


def cv_file(ending: str, image: np.ndarray) -> bytes:
    return cv2.imencode(ending, image)[1].tobytes()


def grey_of(scene: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(scene).convert("L"))


def with_alpha(scene: np.ndarray, mode: str) -> Image.Image:
    picture = Image.fromarray(scene).convert(mode)
    picture.putalpha(Image.fromarray((scene[..., 0] > 100).astype(np.uint8) * 255))
    return picture


LOSSLESS: dict[str, Callable[[np.ndarray, Encode], bytes]] = {
    "PNG": lambda s, e: e(s, "PNG"),
    "RGBA PNG": lambda s, e: e(with_alpha(s, "RGBA"), "PNG"),
    "RGBA WebP": lambda s, e: e(with_alpha(s, "RGBA"), "WEBP", lossless=True, exact=True),
    "16-bit PNG": lambda s, _: cv_file(".png", sixteen(s)[..., ::-1]),
    "16-bit TIFF": lambda s, _: cv_file(".tiff", sixteen(s)[..., ::-1]),
    "BMP": lambda s, e: e(s, "BMP"),
    "RGBA BMP": lambda s, e: e(with_alpha(s, "RGBA"), "BMP"),
    "raw TIFF": lambda s, e: e(s, "TIFF"),
    "LZW TIFF": lambda s, e: e(s, "TIFF", compression="tiff_lzw"),
    "deflated TIFF": lambda s, e: e(s, "TIFF", compression="tiff_adobe_deflate"),
}
GREY: dict[str, Callable[[np.ndarray, Encode], bytes]] = {
    "grey PNG": lambda s, e: e(grey_of(s), "PNG"),
    "LA PNG": lambda s, e: e(with_alpha(s, "L"), "PNG"),
    "16-bit grey PNG": lambda s, _: cv_file(".png", sixteen(grey_of(s))),
    "16-bit grey TIFF": lambda s, _: cv_file(".tiff", sixteen(grey_of(s))),
    "big-endian 16-bit grey TIFF": lambda s, e: e(
        Image.frombytes("I;16B", s.shape[1::-1], sixteen(grey_of(s)).astype(">u2").tobytes()), "TIFF"
    ),
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_colour_formats(scene: np.ndarray, encode: Encode, name: str) -> None:
    assert np.array_equal(decode(LOSSLESS[name](scene, encode), scene.shape[:2], 1).pixels, scene)


@pytest.mark.parametrize("name", GREY)
def test_lossless_grey_formats(scene: np.ndarray, encode: Encode, name: str) -> None:
    found = decode(GREY[name](scene, encode), scene.shape[:2], 1).pixels
    assert np.array_equal(found, np.repeat(grey_of(scene)[..., None], 3, axis=2))


def test_palettes(scene: np.ndarray, encode: Encode) -> None:
    palette = Image.fromarray(scene).quantize(64)
    expected = np.asarray(palette.convert("RGB"))
    for kind, options in (("PNG", {}), ("PNG", {"transparency": bytes(range(64))}), ("BMP", {}), ("TIFF", {})):
        assert np.array_equal(decode(encode(palette, kind, **options), scene.shape[:2], 1).pixels, expected)
    bits = Image.fromarray(scene).convert("1")
    assert np.array_equal(
        decode(encode(bits, "PNG"), scene.shape[:2], 1).pixels,
        np.repeat(np.asarray(bits)[..., None] * np.uint8(255), 3, 2),
    )


def test_lossy_formats(scene: np.ndarray, encode: Encode) -> None:
    cmyk = Image.fromarray(scene).convert("CMYK")
    files = {
        "progressive": encode(scene, progressive=True),
        "grey": encode(grey_of(scene)),
        "CMYK, inverted as Adobe does": encode(cmyk),
        "RGB stored as such": encode(scene, keep_rgb=True),
        "restart markers": encode(scene, restart_marker_blocks=3),
        "WebP": encode(scene, "WEBP", quality=95),
    }
    for name, data in files.items():
        expected = np.repeat(grey_of(scene)[..., None], 3, 2) if name == "grey" else scene
        found = decode(data, scene.shape[:2], 1).pixels
        assert abs(found.astype(int) - expected).mean() < 4, name


def test_cmyk_without_black_generation_is_not_a_negative(encode: Encode) -> None:
    white = Image.new("CMYK", (64, 48), (0, 0, 0, 0))
    assert decode(encode(white), (48, 64), 1).pixels.min() > 250


@pytest.mark.parametrize("orientation", [1, 6])
def test_thumbnails_and_what_follows_the_picture_do_not_matter(
    scene: np.ndarray, encode: Encode, orientation: int
) -> None:
    """A thumbnail's end marker is no end; a motion clip, a second picture, garbage may follow."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    thumbnail = encode(cv2.resize(scene, (160, 107)))
    block = exif.tobytes() + thumbnail
    data = encode(scene, exif=block)
    assert data.count(b"\xff\xd9") >= 2
    size = scene.shape[:2] if orientation == 1 else scene.shape[1::-1]
    expected = decode(encode(scene, exif=exif), size, orientation).pixels
    for tail in (b"", b"\x00" * 100, b"garbage", thumbnail):
        assert np.array_equal(decode(data + tail, size, orientation).pixels, expected)
    with pytest.raises(ImageError, match="truncated"):  # the only end left is the thumbnail's
        decode(data[: len(data) // 2], size, orientation)


def test_fill_bytes_before_markers_are_allowed(scene: np.ndarray, encode: Encode) -> None:
    data = encode(scene)
    filled = data[:2] + b"\xff\xff" + data[2:-2] + b"\xff\xff\xff" + data[-2:]
    assert np.array_equal(decode(filled, scene.shape[:2], 1).pixels, decode(data, scene.shape[:2], 1).pixels)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
def test_truncated_jpeg_is_bad_at_every_length(scene: np.ndarray, encode: Encode, options: dict[str, object]) -> None:
    data = encode(scene, **options)
    for length in [3, 10, 100, 700, *np.linspace(800, len(data) - 1, 25, dtype=int), len(data) - 2, len(data) - 1]:
        with pytest.raises(ImageError):
            decode(data[:length], scene.shape[:2], 1)
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2] + bytes(len(data) // 2), scene.shape[:2], 1)  # a download that was never filled


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
def test_truncated_jpeg_that_was_closed_again_is_bad(scene: np.ndarray, encode: Encode, reduction: int) -> None:
    data = encode(scene)
    for share in (0.3, 0.9):
        with pytest.raises(ImageError, match="data ends before the picture"):
            decode(
                data[: int(len(data) * share)] + b"\xff\xd9",
                scene.shape[:2],
                1,
                boxes_and_outputs=box_covers(scene, 427 // reduction),
            )


def test_a_grey_border_is_no_truncation(encode: Encode, capfd: pytest.CaptureFixture[str]) -> None:
    image = np.full((100, 160, 3), 128, np.uint8)
    image[:60] = np.arange(160)[None, :, None]
    for options in ({}, {"progressive": True}, {"quality": 60}):
        decode(encode(image, **options), image.shape[:2], 1)
    decode(encode(np.full((100, 160), 128, np.uint8)), (100, 160), 1)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "LZW"])
def test_other_truncated_files_are_bad(scene: np.ndarray, encode: Encode, kind: str) -> None:
    data = encode(scene, "TIFF", compression="tiff_lzw") if kind == "LZW" else encode(scene, kind)
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        with pytest.raises(ImageError, match=r"truncated or corrupt|not a JPEG"):
            decode(data[: int(len(data) * share)], scene.shape[:2], 1)


BAD = {
    "empty": (b"", "empty file"),
    "text": (b"<html><body>404 not found</body></html>" * 20, "not a JPEG, PNG, WebP, BMP or TIFF"),
    "a program's input": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 640 427\n", "not a JPEG"),
    "a JPEG's beginning": (b"\xff\xd8\xff", "truncated JPEG"),
    "no picture": (b"\xff\xd8\xff\xd9", "no picture"),
    "a length of zero": (b"\xff\xd8\xff\xe0\x00\x00" * 50, "truncated JPEG"),
    "zeros": (bytes(5000), "not a JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_bad_and_silent(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, reason = BAD[name]
    with pytest.raises(ImageError, match=reason):
        decode(data, (427, 640), 1)
    assert capfd.readouterr() == ("", "")


def test_another_picture_than_indexed_is_bad(scene: np.ndarray, encode: Encode) -> None:
    for data in (encode(scene), encode(scene, "PNG")):
        for size, orientation in (((427, 639), 1), ((640, 427), 1), ((427, 640), 6)):
            with pytest.raises(ImageError, match="another image than indexed"):
                decode(data, size, orientation)


def test_floating_point_pixels_are_refused(encode: Encode) -> None:
    picture = Image.fromarray(np.linspace(0, 1, 4800, dtype=np.float32).reshape(60, 80))
    with pytest.raises(ImageError, match="32-bit pixels"):
        decode(encode(picture, "TIFF"), (60, 80), 1)


def test_extreme_sizes(encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = np.full((3, 30_000, 3), 90, np.uint8)
    for kind in ("JPEG", "PNG"):
        assert decode(encode(wide, kind), (3, 30_000), 1).pixels.shape == wide.shape
    with pytest.raises(ImageError, match="too small: 1 x 1"):
        decode(encode(np.zeros((1, 1, 3), np.uint8)), (1, 1), 1)
    monkeypatch.setattr(decode_module, "MAX_PIXELS", 10_000)
    for kind in ("JPEG", "PNG"):
        with pytest.raises(ImageError, match="too large: 30000 x 3"):
            decode(encode(wide, kind), (3, 30_000), 1)


def test_a_file_of_any_bytes_is_an_image_or_an_image_error(scene: np.ndarray, encode: Encode) -> None:
    """Bytes overwritten at random places: never another exception, never another size."""
    small = cv2.resize(scene, (60, 40), interpolation=cv2.INTER_AREA)
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP"):
        original = encode(small, kind)
        for _ in range(40):
            data = bytearray(original)
            start = 0 if rng.random() < 0.5 else rng.integers(len(data))
            for place in rng.integers(start, min(len(data), start + 200), 4):
                data[place] = rng.integers(256)
            try:
                found = decode(bytes(data), (40, 60), 1)
            except ImageError:
                continue
            assert found.pixels.shape == (40, 60, 3)


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_reading_a_header_always_ends(data: bytes) -> None:
    try:
        header = jpeg.read_header(b"\xff\xd8\xff" + data)
    except ImageError:
        return
    assert 0 < header.end <= len(data) + 3
