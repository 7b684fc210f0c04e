"""What a protocol is given: a backbone, the labelled images of both parts, and frozen features made once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt64
from torch import nn

from scenewise.errors import UserError
from scenewise.evaluate.feature_cache import Features, weights_digest
from scenewise.evaluate.features import Look, extract_features
from scenewise.evaluate.intervals import RESAMPLES
from scenewise.evaluate.labels import Judged, choose, has_label, keep_classes, source_labels
from scenewise.evaluate.task import Part, Task
from scenewise.sources.base import HasInstances, Labels, Progress, Source
from scenewise.types import IMAGENET_MEAN, IMAGENET_STD, Colour, Skip

Need = Literal["labels", "boxes", "masks"]  # what an image must have been labelled with
NAMED_SKIPS = 5  # unreadable images named in a note; all of them are in Evaluation.skipped
_WITH_INSTANCES = "voc:, coco:, openimages:, yolo: or synthetic:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """A backbone, and the two parts it learns from (train) and is tested on (test).

    backbone: (B, 3, size, size) images normalised with `mean` and `std` -> (B, G) features. It belongs to the caller: a
    protocol that changes it works on a copy (`training.private_copy`). limit: images of each part at most, a seeded
    choice among those that have what the protocol needs. min_positives: see `keep_classes`.
    """

    backbone: nn.Module
    train: Source
    test: Source
    size: int
    mean: Colour = IMAGENET_MEAN
    std: Colour = IMAGENET_STD
    seed: int = 0
    limit: int | None = None
    min_positives: int = 1
    resamples: int = RESAMPLES
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    workers: int = 0
    batch_size: int = 128
    progress: Progress | None = None
    cache: bool = True
    tasks: dict[Look, Task] = field(default_factory=dict, repr=False)  # those made so far

    def images(self, part: str, need: Need) -> Int64[np.ndarray, " chosen"]:
        """Return the numbers of a part's images that have what is needed, at most `limit`, in rising order.

        UserError when the source has none.
        """
        return choose(self.usable(part, need), limit=self.limit, seed=self.seed, part=part)

    def usable(self, part: str, need: Need) -> Bool[np.ndarray, " images"]:
        """Return which images of a part have what is needed; UserError when none has."""
        return _usable(self.source(part), part, need)

    def source(self, part: str) -> Source:
        """Return the source of `train` or `test`."""
        return {"train": self.train, "test": self.test}[part]

    def instances(self, part: str) -> HasInstances:
        """Return the source of a part as one that knows the objects of its images; UserError when it does not."""
        source = self.source(part)
        if not isinstance(source, HasInstances):
            raise UserError(f"{part} data: {source.spec} has no labelled boxes; use {_WITH_INSTANCES}")
        return source

    def counts(self, *, classes: int, train: int, test: int, skipped: Mapping[str, Sequence[Skip]]) -> dict[str, int]:
        """Return what was used and left out, as every outcome names it; train, test: the images used of each part."""
        return {
            "classes": classes,
            "train_images": train,
            "test_images": test,
            "train_skipped": len(skipped["train"]),
            "test_skipped": len(skipped["test"]),
            "train_in_source": len(self.train),
            "test_in_source": len(self.test),
        }

    def outline(self) -> Judged:
        """Return both parts as they will be if every image can be read, with features (N, 0); no image is read.

        UserError when too few classes can be judged.
        """
        train, test = (
            Part(torch.empty(len(chosen), 0), torch.from_numpy(source_labels(self.source(part), part)[chosen]))
            for part in ("train", "test")
            for chosen in [self.images(part, "labels")]
        )
        return keep_classes(train, test, self.train.classes, min_positives=self.min_positives)

    def task(self, look: Look | None = None) -> Task:
        """Return the frozen features of both parts with their labels, made at the first call.

        look: how an image is turned into features; the pooled features of the test view by default.
        """
        look = look or Look()
        if look not in self.tasks:
            self.tasks[look] = _make_task(self, look)
        return self.tasks[look]


def _usable(source: Source, part: str, need: Need) -> Bool[np.ndarray, " images"]:
    """Return which images have what is needed; UserError, with what to use instead, when none has."""
    if need == "labels":
        usable, what = has_label(source_labels(source, part)), "a label"
    elif not isinstance(source, HasInstances):
        raise UserError(f"{part} data: {source.spec} has no labelled {need}; use {_WITH_INSTANCES}")
    elif need == "boxes":
        usable, what = source.with_boxes(), "labelled boxes"
    else:
        usable, what = source.with_masks(), "masks of its objects"
    if not usable.any():
        raise UserError(f"{part} data: none of the {len(usable)} images of {source.spec} has {what}")
    return usable


def _make_task(exam: Exam, look: Look) -> Task:
    key = weights_digest(exam.backbone) if exam.cache else None
    labels = {part: source_labels(exam.source(part), part) for part in ("train", "test")}
    found = {
        part: extract_features(
            exam.backbone,
            exam.source(part),
            size=exam.size,
            indices=exam.images(part, "labels"),
            look=look,
            batch_size=exam.batch_size,
            device=exam.device,
            workers=exam.workers,
            progress=exam.progress,
            cache_key=key,
            mean=exam.mean,
            std=exam.std,
        )
        for part in labels
    }
    shared = shared_images(found["train"].digest, found["test"].digest)
    train, test = (_part(found[part], labels[part], exam.device) for part in ("train", "test"))
    judged = keep_classes(train, test, exam.train.classes, min_positives=exam.min_positives)
    skipped = {part: features.skipped for part, features in found.items()}
    notes = [
        note
        for part, features in found.items()
        for note in (
            *features.notes,
            *skip_notes(part, features.skipped, len(features.skipped) + len(features.index)),
        )
    ]
    return Task(
        train=judged.train,
        test=judged.test,
        classes=judged.classes,
        multi_label=exam.train.multi_label,
        seed=exam.seed,
        resamples=exam.resamples,
        # by name: a copy of the data, with other times and in another place, holds the same images
        images=tuple(exam.test[index].key for index in found["test"].index[judged.rows.numpy()].tolist()),
        notes=(*notes, *shared, *judged.notes),
        counts=exam.counts(
            classes=len(judged.classes),
            train=len(judged.train.labels),
            test=len(judged.test.labels),
            skipped=skipped,
        ),
        skipped=skipped,
    )


def shared_images(train: UInt64[np.ndarray, " train"], test: UInt64[np.ndarray, " test"]) -> list[str]:
    """Return a note when test images have the digest of a training image; UserError when they all do."""
    same = np.isin(test, train)
    if same.all():
        raise UserError(f"test data: each of the {len(same)} test images is also a training image; name others")
    if not same.any():
        return []
    return [f"{int(same.sum())} of {len(same)} test images are pixel for pixel also training images"]


def skip_notes(part: str, skipped: Sequence[Skip], images: int) -> list[str]:
    """Return a note that names the first of a part's unreadable images, where there are any among so many."""
    if not skipped:
        return []
    named = ", ".join(f"{skip.key} ({skip.reason})" for skip in skipped[:NAMED_SKIPS])
    more = f" and {len(skipped) - NAMED_SKIPS} more" if len(skipped) > NAMED_SKIPS else ""
    return [f"{part}: {len(skipped)} of {images} images were unreadable and left out: {named}{more}"]


def _part(found: Features, labels: Labels, device: torch.device) -> Part:
    chosen = torch.from_numpy(np.ascontiguousarray(labels[found.index]))
    return Part(torch.from_numpy(found.features).to(device), chosen.to(device))
