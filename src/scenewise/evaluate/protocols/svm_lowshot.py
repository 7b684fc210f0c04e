"""Linear SVMs on grid features from few labelled images: the benchmark that is known as "VOC07 low-shot".

Source: fair_self_supervision_benchmark, extra_scripts/create_voc_low_shot_samples.py and tools/svm/*_low_shot*.py
(Goyal et al. 2019, arXiv 1905.01235, section 6.1). For each k, five samples: of each class k images that have it and
19 k that do not; one SVM a class; one C for all classes and samples of a k; the figure is the mean over the samples.

Where we depart: the published tool reports the best C on the *test* set. Here the training images that are not in a
sample choose C, and no test image does; so one number, C, rests on more labels than k. `choose_c="test"` gives the
published figure, and a note says so. The rows are prepared as in `svm`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import MinLen
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from scenewise import keys
from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.features import Look
from scenewise.evaluate.figures import accuracy_statistic, precision_statistic
from scenewise.evaluate.intervals import Statistic
from scenewise.evaluate.linear_svm import (
    Cells,
    Costs,
    check_look,
    compact,
    cost_grid,
    fit_planes,
    form_notes,
    middle_cost,
    presence,
    unfinished_note,
    unit_rows,
)
from scenewise.evaluate.metrics import average_precision
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.task import Outcome, Task
from scenewise.settings import Count, check_fields
from scenewise.sources.base import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The settings of the VOC07 low-shot protocol.

    costs: see `svm`. choose_c: "train" (training images outside the sample, mean average precision in the step form) or
    "test" (the published rule: the test images, area form).
    """

    # create_voc_low_shot_samples.py; 96: VOC07's rarest class has 96
    k: Annotated[tuple[Count, ...], MinLen(1)] = (1, 2, 4, 8, 16, 32, 64, 96)
    samples: Count = 5  # create_voc_low_shot_samples.py
    negatives: Count = 19  # images without the class for each one with it: VOC's 20 classes less one (the same file)
    costs: Costs = "openselfsup"
    choose_c: Literal["train", "test"] = "train"  # ours: nothing is chosen on the test images
    grid: Cells = 2  # FAIR, see svm

    def __post_init__(self) -> None:
        check_fields("svm-lowshot", self)


@dataclass(frozen=True, slots=True)
class Sample:
    """The planes of one sample of one k: weights (C, R, costs) in the training rows' basis, offsets (C, costs).

    outside: (C, N) the training images that may judge them. unfinished: fits that had not converged.
    """

    weights: Float64[np.ndarray, "classes directions costs"]
    offsets: Float64[np.ndarray, "classes costs"]
    outside: Bool[np.ndarray, "classes images"]
    unfinished: int


@dataclass(frozen=True, slots=True)
class Shot:
    """What came of one k: the place of its C in the grid, the test scores of each sample, sentences, fits left open."""

    place: int
    scores: Float64[Tensor, "samples images classes"]
    how: str
    unfinished: int


def run(exam: Exam, config: Config) -> Outcome:
    """Return the mean figures of the samples of each k that the data can hold."""
    task = exam.task(Look(square=True, grid=config.grid))
    present, judged = presence(task.train.labels, len(task.classes))
    possible, notes = possible_k(present, judged, task.classes, config)
    shots = shoot(task, config, present, judged, possible, progress=exam.progress)
    statistics = {k: [_statistic(task, scores) for scores in shot.scores] for k, shot in shots.items()}
    fits = len(shots) * config.samples * len(task.classes) * len(cost_grid(config.costs))
    return task.measure(
        mean_statistic(statistics, names=("mAP", "mAP/area") if task.multi_label else ("top1",)),
        *notes,
        *(shot.how for shot in shots.values()),
        _deviations(statistics, main="mAP" if task.multi_label else "top1", images=len(task.test.labels)),
        *unfinished_note("svm-lowshot", sum(shot.unfinished for shot in shots.values()), fits),
        *form_notes("svm-lowshot", multi_label=task.multi_label),
    )


