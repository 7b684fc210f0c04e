"""The linear SVM of the published transfer benchmarks, fitted for a whole grid of its constant C at once.

Settings and grids: fair_self_supervision_benchmark, tools/svm/train_svm_kfold.py (Goyal et al. 2019, arXiv 1905.01235).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import Ge, Le
from jaxtyping import Bool, Float, Float64, Int, Int64
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from torch import Tensor

from scenewise.backbones import Backbone
from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam
from scenewise.settings import Positives

Costs = Literal["openselfsup", "fair", "vissl"] | Positives  # a published grid of C, or one's own
Cells = Annotated[int, Ge(0), Le(7)]  # of a grid's side; 0: pooled; the last map of a 224 px photo has 7

_POWERS = tuple(0.5**power for power in range(4, 20))
GRIDS: dict[str, tuple[float, ...]] = {
    "openselfsup": (1.0, 10.0, 100.0, *_POWERS),  # OpenSelfSup's scripts, also DenseCL's and ORL's
    "fair": (0.01, 0.1, *_POWERS),  # the default list of tools/svm/train_svm_kfold.py
    "vissl": (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0),
}
MAX_ITERATIONS = 2000  # as everything in `_fit`: tools/svm/train_svm_kfold.py


@dataclass(frozen=True, slots=True)
class Planes:
    """One class's planes, one for each C: scores are rows @ weights (G, costs) + offsets (costs,).

    unfinished: how many of them liblinear had not brought to its tolerance after 2000 iterations.
    """

    weights: Float64[np.ndarray, "features costs"]
    offsets: Float64[np.ndarray, " costs"]
    unfinished: int

    def __call__(self, rows: Float64[np.ndarray, "images features"]) -> Float64[np.ndarray, "images costs"]:
        """Return the score of each row by each plane."""
        scores: np.ndarray = rows @ self.weights + self.offsets
        return scores


def cost_grid(costs: Costs) -> tuple[float, ...]:
    """Return the values of C in the order in which they are tried."""
    return GRIDS[costs] if isinstance(costs, str) else costs


def middle_cost(grid: Sequence[float]) -> int:
    """Return the place in the grid of its middle value, for where nothing can be judged."""
    return sorted(range(len(grid)), key=lambda place: grid[place])[len(grid) // 2]


def check_look(exam: Exam, grid: int, *, title: str) -> None:
    """Raise UserError, before any image is read, when the backbone has no feature map for a grid."""
    if grid == 0:
        return
    if not isinstance(exam.backbone, Backbone):
        raise UserError(f"{title}: needs a backbone with a feature map; use scenewise.load_backbone, or {title}.grid=0")
    blank = torch.zeros(1, 3, exam.size, exam.size, device=next(exam.backbone.parameters()).device)
    training = exam.backbone.training
    try:
        with torch.no_grad():
            exam.backbone.eval().feature_map(blank)
    except UserError as error:
        raise UserError(*(f"{title}: {problem}; or set {title}.grid=0" for problem in error.problems)) from None
    finally:
        exam.backbone.train(training)


def unit_rows(features: Float[Tensor, "images features"]) -> Float64[np.ndarray, "images features"]:
    """Return each row divided by its L2 norm plus 1e-5, in float64 (FAIR's svm_helper.py)."""
    rows: np.ndarray = features.detach().cpu().double().clone().numpy()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5
    return rows


def compact(
    learnt: Float64[np.ndarray, "learnt features"], other: Float64[np.ndarray, "other features"]
) -> tuple[Float64[np.ndarray, "learnt directions"], Float64[np.ndarray, "other directions"]]:
    """Return rows to learn from and rows to score in the fewest numbers that a linear SVM sees as the same.

    With fewer rows to learn from than features, these are their coordinates in the space they span. The SVM sees its
    rows through their dot products alone, and every step of liblinear's dual solver stays in that space; what of
    another row lies outside of it scores 0.
    """
    if len(learnt) >= learnt.shape[1]:
        return learnt, other
    rows, basis = rotate(learnt)
    return rows, other @ basis


def rotate(
    rows: Float64[np.ndarray, "images features"],
) -> tuple[Float64[np.ndarray, "images directions"], Float64[np.ndarray, "features directions"]]:
    """Return N rows in an orthonormal basis of the space they span, and that basis: rows = first @ second.T.

    N < G numbers a row instead of G, half of them 0. Measured: 200 rows of 2048 features are fitted 12 times faster,
    in as many iterations, to scores that are equal to 3e-14.
    """
    basis, triangle = np.linalg.qr(rows.T)
    return np.ascontiguousarray(triangle.T), basis


def fit_planes(
    rows: Float64[np.ndarray, "images features"],
    present: Bool[np.ndarray, " images"],
    grid: Sequence[float],
    *,
    chance: int,
) -> Planes:
    """Return the planes that separate the rows with a class from those without, one for each C of the grid.

    chance: seeds the order in which liblinear visits the rows. Rows of one kind only give planes that score all rows 0.
    """
    if present.all() or not present.any():
        return Planes(np.zeros((rows.shape[1], len(grid))), np.zeros(len(grid)), 0)
    if len(rows) < rows.shape[1]:
        turned, basis = rotate(rows)
        planes = fit_planes(turned, present, grid, chance=chance)
        return Planes(basis @ planes.weights, planes.offsets, planes.unfinished)
    signs = np.where(present, 1, -1)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # a third of the time of small fits
        fitted = [_fit(rows, signs, cost, chance=chance) for cost in grid]
    return Planes(
        np.stack([model.coef_[0] for model in fitted], axis=1),
        np.array([model.intercept_[0] for model in fitted]),
        sum(int(model.n_iter_ >= MAX_ITERATIONS) for model in fitted),
    )


def _fit(
    rows: Float64[np.ndarray, "images features"], signs: Int64[np.ndarray, " images"], cost: float, *, chance: int
) -> LinearSVC:
    """Return the SVM of the benchmark: squared hinge, L2, in the dual; an error on a positive weighs double."""
    model = LinearSVC(
        C=cost,
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=1e-4,
        intercept_scaling=1,
        class_weight={1: 2, -1: 1},
        max_iter=MAX_ITERATIONS,
        random_state=chance % 2**31,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted in Planes.unfinished instead
        return model.fit(rows, signs)


def presence(
    labels: Int[Tensor, " images"] | Int[Tensor, "images classes"], classes: int
) -> tuple[Bool[np.ndarray, "images classes"], Bool[np.ndarray, "images classes"]]:
    """Return which of N images have each class and for which that was judged, both (N, C) bool.

    labels: (N,) class numbers, or (N, C) with 1 present, 0 absent, -1 not judged.
    """
    table = torch.nn.functional.one_hot(labels.long(), classes) if labels.dim() == 1 else labels
    found: np.ndarray = table.cpu().numpy()
    return found > 0, found >= 0


def unfinished_note(protocol: str, unfinished: int, fits: int) -> list[str]:
    """Return a note on fits that did not converge, where there are any."""
    if not unfinished:
        return []
    return [
        f"{protocol}: {unfinished} of {fits} SVM fits had not converged after {MAX_ITERATIONS} iterations; the "
        "published tool uses such fits as they are, and so do we"
    ]


def form_notes(protocol: str, *, multi_label: bool) -> list[str]:
    """Return a sentence on which figure is the published tool's, where there are several classes an image."""
    if not multi_label:
        return []
    return [f"{protocol}: the published tool reports the area form (mAP/area); mAP is the step form"]
