"""A view is a function of (seed, epoch, image, view) and of nothing else; the test view is torchvision's."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as tv
from PIL import Image

from scenewise.errors import ImageError, UserError
from scenewise.types import Record, Size
from scenewise.views import pipeline
from scenewise.views.pipeline import make_views
from scenewise.views.regions import RegionPolicy, Regions
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot, scale_slots

MakeRecord = Callable[..., Record]
Encode = Callable[..., bytes]
SLOTS = scale_slots({"query": Slot(augmentation="moco", count=2), "key": Slot(augmentation="byol-second")}, 64)


class Fixed(RegionPolicy):
    """A policy that always cuts the same boxes."""

    def __init__(self, boxes: Mapping[str, np.ndarray]) -> None:
        self.boxes = boxes

    def __call__(
        self, size: Size, proposals: np.ndarray | None, slots: Mapping[str, Slot], generator: np.random.Generator
    ) -> Regions:
        return Regions(dict(self.boxes), {name: np.zeros(len(boxes), np.int8) for name, boxes in self.boxes.items()})

    def decide(self, mean_area: float) -> RegionPolicy:
        return self


def equal(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_views_and_boxes(scene: np.ndarray, encode: Encode, make_record: MakeRecord) -> None:
    record = make_record(encode(scene), scene.shape[:2], index=3)
    views, regions = make_views(record, policy=Scene(), slots=SLOTS, seed=1, epoch=2)
    assert {name: (view.shape, view.dtype) for name, view in views.items()} == {
        "query": ((2, 64, 64, 3), np.uint8),
        "key": ((1, 64, 64, 3), np.uint8),
    }
    assert {name: (box.shape, box.dtype) for name, box in regions.boxes.items()} == {
        "query": ((2, 4), np.float32),
        "key": ((1, 4), np.float32),
    }
    assert not np.array_equal(views["query"][0], views["query"][1])


def test_nothing_but_the_keys_matters(scene: np.ndarray, encode: Encode, make_record: MakeRecord) -> None:
    record = make_record(encode(scene), scene.shape[:2], index=3)
    first = make_views(record, policy=Scene(), slots=SLOTS, seed=1, epoch=2)
    for state in range(3):
        np.random.seed(state)
        random.seed(state)
        torch.manual_seed(state)
        cv2.setRNGSeed(state)
        cv2.setNumThreads(state + 1)
        again = make_views(record, policy=Scene(), slots=SLOTS, seed=1, epoch=2)
        assert equal(first[0], again[0]) and equal(first[1].boxes, again[1].boxes)
    for changed in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        other = make_views(record, policy=Scene(), slots=SLOTS, **changed)
        assert not equal(first[0], other[0]) and not equal(first[1].boxes, other[1].boxes)
    other = make_views(
        make_record(encode(scene), scene.shape[:2], index=4), policy=Scene(), slots=SLOTS, seed=1, epoch=2
    )
    assert not equal(first[0], other[0]) and not equal(first[1].boxes, other[1].boxes)


def test_one_slots_chance_does_not_depend_on_another(scene: np.ndarray, make_record: MakeRecord) -> None:
    """With the same boxes a view stays the same when another slot is added or takes another augmentation."""
    box = np.array([[10, 10, 400, 400]], np.float32)
    record = make_record(scene, scene.shape[:2])
    alone = {"key": Slot(augmentation="simclr", size=64)}
    views, _ = make_views(record, policy=Fixed({"key": box}), slots=alone, seed=0, epoch=0)
    both = {"query": Slot(augmentation="weak", size=64), **alone}
    joined, _ = make_views(record, policy=Fixed({"query": box, "key": box}), slots=both, seed=0, epoch=0)
    assert np.array_equal(views["key"], joined["key"])


def test_views_and_slots_with_one_box_have_their_own_chance(scene: np.ndarray, make_record: MakeRecord) -> None:
    slots = {name: Slot(augmentation="simclr", size=32, count=3) for name in ("query", "key")}
    boxes = np.tile(np.array([[10, 10, 400, 400]], np.float32), (3, 1))
    policy = Fixed({"query": boxes, "key": boxes})
    views, _ = make_views(make_record(scene, scene.shape[:2]), policy=policy, slots=slots, seed=0, epoch=0)
    assert len(np.unique(np.concatenate([views["query"], views["key"]]).reshape(6, -1), axis=0)) == 6


def test_flips_and_boxes_are_right(make_record: MakeRecord) -> None:
    """Every pixel tells where it is from (red: x, green: y): each view must be its box or its mirror image."""
    y, x = np.mgrid[:256, :256]
    image = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    flips = 0
    slots = {"query": Slot(augmentation="weak", size=32)}
    for index in range(60):
        views, regions = make_views(
            make_record(image, (256, 256), index=index), policy=Scene(), slots=slots, seed=0, epoch=0
        )
        view, (left, top, right, bottom) = views["query"][0].astype(float), regions.boxes["query"][0]
        centres = (np.arange(32) + 0.5) / 32
        across, down = left + (right - left) * centres - 0.5, top + (bottom - top) * centres - 0.5
        flipped = view[0, 0, 0] > view[0, -1, 0]
        flips += flipped
        inner = slice(1, -1)  # the outermost pixels are averaged over what the box leaves of them
        expected = across[::-1] if flipped else across
        assert abs(view[inner, inner, 0] - expected[None, inner]).max() <= 1.01
        assert abs(view[inner, inner, 1] - down[inner, None]).max() <= 1.01
        assert view[..., 2].max() == 0
    assert 15 <= flips <= 45


def test_views_are_the_same_whether_or_not_the_decode_was_reduced(
    scene: np.ndarray, encode: Encode, make_record: MakeRecord
) -> None:
    """A photo decoded at a quarter, with random regions and equal photometry: 2 grey levels in the mean."""
    large = cv2.resize(scene, (2560, 1708), interpolation=cv2.INTER_CUBIC)
    data = encode(large, quality=95)
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    for index in range(4):
        pair = [
            make_views(make_record(d, (1708, 2560), index=index), policy=Scene(), slots=SLOTS, seed=0, epoch=0)[0]
            for d in (data, pixels)
        ]
        for name in SLOTS:
            assert abs(pair[0][name].astype(int) - pair[1][name]).mean() < 2


def test_the_largest_slot_scales_the_blur(make_record: MakeRecord) -> None:
    """At a run of 96 pixels a blur is 96/224 as wide: an edge is sharper than at the papers' sigma."""
    image = np.zeros((96, 96, 3), np.uint8)
    image[:, 48:] = 255
    box = {"query": np.array([[0, 0, 96, 96]], np.float32)}
    wide = {"query": np.array([[0, 0, 96, 96]], np.float32), "large": np.array([[0, 0, 96, 96]], np.float32)}
    blurred = []
    for boxes, sizes in ((box, {"query": 96}), (wide, {"query": 96, "large": 224})):
        slots = {name: Slot(augmentation="byol-first", size=size) for name, size in sizes.items()}
        views = [
            make_views(make_record(image, (96, 96), index=i), policy=Fixed(boxes), slots=slots, seed=0, epoch=0)[0]
            for i in range(20)
        ]
        blurred.append(np.mean([abs(np.diff(v["query"][0].astype(float), axis=1)).max() for v in views]))
    assert blurred[0] > blurred[1] * 1.2