def possible_k(
    present: Bool[np.ndarray, "images classes"],
    judged: Bool[np.ndarray, "images classes"],
    classes: Sequence[str],
    config: Config,
) -> tuple[list[int], list[str]]:
    """Return each k of which every class has as many training images, and sentences on what is missing.

    UserError when there is none.
    """
    positives, negatives = present.sum(axis=0), (judged & ~present).sum(axis=0)
    rarest = int(positives.argmin())
    what = f"class {classes[rarest]} has {positives[rarest]} positives among the training images"
    if (negatives == 0).any():
        raise UserError(f"svm-lowshot: no training image is without class {classes[int(negatives.argmin())]}")
    held = sorted(k for k in set(config.k) if k <= positives[rarest])
    if not held:
        raise UserError(
            f"svm-lowshot.k: {what}; give a smaller k than {min(config.k)}, or leave out rare classes "
            f"with --min-positives {min(config.k)}"
        )
    notes = []
    if missing := sorted(set(config.k) - set(held)):
        numbers = ", ".join(map(str, missing))
        notes.append(f"svm-lowshot: without k = {numbers}, as {what}; --min-positives leaves out rare classes")
    if short := [k for k in held if (negatives < config.negatives * k).any()]:
        numbers = ", ".join(map(str, short))
        notes.append(
            f"svm-lowshot: fewer than {config.negatives} k images without a class, all there are: k = {numbers}"
        )
    return held, notes


def shoot(
    task: Task,
    config: Config,
    present: Bool[np.ndarray, "images classes"],
    judged: Bool[np.ndarray, "images classes"],
    possible: Sequence[int],
    *,
    progress: Progress | None = None,
) -> dict[int, Shot]:
    """Return what came of each k: its planes fitted, its C chosen, the test images scored."""
    grid = cost_grid(config.costs)
    rows, test = compact(unit_rows(task.train.features), unit_rows(task.test.features))
    shots = {}
    for turn, k in enumerate(possible):
        samples = []
        for number in range(config.samples):
            samples.append(fit_sample(rows, present, judged, k, number, grid, config=config, seed=task.seed))
            if progress is not None:
                progress("svm-lowshot", turn * config.samples + number + 1, len(possible) * config.samples)
        if config.choose_c == "test":
            place, how = choose_on_test(samples, test, task)
        else:
            place, how = choose_on_train(samples, rows, present, grid)
        scores = np.stack([test @ each.weights[:, :, place].T + each.offsets[:, place] for each in samples])
        how = f"svm-lowshot: k = {k}: C = {grid[place]:g} of {len(grid)}, {how}"
        shots[k] = Shot(place, torch.from_numpy(scores), how, sum(each.unfinished for each in samples))
    return shots


def fit_sample(
    rows: Float64[np.ndarray, "images directions"],
    present: Bool[np.ndarray, "images classes"],
    judged: Bool[np.ndarray, "images classes"],
    k: int,
    number: int,
    grid: Sequence[float],
    *,
    config: Config,
    seed: int,
) -> Sample:
    """Return the planes of sample `number` of k images a class; each class draws its images for itself."""
    planes, outside = [], []
    for column in range(present.shape[1]):
        chosen = draw(present[:, column], judged[:, column], k, number, column, negatives=config.negatives, seed=seed)
        chance = keys.integer(seed, "svm-lowshot", "order", k, number, column)
        planes.append(fit_planes(rows[chosen], present[chosen, column], grid, chance=chance))
        free = judged[:, column].copy()
        free[chosen] = False
        outside.append(free)
    return Sample(
        np.stack([each.weights for each in planes]),
        np.stack([each.offsets for each in planes]),
        np.stack(outside),
        sum(each.unfinished for each in planes),
    )


def draw(
    present: Bool[np.ndarray, " images"],
    judged: Bool[np.ndarray, " images"],
    k: int,
    number: int,
    column: int,
    *,
    negatives: int,
    seed: int,
) -> Int64[np.ndarray, " chosen"]:
    """Return the rising numbers of k images with the class and `negatives` * k judged without it, or all there are."""
    chance = keys.generator(seed, "svm-lowshot", "images", k, number, column)
    positive = chance.permutation(np.flatnonzero(present))[:k]
    negative = chance.permutation(np.flatnonzero(judged & ~present))[: negatives * k]
    return np.sort(np.concatenate([positive, negative]))


