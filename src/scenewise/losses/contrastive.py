"""Contrastive losses: one positive against negatives, through a softmax. Pure functions of embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from scenewise.losses.similarity import blank_rows, cosine_matrix, plain_product, row_cosine, unit


def nt_xent(
    first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"], *, temperature: float
) -> Float[Tensor, ""]:
    """Return SimCLR's normalised temperature-scaled cross-entropy, the mean over the 2N anchors.

    Row i of `first` (N, D) and of `second` (N, D) are two views of one image; for each of the 2N views the other one is
    the positive and the remaining 2N - 2 are negatives. Gradient goes to both. Google's code adds the two half-batch
    means and so prints twice this value (SimCLR, arXiv 2002.05709, Eq. 1).
    """
    views = torch.cat([first, second])  # (2N, D)
    logits = cosine_matrix(views, views) / temperature  # (2N, 2N)
    itself = torch.eye(len(views), dtype=torch.bool, device=views.device)
    partner = torch.arange(len(views), device=views.device).roll(len(first))  # i -> i + N, i + N -> i
    return F.cross_entropy(logits.masked_fill(itself, -torch.inf), partner)


def info_nce(
    query: Float[Tensor, "batch dim"],
    key: Float[Tensor, "batch dim"],
    negatives: Float[Tensor, "queue dim"],
    *,
    temperature: float,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
) -> Float[Tensor, ""]:
    """Return MoCo's InfoNCE, the mean over the batch of -log softmax of the positive among 1 + Q logits.

    query (B, D) has gradient; key (B, D), row by row its positive, and negatives (Q, D), shared by all queries, have
    none. `valid` names the negatives that count, for all queries (Q,) or for each (B, Q). Without any the loss is 0,
    with a graph: only the positive remains (MoCo, arXiv 1911.05722, Eq. 1).
    """
    positive = row_cosine(query, key.detach()) / temperature  # (B,)
    scaled = unit(query) / temperature  # before the product: DenseCL has 12,544 x 65,536 logits, each copy 3 GB
    others = plain_product(scaled, unit(blank_rows(negatives, valid)))  # (B, Q)
    if valid is not None:  # finite, so that a query without any negative has a gradient of 0
        others = others.masked_fill(~valid, torch.finfo(others.dtype).min / 4)
    excess = others.logsumexp(dim=1) - positive
    return torch.logaddexp(excess, torch.zeros_like(excess)).mean()  # log(1 + sum exp(others) / exp(positive))
