"""Exact nearest neighbours by cosine or dot product, in chunks, with a fixed rule for ties."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from scenewise.losses.similarity import cosine_matrix, lift, plain_product

CHUNK_ENTRIES = 1 << 24  # similarities held at once: 64 MB in float32


def nearest(
    features: Float[Tensor, "queries dim"],
    bank: Float[Tensor, "bank dim"],
    *,
    k: int,
    same_set: bool = False,
    normalise: bool = True,
) -> Iterator[tuple[slice, Float[Tensor, "chunk k"], Int[Tensor, "chunk k"]]]:
    """Yield, for chunks of queries, their slice and the cosines and row numbers of the k nearest rows of the bank.

    features (N, D) and bank (M, D) are normalised here; with `normalise=False` they are not, and the dot product takes
    the place of the cosine. k is capped at what there is. Among equal cosines the lower row number is nearer. With
    `same_set` row i of the bank is query i itself and is left out.
    """
    count = max(0, min(k, len(bank) - same_set))
    rows = max(1, CHUNK_ENTRIES // max(1, len(bank)))
    for start in range(0, len(features), rows):
        chunk = slice(start, min(start + rows, len(features)))
        own_features = features[chunk]
        if normalise:
            similarity = cosine_matrix(own_features, bank)  # (chunk, M)
        else:
            similarity = plain_product(lift(own_features), lift(bank))
        if same_set:
            own = torch.arange(start, start + len(similarity), device=similarity.device)
            similarity[own - start, own] = -torch.inf
        yield chunk, *_top(similarity, count)


def vote_weights(similarity: Float[Tensor, "queries k"], *, temperature: float | None) -> Float64[Tensor, "queries k"]:
    """Return what each neighbour counts, exp(similarity / temperature) up to a factor for each query; None: 1 each."""
    if temperature is None:
        return torch.ones_like(similarity, dtype=torch.float64)  # whole numbers, so that ties are exact
    return (similarity.double() / temperature).softmax(dim=1)


def _top(similarity: Float[Tensor, "chunk bank"], k: int) -> tuple[Float[Tensor, "chunk k"], Int[Tensor, "chunk k"]]:
    """Return the k highest entries of each row, nearest first, the lower column first among equals."""
    values, columns = similarity.topk(k, dim=1)
    if k == 0:
        return values, columns
    tied: Bool[Tensor, " chunk"] = (similarity >= values[:, -1:]).sum(dim=1) > k  # topk may have kept any of the equals
    if tied.any():
        ordered = similarity[tied].sort(dim=1, descending=True, stable=True)
        values[tied], columns[tied] = ordered.values[:, :k], ordered.indices[:, :k]
    by_column = columns.argsort(dim=1)
    values, columns = values.gather(1, by_column), columns.gather(1, by_column)
    by_value = values.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, by_value), columns.gather(1, by_value)
