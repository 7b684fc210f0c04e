"""COCO's twelve figures of detections, and VOC's, as a function of the test images' weights.

pycocotools' `COCOeval.accumulate` and `summarize` with a weight for each image: an image of weight 2 counts as two. The
precision of a curve is looked at only where an object is found: elsewhere its envelope does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int, Int64
from torch import Tensor

from scenewise.evaluate.detection_matches import AREAS, Matches
from scenewise.evaluate.intervals import Statistic

RECALLS = np.linspace(0.0, 1.0, 101)  # where COCO reads the precision
ELEVEN = np.arange(0.0, 1.1, 0.1)  # where VOC 2007 does
MOST_FOUND = (1, 10, 100)  # detections of a class in an image, for AR1, AR10, AR100
_ENTRIES = 1 << 22  # samples x detections held at once: 32 MB


@dataclass(frozen=True, slots=True)
class Curve:
    """Detections of a class over all images, best first, as far as the last that finds an object.

    image: (D,) where each that counts is. hits: (P,) the places of those that find an object.
    """

    image: Int64[Tensor, " detections"]
    hits: Int64[Tensor, " found"]

    @classmethod
    def of(
        cls,
        image: Int64[np.ndarray, " detections"],
        found: Bool[np.ndarray, " detections"],
        spared: Bool[np.ndarray, " detections"],
    ) -> Curve:
        """Return the curve of detections, best first, of which some do not count."""
        image, hits = image[~spared], np.flatnonzero(found[~spared])
        end = hits[-1] + 1 if len(hits) else 0
        return cls(torch.from_numpy(image[:end]), torch.from_numpy(hits))

    def envelope(
        self, weights: Int[Tensor, "samples images"]
    ) -> tuple[Float64[Tensor, "samples found"], Float64[Tensor, "samples found"]]:
        """Return, at each object found, the best precision there or later, and how many are found by then."""
        counts = weights.int()
        seen = counts[:, self.image].cumsum(dim=1, dtype=torch.int32)[:, self.hits].double()  # (S, P)
        right = counts[:, self.image[self.hits]].cumsum(dim=1).double()
        precision = right / (seen + np.spacing(1))  # as pycocotools: nothing seen is a precision of 0
        return precision.flip(1).cummax(dim=1).values.flip(1), right


@dataclass(frozen=True, slots=True)
class ClassTable:
    """One class over all images.

    curves: by (area, threshold). voc: the curve by VOC's rule. counts: (images, areas) objects to be found. hits:
    (images, areas, thresholds) objects found by the first 100. first: (images, most found, thresholds) objects of any
    area found by the first 1, 10, 100.
    """

    curves: tuple[tuple[Curve, ...], ...]
    voc: Curve
    counts: Float64[Tensor, "images areas"]
    hits: Float64[Tensor, "images areas thresholds"]
    first: Float64[Tensor, "images most thresholds"]


def detection_statistic(images: Sequence[Matches], classes: Sequence[str], *, prefix: str = "") -> Statistic:
    """Return the statistic of the detections of these test images, in the order of the weights.

    AP (mean over the overlaps 0.50 to 0.95), AP50, AP75, APs, APm, APl, AR1, AR10, AR100, ARs, ARm, ARl and "AP/NAME"
    of every class, all with `prefix` in front. A class without an object in a sample has no figure there and is left
    out of the sample's means. Among equal scores the earlier image comes first.
    """
    tables = class_tables(images, len(classes))

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        precisions = torch.stack([_precisions(table, weights) for table in tables], dim=-1)  # (S, A, T, C)
        recalls = torch.stack([_recalls(table, table.hits, weights) for table in tables], dim=-1)  # (S, A, T, C)
        first = torch.stack([_recalls(table, table.first, weights) for table in tables], dim=-1)  # (S, most, T, C)
        figures = {"AP": precisions[:, 0].mean(dim=1), "AP50": precisions[:, 0, 0], "AP75": precisions[:, 0, 5]}
        ranges = list(enumerate(AREAS))[1:]
        figures |= {f"AP{name[0]}": precisions[:, place].mean(dim=1) for place, name in ranges}
        figures |= {f"AR{most}": first[:, place].mean(dim=1) for place, most in enumerate(MOST_FOUND)}
        figures |= {f"AR{name[0]}": recalls[:, place].mean(dim=1) for place, name in ranges}
        named = {name: values.nanmean(dim=1) for name, values in figures.items()}  # (S, C) -> (S,)
        named |= {f"AP/{name}": figures["AP"][:, number] for number, name in enumerate(classes)}
        return {prefix + name: values for name, values in named.items()}

    return statistic


def voc_statistic(images: Sequence[Matches], classes: Sequence[str]) -> Statistic:
    """Return the statistic of VOC's mean average precision of boxes at an overlap above one half.

    "AP50/voc" is the area under the precision's envelope (VOC 2010 and later), "AP50/11point" its mean at eleven
    recalls (VOC 2007; detectron2, and so MoCo and its followers, use it on the test set of 2007).
    """
    tables = class_tables(images, len(classes))
    forms = {"AP50/voc": None, "AP50/11point": torch.from_numpy(ELEVEN)}

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        return {
            name: torch.stack(
                [_average_precision(table.voc, weights, _positives(table, weights)[:, 0], form) for table in tables],
                dim=1,
            ).nanmean(dim=1)
            for name, form in forms.items()
        }

    return statistic


def joint_statistic(*statistics: Statistic) -> Statistic:
    """Return the statistic that has the figures of all."""
    return lambda weights: {name: value for each in statistics for name, value in each(weights).items()}


def class_tables(images: Sequence[Matches], classes: int) -> tuple[ClassTable, ...]:
    """Return for each class what became of its detections in all images."""
    scores = np.concatenate([matches.scores for matches in images])
    order = np.argsort(-scores, kind="stable")
    image = np.repeat(np.arange(len(images)), [len(matches.scores) for matches in images])[order]
    number = np.concatenate([matches.classes for matches in images])[order]
    rank = np.concatenate([matches.rank for matches in images])[order]
    found = np.concatenate([matches.found for matches in images], axis=-1)[..., order]  # (A, T, D)
    spared = np.concatenate([matches.spared for matches in images], axis=-1)[..., order]
    voc = np.stack(
        [np.concatenate([m.found_voc for m in images]), np.concatenate([m.spared_voc for m in images])],
    )[:, order]
    counts = np.stack([matches.counts for matches in images]).astype(np.float64)  # (N, A, C)
    tables = []
    for each in range(classes):
        mine = number == each
        right = found[..., mine] & ~spared[..., mine]
        tables.append(
            ClassTable(
                curves=tuple(
                    tuple(Curve.of(image[mine], *pair) for pair in zip(*rows, strict=True))
                    for rows in zip(found[..., mine], spared[..., mine], strict=True)
                ),
                voc=Curve.of(image[mine], *voc[:, mine]),
                counts=torch.from_numpy(counts[:, :, each]),
                hits=_sum_by_image(right, image[mine], len(images)),
                first=_sum_by_image(
                    np.stack([right[0] & (rank[mine] < most) for most in MOST_FOUND]), image[mine], len(images)
                ),
            )
        )
    return tuple(tables)


def _sum_by_image(
    right: Bool[np.ndarray, "rows thresholds detections"], image: Int64[np.ndarray, " detections"], images: int
) -> Float64[Tensor, "images rows thresholds"]:
    totals = np.zeros((images, *right.shape[:2]))
    np.add.at(totals, image, np.moveaxis(right, -1, 0).astype(np.float64))
    return torch.from_numpy(totals)


def _positives(table: ClassTable, weights: Int[Tensor, "samples images"]) -> Float64[Tensor, "samples areas"]:
    return weights.double() @ table.counts


def _precisions(
    table: ClassTable, weights: Int[Tensor, "samples images"]
) -> Float64[Tensor, "samples areas thresholds"]:
    positives, recalls = _positives(table, weights), torch.from_numpy(RECALLS)
    return torch.stack(
        [
            torch.stack([_average_precision(curve, weights, positives[:, area], recalls) for curve in curves], dim=1)
            for area, curves in enumerate(table.curves)
        ],
        dim=1,
    )


def _recalls(
    table: ClassTable, found: Float64[Tensor, "images rows thresholds"], weights: Int[Tensor, "samples images"]
) -> Float64[Tensor, "samples rows thresholds"]:
    """Return the share of the objects found, NaN without objects; rows: areas, or as many as there are of any area."""
    positives = _positives(table, weights)
    if found.shape[1] != positives.shape[1]:
        positives = positives[:, :1]
    return torch.einsum("sn,nrt->srt", weights.double(), found) / positives[..., None]


def _average_precision(
    curve: Curve,
    weights: Int[Tensor, "samples images"],
    positives: Float64[Tensor, " samples"],
    recalls: Float64[Tensor, " recalls"] | None,
) -> Float64[Tensor, " samples"]:
    """Return the mean of the envelope at these recalls, or the area under it; NaN in a sample without an object."""
    rows = max(1, _ENTRIES // max(1, len(curve.image)))
    values = []
    for start in range(0, len(weights), rows):
        some, total = weights[start : start + rows], positives[start : start + rows]
        envelope, right = curve.envelope(some)  # (S, P)
        recall = right / total.clamp_min(1)[:, None]
        reached = recall if recalls is None else torch.searchsorted(recalls, recall, right=True).double()
        gained = reached.diff(dim=1, prepend=reached.new_zeros(len(reached), 1))
        values.append((envelope * gained).sum(dim=1) / (1 if recalls is None else len(recalls)))
    return torch.cat(values).where(positives > 0, torch.nan)
