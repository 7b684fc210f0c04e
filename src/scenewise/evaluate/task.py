"""Frozen features to learn from and to test on, and what a protocol returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor

from scenewise.evaluate.figures import accuracy_statistic, precision_statistic
from scenewise.evaluate.intervals import RESAMPLES, Figure, Statistic, bootstrap, remembered
from scenewise.types import Skip


@dataclass(frozen=True, slots=True)
class Part:
    """The features (N, G) of one side's images and their labels.

    labels: (N,) class numbers where an image has one class, or (N, C) with 1 present, 0 absent, -1 not judged.
    """

    features: Float[Tensor, "images features"]
    labels: Int[Tensor, " images"] | Int[Tensor, "images classes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What a protocol found.

    figures: by metric name, of the whole set ("mAP"), and of single classes as "AP/NAME" (see `CLASS_PREFIXES`).
    notes: sentences on how. statistic: the figures as a function of the test images' weights, for the difference of two
    subjects; images: an identity of each of those test images, in the order of the weights. counts: images and classes
    used. skipped: images of the parts train and test that could not be read.
    """

    figures: Mapping[str, Figure]
    notes: tuple[str, ...] = ()
    statistic: Statistic | None = None
    images: tuple[int | str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, tuple[Skip, ...]] = field(default_factory=dict)


def measure(
    statistic: Statistic,
    images: tuple[int | str, ...],
    *,
    seed: int,
    resamples: int = RESAMPLES,
    notes: tuple[str, ...] = (),
    counts: Mapping[str, int] | None = None,
    skipped: Mapping[str, tuple[Skip, ...]] | None = None,
) -> Outcome:
    """Return the outcome of a statistic over these test images: its figures with bootstrap intervals."""
    statistic = remembered(statistic)
    figures = bootstrap(statistic, len(images), seed=seed, resamples=resamples)
    return Outcome(
        figures=figures,
        notes=notes,
        statistic=statistic,
        images=images,
        counts=counts or {},
        skipped=skipped or {},
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Frozen features to learn from and to test on. Every class has a positive in both parts.

    seed: of whatever a protocol draws. resamples: of the bootstrap intervals. images: an identity of each test image
    (1, 2, ... where nobody asks). notes, counts, skipped: of how the features came about; they go into the outcome.
    """

    train: Part
    test: Part
    classes: tuple[str, ...]
    multi_label: bool
    seed: int = 0
    resamples: int = RESAMPLES
    images: tuple[int | str, ...] = ()
    notes: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, tuple[Skip, ...]] = field(default_factory=dict)

    def outcome(self, scores: Float[Tensor, "images classes"], *notes: str) -> Outcome:
        """Return the figures of test scores (N, C) with their intervals: accuracies, or average precisions."""
        make = precision_statistic if self.multi_label else accuracy_statistic
        return self.measure(make(scores.cpu(), self.test.labels.cpu(), self.classes), *notes)

    def measure(self, statistic: Statistic, *notes: str) -> Outcome:
        """Return the outcome of a statistic over the test images."""
        return measure(
            statistic,
            self.images or tuple(range(len(self.test.labels))),
            seed=self.seed,
            resamples=self.resamples,
            notes=(*self.notes, *notes),
            counts=self.counts,
            skipped=self.skipped,
        )
