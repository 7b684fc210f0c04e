"""What settings are chosen on: a held-out share of the training images, and the figure that decides there."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Gt, Lt
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from scenewise import keys
from scenewise.evaluate.metrics import mean_average_precision

HeldOut = Annotated[float, Gt(0), Lt(1)]  # the share of the training images


def hold_out(labels: Shaped[Tensor, "images ..."], *, share: float, seed: int) -> Bool[Tensor, " images"]:
    """Return a seeded mask of about that share of the images, class by class where an image has one class."""
    # the linear probe's key: every protocol that chooses holds the same images out
    chance = keys.generator(seed, "linear", "held out")
    order = torch.from_numpy(chance.permutation(len(labels))).to(labels.device)
    held = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    if labels.dim() == 2:
        held[order[: round(share * len(labels))]] = True
        return held
    for number in labels.long().bincount().nonzero()[:, 0]:
        members = order[labels[order] == number]
        held[members[: round(share * len(members))]] = True
    return held


def judge(scores: Float[Tensor, "images classes"], labels: Shaped[Tensor, "images ..."]) -> float:
    """Return the accuracy, or the mAP in the step form; NaN where there is no positive, or a score is no number."""
    labels = labels.cpu()
    if not scores.isfinite().all():
        return math.nan
    if labels.dim() == 2:
        return mean_average_precision(scores, labels)
    return float((scores.argmax(dim=1) == labels).double().mean())
