"""Which images and which classes an evaluation can use, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from scenewise import keys
from scenewise.errors import UserError
from scenewise.evaluate.task import Part
from scenewise.sources.base import Labels, Source


def source_labels(source: Source, part: str) -> Labels:
    """Return the labels of a source that has some; UserError for one without."""
    labels = source.labels()
    if labels is None or not source.classes:
        raise UserError(
            f"{part} data: {source.spec} has no labels, which an evaluation needs; "
            "use voc:, coco:, openimages:, yolo:, csv:, imagefolder:, cifar10:, cifar100:, stl10:, tinyimagenet: or "
            "synthetic:"
        )
    return labels


def check_pair(train: Source, test: Source) -> None:
    """Raise UserError when the two sources do not ask the same question, or are the same images."""
    problems = []
    if train.fingerprint == test.fingerprint:
        problems.append(f"test data: {test.spec} holds the images that are learnt from; name others")
    if train.multi_label != test.multi_label:
        kinds = {True: "several classes an image", False: "one class an image"}
        problems.append(
            f"test data: {test.spec} has {kinds[test.multi_label]}, {train.spec} has {kinds[train.multi_label]}"
            " (of a table with the option multi=1 an image may have several)"
        )
    if train.classes != test.classes:
        odd = sorted(set(train.classes) ^ set(test.classes))
        what = f"not in both: {', '.join(odd[:10])}" if odd else "the same names in another order"
        problems.append(f"test data: the classes of {test.spec} are not those of {train.spec} ({what})")
    if problems:
        raise UserError(*problems)


def choose(
    usable: Bool[np.ndarray, " images"], *, limit: int | None, seed: int, part: str
) -> Int64[np.ndarray, " chosen"]:
    """Return the numbers of the usable images, or a seeded choice of `limit` of them, in rising order.

    UserError when the limit is below 1.
    """
    numbers = np.flatnonzero(usable)
    if limit is None:
        return numbers
    if limit < 1:
        raise UserError(f"limit: {limit} leaves no image; at least 1")
    return np.sort(keys.generator(seed, "limit", part).permutation(numbers)[:limit])


def has_label(labels: Labels) -> Bool[np.ndarray, " images"]:
    """Return which images have a label; a class below 0 and a row of nothing but -1 are none."""
    known: np.ndarray = labels >= 0
    return known if known.ndim == 1 else np.logical_or.reduce(known, axis=1)


LISTED = 20  # classes named in a note
STEADY_POSITIVES = (
    20  # measured on drawn scores: with 4 to 18 positives a class, mAP read 10 % too high (0.118 for 0.107)
)


@dataclass(frozen=True, slots=True)
class Judged:
    """Both parts with the classes that can be judged; rows: the test rows that are left; notes: what is not."""

    train: Part
    test: Part
    classes: tuple[str, ...]
    rows: Bool[Tensor, " test"]
    notes: tuple[str, ...]


def keep_classes(train: Part, test: Part, classes: tuple[str, ...], *, min_positives: int = 1) -> Judged:
    """Leave out the classes with fewer than `min_positives` training images, and those that no test image has.

    With one class an image, the images of a class that is too rare to learn go with it, from both parts; a class that
    no test image has stays a possible answer but gets no figure. UserError when too few classes are left.
    """
    known, tested = _positives(train.labels, len(classes)), _positives(test.labels, len(classes))
    learnable, testable = known >= min_positives, tested > 0
    names = np.array(classes)
    notes = []
    if not learnable.all():
        fewer = "no positive" if min_positives == 1 else f"fewer than {min_positives} positives"
        notes.append(f"left out, {fewer} among the training images: {listed(names[~learnable])}")
    if not testable.all():
        notes.append(f"no figure, no positive among the test images: {listed(names[~testable])}")
    single = train.labels.dim() == 1
    thin = learnable & testable & (tested < STEADY_POSITIVES)
    if thin.any() and not single:
        notes.append(
            f"AP is unsteady and reads high, fewer than {STEADY_POSITIVES} positives among the test images: "
            f"{listed(names[thin])}"
        )
    kept = learnable if single else learnable & testable
    if kept.sum() < (2 if single else 1) or not (learnable & testable).any():
        raise UserError(_too_few(kept, single=single, min_positives=min_positives), *notes)
    if single:
        train, test, rows = _renumbered(train, kept)[0], *_renumbered(test, kept)
    else:
        columns = torch.from_numpy(np.flatnonzero(kept)).to(train.labels.device)
        train, test = (Part(part.features, part.labels[:, columns]) for part in (train, test))
        rows = torch.ones(len(test.labels), dtype=torch.bool)
    return Judged(train, test, tuple(names[kept].tolist()), rows, tuple(notes))


def _too_few(kept: Bool[np.ndarray, " classes"], *, single: bool, min_positives: int) -> str:
    """Return what is wrong where nothing can be judged, and how it can be mended."""
    needed = (
        "at least two need training images, and one of them test images"
        if single
        else "at least one needs positives among the training and the test images"
    )
    lower = "with a lower --min-positives, or " if min_positives > 1 else ""
    return (
        f"data: {int(kept.sum())} of {len(kept)} classes are left to judge, too few: {needed}; "
        f"try {lower}with a larger --limit, or name data with images of more classes"
    )


def _positives(labels: Tensor, classes: int) -> Int64[np.ndarray, " classes"]:
    counts = (labels > 0).sum(dim=0) if labels.dim() == 2 else labels.long().bincount(minlength=classes)
    numbers: np.ndarray = counts.cpu().numpy()
    return numbers


def _renumbered(part: Part, kept: Bool[np.ndarray, " classes"]) -> tuple[Part, Bool[Tensor, " images"]]:
    """Return the part without other classes' images, its labels renumbered, and which rows are left."""
    number = torch.from_numpy(np.where(kept, kept.cumsum() - 1, -1)).to(part.labels.device)
    labels = number[part.labels.long()]
    rows = labels >= 0
    return Part(part.features[rows], labels[rows]), rows.cpu()


def listed(names: Sequence[str] | np.ndarray) -> str:
    """Return the first 20 names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(str, names[:LISTED])) + more
