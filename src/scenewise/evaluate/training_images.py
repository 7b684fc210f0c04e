"""The labelled images that a whole network is trained on: which they are, and augmented batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scenewise import keys
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.features import start_worker
from scenewise.evaluate.labels import source_labels
from scenewise.evaluate.task import Task
from scenewise.evaluate.training import draw_batches
from scenewise.sources.base import Source
from scenewise.types import Batch
from scenewise.views.loading import load_batch
from scenewise.views.opencv import use_one_thread
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot

SLOT = "image"  # the name of the one view of an image
SCALE = (0.08, 1.0)  # torchvision's RandomResizedCrop; SwAV eval_semisup.py, OpenSelfSup, MoCo train with it
AUGMENTATION = "weak"  # a crop and a mirror with probability 1/2, no colour: as in the same publications


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images of a source by their numbers (N,), with labels: (N,) class numbers, or (N, C) of 1, 0, -1 (not judged)."""

    source: Source
    index: Int64[np.ndarray, " images"]
    labels: Int[Tensor, " images"] | Int[Tensor, "images classes"]

    def __len__(self) -> int:
        return len(self.index)

    def only(self, rows: Bool[Tensor, " images"]) -> Labelled:
        """Return the images of these rows."""
        return Labelled(self.source, self.index[rows.numpy()], self.labels[rows])


def labelled(exam: Exam, task: Task, part: Literal["train", "test"]) -> Labelled:
    """Return the images behind the rows of the exam's task: read once already, of classes that can be judged."""
    rows = {"train": task.train, "test": task.test}[part]
    source, index = exam.source(part), exam.images(part, "labels")
    unreadable = [skip.index for skip in task.skipped.get(part, ())]
    index = index[~np.isin(index, unreadable)]
    if not task.multi_label:  # the images of a class that cannot be learnt were left out with it
        kept = np.array([name in task.classes for name in source.classes])
        index = index[kept[source_labels(source, part)[index]]]
    assert len(index) == len(rows.labels)
    return Labelled(source, index, rows.labels.cpu())


def augmented_batches(
    images: Labelled, *, size: int, batch: int, iterations: int, seed: int, name: str, workers: int = 0
) -> Iterator[Batch]:
    """Yield batches of random crops of `size` pixels; `index` of a batch are its rows (B,) in `images`.

    The pixels of an image depend on (seed, name, epoch, image) alone. One that can no longer be read is replaced by
    another of these images, in place, and named in `skipped`.
    """
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that
    loader = DataLoader(
        _Batches(images, Slot(augmentation=AUGMENTATION, size=size, scale=SCALE), keys.integer(seed, name, "views")),
        batch_size=None,  # an item is a whole batch
        sampler=_Order(len(images), batch, iterations, seed, name),
        num_workers=workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )
    yield from loader


@dataclass(frozen=True, slots=True)
class _Order:
    """(epoch, rows) of every iteration, drawn when it is asked for."""

    images: int
    batch: int
    iterations: int
    seed: int
    name: str

    def __len__(self) -> int:
        return self.iterations

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        seen = 0
        for _, rows in draw_batches(self.images, self.batch, self.iterations, seed=self.seed, name=self.name):
            yield seen // self.images, rows
            seen += len(rows)


class _Batches(Dataset[Batch]):
    """The batch of (epoch, rows)."""

    def __init__(self, images: Labelled, slot: Slot, seed: int) -> None:
        self.images, self.slot, self.seed = images, slot, seed

    def __getitem__(self, wanted: tuple[int, Tensor]) -> Batch:
        epoch, rows = wanted
        return load_batch(
            lambda row: self.images.source[int(self.images.index[row])],
            len(self.images),
            rows.tolist(),
            policy=Scene(),
            slots={SLOT: self.slot},
            seed=self.seed,
            epoch=epoch,
        )