def choose_on_train(
    samples: Sequence[Sample],
    rows: Float64[np.ndarray, "images directions"],
    present: Bool[np.ndarray, "images classes"],
    grid: Sequence[float],
) -> tuple[int, str]:
    """Return the place of the best C on the training images outside each sample, and a sentence on it.

    Best is the highest mean over samples and classes of the average precision (step form); classes all of whose
    positives or negatives are in the sample do not count (any C ranks them alike), and when that holds for all, it is
    the middle of the grid.
    """
    figures: list[list[float]] = []
    for sample in samples:
        for column, free in enumerate(sample.outside):
            relevant = torch.from_numpy(present[free, column])
            if relevant.any() and not relevant.all():
                scores = torch.from_numpy(rows[free] @ sample.weights[column] + sample.offsets[column])
                figures.append([average_precision(each, relevant) for each in scores.T])
    if not figures:
        return middle_cost(grid), "not chosen: the samples hold all positives or all negatives"
    means = np.array(figures).mean(axis=0)
    best = int(means.argmax())
    return best, f"chosen on the training images outside the samples (mAP {means[best]:.1%})"


def choose_on_test(
    samples: Sequence[Sample], test: Float64[np.ndarray, "images directions"], task: Task
) -> tuple[int, str]:
    """Return the place of the best C on the test images, as published, and a sentence that says so.

    Best is the highest mean over the samples of mAP in the area form, or of the accuracy.
    """
    main = "mAP/area" if task.multi_label else "top1"
    everyone = torch.ones(1, len(test), dtype=torch.long)
    figures = []
    for sample in samples:
        scores = np.einsum("nr,crp->pnc", test, sample.weights, optimize=True) + sample.offsets.T[:, None]
        figures.append([float(_statistic(task, torch.from_numpy(each))(everyone)[main][0]) for each in scores])
    best = int(np.array(figures).mean(axis=0).argmax())
    return best, "chosen on the TEST images (the published rule): the figure reads high"


def mean_statistic(statistics: Mapping[int, Sequence[Statistic]], *, names: Sequence[str]) -> Statistic:
    """Return the statistic "NAME/k=K" of the mean over the samples of each k."""

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        figures: dict[str, Tensor] = {}
        for k, of_samples in statistics.items():
            found = [each(weights) for each in of_samples]
            figures |= {f"{name}/k={k}": torch.stack([each[name] for each in found]).mean(dim=0) for name in names}
        return figures

    return statistic


def _statistic(task: Task, scores: Float64[Tensor, "images classes"]) -> Statistic:
    make = precision_statistic if task.multi_label else accuracy_statistic
    return make(scores, task.test.labels.cpu(), task.classes)


def _deviations(statistics: Mapping[int, Sequence[Statistic]], *, main: str, images: int) -> str:
    """Return a sentence with the standard deviation of the figure over the samples, in points (divided by their number,
    as in aggregate_low_shot_svm_stats.py)."""
    everyone = torch.ones(1, images, dtype=torch.long)
    found = {k: np.std([float(each(everyone)[main][0]) for each in own]) for k, own in statistics.items()}
    listed = ", ".join(f"{100 * value:.2f} (k = {k})" for k, value in found.items())
    samples = len(next(iter(statistics.values())))
    return f"svm-lowshot: standard deviation of {main} over the {samples} samples, in points: {listed}"


def _check(exam: Exam, config: Config) -> None:
    outline = exam.outline()
    possible_k(*presence(outline.train.labels, len(outline.classes)), outline.classes, config)
    check_look(exam, config.grid, title="svm-lowshot")


PROTOCOL = Protocol(
    "linear SVMs from 1 to 96 images a class, mean of five samples (VOC07 low-shot)",
    Config,
    run,
    check=_check,
)
