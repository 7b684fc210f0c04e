"""Photos with labelled objects: each is read and checked once before training, then drawn in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8, UInt64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scenewise import keys
from scenewise.errors import ImageError, UserError
from scenewise.evaluate.detection_matches import Objects, box_areas, encode, mask_areas
from scenewise.evaluate.detection_views import Photo, resized, seen_at, training_view
from scenewise.evaluate.exam import Exam, Need
from scenewise.evaluate.feature_cache import content_digest
from scenewise.evaluate.features import start_worker
from scenewise.evaluate.training import draw_batches
from scenewise.sources.base import HasInstances, Source
from scenewise.types import Skip
from scenewise.views.decode import decode
from scenewise.views.opencv import use_one_thread

KEPT_BYTES = 1 << 29  # of decoded photos held in memory, so that small sets are read once
NAMED_PROBLEMS = 5  # faulty records named in an error

# objects of each class in each image (N, C): all, and those that are not ignored
ObjectCounts = tuple[Int64[np.ndarray, "images classes"], Int64[np.ndarray, "images classes"]]
TrainingBatch = tuple[list[Tensor], list[dict[str, Tensor]]]  # uint8 images (3, H, W); their targets


@dataclass(frozen=True, slots=True)
class Reading:
    """How photos are read. side: the shorter side in pixels at which they are seen at most. masks: with their masks."""

    source: HasInstances
    side: int
    classes: int
    masks: bool

    def read(self, index: int) -> Photo | Skip | str:
        """Return a photo, or why it cannot be read, or what is wrong with its objects."""
        assert isinstance(self.source, Source)
        record = self.source[index]
        height, width = record.size
        whole = np.array([0, 0, width, height], np.float32)
        try:
            data = record.read()
            short = min(seen_at(record.size, self.side, self.side))
            decoded = decode(data, record.size, record.orientation, boxes_and_outputs=[(whole, short)])
        except ImageError as error:
            return Skip(index, record.key, str(error))
        found = self.source.instances(index, masks=self.masks)
        if self.masks and found.masks is None:
            return f"{record.key}: it has no masks"
        if found.masks is not None and found.masks.shape[1:] != record.size:
            rows, columns = found.masks.shape[1:]
            return f"{record.key}: its masks have {columns} x {rows} pixels, the photo {width} x {height}"
        if len(found.classes) and not 0 <= found.classes.min() <= found.classes.max() < self.classes:
            return f"{record.key}: an object of a class outside 0..{self.classes - 1}"
        boxes = found.boxes.astype(np.float64)
        masks = tuple(encode(found.masks)) if found.masks is not None else ()
        areas = mask_areas(masks) if self.masks else box_areas(boxes)
        objects = Objects(boxes, found.classes, found.ignored, areas, masks)
        return Photo(index, record.key, record.size, decoded, objects, content_digest(data))


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos of a part that can be read.

    index, digest: (N,) their numbers in the source, digests of their content. keys: their names. seen, learnable: (N,
    C) objects of each class, all and those that are not ignored. skipped: the others.
    """

    reading: Reading
    index: Int64[np.ndarray, " photos"]
    digest: UInt64[np.ndarray, " photos"]
    keys: tuple[str, ...]
    seen: Int64[np.ndarray, "photos classes"]
    learnable: Int64[np.ndarray, "photos classes"]
    skipped: tuple[Skip, ...]
    kept: Mapping[int, Photo]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> Photo:
        """Return a photo from memory, or read it again; UserError when that is no longer possible."""
        index = int(self.index[place])
        if index in self.kept:
            return self.kept[index]
        found = self.reading.read(index)
        if isinstance(found, Photo):
            return found
        raise UserError(f"data: {found}" if isinstance(found, str) else f"data: {found.key}: {found.reason}")


def read_photos(exam: Exam, part: str, *, masks: bool, title: str, keep: int = KEPT_BYTES) -> Photos:
    """Read every photo of a part and its objects once; at most `keep` bytes of pixels stay in memory.

    Photos that cannot be read are left out. UserError when none can, or when the masks of some are not as large as
    their photos, with the first such records.
    """
    wanted = exam.images(part, "masks" if masks else "boxes")
    classes = len(exam.source(part).classes)
    reading = Reading(exam.instances(part), exam.size, classes, masks)
    index, digest, names = list[int](), list[int](), list[str]()
    skipped, problems = list[Skip](), list[str]()
    kept, free, counts = dict[int, Photo](), keep, list[np.ndarray]()
    for done, found in enumerate(_loader(_All(reading, wanted), range(len(wanted)), exam.workers), start=1):
        if isinstance(found, str):
            problems.append(found)
        elif isinstance(found, Skip):
            skipped.append(found)
        else:
            counts.append(_class_counts(found.objects.classes, found.objects.ignored, classes))
            if found.decoded.pixels.nbytes <= free:
                kept[found.index] = found
                free -= found.decoded.pixels.nbytes
            index.append(found.index)
            digest.append(found.digest)
            names.append(found.key)
        if exam.progress is not None:
            exam.progress(f"{title}: reading the {part} images", done, len(wanted))
    if problems:
        more = [f"and {len(problems) - NAMED_PROBLEMS} more"] if len(problems) > NAMED_PROBLEMS else []
        raise UserError(*(f"{part} data: {each}" for each in problems[:NAMED_PROBLEMS]), *more)
    if not index:
        raise UserError(f"{part} data: none of {len(wanted)} images could be read; {skipped[0].reason}")
    return Photos(
        reading=reading,
        index=np.array(index, np.int64),
        digest=np.array(digest, np.uint64),
        keys=tuple(names),
        seen=np.stack(counts)[:, 0],
        learnable=np.stack(counts)[:, 1],
        skipped=tuple(skipped),
        kept=kept,
    )


