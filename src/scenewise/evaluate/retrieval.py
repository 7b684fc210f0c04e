"""Rankings of a gallery by cosine similarity, one for each query, and what is found where in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from scenewise.losses.similarity import cosine_matrix

CHUNK_ENTRIES = 1 << 22  # similarities ranked at once: about 150 MB with what sorting them takes

Classes = Int[Tensor, "_"] | Bool[Tensor, "_ _"] | Int[Tensor, "_ _"]  # (N,) numbers, or (N, C) present above 0


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What each query found.

    recall: k -> (N,) 1 where one of the k nearest is relevant, else 0. precision: k -> (N,) share of the k nearest that
    is relevant. average_precision: (N,) of the whole ranking, step form, NaN for a query without a relevant item.
    """

    recall: Mapping[int, Float64[Tensor, " queries"]]
    precision: Mapping[int, Float64[Tensor, " queries"]]
    average_precision: Float64[Tensor, " queries"]


def retrieve(
    query: Float[Tensor, "queries dim"],
    gallery: Float[Tensor, "gallery dim"],
    query_classes: Classes,
    gallery_classes: Classes,
    *,
    ks: Sequence[int],
    same_set: bool = False,
) -> Retrieved:
    """Return what each query (N, D) finds in the gallery (M, D); both are normalised here.

    Classes are numbers (N,), or (N, C) with true or above 0 where a class is present; relevant is what has the same
    class, or one in common. With `same_set` row i of the gallery is query i and is left out. Each k is capped at what
    there is. Among equal cosines the lower row is nearer; average precision takes them as one group.
    """
    recall: dict[int, list[Tensor]] = {k: [] for k in ks}
    precision: dict[int, list[Tensor]] = {k: [] for k in ks}
    whole = [torch.empty(0, dtype=torch.float64, device=query.device)]
    for chunk, cosine, rows in _rankings(query, gallery, same_set=same_set):
        relevant = relevant_rows(query_classes[chunk], gallery_classes, rows)  # (chunk, M)
        for k in ks:
            recall[k].append(relevant[:, :k].any(dim=1).double())
            precision[k].append(relevant[:, :k].double().mean(dim=1))
        whole.append(_average_precision(cosine, relevant))
    empty = whole[0]
    return Retrieved(
        recall={k: torch.cat([empty, *parts]) for k, parts in recall.items()},
        precision={k: torch.cat([empty, *parts]) for k, parts in precision.items()},
        average_precision=torch.cat(whole),
    )


def relevant_rows(
    query_classes: Classes, gallery_classes: Classes, rows: Int[Tensor, "queries ranks"]
) -> Bool[Tensor, "queries ranks"]:
    """Return whether each of the gallery's rows that a query lists has its class, or one in common with it."""
    if query_classes.dim() == 1:
        return gallery_classes[rows] == query_classes[:, None]
    # (N, C) @ (C, M): a sum of zeros and ones, exact in float32 below 2^24 classes
    common = (query_classes > 0).float() @ (gallery_classes > 0).float().T
    return common.gather(1, rows) > 0.5


def _rankings(
    query: Float[Tensor, "queries dim"], gallery: Float[Tensor, "gallery dim"], *, same_set: bool
) -> Iterator[tuple[slice, Float[Tensor, "chunk ranks"], Int[Tensor, "chunk ranks"]]]:
    """Yield, for chunks of queries, their slice, the falling cosines and the rows of the gallery in that order."""
    size = max(1, CHUNK_ENTRIES // max(1, len(gallery)))
    for start in range(0, len(query), size):
        chunk = slice(start, min(start + size, len(query)))
        cosine = cosine_matrix(query[chunk], gallery)  # (chunk, M)
        if same_set:
            own = torch.arange(start, start + len(cosine), device=cosine.device)
            cosine[own - start, own] = -torch.inf
        ordered = cosine.sort(dim=1, descending=True, stable=True)
        ranks = len(gallery) - same_set
        yield chunk, ordered.values[:, :ranks], ordered.indices[:, :ranks]


def _average_precision(
    cosine: Float[Tensor, "queries ranks"], relevant: Bool[Tensor, "queries ranks"]
) -> Float64[Tensor, " queries"]:
    """Return the sum of precision times the step in recall over groups of equal cosines; NaN where none is relevant."""
    ranks = cosine.shape[1]
    place = torch.arange(ranks, device=cosine.device)
    inside = torch.zeros_like(relevant)  # whether the next place is of the same group
    inside[:, :-1] = cosine[:, :-1] == cosine[:, 1:]
    last = torch.where(inside, ranks, place).flip(1).cummin(dim=1).values.flip(1)  # the last place of each one's group
    found = relevant.cumsum(dim=1).gather(1, last)  # up to the end of the group
    precision = found.double() / (last + 1)
    return (precision * relevant).sum(dim=1) / relevant.sum(dim=1)
