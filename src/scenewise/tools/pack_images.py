"""One image as it is packed: upright, no larger than asked for, as JPEG, with its label and its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
from jaxtyping import Float, Float32, Int, Int32, Int64, UInt8
from torch.utils.data import Dataset

from scenewise.errors import ImageError, UserError
from scenewise.sources import HasBoxes, HasInstances, Source
from scenewise.sources.objects import GROUP, OBJECT, REGION
from scenewise.types import Record, Size
from scenewise.views.decode import Decoded, decode
from scenewise.views.jpeg import is_jpeg
from scenewise.views.opencv import use_one_thread

LABEL, PRESENT, NOT_JUDGED = "label", "labels", "labels_not_judged"  # in a sidecar
BOXES, BOX_CLASSES, BOX_KINDS = "boxes", "box_classes", "box_kinds"


class Scaled(NamedTuple):
    """An image's file as it is packed, and its size (height, width), upright as stored."""

    content: bytes
    size: Size


class Prepared(NamedTuple):
    """An image ready to be written: its split by number, its file and sidecar; without a file `reason` says why."""

    split: int
    key: str
    content: bytes
    sidecar: Mapping[str, Any]
    reason: str = ""


def scaled_size(size: Size, short_side: int) -> Size:
    """Return the (height, width) with a short side of at most `short_side` pixels; never larger than it was."""
    shorter = min(size)
    if shorter <= short_side:
        return size
    height, width = (max(short_side, round(side * short_side / shorter)) for side in size)
    return height, width


def scale_image(record: Record, *, short_side: int, quality: int) -> Scaled:
    """Return an image's file, its pixels upright and its short side at most `short_side`, as JPEG of that quality.

    A JPEG file that is small enough and has no rotation to be applied is returned byte for byte, once it has been
    decoded to its end. Large photos are decoded at the smallest JPEG scale that still covers the result, then resized
    by Pillow's Lanczos filter (anti-aliased; it keeps more detail than an area mean, which views are cut from later).
    Raises ImageError where the image cannot be read.
    """
    data = record.read()
    size = scaled_size(record.size, short_side)
    whole = np.array([0, 0, record.size[1], record.size[0]], np.float32)
    decoded = decode(data, record.size, record.orientation, boxes_and_outputs=[(whole, min(size))])
    if size == record.size and isinstance(data, bytes) and is_jpeg(data) and record.orientation == 1:
        return Scaled(data, size)
    pixels = _resized(decoded, whole, size)
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), flags)
    assert done, "OpenCV writes JPEG"
    return Scaled(encoded.tobytes(), size)


def _resized(decoded: Decoded, whole: Float32[np.ndarray, "4"], size: Size) -> UInt8[np.ndarray, "H W 3"]:
    """Return the photo, which lies at `whole` in its own pixels, at (height, width)."""
    height, width = decoded.pixels.shape[:2]
    if (height, width) == size:
        return decoded.pixels
    # a photo decoded at a reduced scale may end within its last pixel: only what is photo is resized
    left, top, right, bottom = decoded.locate(whole).astype(float).tolist()
    box = (left, top, min(right, width), min(bottom, height))
    image = PIL.Image.fromarray(decoded.pixels)
    return np.asarray(image.resize(size[::-1], PIL.Image.Resampling.LANCZOS, box=box))


def scale_boxes(
    boxes: Float[np.ndarray, "N 4"] | Int[np.ndarray, "N 4"], before: Size, after: Size
) -> Float[np.ndarray, "N 4"]:
    """Return boxes of an image of size `before` (height, width) in pixels of the same image of size `after`; float64.

    They stay inside.
    """
    ratio = np.array([after[1] / before[1], after[0] / before[0]] * 2)
    limits = np.array([after[1], after[0]] * 2, np.float64)
    return np.asarray(np.clip(boxes.astype(np.float64) * ratio, 0, limits))


