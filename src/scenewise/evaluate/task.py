"""What a protocol is given and what it returns: the interface between the frame of an evaluation and its protocols."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenewise.evaluate.figures import accuracy_statistic, precision_statistic
from scenewise.evaluate.intervals import RESAMPLES, Figure, Statistic, bootstrap


@dataclass(frozen=True, slots=True)
class Part:
    """The features (N, G) of one side's images and their labels.

    labels: (N,) class numbers where an image has one class, or (N, C) with 1 present, 0 absent, -1 not judged.
    """

    features: Float[Tensor, "images features"]
    labels: Int[Tensor, " images"] | Int[Tensor, "images classes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Frozen features to learn from and to test on. Every class has a positive in both parts.

    seed: of whatever a protocol draws. resamples: of the bootstrap intervals.
    """

    train: Part
    test: Part
    classes: tuple[str, ...]
    multi_label: bool
    seed: int = 0
    resamples: int = RESAMPLES

    def statistic(self, scores: Float[Tensor, "images classes"]) -> Statistic:
        """Return the figures of test scores as a function of the images' weights, for intervals and differences."""
        make = precision_statistic if self.multi_label else accuracy_statistic
        return make(scores.cpu(), self.test.labels.cpu(), self.classes)

    def figures(self, scores: Float[Tensor, "images classes"]) -> dict[str, Figure]:
        """Return the figures of test scores with their intervals."""
        return bootstrap(self.statistic(scores), len(scores), seed=self.seed, resamples=self.resamples)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a protocol found: figures by metric name, sentences on how, and the test scores (N, C) behind them."""

    figures: Mapping[str, Figure]
    notes: tuple[str, ...] = ()
    scores: Tensor = field(default_factory=lambda: torch.empty(0, 0))


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to judge features.

    summary: one line. config: a frozen dataclass of its settings, each with a default and its origin.
    run: takes the task and the settings; raises UserError when they do not fit.
    """

    summary: str
    config: type[Any]
    run: Callable[[Task, Any], Outcome]
