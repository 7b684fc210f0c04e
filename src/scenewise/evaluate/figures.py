"""What is reported of a matrix of scores: accuracies for one class an image, average precisions for several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scenewise.evaluate.intervals import Statistic
from scenewise.evaluate.ranking import FORMS, rank, weighted_average_precision

TOP_FIVE_CLASSES = 5  # top-5 says something only when there are more classes than that
_MEAN_NAMES = {form: "mAP" if form == "step" else f"mAP/{form}" for form in FORMS}


def accuracy_statistic(
    scores: Float[Tensor, "images classes"], labels: Int[Tensor, " images"], classes: Sequence[str]
) -> Statistic:
    """Return the statistic of top1, top5 (of more than 5 classes) and "accuracy/NAME" of every class, shares 0..1.

    Among equal scores the lower class is ranked first. A class without an image in a sample has no accuracy there.
    """
    ranked = scores.sort(dim=1, descending=True, stable=True).indices  # (N, C)
    hits = ranked == labels[:, None]
    correct = {"top1": hits[:, 0]}
    if len(classes) > TOP_FIVE_CLASSES:
        correct["top5"] = hits[:, :5].any(dim=1)
    of_class = torch.nn.functional.one_hot(labels.long(), len(classes)).double()  # (N, C)

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        counts = weights.double()
        total = counts.sum(dim=1)
        figures = {name: counts @ right.double() / total for name, right in correct.items()}
        shares = counts @ (of_class * correct["top1"][:, None]) / (counts @ of_class)  # (samples, C), 0 / 0 = NaN
        figures |= {f"accuracy/{name}": shares[:, number] for number, name in enumerate(classes)}
        return figures

    return statistic


def precision_statistic(
    scores: Float[Tensor, "images classes"], labels: Int[Tensor, "images classes"], classes: Sequence[str]
) -> Statistic:
    """Return the statistic of mAP (step form), mAP/area, mAP/11point and "AP/NAME" (step form) of every class, 0..1.

    labels: 1 present, 0 absent, -1 not judged (the image is left out for that class). A class without a positive in a
    sample has no average precision there and is left out of the sample's mean.
    """
    rankings = [rank(scores[:, number], labels[:, number] > 0) for number in range(len(classes))]
    judged = (labels >= 0).long()  # (N, C)

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        table = torch.stack(
            [
                weighted_average_precision(ranking, weights * judged[:, number], forms=FORMS)
                for number, ranking in enumerate(rankings)
            ],
            dim=-1,
        )  # (forms, samples, C)
        figures = {_MEAN_NAMES[form]: table[place].nanmean(dim=1) for place, form in enumerate(FORMS)}
        figures |= {f"AP/{name}": table[0, :, number] for number, name in enumerate(classes)}
        return figures

    return statistic
