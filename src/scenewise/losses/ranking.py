"""Ranking: one minus the average precision with which every view retrieves the other views of its image (S2R2).

Self-Supervised Ranking for Representation Learning (Varamesh, Diba, Tuytelaars and Van Gool, arXiv 2010.07258) does not
say which differentiable form of average precision it uses; both that were published before it are here:

- `smooth`: Smooth-AP (Brown et al., arXiv 2007.12163), a sigmoid in place of every comparison;
- `hist`: FastAP (Cakir et al., CVPR 2019), a soft histogram of the distances; with centres over the whole range it is
  also the listwise quantised form (Revaud et al., arXiv 1906.07589).

Everywhere M rows are ranked by c queries with P positives each, and a query is never in its own gallery. The loss is
written as the share of negatives in front of the positives, 1 - R+ / R = (R - R+) / R, which loses no digits near zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenewise.errors import UserError, unknown_name
from scenewise.losses.similarity import unit

RELAXATIONS = ("smooth", "hist")
SATURATED = 1e-3  # a query whose relaxed 1 - AP is below this gives next to no gradient
CHUNK = 2**21  # scores (query x positive x gallery) compared at a time: 8 MB in float32; 2**20 to 2**23 measured alike

Group = tuple[Tensor, Tensor]  # queries (c,) and, for each, the rows of its positives (c, P)
Relaxation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Ranking:
    """What one pass over the similarities tells: scalars, means over the queries.

    loss: 1 - relaxed average precision, with gradient. exact: average precision with the tie rule 1/2, in [0, 1], no
    gradient. saturated: the share of queries whose own loss is below 1e-3, in [0, 1]; near 1 there is nothing left to
    learn from at this temperature or number of bins.
    """

    loss: Float[Tensor, ""]
    exact: Float[Tensor, ""]
    saturated: Float[Tensor, ""]


def ranking_loss(
    embeddings: Float[Tensor, "views dim"],
    ids: Int[Tensor, " views"],
    *,
    relaxation: str = "smooth",
    temperature: float = 0.05,
    bins: int = 10,
    queries: Int[Tensor, " queries"] | None = None,
) -> Float[Tensor, ""]:
    """Return 1 - relaxed average precision, the mean over the queries; arguments and errors as in `rank_views`."""
    ranked = rank_views(embeddings, ids, relaxation=relaxation, temperature=temperature, bins=bins, queries=queries)
    return ranked.loss


def rank_views(
    embeddings: Float[Tensor, "views dim"],
    ids: Int[Tensor, " views"],
    *,
    relaxation: str = "smooth",
    temperature: float = 0.05,
    bins: int = 10,
    queries: Int[Tensor, " queries"] | None = None,
) -> Ranking:
    """Return the loss and what to log beside it, from one pass over the similarities.

    Rows of `embeddings` (M, D) with the same number in `ids` (M,) are views of one image and each other's positives, in
    any order and any number per image; all other rows are negatives. Gradient goes to every row, as query and as
    gallery item. `queries` (Q,) are the numbers, 0 .. M - 1, of the rows that search (default: all); the gallery is
    always all M rows. So N processes equal one when each calls this on the joined embeddings with its own rows as
    queries. A single image has no negatives: its loss and gradient are 0.

    temperature: of the sigmoids of `smooth`. The published 0.01 is for fine-tuning; from scratch it saturates, so 0.05
    (ours: the temperature at which a gap of 0.5 is still seen among 256 to 4096 rows). bins: intervals of `hist` over
    the squared distances 0 .. 4 (10: FastAP).

    Raises UserError where a query's image has no second view, for an unknown relaxation, a temperature that is not
    positive, fewer than one bin and no query at all.
    """
    assert len(ids) == len(embeddings), "one number for every row"
    relax = _relaxation(relaxation, temperature=temperature, bins=bins)
    chosen = torch.arange(len(ids), device=ids.device) if queries is None else queries
    loss, exact, saturated = _Ranked.apply(unit(embeddings), _group(ids, chosen), relax, len(chosen))
    return Ranking(loss=loss, exact=exact, saturated=saturated)


@torch.no_grad()
def ranking_average_precision(embeddings: Float[Tensor, "views dim"], ids: Int[Tensor, " views"]) -> Float[Tensor, ""]:
    """Return the exact average precision, the mean over all rows as queries; two equal scores count half, no gradient.

    embeddings (M, D) and ids (M,) as in `rank_views`. Raises UserError where an image has no second view.
    """
    assert len(ids) == len(embeddings), "one number for every row"
    units = unit(embeddings)
    wide = units.double()
    missed = wide.new_zeros(())
    for _, _, positive, negative in _scores(wide, units.dtype, _group(ids, torch.arange(len(ids), device=ids.device))):
        missed += _exact_error(positive, negative).sum(dtype=missed.dtype)
    return (1 - missed / len(ids)).to(units.dtype)


class _Ranked(torch.autograd.Function):
    """Unit vectors to (loss, exact, saturated); d loss / d vectors is made in the same pass and alone is kept."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, units: Tensor, groups: list[Group], relax: Relaxation, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = units.double()
        gradient = torch.zeros_like(wide)  # (M, D)
        totals = wide.new_zeros(3)
        for rows, places, positive, negative in _scores(wide, units.dtype, groups):
            error, to_positive, to_negative = relax(positive, negative)  # (c,), (c, P), (c, M)
            missed = _exact_error(positive, negative)
            totals += torch.stack([error, missed, (error >= SATURATED).to(error)]).sum(dim=1, dtype=totals.dtype)
            if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
                slope = to_negative.scatter_(1, places, to_positive).double()  # (c, M) d loss / d score
                gradient.addmm_(slope.T, wide[rows])  # as gallery items
                gradient.index_add_(0, rows, slope @ wide)  # as queries
        ctx.save_for_backward((gradient / count).to(units.dtype))
        loss, missed, unsaturated = (totals / count).to(units.dtype).unbind()
        exact, saturated = 1 - missed, 1 - unsaturated
        ctx.mark_non_differentiable(exact, saturated)
        return loss.clone(), exact, saturated

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor, *_: Tensor
    ) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():  # only under create_graph; once_differentiable would let a wrong one through
            raise RuntimeError("the ranking loss has no second derivative: create_graph=True cannot be used")
        (slope,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient * slope, None, None, None


def _scores(wide: Tensor, kind: torch.dtype, groups: list[Group]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield chunks: queries (c,), rows of their positives (c, P), scores of those (c, P) and of the negatives (c, M).

    In the last, -inf stands for the query itself and for its positives. The product is in float64: differences of
    scores are divided by a small temperature, neither autocast nor a reduced matmul precision touches float64, and
    equal embeddings tie whatever the chunk. What is yielded is of the embeddings' own `kind`.
    """
    for queries, positives in groups:
        size = max(1, CHUNK // (positives.shape[1] * len(wide)))
        for rows, places in zip(torch.split(queries, size), torch.split(positives, size), strict=True):
            scores = (wide[rows] @ wide.T).to(kind)  # (c, M)
            positive = scores.gather(1, places)  # (c, P)
            yield rows, places, positive, scores.scatter_(1, torch.cat([rows[:, None], places], dim=1), -torch.inf)


def _group(ids: Int[Tensor, " views"], queries: Int[Tensor, " queries"]) -> list[Group]:
    """Return the queries and their positives, those with equally many together, so that unequal images need no padding.

    The list is empty when there is one image: without negatives every ranking is right.
    """
    if not len(queries):
        raise UserError("queries: no row is named; at least one has to search")
    names, image, views = torch.unique(ids, return_inverse=True, return_counts=True)
    count = views[image[queries]]  # (Q,) views of each query's image, itself included
    alone = names[image[queries[count < 2]]].unique().tolist()
    if alone:
        listed = ", ".join(str(name) for name in alone[:5]) + (", ..." if len(alone) > 5 else "")
        raise UserError(f"ids: one view only of image {listed}; a ranking needs at least two views of every image")
    if len(names) == 1:
        return []
    order = image.argsort(stable=True)  # (M,) rows, image by image
    first = views.cumsum(0) - views  # where each image begins there
    within = torch.empty_like(order)  # (M,) a row's number among the views of its image
    within[order] = torch.arange(len(ids), device=ids.device) - first[image[order]]
    groups = []
    for size in count.unique().tolist():
        rows = queries[count == size]  # (c,)
        others = torch.arange(size - 1, device=ids.device).expand(len(rows), -1)
        others = others + (others >= within[rows, None])  # 0 .. size - 1 without the query's own number
        groups.append((rows, order[first[image[rows], None] + others]))
    return groups


def _relaxation(name: str, *, temperature: float, bins: int) -> Relaxation:
    """Return the function of (positive (c, P), negative (c, M)) scores that gives 1 - AP (c,) and both its slopes."""
    if name not in RELAXATIONS:
        raise UserError(unknown_name("relaxation", name, RELAXATIONS))
    if not temperature > 0:
        raise UserError(f"temperature: {temperature} is not allowed; it has to be above 0 (0.05 is usual)")
    if bins < 1:
        raise UserError(f"bins: {bins} is not allowed; it has to be at least 1 (10 is usual)")
    if name == "smooth":
        return partial(_smooth_error, temperature=temperature)
    return partial(_histogram_error, bins=bins)


def _exact_error(
    positive: Float[Tensor, "queries positives"], negative: Float[Tensor, "queries views"]
) -> Float[Tensor, " queries"]:
    """Return 1 - AP with step(0) = 1/2: a sign is twice the step less one, and 0 at a tie."""
    ahead = (negative[:, None] - positive[:, :, None]).sign_().sum(dim=2).add_(negative.shape[1]) / 2  # (c, P) R - R+
    among = (positive[:, None] - positive[:, :, None]).sign_().sum(dim=2).add_(positive.shape[1] + 1) / 2  # (c, P) R+
    return (ahead / (among + ahead)).mean(dim=1)


def _smooth_error(
    positive: Float[Tensor, "queries positives"], negative: Float[Tensor, "queries views"], *, temperature: float
) -> tuple[Float[Tensor, " queries"], Float[Tensor, "queries positives"], Float[Tensor, "queries views"]]:
    """Return 1 - AP with a sigmoid for the step, and its slope to each positive's and each negative's score."""
    positive, negative = positive / temperature, negative / temperature
    within = (positive[:, None] - positive[:, :, None]).sigmoid_()  # (c, P, P): is j in front of i
    within.diagonal(dim1=1, dim2=2).zero_()
    across = (negative[:, None] - positive[:, :, None]).sigmoid_()  # (c, P, M): is negative m in front of i
    among, ahead = 1 + within.sum(dim=2), across.sum(dim=2)  # (c, P) R+ and R - R+
    rank = among + ahead
    weight = 1 / (temperature * positive.shape[1] * rank**2)
    within.addcmul_(within, within, value=-1).mul_((-ahead * weight)[:, :, None])  # the sigmoid's slope is g - g^2
    across.addcmul_(across, across, value=-1).mul_((among * weight)[:, :, None])
    to_positive = within.sum(dim=1) - within.sum(dim=2) - across.sum(dim=2)
    return (ahead / rank).mean(dim=1), to_positive, across.sum(dim=1)


def _histogram_error(
    positive: Float[Tensor, "queries positives"], negative: Float[Tensor, "queries views"], *, bins: int
) -> tuple[Float[Tensor, " queries"], Float[Tensor, "queries positives"], Float[Tensor, "queries views"]]:
    """Return 1 - AP of soft histograms, and its slope to each positive's and each negative's score.

    An item at t = bins (1 - score) / 2 gives 1 - w to the centre below and w to the one above, w = t - floor(t). The
    running sum up to centre l is therefore the sum of clamp(l + 1 - t, 0, 1), and only the one at l = floor(t) moves
    with t.
    """
    near, far = (1 - positive) * (bins / 2), (1 - negative) * (bins / 2)  # infinite where nothing counts
    found, false = _running_sums(near, bins), _running_sums(far, bins)  # (c, bins + 1) H+ and H - H+
    whole = (found + false).clamp_min(torch.finfo(found.dtype).tiny)
    share = false / whole
    landed = found.diff(dim=1, prepend=torch.zeros_like(found[:, :1]))  # (c, bins + 1) h+
    scale = bins / (2 * positive.shape[1])
    to_found = (share[:, :-1] - share[:, 1:] - (landed / whole * share)[:, :-1]) * scale  # (c, bins)
    to_false = ((landed / whole) * (found / whole))[:, :-1] * scale
    error = (landed * share).sum(dim=1) / positive.shape[1]
    return (
        error,
        to_found.gather(1, _interval(near, bins)),
        to_false.gather(1, _interval(far, bins)).mul_(far.isfinite()),
    )


def _running_sums(place: Float[Tensor, "queries items"], bins: int) -> Float[Tensor, "queries centres"]:
    """Return how much has landed up to each centre 0 .. bins."""
    return torch.stack([(centre + 1 - place).clamp_(0, 1).sum(dim=1) for centre in range(bins + 1)], dim=1)


def _interval(place: Float[Tensor, "queries items"], bins: int) -> Int[Tensor, "queries items"]:
    """Return the number 0 .. bins - 1 of each item's interval (any of them for NaN and infinity)."""
    return place.nan_to_num(nan=0.0).clamp_(0, bins - 1).long()
