"""k nearest neighbours: a test image takes over the labels of the most similar training images, nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from scenewise.errors import UserError
from scenewise.evaluate.metrics import knn_votes
from scenewise.evaluate.neighbours import nearest
from scenewise.evaluate.protocol import Protocol, frozen
from scenewise.evaluate.task import Outcome, Part, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """InstDisc's vote with DINO's settings; MoCo's CIFAR notebook, MSVQ and lightly use k = 200, temperature = 0.1."""

    k: int = 20  # DINO (arXiv 2104.14294, section 4.2): best of 10, 20, 100, 200
    temperature: float = 0.07  # InstDisc (arXiv 1805.01978, section 3.4), DINO


def run(task: Task, config: Config) -> Outcome:
    """Return the figures of the vote on the test images: scores are each class's share of the neighbours' weights.

    A neighbour's weight is exp(cosine / temperature). UserError when k or the temperature does not fit.
    """
    size = len(task.train.features)
    if not 1 <= config.k <= size:
        raise UserError(
            f"knn.k: {config.k} is not possible with {size} training images; allowed are 1..{size}; "
            f"give data with at least {config.k} labelled training images, and a --limit that is no smaller"
        )
    if not config.temperature > 0:
        raise UserError(f"knn.temperature: {config.temperature} must be above 0")
    return task.outcome(votes(task, config), f"knn: k = {config.k}, temperature = {config.temperature:g}")


def votes(task: Task, config: Config) -> Float64[Tensor, "queries classes"]:
    """Return each test image's share of its neighbours' weights for each class (N, C)."""
    vote = multi_label_votes if task.multi_label else _single_label_votes
    return vote(task.train, task.test.features, classes=len(task.classes), config=config)


def _single_label_votes(
    bank: Part, queries: Tensor, *, classes: int, config: Config
) -> Float64[Tensor, "queries classes"]:
    return knn_votes(queries, bank.features, bank.labels, classes=classes, k=config.k, temperature=config.temperature)


def multi_label_votes(
    bank: Part, queries: Tensor, *, classes: int, config: Config
) -> Float64[Tensor, "queries classes"]:
    """Return for each query (N, C) the share of the neighbours' weights that has the class, among the judged.

    A query none of whose neighbours is judged for a class gets that class's share in the whole bank.
    """
    labels: Int[Tensor, "bank classes"] = bank.labels
    judged, present = (labels >= 0).double(), (labels > 0).double()  # (M, C)
    prior = present.sum(dim=0) / judged.sum(dim=0).clamp_min(1)  # (C,)
    scores = torch.empty(len(queries), classes, dtype=torch.float64, device=queries.device)
    for chunk, cosine, rows in nearest(queries, bank.features, k=config.k):
        weights = (cosine.double() / config.temperature).softmax(dim=1)[:, None]  # (chunk, 1, k)
        mass = (weights @ judged[rows])[:, 0]  # (chunk, C)
        share = (weights @ present[rows])[:, 0] / mass
        scores[chunk] = torch.where(mass > 0, share, prior)
    return scores


PROTOCOL = Protocol(
    "weighted vote of the 20 nearest training images by cosine; nothing is trained", Config, frozen(run)
)