def scale_proposals(boxes: Int32[np.ndarray, "N 4"], before: Size, after: Size) -> Int32[np.ndarray, "N 4"]:
    """Return whole boxes likewise, rounded, each of them at least one pixel wide and high; none is dropped."""
    rounded = np.rint(scale_boxes(boxes, before, after)).astype(np.int32)
    starts = np.minimum(rounded[:, :2], np.array([after[1], after[0]], np.int32) - 1)
    return np.concatenate([starts, np.maximum(rounded[:, 2:], starts + 1)], axis=1)


@dataclass(frozen=True, slots=True)
class Found:
    """The labelled objects of an image: (n, 4) boxes, (n,) classes, (n,) kinds of `sources.objects`."""

    boxes: Float32[np.ndarray, "objects 4"]
    classes: Int64[np.ndarray, " objects"]
    kinds: Int64[np.ndarray, " objects"]


def find_objects(source: Source, index: int) -> Found:
    """Return the objects of an image of a source that has boxes, with those of its instances that are ignored."""
    assert isinstance(source, HasBoxes), "asked only of sources with boxes"
    boxes, classes = source.boxes(index)
    if not isinstance(source, HasInstances):
        return Found(boxes, classes, np.full(len(boxes), OBJECT))
    found = source.instances(index)
    certain = int((~found.ignored).sum())
    assert len(boxes) in (certain, len(found.boxes)), "`boxes` has the ignored objects of an image, or has none of them"
    ignored = GROUP if len(boxes) == len(found.boxes) else REGION
    return Found(found.boxes, found.classes, np.where(found.ignored, ignored, OBJECT))


def annotated(source: Source) -> np.ndarray:
    """Return (N,) bool: which images somebody has looked at for objects."""
    if isinstance(source, HasInstances):
        return source.with_boxes()
    return np.full(len(source), isinstance(source, HasBoxes))


class Images(Dataset[Prepared | UserError]):
    """The images of all splits as they are packed, by number; in whichever process that is."""

    def __init__(self, sources: Sequence[Source], *, short_side: int, quality: int) -> None:
        self._sources, self._short_side, self._quality = tuple(sources), short_side, quality
        self._starts = np.cumsum([0, *map(len, sources)])
        self._annotated = [annotated(source) for source in sources]

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, number: int) -> Prepared | UserError:
        """Return an image. A UserError is returned: raised in a worker it would arrive with a traceback inside."""
        use_one_thread()
        split = int(np.searchsorted(self._starts, number, side="right")) - 1
        try:
            return self._prepare(split, number - int(self._starts[split]))
        except UserError as error:
            return error

    def _prepare(self, split: int, index: int) -> Prepared:
        source = self._sources[split]
        record = source[index]
        try:
            scaled = scale_image(record, short_side=self._short_side, quality=self._quality)
        except ImageError as error:
            return Prepared(split, record.key, b"", {}, reason=str(error))
        sidecar: dict[str, Any] = {"key": record.key, "height": scaled.size[0], "width": scaled.size[1]}
        sidecar |= label_entries(record.labels)
        if self._annotated[split][index]:
            found = find_objects(source, index)
            boxes = scale_boxes(found.boxes, record.size, scaled.size).astype(np.float32)
            sidecar |= {BOXES: boxes.tolist(), BOX_CLASSES: found.classes.tolist(), BOX_KINDS: found.kinds.tolist()}
        return Prepared(split, record.key, scaled.content, sidecar)


def label_entries(labels: int | np.ndarray | None) -> dict[str, Any]:
    """Return what a sidecar says of an image's label: a class number, or those present and those not judged."""
    if labels is None:
        return {}
    if isinstance(labels, np.ndarray):
        present, unknown = (np.flatnonzero(labels == value).tolist() for value in (1, -1))
        return {PRESENT: present, NOT_JUDGED: unknown}
    return {LABEL: int(labels)}
