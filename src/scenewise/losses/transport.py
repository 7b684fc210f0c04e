"""Entropic optimal transport: UniVIP's plan between instances, SwAV's codes, and the two losses they weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from scenewise.losses.similarity import lift, unit

SMALLEST_MASS = 1e-8  # a side that weighs no more becomes uniform (papers/univip.md 3.3)


@torch.no_grad()
def sinkhorn_plan(
    cost: Float[Tensor, "batch rows columns"],
    rows: Float[Tensor, "batch rows"],
    columns: Float[Tensor, "batch columns"],
    *,
    epsilon: float = 0.1,
    iterations: int = 50,
) -> Float[Tensor, "batch rows columns"]:
    """Return the transport plan of least cost less epsilon times its entropy, one per batch entry, without gradient.

    cost (B, K, L) is what it takes to move mass from a row to a column; rows (B, K) and columns (B, L) are the
    marginals. Negative weights count as 0, each side is divided by its sum, and a side without mass becomes uniform:
    as printed (UniVIP, arXiv 2203.06965) the two sides weigh differently and no plan would exist. The columns are
    scaled last, so their sums are exact and those of the rows near; a weight of 0 gives a row or column of zeros.
    The defaults are OTA's (arXiv 2103.14259), from which UniVIP takes the solver; 0 iterations are not allowed.
    """
    assert iterations >= 1
    cost = lift(cost)
    log_rows, log_columns = _to_one_mass(rows, cost.dtype).log(), _to_one_mass(columns, cost.dtype).log()
    kernel = -cost / epsilon  # (B, K, L), all in units of epsilon
    column_scale = torch.zeros_like(log_columns)
    for _ in range(iterations):  # log 0 = -inf is safe: a side of mass 1 has a finite entry in every sum
        row_scale = log_rows - (kernel + column_scale[:, None, :]).logsumexp(dim=2)  # (B, K)
        column_scale = log_columns - (kernel + row_scale[:, :, None]).logsumexp(dim=1)  # (B, L)
    return (kernel + row_scale[:, :, None] + column_scale[:, None, :]).exp()


@torch.no_grad()
def prototype_codes(
    scores: Float[Tensor, "batch prototypes"], *, epsilon: float = 0.05, iterations: int = 3
) -> Float[Tensor, "batch prototypes"]:
    """Return SwAV's soft codes: each row sums to 1 and the prototypes share the batch equally, without gradient.

    scores (B, P) are plain dot products of embeddings and prototypes, not divided by a temperature. One iteration
    scales the prototypes, then the images, in the log domain (SwAV, arXiv 2006.09882; its ImageNet values).
    """
    codes = lift(scores) / epsilon
    for _ in range(iterations):
        codes = codes.log_softmax(dim=0).log_softmax(dim=1)
    return codes.softmax(dim=1)


def swapped_prediction(
    scores: Sequence[Float[Tensor, "batch prototypes"]],
    *,
    assign: tuple[int, ...] = (0, 1),
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
    codes: Sequence[Float[Tensor, "batch prototypes"]] | None = None,
) -> Float[Tensor, ""]:
    """Return SwAV's loss: every view predicts the codes of the assigning views other than itself.

    scores (B, P) per view are plain dot products, all with gradient; `assign` numbers the views whose codes are the
    targets (the two large crops). `codes`, one (B, P) per assigning view, replaces the codes made here from this batch
    alone: those computed with a queue or over all processes. The mean over the assigning views of the mean over all
    other views of the cross-entropy (SwAV, arXiv 2006.09882; defaults its ImageNet values).
    """
    assert len(scores) > 1 and all(0 <= view < len(scores) for view in assign)
    assert codes is None or len(codes) == len(assign)
    if codes is None:
        codes = [prototype_codes(scores[view], epsilon=epsilon, iterations=iterations) for view in assign]
    predictions = [(lift(view) / temperature).log_softmax(dim=1) for view in scores]
    terms = [
        -(target.detach() * prediction).sum(dim=1).mean()
        for assigning, target in zip(assign, codes, strict=True)
        for view, prediction in enumerate(predictions)
        if view != assigning
    ]
    return torch.stack(terms).mean()


def instance_loss(
    online: Float[Tensor, "batch rows dim"],
    target: Float[Tensor, "batch columns dim"],
    plan: Float[Tensor, "batch rows columns"],
) -> Float[Tensor, ""]:
    """Return UniVIP's instance-instance term: minus the plan-weighted sum of cosines, the mean over the batch.

    online (B, K, D) has gradient; target (B, K, D) and plan (B, K, K) have none. In [-1, 1] for a plan of one mass
    (UniVIP, arXiv 2203.06965, L_instance).
    """
    online, target, plan = unit(online), unit(target.detach()), lift(plan.detach())
    common = torch.promote_types(torch.promote_types(online.dtype, target.dtype), plan.dtype)
    with torch.autocast(online.device.type, enabled=False):
        matched = plan.to(common) @ target.to(common)  # (B, K, K) x (B, K, D) -> (B, K, D)
    return -(online * matched).sum(dim=(1, 2)).mean()


def _to_one_mass(weights: Float[Tensor, "batch side"], dtype: torch.dtype) -> Float[Tensor, "batch side"]:
    """Return the weights as shares of their sum; uniform shares where there is nothing to share."""
    weights = weights.to(dtype).clamp_min(0)
    mass = weights.sum(dim=1, keepdim=True)  # (B, 1)
    return torch.where(mass > SMALLEST_MASS, weights / mass.clamp_min(SMALLEST_MASS), 1 / max(1, weights.shape[1]))
