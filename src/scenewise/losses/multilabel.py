"""MLS's multi-label term (Zhu, Fu and Wu, ICCV 2023, arXiv 2308.03286) and the losses its ablation compares it with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from scenewise.errors import UserError, unknown_name
from scenewise.losses.similarity import blank_rows, cosine_matrix

REDUCTIONS = ("mean", "sum", "balanced", "per_positive")
SOFTMAX_FORMS = ("each_positive", "supervised_contrastive")


@torch.no_grad()
def pseudo_labels(
    features: Float[Tensor, "batch dim"],
    dictionary: Float[Tensor, "queue dim"],
    *,
    k: int,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
) -> Bool[Tensor, "batch queue"]:
    """Return which dictionary rows are positive for each query: the k of the highest cosine (Eq. 7), no gradient.

    features (B, G) and dictionary (Q, G) are backbone features. `valid` names the rows that may be chosen, for all
    queries (Q,) or for each (B, Q). Each row of the result has min(k, number of valid rows) ones; ties are broken
    anyhow.
    """
    scores = cosine_matrix(features, blank_rows(dictionary, valid))  # (B, Q)
    if valid is not None:
        scores = scores.masked_fill(~valid, -torch.inf)
    nearest = scores.topk(min(max(k, 0), len(dictionary)), dim=1).indices  # (B, k)
    labels = torch.zeros_like(scores, dtype=torch.bool).scatter(1, nearest, True)
    return labels if valid is None else labels & valid


def multilabel_loss(
    query: Float[Tensor, "batch dim"],
    dictionary: Float[Tensor, "queue dim"],
    labels: Shaped[Tensor, "batch queue"],
    *,
    temperature: float,
    reduction: str = "mean",
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
    logit_bias: float | Float[Tensor, "batch 1"] = 0.0,
    positives_only: bool = False,
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of the queries against every dictionary row (Eqs. 8, 9), the mean over the batch.

    query (B, D) has gradient; dictionary (Q, D), each row one binary classifier's weights, and labels (B, Q) have none.
    The logit is cosine / temperature + logit_bias; a bias of -log(Q / k - 1) gives the labels' prior at cosine 0.
    `valid` names the rows that count, for all queries (Q,) or for each (B, Q). `reduction` over a query's rows:

    - `mean`: over the valid rows, Eq. 9 literally (log 2 at zero logits);
    - `sum`: over the valid rows;
    - `balanced`: the mean over the positives plus the mean over the negatives;
    - `per_positive`: the sum divided by the number of positives (by 1 where there is none).

    `positives_only` drops the negatives' terms but not their count ("BCE-pos" of Table 6). A query without positives,
    without negatives or without valid rows gets 0 for the empty side, with a graph. Raises UserError for an unknown
    reduction.
    """
    positive, negative = _sides(labels, valid)
    logits = cosine_matrix(query, blank_rows(dictionary, valid)) / temperature + logit_bias  # (B, Q)
    pull = torch.where(positive, F.softplus(-logits), 0.0).sum(dim=1)  # (B,) -log sigmoid(logit)
    push = torch.where(negative, F.softplus(logits), 0.0).sum(dim=1)  # (B,) -log(1 - sigmoid(logit))
    if positives_only:
        push = torch.zeros_like(push)
    positives, negatives = positive.sum(dim=1), negative.sum(dim=1)  # (B,)
    if reduction == "mean":
        rows = (pull + push) / (positives + negatives).clamp_min(1)
    elif reduction == "sum":
        rows = pull + push
    elif reduction == "balanced":
        rows = pull / positives.clamp_min(1) + push / negatives.clamp_min(1)
    elif reduction == "per_positive":
        rows = (pull + push) / positives.clamp_min(1)
    else:
        raise UserError(unknown_name("reduction", reduction, REDUCTIONS))
    return rows.mean()


def knn_softmax(
    query: Float[Tensor, "batch dim"],
    dictionary: Float[Tensor, "queue dim"],
    labels: Shaped[Tensor, "batch queue"],
    *,
    temperature: float,
    form: str = "each_positive",
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
) -> Float[Tensor, ""]:
    """Return the softmax loss with several positives that the paper compares its BCE with, the mean over the batch.

    Arguments as in `multilabel_loss`. `form` says what a positive is normalised against:

    - `each_positive` (Eq. 2): itself and the negatives only, so positives do not compete;
    - `supervised_contrastive`: all valid rows (SupCon, arXiv 2004.11362, Eq. 2; used by Revisiting-Contrastive-SSL).

    Both are averaged over the query's positives and agree when there is one. A query without positives contributes 0.
    Raises UserError for an unknown form.
    """
    positive, negative = _sides(labels, valid)
    logits = cosine_matrix(query, blank_rows(dictionary, valid)) / temperature  # (B, Q)
    if form == "each_positive":
        rivals = _log_sum_exp(logits, negative)  # (B, 1)
        terms = F.softplus(rivals - logits)
    elif form == "supervised_contrastive":
        terms = _log_sum_exp(logits, positive | negative) - logits
    else:
        raise UserError(unknown_name("form", form, SOFTMAX_FORMS))
    rows = torch.where(positive, terms, 0.0).sum(dim=1) / positive.sum(dim=1).clamp_min(1)
    return rows.mean()


def _sides(
    labels: Shaped[Tensor, "batch queue"], valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None
) -> tuple[Bool[Tensor, "batch queue"], Bool[Tensor, "batch queue"]]:
    """Return the masks of the positives and of the negatives, valid rows only."""
    chosen = labels.detach().bool()
    return (chosen, ~chosen) if valid is None else (chosen & valid, ~chosen & valid)


def _log_sum_exp(logits: Float[Tensor, "batch queue"], mask: Bool[Tensor, "batch queue"]) -> Float[Tensor, "batch 1"]:
    """Return log sum exp over the masked entries; for a row without any a low finite value: gradients stay finite."""
    lowest = torch.finfo(logits.dtype).min / 4
    return logits.masked_fill(~mask, lowest).logsumexp(dim=1, keepdim=True)
