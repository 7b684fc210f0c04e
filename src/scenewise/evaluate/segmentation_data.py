"""Photos with a class for each pixel: each is read and checked once before training, then drawn in batches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8, UInt64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scenewise import keys
from scenewise.errors import ImageError, UserError
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.feature_cache import content_digest
from scenewise.evaluate.features import start_worker
from scenewise.evaluate.segmentation_views import Cut, Scene, fitted, training_view
from scenewise.evaluate.training import draw_batches
from scenewise.sources.base import NOT_JUDGED, HasInstances, Source
from scenewise.types import Skip
from scenewise.views.decode import decode
from scenewise.views.opencv import use_one_thread

KEPT_BYTES = 1 << 29  # of decoded photos held in memory, so that small sets are read once
NAMED_PROBLEMS = 5  # faulty class maps named in an error


class Scenes:
    """The photos of a part that can be read. `side`: the shorter side in pixels at which they are seen at most.

    index, digest: (N,) their numbers in the source, digests of their content. skipped: the others. present: values of
    their class maps.
    """

    def __init__(
        self,
        source: HasInstances,
        side: int,
        *,
        index: Int64[np.ndarray, " scenes"],
        digest: UInt64[np.ndarray, " scenes"],
        skipped: tuple[Skip, ...],
        present: frozenset[int],
        kept: Mapping[int, Scene],
    ) -> None:
        self.source, self.side = source, side
        self.index, self.digest, self.skipped, self.present = index, digest, skipped, present
        self._kept = kept

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, place: int) -> Scene:
        """Return a scene from memory, or read it again; UserError when that is no longer possible."""
        number = int(self.index[place])
        if number in self._kept:
            return self._kept[number]
        found = _read(self.source, number, self.side, classes=NOT_JUDGED - 1)
        if isinstance(found, Scene):
            return found
        raise UserError(f"data: {found}" if isinstance(found, str) else f"data: {found.key}: {found.reason}")


def read_scenes(exam: Exam, part: str, *, side: int, keep: int = 0) -> Scenes:
    """Read every photo of a part and its class map once; at most `keep` bytes of them stay in memory.

    Photos that cannot be read are left out. UserError when none can, or when a class map is not as large as its photo
    or holds a class that does not exist, with the first such records.
    """
    source, wanted = exam.instances(part), exam.images(part, "masks")
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that
    loader = DataLoader(
        _Reading(source, wanted, side, len(exam.source(part).classes)),
        batch_size=None,
        num_workers=exam.workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )
    index, digest, skipped, problems = list[int](), list[int](), list[Skip](), list[str]()
    present, kept, free = set[int](), dict[int, Scene](), keep
    for done, found in enumerate(loader, start=1):
        if isinstance(found, str):
            problems.append(found)
        elif isinstance(found, Skip):
            skipped.append(found)
        else:
            index.append(found.index)
            digest.append(found.digest)
            present.update(np.flatnonzero(np.bincount(found.class_map.ravel())).tolist())
            if found.bytes <= free:
                kept[found.index] = found
                free -= found.bytes
        if exam.progress is not None:
            exam.progress(f"segment: reading the {part} images", done, len(wanted))
    if problems:
        more = [f"and {len(problems) - NAMED_PROBLEMS} more"] if len(problems) > NAMED_PROBLEMS else []
        raise UserError(*(f"{part} data: {each}" for each in problems[:NAMED_PROBLEMS]), *more)
    if not index:
        raise UserError(f"{part} data: none of {len(wanted)} images could be read; {skipped[0].reason}")
    return Scenes(
        source,
        side,
        index=np.array(index, np.int64),
        digest=np.array(digest, np.uint64),
        skipped=tuple(skipped),
        present=frozenset(present),
        kept=kept,
    )


class _Reading(Dataset["Scene | Skip | str"]):
    """Each wanted image, or why it is left out, or what is wrong with its class map."""

    def __init__(self, source: HasInstances, wanted: Int64[np.ndarray, " images"], side: int, classes: int) -> None:
        self.source, self.wanted, self.side, self.classes = source, wanted, side, classes

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, place: int) -> Scene | Skip | str:
        return _read(self.source, int(self.wanted[place]), self.side, classes=self.classes)


def _read(source: HasInstances, number: int, side: int, *, classes: int) -> Scene | Skip | str:
    """Return the photo, decoded as finely as a shorter side of `side` px needs it, or a Skip, or what is wrong."""
    assert isinstance(source, Source)
    record = source[number]
    height, width = record.size
    photo = np.array([0, 0, width, height], np.float32)
    try:
        data = record.read()
        decoded = decode(
            data, record.size, record.orientation, boxes_and_outputs=[(photo, min(fitted(record.size, side)))]
        )
    except ImageError as error:
        return Skip(number, record.key, str(error))
    class_map = source.class_map(number)
    if class_map.shape != record.size:
        rows, columns = class_map.shape
        return f"{record.key}: its class map has {columns} x {rows} pixels, the photo {width} x {height}"
    highest = int(class_map[class_map != NOT_JUDGED].max(initial=0))
    if highest > classes:
        return f"{record.key}: its class map holds {highest}, allowed are 0..{classes} and {NOT_JUDGED} (not judged)"
    return Scene(number, record.size, decoded, class_map, content_digest(data))


def training_batches(
    scenes: Scenes, cut: Cut, *, batch: int, iterations: int, seed: int, workers: int
) -> Iterator[tuple[UInt8[Tensor, "batch 3 size size"], UInt8[Tensor, "batch size size"]]]:
    """Yield batches of views and classes; those of an image depend on (seed, "segment", epoch, image) alone."""
    use_one_thread()
    loader = DataLoader(
        _Batches(scenes, cut, seed),
        batch_size=None,  # an item is a whole batch
        sampler=_Order(len(scenes), batch, iterations, seed),
        num_workers=workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),
    )
    for views in loader:  # a list, made of each pair by the loader
        yield views[0], views[1]


@dataclass(frozen=True, slots=True)
class _Order:
    """(epoch, places) of every iteration, drawn when it is asked for."""

    images: int
    batch: int
    iterations: int
    seed: int

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        an_epoch = math.ceil(self.images / min(self.batch, self.images))
        for step, places in draw_batches(self.images, self.batch, self.iterations, seed=self.seed, name="segment"):
            yield step // an_epoch, places.tolist()


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """The batch of (epoch, places)."""

    def __init__(self, scenes: Scenes, cut: Cut, seed: int) -> None:
        self.scenes, self.cut, self.seed = scenes, cut, seed

    def __getitem__(self, wanted: tuple[int, list[int]]) -> tuple[Tensor, Tensor]:
        epoch, places = wanted
        views = []
        for place in places:
            scene = self.scenes[place]
            views.append(training_view(scene, self.cut, keys.generator(self.seed, "segment", epoch, scene.index)))
        images, targets = (np.stack(each) for each in zip(*views, strict=True))
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(targets)
