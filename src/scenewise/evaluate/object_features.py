"""Frozen features of single objects: the crop of each labelled box, and the objects of one set nearest to another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8, UInt64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scenewise import geometry
from scenewise.errors import ImageError, UserError
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.feature_cache import Features, cache_file, content_digest, load, store
from scenewise.evaluate.features import start_worker
from scenewise.evaluate.neighbours import nearest
from scenewise.hardware import exact_float32
from scenewise.sources.base import HasInstances, Source
from scenewise.types import Record, Skip
from scenewise.views.collate import normalise
from scenewise.views.decode import decode
from scenewise.views.opencv import use_one_thread
from scenewise.views.photometric import crop_and_resize

VERSION = 2  # raised whenever the same backbone and source would give other features


@dataclass(frozen=True, slots=True)
class Objects:
    """Labelled boxes by row (M): the number in the source of the image of each, the box, and its class number.

    boxes: `x1, y1, x2, y2` in pixels of the photo, clipped to it, without any margin. ignored, small: how many boxes
    are not among them because the labels say so, or because a side is too short.
    """

    image: Int64[np.ndarray, " objects"]
    boxes: Float32[np.ndarray, "objects 4"]
    labels: Int64[np.ndarray, " objects"]
    ignored: int = 0
    small: int = 0

    def __len__(self) -> int:
        return len(self.image)

    def only(self, rows: Bool[np.ndarray, " objects"]) -> Objects:
        """Return the objects of these rows."""
        return replace(self, image=self.image[rows], boxes=self.boxes[rows], labels=self.labels[rows])


@dataclass(frozen=True, slots=True)
class ObjectFeatures:
    """Objects and their features (M, G); digest (M,): of the content of each one's image.

    skipped: images that could not be read, whose objects are left out. notes: sentences on the cache.
    """

    objects: Objects
    features: Float[Tensor, "objects features"]
    digest: UInt64[np.ndarray, " objects"]
    skipped: tuple[Skip, ...] = ()
    notes: tuple[str, ...] = ()

    def only(self, rows: Bool[np.ndarray, " objects"]) -> ObjectFeatures:
        """Return the objects of these rows with their features."""
        chosen = torch.from_numpy(rows).to(self.features.device)
        return replace(self, objects=self.objects.only(rows), features=self.features[chosen], digest=self.digest[rows])


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An object that is near to another: the number of its image in its source, its box there, class and cosine."""

    image: int
    box: tuple[float, float, float, float]
    label: int
    cosine: float


def neighbours_of(
    queries: ObjectFeatures, rows: Sequence[int], bank: ObjectFeatures, *, count: int
) -> list[list[Neighbour]]:
    """Return for each of the queries' `rows` the `count` objects of the bank with the highest cosine, nearest first.

    All there are when the bank has fewer. Among equal cosines the earlier row of the bank is nearer.
    """
    chosen = queries.features[torch.tensor(list(rows), dtype=torch.long, device=queries.features.device)]
    found: list[list[Neighbour]] = []
    for _, cosines, places in nearest(chosen, bank.features, k=count):
        for near, similar in zip(places.tolist(), cosines.tolist(), strict=True):
            found.append([_neighbour(bank.objects, row, cosine) for row, cosine in zip(near, similar, strict=True)])
    return found


def _neighbour(objects: Objects, row: int, cosine: float) -> Neighbour:
    left, top, right, bottom = objects.boxes[row].tolist()
    return Neighbour(int(objects.image[row]), (left, top, right, bottom), int(objects.labels[row]), cosine)


def find_objects(source: HasInstances, images: Int64[np.ndarray, " images"], *, min_side: float | int) -> Objects:
    """Return the objects of these images in their order, those that are ignored or have a side under `min_side` px not.

    Sides are judged within the photo. No image is read.
    """
    assert isinstance(source, Source)
    numbers, boxes, labels, ignored, small = [], [], [], 0, 0
    for number in images.tolist():
        found = source.instances(number)
        inside = geometry.clip(torch.from_numpy(found.boxes), source[number].size).numpy()
        short = (inside[:, 2:] - inside[:, :2]).min(axis=1, initial=np.inf)
        large = (short >= min_side) & (short > 0)
        kept = large & ~found.ignored
        ignored += int(found.ignored.sum())
        small += int((~large & ~found.ignored).sum())
        numbers.append(np.full(int(kept.sum()), number, np.int64))
        boxes.append(inside[kept].astype(np.float32))
        labels.append(found.classes[kept].astype(np.int64))
    return Objects(np.concatenate(numbers), np.concatenate(boxes), np.concatenate(labels), ignored, small)


def exam_objects(exam: Exam, part: str, *, min_side: float | int) -> Objects:
    """Return the objects of a part; UserError when none is left. No image is read."""
    objects = find_objects(exam.instances(part), exam.images(part, "boxes"), min_side=min_side)
    if not len(objects):
        raise UserError(
            f"{part} data: no labelled box of {exam.source(part).spec} is left: {objects.ignored} are ignored, "
            f"{objects.small} have a side under {min_side:g} px"
        )
    return objects


