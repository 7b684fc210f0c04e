"""Retrieval: each test image asks for images like it, and what comes first should show what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from scenewise.errors import UserError
from scenewise.evaluate.intervals import Statistic
from scenewise.evaluate.protocol import Protocol, frozen
from scenewise.evaluate.retrieval import Retrieved, retrieve
from scenewise.evaluate.task import Outcome, Part, Task, measure
from scenewise.settings import check_fields

RANKS = (1, 5, 10)  # Stanford Online Products and CUB (arXiv 1511.06452) report recall at 1, 2, 4, 8 or 1, 10, 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Cosine similarity of the pooled features, as in metric learning and in VISSL's retrieval.

    gallery: `train` searches the training images, as kNN does; `test` the other test images, as on Stanford Online
    Products and CUB200 (the query itself is left out).
    """

    gallery: Literal["train", "test"] = "train"

    def __post_init__(self) -> None:
        check_fields("retrieve", self)


def run(task: Task, config: Config) -> Outcome:
    """Return recall, precision at 1, 5 and 10 and mAP over the queries: the test images that have a class.

    Relevant is an image of the same class or, where images have several, with at least one class in common; a class
    that is not judged counts as absent. Recall counts a query without any relevant image as a miss, mAP (step form, the
    whole ranking) leaves it out. The intervals are over the queries; the gallery stays. UserError without queries.
    """
    asked = has_class(task.test.labels)
    check_queries(asked, config)
    same_set = config.gallery == "test"
    gallery = task.test if same_set else task.train
    found = retrieve(
        task.test.features, gallery.features, task.test.labels, gallery.labels, ks=RANKS, same_set=same_set
    )
    rows = asked.nonzero()[:, 0].tolist()
    names = task.images or tuple(range(len(asked)))
    return measure(
        statistic(found, asked),
        tuple(names[row] for row in rows),
        seed=task.seed,
        resamples=task.resamples,
        notes=(*task.notes, *_notes(found, asked, task, gallery, config)),
        counts=dict(task.counts) | {"queries": len(rows)},
        skipped=task.skipped,
    )


def check_queries(asked: Bool[Tensor, " images"], config: Config) -> None:
    """Raise UserError where no test image asks, or one would search itself alone."""
    if not asked.any():
        raise UserError(f"retrieve: none of the {len(asked)} test images has a class, so there is nothing to ask for")
    if config.gallery == "test" and len(asked) < 2:
        raise UserError("retrieve.gallery: 'test' needs at least 2 test images; use 'train'")


def has_class(labels: Int[Tensor, " images"] | Int[Tensor, "images classes"]) -> Bool[Tensor, " images"]:
    """Return which images have a class."""
    return labels >= 0 if labels.dim() == 1 else (labels > 0).any(dim=1)


def statistic(found: Retrieved, asked: Bool[Tensor, " images"]) -> Statistic:
    """Return the statistic of recall@k, precision@k and mAP over the images that were asked for."""
    columns = {f"recall@{k}": values for k, values in found.recall.items()}
    columns |= {f"precision@{k}": values for k, values in found.precision.items()}
    shares = {name: values[asked].cpu() for name, values in columns.items()}
    precisions = found.average_precision[asked].cpu()
    answerable = ~precisions.isnan()

    def figures(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        counts = weights.double()
        means = {name: counts @ values / counts.sum(dim=1) for name, values in shares.items()}
        means["mAP"] = counts @ precisions.nan_to_num(0.0) / (counts @ answerable.double())
        return means

    return figures


def _notes(found: Retrieved, asked: Tensor, task: Task, gallery: Part, config: Config) -> list[str]:
    queries, size = int(asked.sum()), len(gallery.labels) - (config.gallery == "test")
    what = "the other test images" if config.gallery == "test" else "the training images"
    notes = [f"retrieve: {queries} test images as queries, {what} as gallery of {size}"]
    if queries < len(asked):
        notes.append(f"retrieve: {len(asked) - queries} test images have no class and are no queries")
    alone = int(found.average_precision[asked].isnan().sum())
    if alone:
        notes.append(f"retrieve: {alone} queries have no relevant image in the gallery; mAP leaves them out")
    capped = [k for k in RANKS if k > size]
    if capped:
        notes.append(f"retrieve: the gallery is smaller than {capped[0]}: at more than {size} it is the whole of it")
    if bool((torch.cat([task.test.labels.flatten(), gallery.labels.flatten()]) < 0).any()):
        notes.append("retrieve: classes that are not judged count as absent")
    return notes


PROTOCOL = Protocol(
    "images like a test image among the training images, by cosine: recall, precision and mAP of the ranking",
    Config,
    frozen(run),
    check=lambda exam, config: check_queries(has_class(exam.outline().test.labels), config),
)
