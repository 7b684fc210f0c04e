"""Entropic optimal transport: UniVIP's plan between instances, SwAV's codes, and the two losses they weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from scenewise.losses.similarity import lift, unit

SMALLEST_MASS = 1e-8  # a side that weighs no more becomes uniform


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
    log_plan = lift(cost).permute(1, 2, 0).contiguous() / -epsilon  # (K, L, B): a sum over K is one of long vectors
    shares = [_to_one_mass(side, log_plan.dtype) for side in (rows, columns)]  # (B, K), (B, L)
    smallest = torch.finfo(log_plan.dtype).tiny  # for 0, whose logarithm would meet itself: -inf + inf
    log_rows, log_columns = (side.clamp_min(smallest).log().T for side in shares)  # (K, B), (L, B)
    for _ in range(iterations):
        log_plan = log_plan.log_softmax(dim=1) + log_rows[:, None]
        log_plan = log_plan.log_softmax(dim=0) + log_columns
    row_used, column_used = (side > 0 for side in shares)
    return log_plan.exp().permute(2, 0, 1) * row_used[:, :, None] * column_used[:, None]


@torch.no_grad()
def instance_marginals(
    online: Float[Tensor, "batch rows dim"],
    target: Float[Tensor, "batch columns dim"],
    online_scenes: Float[Tensor, "batch views dim"],
    target_scenes: Float[Tensor, "batch views dim"],
    *,
    features: Literal["raw", "l2"] = "raw",
) -> tuple[Float[Tensor, "batch rows"], Float[Tensor, "batch columns"]]:
    """Return UniVIP's weights of the instances, 0 or more, not rescaled and without gradient.

    Rows: of the online instances, b_m = max(o_m . mean of the target scenes, 0); columns: of the target instances,
    a_n = max(t_n . mean of the online scenes, 0) (arXiv 2203.06965). All embeddings (B, ., D) of an image come as they
    are, `raw` as printed, or each divided by its length first, `l2`; so `raw` weighs a long vector more.
    """
    prepare = unit if features == "l2" else lift
    rows = (prepare(online) * prepare(target_scenes).mean(dim=1, keepdim=True)).sum(dim=2)
    columns = (prepare(target) * prepare(online_scenes).mean(dim=1, keepdim=True)).sum(dim=2)
    return rows.clamp_min(0), columns.clamp_min(0)


@dataclass(frozen=True, slots=True)
class Matching:
    """Which instances of the one network belong to which of the other, in each of B images; nothing has gradient.

    plan: (B, K, L) mass from online (rows) to target instances (columns).
    diagonal: share of the mass between an instance and itself, mean over the images; 1/K says nothing is told apart.
    row_error: how far the row sums are from their marginals after the last iteration, as a share of the mass: the mean
    over the images of the largest. The column sums are exact.
    uniform_share: share of the 2 B marginals that had no mass and became uniform.
    """

    plan: Float[Tensor, "batch rows columns"]
    diagonal: Float[Tensor, ""]
    row_error: Float[Tensor, ""]
    uniform_share: Float[Tensor, ""]


@torch.no_grad()
def match_instances(
    online: Float[Tensor, "batch rows dim"],
    target: Float[Tensor, "batch columns dim"],
    online_scenes: Float[Tensor, "batch views dim"],
    target_scenes: Float[Tensor, "batch views dim"],
    *,
    marginal_features: Literal["raw", "l2"] = "raw",
    marginal_norm: Literal["sum1", "none"] = "sum1",
    epsilon: float = 0.1,
    iterations: int = 50,
) -> Matching:
    """Return UniVIP's transport plan between the instances of each image, and what tells how good it is.

    The cost is 1 - cos of an online and a target instance, the marginals are `instance_marginals`. `sum1`: each side
    has one mass; `none`, as printed: the mass is that of the columns, which are scaled last
    (scaling the rows by another total changes nothing but the scale of their dual).
    """
    cost = 1 - (unit(online)[:, :, None] * unit(target)[:, None]).sum(dim=3)  # (B, K, 1, D) x (B, 1, L, D) -> (B, K, L)
    rows, columns = instance_marginals(online, target, online_scenes, target_scenes, features=marginal_features)
    plan = sinkhorn_plan(cost, rows, columns, epsilon=epsilon, iterations=iterations)
    empty = torch.stack([side.sum(dim=1) <= SMALLEST_MASS for side in (rows, columns)])  # (2, B)
    mass = columns.sum(dim=1) if marginal_norm == "none" else torch.ones_like(columns[:, 0])  # (B,)
    return Matching(
        plan=plan * mass[:, None, None],
        diagonal=plan.diagonal(dim1=1, dim2=2).sum(dim=1).mean(),
        row_error=(plan.sum(dim=2) - _to_one_mass(rows, plan.dtype)).abs().amax(dim=1).mean(),
        uniform_share=empty.to(plan.dtype).mean(),
    )


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
