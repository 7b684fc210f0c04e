"""Average precision with whole-number weights, so that a bootstrap over images is a matrix of counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int, Shaped
from torch import Tensor

from scenewise.errors import UserError, unknown_name

FORMS = ("step", "area", "11point")


@dataclass(frozen=True, slots=True)
class Ranking:
    """One class's images by falling score; equal scores form a group, and the order within a group has no influence.

    order: (N,) the images, the highest score first. positives: (P,) the relevant images in that order.
    place: (P,) the last place, in `order`, of the group of each positive; precision and recall exist only there.
    last: (P,) the last positive of that group, as a number in `positives`.
    """

    order: Int[Tensor, " images"]
    positives: Int[Tensor, " positives"]
    place: Int[Tensor, " positives"]
    last: Int[Tensor, " positives"]


def rank(scores: Shaped[Tensor, " images"], relevant: Bool[Tensor, " images"]) -> Ranking:
    """Return the ranking of N images by their scores. Raises ValueError when a score is not a number."""
    if scores.isnan().any():
        raise ValueError("scores: some are not a number, so they have no order")
    ordered = scores.sort(descending=True, stable=True)
    hits = relevant[ordered.indices]  # (N,)
    ends = torch.ones_like(hits)  # whether a place is the last of its group
    ends[:-1] = ordered.values[1:] != ordered.values[:-1]
    group = ends.cumsum(0) - ends.long()  # (N,) the group of each place, from 0
    place = ends.nonzero()[:, 0][group][hits]  # (P,)
    hits_so_far = hits.cumsum(0)  # (N,)
    return Ranking(ordered.indices, ordered.indices[hits], place, hits_so_far[place] - 1)


def weighted_average_precision(
    ranking: Ranking, weights: Int[Tensor, "samples images"], *, forms: Sequence[str]
) -> Float64[Tensor, "forms samples"]:
    """Return the average precision of a ranking for each row of weights, how often each image counts (0: left out).

    It equals the figure of the list in which every image stands as often as its weight says; NaN where no relevant
    image is left. Forms: `step` is the sum of precision times the step in recall (scikit-learn); `area` the area under
    the monotone envelope of precision (VOC2010 and later); `11point` the mean of the envelope at recall 0, 0.1 ... 1
    (VOC2007), compared in whole numbers: a tenth in floating point misses a recall of exactly 3/10.
    """
    for form in forms:
        if form not in FORMS:
            raise UserError(unknown_name("form", form, FORMS))
    hits = weights[:, ranking.positives].long()  # (samples, P)
    found = hits.cumsum(1)[:, ranking.last]  # (samples, P) at the end of each group that has a positive
    seen = weights[:, ranking.order].cumsum(1)[:, ranking.place]  # (samples, P)
    total = hits.sum(dim=1)  # (samples,)
    precision = found.double() / seen.clamp_min(1)
    envelope = precision.flip(1).cummax(1).values.flip(1)  # the best precision at this recall or a higher one
    figures = []
    for form in forms:
        if form == "11point":
            figures.append(_eleven_points(precision, found, total))
        else:
            figures.append(((precision if form == "step" else envelope) * hits).sum(dim=1) / total)
    return torch.stack(figures)


def _eleven_points(
    precision: Float64[Tensor, "samples positives"],
    found: Int[Tensor, "samples positives"],
    total: Int[Tensor, " samples"],
) -> Float64[Tensor, " samples"]:
    """Return the mean over recalls t/10 of the best precision where found / total >= t/10; NaN without positives."""
    if precision.shape[1] == 0:
        return torch.full_like(total, torch.nan, dtype=torch.float64)
    points = [torch.where(10 * found >= tenth * total[:, None], precision, 0.0).amax(dim=1) for tenth in range(11)]
    return torch.where(total > 0, torch.stack(points).mean(dim=0), torch.nan)
