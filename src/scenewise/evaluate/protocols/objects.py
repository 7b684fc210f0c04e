"""Nearest neighbours of single objects: each labelled box of the test images, by cosine, among the training images'.

Photos of scenes show several things, so a photo's pooled features answer for all of them at once; here each object is
asked about alone, nothing is trained. Ours: no publication names such a protocol. The vote is the kNN protocol's
(InstDisc with DINO's settings), recall@k is that of image retrieval: a box of the same class among the k nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Int64
from torch import Tensor

from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam, shared_images, skip_notes
from scenewise.evaluate.feature_cache import weights_digest
from scenewise.evaluate.intervals import Statistic
from scenewise.evaluate.labels import keep_classes
from scenewise.evaluate.metrics import knn_predict
from scenewise.evaluate.neighbours import nearest
from scenewise.evaluate.object_features import ObjectFeatures, exam_objects, object_features
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.task import Outcome, Part, measure
from scenewise.settings import Count, NotNegative, Pixels, Positive, check_fields

RECALLS = (1, 5, 10)  # the k of recall@k


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The vote's settings are the kNN protocol's; those of the boxes are ours."""

    k: Count = 20  # DINO (arXiv 2104.14294, section 4.2)
    temperature: Positive = 0.07  # InstDisc (arXiv 1805.01978, section 3.4), DINO
    margin: NotNegative = 0.0  # share of a box's sides that is added to them in all: the object alone
    min_side: Pixels = 16.0  # of the photo: what is smaller shows little more than a colour

    def __post_init__(self) -> None:
        check_fields("objects", self)


def check(exam: Exam, config: Config) -> None:
    """Raise UserError for a part without boxes, and for a k above the number of training boxes."""
    known, asked = (exam_objects(exam, part, min_side=config.min_side) for part in ("train", "test"))
    parts = (Part(torch.empty(len(each), 0), torch.from_numpy(each.labels)) for each in (known, asked))
    kept, _ = _judged_classes(exam, *parts)
    check_size(config, int(kept[known.labels].sum()))


def check_size(config: Config, boxes: int) -> None:
    """Raise UserError for a k above the number of training boxes."""
    if config.k > boxes:
        raise UserError(f"objects.k: {config.k} is not possible with {boxes} training boxes; allowed are 1..{boxes}")


def run(exam: Exam, config: Config) -> Outcome:
    """Return recall@1, 5 and 10, top1 of the vote and "accuracy/NAME" of each class, shares 0..1 of the test boxes.

    UserError when k does not fit the training boxes, or no box can be judged.
    """
    key = weights_digest(exam.backbone) if exam.cache else None
    found = {
        part: object_features(exam, part, margin=config.margin, min_side=config.min_side, key=key)
        for part in ("train", "test")
    }
    train, test, notes = _judged(exam, found["train"], found["test"])
    check_size(config, len(train.objects))
    owners, first = _owners(test)
    statistic = box_statistic(
        hits(train, test, config=config, classes=len(exam.train.classes)),
        torch.from_numpy(test.objects.labels),
        owners,
        exam.train.classes,
    )
    unreadable = [
        note
        for part, each in found.items()
        for note in (
            *each.notes,
            *skip_notes(part, each.skipped, len(each.skipped) + len(np.unique(each.objects.image))),
        )
    ]
    return measure(
        statistic,
        tuple(test.digest[first].tolist()),
        seed=exam.seed,
        resamples=exam.resamples,
        notes=(*unreadable, *notes, _sentence(train, test, config)),
        counts=_counts(exam, found, train, test),
        skipped={part: each.skipped for part, each in found.items()},
    )


def _judged(
    exam: Exam, train: ObjectFeatures, test: ObjectFeatures
) -> tuple[ObjectFeatures, ObjectFeatures, tuple[str, ...]]:
    """Return both parts without the boxes of classes too rare to be found, and what is said of them."""
    shared = shared_images(*(np.unique(each.digest) for each in (train, test)))
    parts = (Part(each.features, torch.from_numpy(each.objects.labels)) for each in (train, test))
    kept, notes = _judged_classes(exam, *parts)
    return (
        train.only(kept[train.objects.labels]),
        test.only(kept[test.objects.labels]),
        (*shared, *(f"objects: {note}" for note in notes)),
    )


