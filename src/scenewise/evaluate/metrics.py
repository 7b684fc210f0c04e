"""Figures from scores and labels over a whole test set, on the CPU or any device: pure functions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from scenewise.evaluate.neighbours import nearest, vote_weights
from scenewise.evaluate.ranking import rank, weighted_average_precision
from scenewise.evaluate.retrieval import relevant_rows, retrieve


def average_precision(
    scores: Float[Tensor, " images"], relevant: Bool[Tensor, " images"] | Int[Tensor, " images"], *, form: str = "step"
) -> float:
    """Return the average precision of one ranking, 0..1: scores (N,), the higher the better, and who is relevant (N,).

    `form` is `step` (scikit-learn's), `area` (VOC2010 and later) or `11point` (VOC2007), see
    `weighted_average_precision`. Equal scores are one group, so the order of the images has no influence. NaN when
    nothing is relevant. Raises ValueError for arguments of unequal lengths.
    """
    if len(scores) != len(relevant):
        raise ValueError(f"scores has {len(scores)} images, relevant has {len(relevant)}: they must be the same images")
    every = torch.ones(1, len(scores), dtype=torch.long, device=scores.device)
    return float(weighted_average_precision(rank(scores, relevant > 0), every, forms=(form,))[0, 0])


def mean_average_precision(
    scores: Float[Tensor, "images classes"],
    labels: Bool[Tensor, "images classes"] | Int[Tensor, "images classes"],
    *,
    form: str = "step",
) -> float:
    """Return the mean over the classes of the average precision over the whole set, 0..1.

    labels (N, C): true or 1 present, false or 0 absent, -1 not judged: that image is left out for that class. Classes
    without a positive are left out; NaN when none is left. Raises ValueError for arguments of other shapes.
    """
    _check_table(scores, labels)
    figures = class_average_precisions(scores, labels, form=form)
    return float(figures.nanmean())


def class_average_precisions(
    scores: Float[Tensor, "images classes"],
    labels: Bool[Tensor, "images classes"] | Int[Tensor, "images classes"],
    *,
    form: str = "step",
) -> Float[Tensor, " classes"]:
    """Return the average precision of each class (C,), NaN for one without a positive; arguments as in the mean's."""
    _check_table(scores, labels)
    columns = []
    for column in range(scores.shape[1]):
        ranking = rank(scores[:, column], labels[:, column] > 0)
        judged = (labels[:, column].int() >= 0).long()[None]  # (1, N)
        columns.append(weighted_average_precision(ranking, judged, forms=(form,))[0, 0])
    return torch.stack(columns) if columns else torch.empty(0, dtype=torch.float64)


def _check_table(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 2 or scores.shape != labels.shape:
        shapes = f"scores has the shape {tuple(scores.shape)}, labels has {tuple(labels.shape)}"
        raise ValueError(f"{shapes}: both must be (images, classes)")


def knn_predict(
    features: Float[Tensor, "queries dim"],
    bank_features: Float[Tensor, "bank dim"],
    bank_labels: Int[Tensor, " bank"],
    *,
    classes: int,
    k: int,
    temperature: float,
) -> Int[Tensor, " queries"]:
    """Return the class (N,) with the most votes of the k nearest bank rows, a vote being exp(cosine / temperature).

    Features are normalised inside, k is capped at the bank's size. Ties: the lower bank row is nearer, the lower class
    wins (InstDisc, arXiv 1805.01978, section 3.4).
    """
    return knn_votes(features, bank_features, bank_labels, classes=classes, k=k, temperature=temperature).argmax(dim=1)


def knn_votes(
    features: Float[Tensor, "queries dim"],
    bank_features: Float[Tensor, "bank dim"],
    bank_labels: Int[Tensor, " bank"],
    *,
    classes: int,
    k: int,
    temperature: float | None,
    normalise: bool = True,
) -> Float64[Tensor, "queries classes"]:
    """Return each class's share of the votes (N, C), rows sum to 1; arguments as in `knn_predict`.

    temperature: None gives every neighbour one vote. normalise: see `nearest`.
    """
    votes = torch.zeros(len(features), classes, dtype=torch.float64, device=features.device)
    for chunk, similarity, rows in nearest(features, bank_features, k=k, normalise=normalise):
        weights = vote_weights(similarity, temperature=temperature)
        found = votes[chunk].scatter_add(1, bank_labels[rows].long(), weights)
        votes[chunk] = found / weights.sum(dim=1, keepdim=True)
    return votes


def recall_at_k(
    query: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    query_labels: Int[Tensor, " queries"] | Bool[Tensor, "queries classes"] | Int[Tensor, "queries classes"],
    gallery_labels: Int[Tensor, " gallery"] | Bool[Tensor, "gallery classes"] | Int[Tensor, "gallery classes"],
    *,
    k: int,
    same_set: bool = False,
) -> float:
    """Return the share of queries, 0..1, with at least one relevant item among the k nearest of the gallery.

    Labels are class numbers (N,), or (N, C) with true or above 0 where a class is present: relevant is what has the
    same class, or one class in common. Cosine similarity; `same_set` says that the gallery is the query set, so each
    query is removed from its own list. k is capped. A query without any relevant item is a miss. NaN without queries.
    """
    hits = [
        relevant_rows(query_labels[chunk], gallery_labels, rows).any(dim=1)
        for chunk, _, rows in nearest(query, gallery, k=k, same_set=same_set)
    ]
    return float(torch.cat(hits).double().mean()) if hits else float("nan")


def precision_at_k(
    query: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    query_labels: Int[Tensor, " queries"] | Bool[Tensor, "queries classes"] | Int[Tensor, "queries classes"],
    gallery_labels: Int[Tensor, " gallery"] | Bool[Tensor, "gallery classes"] | Int[Tensor, "gallery classes"],
    *,
    k: int,
    same_set: bool = False,
) -> float:
    """Return the share of relevant items among the k nearest of the gallery, 0..1, the mean over the queries.

    Arguments as in `recall_at_k`. A query without any relevant item has precision 0. NaN without queries or gallery.
    """
    shares = [
        relevant_rows(query_labels[chunk], gallery_labels, rows).double().mean(dim=1)
        for chunk, _, rows in nearest(query, gallery, k=k, same_set=same_set)
    ]
    return float(torch.cat(shares).mean()) if shares else float("nan")


def retrieval_map(
    query: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    query_labels: Int[Tensor, " queries"] | Bool[Tensor, "queries classes"] | Int[Tensor, "queries classes"],
    gallery_labels: Int[Tensor, " gallery"] | Bool[Tensor, "gallery classes"] | Int[Tensor, "gallery classes"],
    *,
    same_set: bool = False,
) -> float:
    """Return the mean over the queries of the average precision (step form) of the whole gallery's ranking, 0..1.

    Arguments as in `recall_at_k`. Equal cosines are one group. Queries without any relevant item are left out; NaN
    when none is left.
    """
    found = retrieve(query, gallery, query_labels, gallery_labels, ks=(), same_set=same_set)
    return float(found.average_precision.nanmean())


def mean_iou(
    predicted: Int[Tensor, "*pixels"], target: Int[Tensor, "*pixels"], *, classes: int, ignore: int = 255
) -> float:
    """Return the mean over classes of intersection over union, 0..1, from one confusion matrix over all pixels.

    Pixels whose target is `ignore` do not count; a prediction outside 0..classes-1 is a miss of its target. Classes
    that appear neither as target nor as prediction are left out; NaN when none is left. Raises ValueError for a target
    that is no class.
    """
    judged = target != ignore
    truth, guess = target[judged].long(), predicted[judged].long()
    if truth.numel() and not 0 <= int(truth.min()) <= int(truth.max()) < classes:
        span = f"{int(truth.min())}..{int(truth.max())}"
        raise ValueError(f"target: has values {span}, allowed are 0..{classes - 1} and {ignore} (not judged)")
    outside = (guess < 0) | (guess >= classes)
    cells = truth * (classes + 1) + guess.masked_fill(outside, classes)
    confusion = cells.bincount(minlength=classes * (classes + 1)).reshape(classes, classes + 1)
    intersection = confusion.diagonal()
    union = confusion.sum(dim=1) + confusion[:, :classes].sum(dim=0) - intersection
    shares = intersection.double() / union  # 0 / 0 = NaN where a class is absent
    return float(shares.nanmean())
