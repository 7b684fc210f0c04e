"""The mean of the mAP of test mini-batches: for comparison with figures that were published that way, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenewise.evaluate.intervals import Statistic
from scenewise.evaluate.ranking import Ranking, rank, weighted_average_precision


@dataclass(frozen=True, slots=True)
class _Batch:
    images: slice
    rankings: tuple[Ranking, ...]  # of the classes that one of the images has
    judged: tuple[Int[Tensor, " images"], ...]


def batched_precision_statistic(
    scores: Float[Tensor, "images classes"], labels: Int[Tensor, "images classes"], *, batch: int
) -> Statistic:
    """Return the statistic "mAP/batches of N": the mAP (step form) of N test images in a row, averaged over the rows.

    A batch counts by its images, the last one may be smaller, and one without any positive does not count
    (object-cropping-ssl, main_lincls.py: `map` and AverageMeter; there such a batch makes the figure NaN). A ranking of
    few images is easier than one of all, so this reads higher than mAP.
    """
    parts = [
        _batch(scores, labels, slice(begin, min(begin + batch, len(scores)))) for begin in range(0, len(scores), batch)
    ]

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        total = torch.zeros(len(weights), dtype=torch.float64)
        images = torch.zeros(len(weights), dtype=torch.float64)
        for part in parts:
            if part.rankings:
                own = weights[:, part.images]
                value = _mean_precision(part, own)
                known = ~value.isnan()
                total += torch.where(known, value * own.sum(dim=1), 0.0)
                images += torch.where(known, own.sum(dim=1), 0)
        return {f"mAP/batches of {batch}": total / images}

    return statistic


def _batch(scores: Tensor, labels: Tensor, images: slice) -> _Batch:
    own, found = scores[images], labels[images]
    present = (found > 0).any(dim=0).nonzero()[:, 0].tolist()
    return _Batch(
        images,
        tuple(rank(own[:, number], found[:, number] > 0) for number in present),
        tuple((found[:, number] >= 0).long() for number in present),
    )


def _mean_precision(part: _Batch, weights: Int[Tensor, "samples images"]) -> Float[Tensor, " samples"]:
    """Return the batch's mAP for each row of weights, NaN where no positive is left."""
    columns = [
        weighted_average_precision(ranking, weights * judged, forms=("step",))[0]
        for ranking, judged in zip(part.rankings, part.judged, strict=True)
    ]
    return torch.stack(columns).nanmean(dim=0)
