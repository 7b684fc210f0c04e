"""What becomes of one image: its size, its pixels, its boxes."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from scenewise.errors import ImageError
from scenewise.sources import Source, open_source
from scenewise.sources.objects import GROUP, OBJECT, REGION
from scenewise.tools.pack_images import (
    find_objects,
    label_entries,
    scale_boxes,
    scale_image,
    scale_proposals,
    scaled_size,
)
from scenewise.types import Record
from scenewise.views.decode import decode

SIDES = st.integers(2, 5000)


def photo(height: int, width: int) -> Image.Image:
    """Return something with detail and without edges sharper than a JPEG holds."""
    coarse = np.random.default_rng(height * width).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def record(image: Image.Image, kind: str = "JPEG", orientation: int = 1, **options: Any) -> Record:
    """Return the record of an image that is stored in a file of that kind."""
    target, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(target, kind, exif=exif, **options)
    size = image.size if orientation >= 5 else image.size[::-1]
    return Record(0, "photo", size, orientation, target.getvalue)


@given(SIDES, SIDES, st.integers(32, 1000))
def test_the_short_side_is_as_asked_and_nothing_is_enlarged(height: int, width: int, short_side: int) -> None:
    found = scaled_size((height, width), short_side)
    if min(height, width) <= short_side:
        assert found == (height, width)
        return
    assert min(found) == short_side
    assert (found[0] <= found[1]) == (height <= width) or min(found) == max(found)
    ratio = short_side / min(height, width)
    assert abs(max(found) - max(height, width) * ratio) <= 0.5  # the aspect is kept to half a pixel


@given(st.data())
def test_boxes_keep_their_share_of_the_image(data: st.DataObject) -> None:
    before = data.draw(st.tuples(SIDES, SIDES))
    after = scaled_size(before, data.draw(st.integers(32, 500)))
    corners = [sorted(data.draw(st.lists(st.integers(0, side), min_size=2, max_size=2))) for side in before]
    (top, bottom), (left, right) = corners
    boxes = np.array([[left, top, right, bottom]], np.int32)
    scaled = scale_boxes(boxes, before, after)
    whole = np.array([before[1], before[0]] * 2), np.array([after[1], after[0]] * 2)
    np.testing.assert_allclose(scaled / whole[1], boxes / whole[0], atol=1e-12)
    rounded = scale_proposals(boxes, before, after)[0].tolist()
    assert 0 <= rounded[0] < rounded[2] <= after[1]
    assert 0 <= rounded[1] < rounded[3] <= after[0]
    if right > left and bottom > top:
        assert np.abs(rounded - scaled[0]).max() <= 1
        if after == before:
            assert rounded == boxes[0].tolist()


def test_a_small_upright_jpeg_is_copied_byte_for_byte_and_nothing_else() -> None:
    small = photo(40, 64)
    for given_, copied in (
        (record(small), True),
        (record(small.convert("L")), True),
        (record(small.convert("CMYK")), True),
        (record(small, orientation=3), False),
        (record(small, "PNG"), False),
        (record(photo(41, 64)), False),
    ):
        made = scale_image(given_, short_side=40, quality=95)
        assert (made.content == given_.read()) == copied
        assert min(made.size) == 40
        assert decode(made.content, made.size, 1).pixels.shape == (*made.size, 3)
    pixels = np.asarray(small)
    from_pixels = scale_image(Record(0, "a", (40, 64), 1, lambda: pixels), short_side=40, quality=100)
    assert (
        np.abs(decode(from_pixels.content, (40, 64), 1).pixels.astype(int) - pixels).mean() < 5
    )  # colours at half size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(403, 605), (150, 121), (64, 100)])
def test_the_pixels_are_those_of_pillow_at_full_size(orientation: int, height: int, width: int) -> None:
    source = record(photo(height, width), orientation=orientation, quality=95)
    made = scale_image(source, short_side=48, quality=98)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(bytes(source.read()))))
    expected = np.asarray(upright.resize(made.size[::-1], Image.Resampling.LANCZOS)).astype(int)
    found = decode(made.content, made.size, 1).pixels.astype(int)
    difference = np.abs(found - expected)
    assert difference.mean() < 3.5  # of 255; a shift by half a pixel gives more than twice as much
    shifted = np.abs(np.roll(found, 1, axis=1)[:, 1:] - expected[:, 1:])
    assert shifted.mean() > 2 * difference.mean()


def test_what_cannot_be_read_to_its_end_is_refused_even_if_it_would_be_copied() -> None:
    whole = record(photo(40, 64)).read()
    for size, content in (((40, 64), whole[:-100]), ((40, 63), whole), ((40, 64), b""), ((40, 64), b"no image")):
        with pytest.raises(ImageError):
            scale_image(Record(0, "bad", size, 1, lambda content=content: content), short_side=64, quality=95)


class Labelled(Source):
    """A source of one image whose ignored objects are in `boxes`, or are not."""

    def __init__(self, *, shown: bool) -> None:
        self.shown, self.inner = shown, open_source("synthetic:3")

    unreadable = ()

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Record:
        return self.inner[index]

    def labels(self) -> None:
        return None

    def boxes(self, index: int) -> Any:
        found = self.instances(index)
        kept = slice(None) if self.shown else ~found.ignored
        return found.boxes[kept], found.classes[kept]

    def instances(self, index: int, *, masks: bool = False) -> Any:
        found = self.inner.instances(index)  # type: ignore[attr-defined]
        found.ignored[:1] = True
        return found

    def with_boxes(self) -> np.ndarray:
        return np.ones(1, bool)

    with_masks = with_boxes

    def class_map(self, index: int) -> None:
        return None


def test_ignored_objects_are_told_from_regions_that_are_no_boxes() -> None:
    for shown, kind in ((True, GROUP), (False, REGION)):
        found = find_objects(Labelled(shown=shown), 0)
        assert found.kinds.tolist() == [kind] + [OBJECT] * (len(found.boxes) - 1)
        assert len(found.boxes) > 1


def test_a_label_is_a_number_or_lists() -> None:
    assert label_entries(None) == {}
    assert label_entries(3) == {"label": 3}
    entries = label_entries(np.array([0, 1, -1, 1], np.int8))
    assert entries == {"labels": [1, 3], "labels_not_judged": [2]}
