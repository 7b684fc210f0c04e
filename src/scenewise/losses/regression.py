"""Regression of one embedding onto another, or onto its neighbours in a bank (BYOL, MSF)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewise.losses.similarity import blank_rows, cosine_matrix, row_cosine, unit


def cosine_regression(prediction: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Return the squared distance of the unit vectors, 2 - 2 cos, the mean over the batch; in [0, 4].

    prediction (B, D) has gradient, target (B, D) has none. BYOL adds the value for the swapped views (arXiv 2006.07733,
    Eq. 2); UniVIP's minus cosine is half of it less 1.
    """
    return 2 - 2 * row_cosine(prediction, target.detach()).mean()


def mean_shift_loss(
    prediction: Float[Tensor, "batch dim"],
    target: Float[Tensor, "batch dim"],
    bank: Float[Tensor, "bank dim"],
    *,
    neighbours: int = 5,
    valid: Bool[Tensor, " bank"] | Bool[Tensor, "batch bank"] | None = None,
) -> Float[Tensor, ""]:
    """Return MSF's 2 - 2 cos of the predictions and their targets' neighbours, the mean over batch and neighbours.

    prediction (B, D) has gradient; target (B, D) and bank (Q, D) have none. The neighbours are the bank's rows of the
    highest cosine with the target; the bank already holds the targets, so that the first is the target itself and one
    neighbour gives `cosine_regression`. `valid` names the rows that may be chosen, for all (Q,) or for each (B, Q);
    where there are fewer than `neighbours` those are taken, without any the image contributes 0, with a graph (MSF,
    arXiv 2105.07269; 5 neighbours as in the paper).
    """
    bank = blank_rows(bank, valid)
    with torch.no_grad():
        scores = cosine_matrix(target, bank)  # (B, Q)
        if valid is not None:
            scores = scores.masked_fill(~valid, -torch.inf)
        nearest = scores.topk(min(max(neighbours, 0), len(bank)), dim=1)  # (B, k)
        chosen = nearest.values != -torch.inf
    cosines = (unit(prediction)[:, None] * unit(bank[nearest.indices])).sum(dim=2)  # (B, 1, D) x (B, k, D) -> (B, k)
    distances = torch.where(chosen, 2 - 2 * cosines, 0.0)
    return (distances.sum(dim=1) / chosen.sum(dim=1).clamp_min(1)).mean()
