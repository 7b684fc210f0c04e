"""k nearest neighbours: a test image takes over the labels of the most similar training images, nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.metrics import knn_votes
from scenewise.evaluate.neighbours import nearest, vote_weights
from scenewise.evaluate.protocol import Protocol, frozen
from scenewise.evaluate.task import Outcome, Part, Task
from scenewise.settings import Count, Positive, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """InstDisc's vote with DINO's settings. Features are pooled, of the test view, in training images too.

    | published variant | k | temperature | vote | normalise |
    | --- | --- | --- | --- | --- |
    | InstDisc, DINO (eval_knn.py) | 20, also 10, 100, 200 | 0.07 | exp | true |
    | MoCo's CIFAR notebook, MSVQ, lightly | 200 | 0.1 | exp | true |
    | VISSL (nearest_neighbor_test.py) | 200 | 0.1 | exp | false |
    | MSF, ISD, CompRess (eval_knn.py) | 1, 20 | none | majority | true |

    vote: a neighbour counts exp(similarity / temperature) ("exp"), or 1 ("majority": the temperature has no effect).
    normalise: the similarity is the cosine; otherwise the dot product of the features as they are, which is VISSL's
    default (its L2_NORM_FEATS is off). There exp overflows in float32 and leaves ties; here only the ratios of the
    votes are computed, so it does not.

    Ties are broken by rule: the lower training image is nearer, the lower class wins. MSF draws among tied classes.
    """

    k: Count = 20  # DINO (arXiv 2104.14294, section 4.2): best of 10, 20, 100, 200
    temperature: Positive = 0.07  # InstDisc (arXiv 1805.01978, section 3.4), DINO
    vote: Literal["exp", "majority"] = "exp"  # InstDisc, DINO
    normalise: bool = True  # InstDisc, DINO

    def __post_init__(self) -> None:
        check_fields("knn", self)


def run(task: Task, config: Config) -> Outcome:
    """Return the figures of the vote on the test images: scores are each class's share of the neighbours' weights.

    UserError for a k above the number of training images.
    """
    check_size(config, len(task.train.features))
    weighing = f"temperature = {config.temperature:g}" if config.vote == "exp" else "majority vote"
    similarity = "" if config.normalise else ", dot product of features that are not normalised"
    return task.outcome(votes(task, config), f"knn: k = {config.k}, {weighing}{similarity}")


def check_size(config: Config, size: int) -> None:
    """Raise UserError for a k above the number of training images."""
    if config.k > size:
        raise UserError(
            f"knn.k: {config.k} is not possible with {size} training images; allowed are 1..{size}; "
            f"give data with at least {config.k} labelled training images, and a --limit that is no smaller"
        )


def votes(task: Task, config: Config) -> Float64[Tensor, "queries classes"]:
    """Return each test image's share of its neighbours' weights for each class (N, C)."""
    if task.multi_label:
        return multi_label_votes(task.train, task.test.features, classes=len(task.classes), config=config)
    return knn_votes(
        task.test.features,
        task.train.features,
        task.train.labels,
        classes=len(task.classes),
        k=config.k,
        temperature=_sharpness(config),
        normalise=config.normalise,
    )


def _sharpness(config: Config) -> float | None:
    """Return the temperature that the vote has, None where every neighbour counts the same."""
    return config.temperature if config.vote == "exp" else None


def multi_label_votes(
    bank: Part, queries: Float[Tensor, "queries features"], *, classes: int, config: Config
) -> Float64[Tensor, "queries classes"]:
    """Return for each query (N, C) the share of the neighbours' weights that has the class, among the judged.

    A query none of whose neighbours is judged for a class gets that class's share in the whole bank.
    """
    labels: Int[Tensor, "bank classes"] = bank.labels
    judged, present = (labels >= 0).double(), (labels > 0).double()  # (M, C)
    prior = present.sum(dim=0) / judged.sum(dim=0).clamp_min(1)  # (C,)
    scores = torch.empty(len(queries), classes, dtype=torch.float64, device=queries.device)
    for chunk, similarity, rows in nearest(queries, bank.features, k=config.k, normalise=config.normalise):
        weights = vote_weights(similarity, temperature=_sharpness(config))[:, None]  # (chunk, 1, k)
        mass = (weights @ judged[rows])[:, 0]  # (chunk, C)
        share = (weights @ present[rows])[:, 0] / mass
        scores[chunk] = torch.where(mass > 0, share, prior)
    return scores


def check(exam: Exam, config: Config) -> None:
    """Raise UserError for a k above the number of training images."""
    check_size(config, len(exam.outline().train.labels))


PROTOCOL = Protocol(
    "weighted vote of the 20 nearest training images by cosine; nothing is trained",
    Config,
    frozen(run),
    check=check,
)