def _judged_classes(exam: Exam, train: Part, test: Part) -> tuple[Bool[np.ndarray, " classes"], tuple[str, ...]]:
    """Return which classes of the labels are judged, and what is said of the others."""
    judged = keep_classes(train, test, exam.train.classes, min_positives=exam.min_positives)
    return np.array([name in judged.classes for name in exam.train.classes]), judged.notes


def _owners(test: ObjectFeatures) -> tuple[Int64[Tensor, " objects"], Int64[np.ndarray, " images"]]:
    """Return the place of each box's image among those that have one, and the first box of each such image."""
    _, first, owners = np.unique(test.objects.image, return_index=True, return_inverse=True)
    return torch.from_numpy(owners.astype(np.int64)), first


def hits(
    train: ObjectFeatures, test: ObjectFeatures, *, config: Config, classes: int
) -> dict[str, Bool[Tensor, " objects"]]:
    """Return, by figure, of which test boxes the class was found; recall@k only where there are k training boxes."""
    labels, bank = (torch.from_numpy(each.objects.labels).to(each.features.device) for each in (test, train))
    predicted = knn_predict(
        test.features, train.features, bank, classes=classes, k=config.k, temperature=config.temperature
    )
    right = [
        bank[rows] == labels[chunk, None] for chunk, _, rows in nearest(test.features, train.features, k=max(RECALLS))
    ]
    near = torch.cat(right)  # (M, 10), nearest first
    found = {f"recall@{k}": near[:, :k].any(dim=1).cpu() for k in RECALLS if k <= near.shape[1]}
    return found | {"top1": (predicted == labels).cpu()}


def box_statistic(
    found: Mapping[str, Bool[Tensor, " objects"]],
    labels: Int64[Tensor, " objects"],
    owners: Int64[Tensor, " objects"],
    classes: Sequence[str],
) -> Statistic:
    """Return the statistic of shares of test boxes; the weight of a box is that of its image, as boxes share a photo.

    owners: (M,) the place of each box's image among the images that are weighted. "accuracy/NAME" is of "top1". A class
    without a box in a sample has no accuracy there.
    """
    images = int(owners.max()) + 1
    boxes = owners.bincount(minlength=images).double()  # (N,)
    right = {name: owners.bincount(weights=hit.double(), minlength=images) for name, hit in found.items()}
    cell = owners * len(classes) + labels  # (M,) of a table (N, C)
    of_class, right_of_class = (
        cell.bincount(weights=weight, minlength=images * len(classes)).reshape(images, -1)
        for weight in (torch.ones(len(labels), dtype=torch.float64), found["top1"].double())
    )

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        counts = weights.double()
        figures = {name: counts @ each / (counts @ boxes) for name, each in right.items()}
        shares = counts @ right_of_class / (counts @ of_class)  # (samples, C), 0 / 0 = NaN
        return figures | {f"accuracy/{name}": shares[:, number] for number, name in enumerate(classes)}

    return statistic


def _sentence(train: ObjectFeatures, test: ObjectFeatures, config: Config) -> str:
    left_out = ", ".join(
        f"{part} {each.objects.ignored} ignored and {each.objects.small} small"
        for part, each in (("train", train), ("test", test))
    )
    absent = [f"recall@{k}" for k in RECALLS if k > len(train.objects)]
    return (
        f"objects: {len(test.objects)} boxes among {len(train.objects)}, k = {config.k}, temperature = "
        f"{config.temperature:g}, margin {config.margin:g}; left out: {left_out} (a side under {config.min_side:g} px)"
        + (f"; too few training boxes for {', '.join(absent)}" if absent else "")
    )


def _counts(
    exam: Exam, found: Mapping[str, ObjectFeatures], train: ObjectFeatures, test: ObjectFeatures
) -> dict[str, int]:
    counts = exam.counts(
        classes=len(np.unique(train.objects.labels)),
        train=len(np.unique(train.objects.image)),
        test=len(np.unique(test.objects.image)),
        skipped={part: each.skipped for part, each in found.items()},
    )
    for part, used in (("train", train), ("test", test)):
        counts |= {
            f"{part}_boxes": len(used.objects),
            f"{part}_boxes_ignored": used.objects.ignored,
            f"{part}_boxes_small": used.objects.small,
        }
    return counts


PROTOCOL = Protocol(
    "nearest neighbours of each labelled object among those of the training images; nothing is trained",
    Config,
    run,
    needs="boxes",
    check=check,
)
