"""The offset that makes a query's predicted number of positives equal its labelled number."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

HALVINGS = 24  # of a bracket a few tens wide: the offset is right to about 1e-6


@torch.no_grad()
def calibrated_bias(
    logits: Float[Tensor, "batch queue"],
    *,
    k: int,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
) -> Float[Tensor, "batch 1"]:
    """Return for each query the b with sum_j sigmoid(logit_j + b) = k over its valid rows (bisection, no gradient).

    Why: the gradient of a binary cross-entropy is the sum over rows of (sigmoid - label) * row. Without an offset the
    sigmoids sum to about half the dictionary and the labels to k, so a query is pushed away from the mean of all rows,
    whatever the labels say. With this b the two sums agree: as in a softmax, nothing acts along what all rows share.
    Our own, not in the paper; docs/decisions/0002 says what it was measured to do.
    """
    mask = torch.ones_like(logits, dtype=torch.bool) if valid is None else valid.expand_as(logits)
    count = mask.sum(dim=1, keepdim=True)  # (B, 1)
    share = (k / count.clamp(min=1)).clamp(1e-6, 1 - 1e-6)
    centre = torch.log(share) - torch.log1p(-share)
    low = centre - logits.masked_fill(~mask, -torch.inf).amax(dim=1, keepdim=True)
    high = centre - logits.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
    low, high = torch.where(count > 0, low, centre), torch.where(count > 0, high, centre)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        predicted = (torch.sigmoid(logits + middle) * mask).sum(dim=1, keepdim=True)
        enough = predicted > share * count
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return (low + high) / 2
