"""Semi-supervised classification: fine-tuning on 1 % and on 10 % of the labelled training images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from annotated_types import Gt, Le, MinLen
from jaxtyping import Bool, Int
from torch import Tensor

from scenewise import keys
from scenewise.errors import UserError
from scenewise.evaluate.evaluation import CLASS_PREFIXES
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.figures import accuracy_statistic, precision_statistic
from scenewise.evaluate.finetuning import (
    BatchNorm,
    BatchSize,
    Problem,
    Recipe,
    check_images,
    check_length,
    choose,
    fine_tune,
    score,
)
from scenewise.evaluate.held_out import HeldOut
from scenewise.evaluate.intervals import Statistic
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.task import Outcome, Task
from scenewise.evaluate.training import steps
from scenewise.evaluate.training_images import Labelled, labelled
from scenewise.settings import Count, check_fields

LEAST_IMAGES = 8  # fewer give no batch statistics worth the name
SWAV_ONE_PERCENT = (0.02, 5.0)  # learning rates of the backbone and the layer: SwAV's README, semi-supervised
SWAV_TEN_PERCENT = (0.01, 0.2)
FEW = 0.03  # shares up to this one are nearer, as ratios, to 1 % than to 10 %
OPENSELFSUP_RATES = (0.001, 0.01, 0.1)  # configs/benchmarks/semi_classification; of the backbone
OPENSELFSUP_MULTIPLIERS = (1.0, 10.0, 100.0)  # of the layer's rate
OPENSELFSUP_USUAL = (0.01, 100.0)  # the best pair of most methods in its model zoo, and of DenseCL and ORL
OPENSELFSUP_DECAY = 5e-4


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """SwAV's or OpenSelfSup's fine-tuning: SGD with momentum 0.9, rates times 0.2 after 12 and 16 of 20 epochs.

    recipe: `swav` (eval_semisup.py) has fixed rates for 1 % and for 10 %, and no weight decay; other shares take those
    of the nearer one. `openselfsup` (and DenseCL, ORL) has weight decay 5e-4 and takes the best pair of a grid of
    rates. It is published with the pair chosen on the test images; here it is chosen on a held-out share of the few
    training images, and where these are too few it is the usual optimum, 0.01 with a layer's rate 100 times that.
    """

    recipe: Literal["swav", "openselfsup"] = "swav"  # nothing to choose, so every label is learnt from
    # SimCLR's lists, which all of them use
    fractions: Annotated[tuple[Annotated[float, Gt(0), Le(1)], ...], MinLen(1)] = (0.01, 0.1)
    batch_size: BatchSize = 256  # SwAV (32 on each of 8 GPUs), OpenSelfSup
    epochs: Count | None = 20  # SwAV, OpenSelfSup
    iterations: Count | None = 100  # at least: ours, 20 epochs of a few images are 20 steps (1 % of ImageNet: 1,000)
    batch_norm: BatchNorm = "train"  # SwAV, OpenSelfSup: synchronised, here one process
    held_out: HeldOut = 0.2  # of the few training images, to choose on: ours, as the linear probe's

    def __post_init__(self) -> None:
        check_fields("semi", self)
        check_length("semi", epochs=self.epochs, iterations=self.iterations)
        if len({share_name(fraction) for fraction in self.fractions}) < len(self.fractions):
            raise UserError(f"semi.fractions: {self.fractions} names a share twice; name each once")


def run(exam: Exam, config: Config) -> Outcome:
    """Fine-tune on each share of the training images and score the test images once for each: "1%/mAP", "10%/top1".

    Only figures of the whole set: with a handful of images a class, those of single classes say nothing.
    """
    task = exam.task()
    train, test = labelled(exam, task, "train"), labelled(exam, task, "test")
    make = precision_statistic if task.multi_label else accuracy_statistic
    found, notes = dict[str, Statistic](), list[str]()
    for fraction in config.fractions:
        name = share_name(fraction)
        title = f"semi {name}"
        chosen = few(train.labels, fraction=fraction, classes=len(task.classes), seed=exam.seed)
        notes.append(_sentence(title, chosen, train, task, fraction))
        problem = Problem(train.only(chosen), classes=len(task.classes), width=task.train.features.shape[1])
        grid, usual = recipes(config, fraction)
        recipe, note = choose(exam, problem, grid, usual=usual, share=config.held_out, title=title)
        network, replaced = fine_tune(exam, problem, recipe, title=title)
        scores = score(exam, network, test, title=title)
        found[name] = make(scores, test.labels, task.classes)
        notes += [note, *replaced]
    return task.measure(together(found), *notes)


def share_name(fraction: float) -> str:
    """Return a share as percent: 0.01 is `1%`."""
    return f"{100 * fraction:.6g}%"


def few(
    labels: Int[Tensor, " images"] | Int[Tensor, "images classes"], *, fraction: float, classes: int, seed: int
) -> Bool[Tensor, " images"]:
    """Return a seeded mask of that fraction of the images, at least as many as there are classes, and 8.

    With one class an image, as many of each class as possible (SimCLR's lists are so). With several, every class that
    has a positive keeps one, the rarest served first, and the rest is a plain choice. A smaller fraction's images are
    among those of a larger one.
    """
    images = len(labels)
    wanted = min(images, max(round(fraction * images), classes, LEAST_IMAGES))
    order = torch.from_numpy(keys.generator(seed, "semi").permutation(images))  # (N,) image numbers
    ranked = _by_class(labels[order]) if labels.dim() == 1 else _covering(labels[order] > 0)
    chosen = torch.zeros(images, dtype=torch.bool)
    chosen[order[ranked[:wanted]]] = True
    return chosen


def _by_class(labels: Int[Tensor, " images"]) -> Int[Tensor, " images"]:
    """Return the places so that every class's first image comes before any class's second, and so on."""
    grouped = labels.long().sort(stable=True)
    counts = labels.long().bincount()
    starts = counts.cumsum(dim=0) - counts  # (C,) where each class begins
    rank = torch.empty_like(grouped.indices)  # which of its class each image is, from 0
    rank[grouped.indices] = torch.arange(len(labels)) - starts[grouped.values]
    return rank.sort(stable=True).indices


def _covering(present: Bool[Tensor, "images classes"]) -> Int[Tensor, " images"]:
    """Return the places, first one with a positive of each class that has any, the rarest first; then the others."""
    first = list[int]()
    for number in present.sum(dim=0).argsort(stable=True).tolist():
        column = present[:, number]
        if column.any() and not column[first].any():
            first.append(int(column.nonzero()[0, 0]))
    rest = torch.ones(len(present), dtype=torch.bool)
    rest[first] = False
    return torch.cat([torch.tensor(first, dtype=torch.long), rest.nonzero()[:, 0]])


def recipes(config: Config, fraction: float) -> tuple[list[Recipe], Recipe]:
    """Return the recipes to choose from, and the one to take where there is nothing to choose on."""

    def recipe(rate: float, head_rate: float, decay: float) -> Recipe:
        return Recipe(
            learning_rate=rate,
            head_learning_rate=head_rate,
            weight_decay=decay,
            batch_size=config.batch_size,
            epochs=config.epochs,
            iterations=config.iterations,
            schedule=partial(steps, at=(12 / 20, 16 / 20), factor=0.2),
            batch_norm=config.batch_norm,
        )

    if config.recipe == "swav":
        only = recipe(*(SWAV_ONE_PERCENT if fraction <= FEW else SWAV_TEN_PERCENT), 0.0)
        return [only], only
    grid = [
        recipe(rate, rate * multiplier, OPENSELFSUP_DECAY)
        for rate in OPENSELFSUP_RATES
        for multiplier in OPENSELFSUP_MULTIPLIERS
    ]
    rate, multiplier = OPENSELFSUP_USUAL
    return grid, recipe(rate, rate * multiplier, OPENSELFSUP_DECAY)


def together(found: Mapping[str, Statistic]) -> Statistic:
    """Return one statistic with the whole-set figures of each, named NAME/METRIC."""

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        return {
            f"{name}/{metric}": values
            for name, single in found.items()
            for metric, values in single(weights).items()
            if not metric.startswith(CLASS_PREFIXES)
        }

    return statistic


def _sentence(title: str, chosen: Tensor, train: Labelled, task: Task, fraction: float) -> str:
    count, exact = int(chosen.sum()), round(fraction * len(train))
    how = "one positive a class at least where there is one" if task.multi_label else "classes as equal as possible"
    more = f", raised from {exact}: at least one for each class and {LEAST_IMAGES} in all" if count > exact else ""
    return f"{title}: {count} of {len(train)} training images ({how}; seeded){more}"


def check(exam: Exam, config: Config) -> None:
    """Raise UserError for too few training images."""
    del config
    check_images(len(exam.outline().train.labels), title="semi")


PROTOCOL = Protocol("fine-tuning on 1 % and on 10 % of the labelled training images", Config, run, check=check)