def count_objects(exam: Exam, part: str, needs: Need) -> ObjectCounts:
    """Return what the labels say of each image that has what is needed; no photo and no mask is read."""
    source, classes = exam.instances(part), len(exam.source(part).classes)
    labelled = [source.instances(index) for index in exam.images(part, needs).tolist()]
    counts = np.stack([_class_counts(each.classes, each.ignored, classes) for each in labelled])
    return counts[:, 0], counts[:, 1]


def training_batches(
    photos: Photos,
    places: Int64[np.ndarray, " chosen"],
    *,
    sides: Sequence[int],
    labels: Mapping[int, int],
    ignored: bool,
    batch: int,
    iterations: int,
    seed: int,
    name: str,
    workers: int,
) -> Iterator[TrainingBatch]:
    """Yield batches of the photos at these places; a view depends on (seed, name, "view", iteration, image) alone."""
    batches = [
        (iteration, places[rows.numpy()].tolist())
        for iteration, rows in draw_batches(len(places), batch, iterations, seed=seed, name=name)
    ]
    views = _Views(photos, tuple(sides), dict(labels), ignored, seed, name)
    yield from _loader(views, batches, workers)


def shown_images(photos: Photos, workers: int) -> Iterator[tuple[Photo, UInt8[Tensor, "3 height width"]]]:
    """Yield each photo and what the detector is shown of it: all of it at the test size."""
    yield from _loader(_Tests(photos), range(len(photos)), workers)


class _All(Dataset["Photo | Skip | str"]):
    def __init__(self, reading: Reading, wanted: Int64[np.ndarray, " images"]) -> None:
        self.reading, self.wanted = reading, wanted

    def __getitem__(self, place: int) -> Photo | Skip | str:
        return self.reading.read(int(self.wanted[place]))


class _Views(Dataset[TrainingBatch]):
    """The batch of (iteration, places)."""

    def __init__(
        self, photos: Photos, sides: tuple[int, ...], labels: dict[int, int], ignored: bool, seed: int, name: str
    ) -> None:
        self.photos, self.sides, self.labels, self.ignored = photos, sides, labels, ignored
        self.seed, self.name = seed, name

    def __getitem__(self, wanted: tuple[int, list[int]]) -> TrainingBatch:
        iteration, places = wanted
        views = [self._view(self.photos[place], iteration) for place in places]
        return [image for image, _ in views], [target for _, target in views]

    def _view(self, photo: Photo, iteration: int) -> tuple[Tensor, dict[str, Tensor]]:
        return training_view(
            photo,
            sides=self.sides,
            full=self.photos.reading.side,
            labels=self.labels,
            ignored=self.ignored,
            generator=keys.generator(self.seed, self.name, "view", iteration, photo.index),
        )


class _Tests(Dataset[tuple[Photo, Tensor]]):
    def __init__(self, photos: Photos) -> None:
        self.photos = photos

    def __getitem__(self, place: int) -> tuple[Photo, Tensor]:
        photo = self.photos[place]
        side = self.photos.reading.side
        return photo, torch.from_numpy(resized(photo, seen_at(photo.size, side, side))).permute(2, 0, 1)


def _loader(dataset: Dataset, order: Sequence, workers: int) -> DataLoader:  # type: ignore[type-arg]
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=order,
        num_workers=workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
        collate_fn=_as_it_is,
    )


def _as_it_is(item: object) -> object:
    return item


def _class_counts(
    numbers: Int64[np.ndarray, " objects"], ignored: Bool[np.ndarray, " objects"], classes: int
) -> Int64[np.ndarray, "2 classes"]:
    """Return the objects of each class: all, and those that are not ignored. Other classes' do not count."""
    every = np.arange(classes)[:, None]
    return np.stack([(each == every).sum(axis=1) for each in (numbers, numbers[~ignored])])