@pytest.mark.parametrize(("interpolation", "mode"), [("bilinear", 2), ("bicubic", 3)])
@pytest.mark.parametrize("size", [(427, 640), (640, 427), (225, 224), (100, 130), (301, 299)])
def test_test_view_is_torchvisions(
    scene: np.ndarray, make_record: MakeRecord, size: Size, interpolation: str, mode: int
) -> None:
    """Resize to 256 and the central 224, squashed to 96: torchvision's on a Pillow image, but for rounding."""
    image = np.ascontiguousarray(cv2.resize(scene, size[::-1]))
    picture = Image.fromarray(image)
    expected = tv.center_crop(tv.resize(picture, [256], interpolation=mode), [224, 224])
    found = pipeline.test_view(make_record(image, size), size=224, interpolation=interpolation)
    difference = abs(found.astype(int) - np.asarray(expected))
    assert np.percentile(difference, 99.9) <= 1 and difference.mean() <= 0.2
    squashed = pipeline.test_view(make_record(image, size), size=96, interpolation=interpolation, square=True)
    reference = np.asarray(tv.resize(picture, [96, 96], interpolation=mode))
    assert abs(squashed.astype(int) - reference).max() <= 1


def test_a_picture_of_the_size_is_taken_as_it_is(scene: np.ndarray, make_record: MakeRecord) -> None:
    """CIFAR's 32 x 32, in every paper: not enlarged to 37 and cut to 32."""
    image = np.ascontiguousarray(scene[:32, :32])
    for interpolation in ("bilinear", "bicubic"):
        found = pipeline.test_view(make_record(image, (32, 32)), size=32, interpolation=interpolation)
        assert np.array_equal(found, image)


def test_test_view_of_real_photos(photos: list[bytes], make_record: MakeRecord) -> None:
    """From the reduced decode: 1.5 grey levels in the mean from torchvision on the full one."""
    means = []
    for data in photos:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
        for size in (96, 224):
            found = pipeline.test_view(make_record(data, picture.size[::-1]), size=size)
            expected = np.asarray(tv.center_crop(tv.resize(picture, [round(size * 256 / 224)]), [size, size]))
            means.append(abs(found.astype(int) - expected).mean())
    assert np.mean(means) < 1.5


def test_test_view_of_a_very_wide_photo(encode: Encode, make_record: MakeRecord) -> None:
    wide = np.full((20, 30_000, 3), 90, np.uint8)
    assert (pipeline.test_view(make_record(encode(wide, "PNG"), (20, 30_000)), size=224) == 90).all()


def test_an_unknown_interpolation_is_named(make_record: MakeRecord, scene: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"interpolation: unknown name 'cubic'\. Did you mean 'bicubic'"):
        pipeline.test_view(make_record(scene, scene.shape[:2]), size=32, interpolation="cubic")


def test_a_bad_image_raises(make_record: MakeRecord) -> None:
    with pytest.raises(ImageError, match="empty file"):
        make_views(make_record(b"", (64, 64)), policy=Scene(), slots=SLOTS, seed=0, epoch=0)
    with pytest.raises(ImageError, match="empty file"):
        pipeline.test_view(make_record(b"", (64, 64)), size=32)