def object_features(exam: Exam, part: str, *, margin: float, min_side: float | int, key: str | None) -> ObjectFeatures:
    """Return the pooled features of every object of a part, in float32 on the exam's device; the backbone in eval mode.

    A box with its `margin` (of its own sides, in all; clipped) is resized to the exam's size both ways, its aspect not
    kept: the whole object and nothing else is seen. An image is decoded once for all its boxes. key: the digest of the
    backbone's weights, under which features are kept in the cache folder; None to keep none. UserError when no object
    is left.
    """
    source = exam.source(part)
    objects = exam_objects(exam, part, min_side=min_side)
    found, file = None, None
    if key is not None:
        content = (objects.image.tobytes(), objects.boxes.tobytes())
        look = ("objects", exam.size, margin, exam.mean, exam.std, VERSION, torch.__version__)
        file = cache_file(key, source.fingerprint, *content, *look, exam.device.type)
        found = load(file)
    if found is None:
        found = _extract(exam, part, objects, margin=margin)
        found = found if file is None else store(file, found)
    read = objects.only(np.isin(objects.image, found.index))
    return ObjectFeatures(
        read, torch.from_numpy(found.features).to(exam.device), found.digest, found.skipped, found.notes
    )


@dataclass(frozen=True, slots=True)
class _Seen:
    """The crops (n, S, S, 3) of an image's objects, its number and the digest of its content."""

    number: int
    digest: int
    crops: UInt8[np.ndarray, "boxes size size 3"]


class _Crops(Dataset["_Seen | Skip"]):
    """Each image that has objects, or why it cannot be read."""

    def __init__(self, source: Source, objects: Objects, *, size: int, margin: float) -> None:
        self.source, self.boxes, self.size, self.margin = source, objects.boxes, size, margin
        self.images, self.starts, self.counts = np.unique(objects.image, return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> _Seen | Skip:
        number, start = int(self.images[place]), int(self.starts[place])
        boxes = self.boxes[start : start + int(self.counts[place])]
        record = self.source[number]
        try:
            data = record.read()
            crops = crop(record, data, boxes, size=self.size, margin=self.margin)
        except ImageError as error:
            return Skip(number, record.key, str(error))
        return _Seen(number, content_digest(data), crops)


def crop(
    record: Record, data: bytes | np.ndarray, boxes: Float32[np.ndarray, "boxes 4"], *, size: int, margin: float
) -> UInt8[np.ndarray, "boxes size size 3"]:
    """Return each box of a photo with its margin, resized to `size` x `size`; ImageError where it cannot be read."""
    windows = geometry.dilate(torch.from_numpy(boxes), record.size, fraction=margin, mode="box").numpy()
    decoded = decode(data, record.size, record.orientation, boxes_and_outputs=[(window, size) for window in windows])
    return np.stack([crop_and_resize(decoded.pixels, window, size=size) for window in decoded.locate(windows)])


def _extract(exam: Exam, part: str, objects: Objects, *, margin: float) -> Features:
    """Return the features of the objects of the images that can be read, in their order."""
    images = _Crops(exam.source(part), objects, size=exam.size, margin=margin)
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that
    loader = DataLoader(
        images,
        batch_size=None,
        num_workers=exam.workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )
    training = exam.backbone.training
    exam.backbone.to(exam.device).eval()
    numbers, digests, rows = list[int](), list[int](), list[np.ndarray]()
    skipped, waiting = list[Skip](), list[np.ndarray]()
    try:
        for done, seen in enumerate(loader, start=1):
            if isinstance(seen, Skip):
                skipped.append(seen)
            else:
                numbers += [seen.number] * len(seen.crops)
                digests += [seen.digest] * len(seen.crops)
                waiting.append(seen.crops)
            if waiting and (sum(map(len, waiting)) >= exam.batch_size or done == len(images)):
                rows += _encode(exam, np.concatenate(waiting))
                waiting = []
            if exam.progress is not None:
                exam.progress(f"objects: {part} images", done, len(images))
    finally:
        exam.backbone.train(training)
    if not rows:
        raise UserError(f"{part} data: none of {len(images)} images could be read; {skipped[0].reason}")
    return Features(np.concatenate(rows), np.array(numbers, np.int64), np.array(digests, np.uint64), tuple(skipped))


@torch.no_grad()
@exact_float32()
def _encode(exam: Exam, crops: UInt8[np.ndarray, "boxes size size 3"]) -> list[Float32[np.ndarray, "batch features"]]:
    """Return the features of the crops, in batches of at most the exam's."""
    found = []
    for start in range(0, len(crops), exam.batch_size):
        batch = torch.from_numpy(crops[start : start + exam.batch_size]).permute(0, 3, 1, 2)
        inputs = normalise(batch.to(exam.device, non_blocking=True), mean=exam.mean, std=exam.std)
        found.append(exam.backbone(inputs).float().cpu().numpy())
    return found
