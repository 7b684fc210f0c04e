"""Fine-tuning: a copy of the whole backbone and one linear layer on its pooled features, learnt together.

Softmax cross-entropy where an image has one class; a sigmoid and binary cross-entropy per class where it may have
several, the mean over the labels that are judged (as torch's BCEWithLogitsLoss where all are).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenewise import keys
from scenewise.errors import UserError
from scenewise.evaluate.exam import NAMED_SKIPS, Exam
from scenewise.evaluate.features import extract_features
from scenewise.evaluate.held_out import hold_out, judge
from scenewise.evaluate.training import DivergedError, Schedule, chance, fit, length, private_copy
from scenewise.evaluate.training_images import SLOT, Labelled, augmented_batches
from scenewise.hardware import computes_in_bf16
from scenewise.types import Batch
from scenewise.views.collate import normalise

BatchNorm = Literal["train", "frozen"]
# a batch of one has no batch statistics: parts of 3 or more images, cut equally, never leave one alone
BatchSize = Annotated[int, Ge(3)]
HEAD_DEVIATION = 0.01  # of the layer's first weights: MoCo and SwAV's probes, OpenSelfSup's head


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a network is fine-tuned, by SGD with momentum.

    schedule: number of iterations -> factor of both learning rates at each. batch_norm: `train` uses and follows the
    batches' statistics, `frozen` keeps those of the backbone (its scales and shifts are learnt either way).
    """

    learning_rate: float
    head_learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int | None
    iterations: int | None
    schedule: Callable[[int], Schedule]
    momentum: float = 0.9
    batch_norm: BatchNorm = "train"

    def __str__(self) -> str:
        return (
            f"learning rate {self.learning_rate:g}, of the layer {self.head_learning_rate:g}, "
            f"weight decay {self.weight_decay:g}"
        )


class FineTuned(nn.Module):
    """A backbone and a linear layer: (B, 3, size, size) normalised images -> (B, C) logits in float32.

    On a GPU that computes in bfloat16 the backbone is trained in it, and tested, like frozen features, in float32.
    """

    def __init__(self, trunk: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Return the logits."""
        half = self.training and images.device.type == "cuda" and computes_in_bf16("cuda")
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=half):
            features = self.trunk(images)
        logits: Tensor = self.head(features.float())
        return logits


@dataclass(frozen=True, slots=True)
class Problem:
    """What is learnt: labelled training images, the number of classes and of the backbone's features."""

    images: Labelled
    classes: int
    width: int

    def only(self, rows: Tensor) -> Problem:
        """Return the problem with these rows of its images."""
        return dataclasses.replace(self, images=self.images.only(rows))


def fine_tune(exam: Exam, problem: Problem, recipe: Recipe, *, title: str) -> tuple[FineTuned, list[str]]:
    """Return a copy of the exam's backbone, fine-tuned, in eval mode, and notes on images that had to be replaced.

    title: of the progress bar. UserError for fewer than 2 images; DivergedError when the loss is no longer a number.
    """
    images = problem.images
    check_images(len(images), title=title)
    network = FineTuned(private_copy(exam.backbone, exam.device), _head(problem, exam))
    if recipe.batch_norm == "frozen":
        _freeze_statistics(network)
    optimiser = torch.optim.SGD(
        [
            {"params": list(network.trunk.parameters()), "lr": recipe.learning_rate},
            {"params": list(network.head.parameters()), "lr": recipe.head_learning_rate},
        ],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    iterations = length(len(images), recipe.batch_size, epochs=recipe.epochs, iterations=recipe.iterations)
    labels, replaced = images.labels.to(exam.device), dict[str, str]()

    def loss(batch: Batch) -> Tensor:
        replaced.update((skip.key, skip.reason) for skip in batch.skipped)
        views = batch.views[SLOT][0].to(exam.device, non_blocking=True)  # (B, 3, S, S)
        logits = network(normalise(views, mean=exam.mean, std=exam.std))
        return classification_loss(logits, labels[batch.index.to(exam.device)])

    batches = augmented_batches(
        images,
        size=exam.size,
        batch=recipe.batch_size,
        iterations=iterations,
        seed=exam.seed,
        name="finetune",
        workers=exam.workers,
    )
    with chance(exam.seed, "dropout", device=exam.device):
        fit(
            loss,
            optimiser,
            batches,
            iterations=iterations,
            schedule=recipe.schedule(iterations),
            title=title,
            progress=exam.progress,
        )
    return network.eval(), _replacement_notes(title, replaced)


def check_images(images: int, *, title: str) -> None:
    """Raise UserError for too few training images to learn from."""
    if images < 2:
        raise UserError(f"{title}: {images} training image is too few to learn from; at least 2")


def classification_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"] | Int[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy of class numbers, or the binary one of (B, C) labels: its mean over the judged."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels.long())
    judged = labels >= 0
    each = F.binary_cross_entropy_with_logits(logits, (labels > 0).to(logits.dtype), reduction="none")
    return (each * judged).sum() / judged.sum().clamp_min(1)


def score(exam: Exam, network: FineTuned, images: Labelled, *, title: str) -> Float[Tensor, "images classes"]:
    """Return the logits of the test view of each image (N, C).

    DivergedError when they are not all numbers; UserError when an image can no longer be read.
    """
    found = extract_features(
        network,
        images.source,
        size=exam.size,
        indices=images.index,
        batch_size=exam.batch_size,
        device=exam.device,
        workers=exam.workers,
        progress=exam.progress,
        mean=exam.mean,
        std=exam.std,
    )
    if found.skipped:
        skip = found.skipped[0]
        raise UserError(
            f"data: {len(found.skipped)} images of {images.source.spec} could be read at first and no longer can, "
            f"the first is {skip.key} ({skip.reason}); leave the data alone during an evaluation"
        )
    scores = torch.from_numpy(found.features)
    if not scores.isfinite().all():
        raise DivergedError(f"{title}: the scores are no longer numbers after training; lower the learning rate")
    return scores


def choose(
    exam: Exam, problem: Problem, recipes: Sequence[Recipe], *, usual: Recipe, share: float, title: str
) -> tuple[Recipe, str]:
    """Return the recipe that is best on a held-out share of the training images, and a sentence that says so.

    Best is the highest accuracy or mAP, among equals the first; one that diverges is out. Where nothing can be judged
    (too few images to hold some out, no positive among them) it is the `usual` one. UserError when all diverge.
    """
    if len(recipes) == 1:
        return recipes[0], f"{title}: {recipes[0]}, as set"
    labels = problem.images.labels
    held = hold_out(labels, share=share, seed=exam.seed)
    if not held.any() or int((~held).sum()) < 2:
        return usual, f"{title}: {usual}, not chosen: too few training images to hold some out"
    judged, diverged = list[float](), 0
    for number, recipe in enumerate(recipes, start=1):
        part = f"{title}, {number} of {len(recipes)} settings"
        try:
            network, _ = fine_tune(exam, problem.only(~held), recipe, title=part)
            judged.append(judge(score(exam, network, problem.images.only(held), title=part), labels[held]))
        except DivergedError:
            judged.append(math.nan)
            diverged += 1
    if diverged == len(recipes):
        raise UserError(f"{title}: the loss is no longer a number at any of {diverged} settings; lower their rates")
    if all(map(math.isnan, judged)):
        return usual, f"{title}: {usual}, not chosen: no positive was held out"
    best = max(range(len(recipes)), key=lambda number: (not math.isnan(judged[number]), judged[number], -number))
    quantity = "accuracy" if labels.dim() == 1 else "mAP"
    note = (
        f"{title}: {recipes[best]}, best of {len(recipes)} on {int(held.sum())} of {len(held)} training images "
        f"({quantity} {judged[best]:.1%})"
    )
    return recipes[best], note + (f"; {diverged} of them diverged" if diverged else "")


def check_length(protocol: str, *, epochs: int | None, iterations: int | None) -> None:
    """Raise UserError for a protocol of no length."""
    if epochs is None and iterations is None:
        raise UserError(f"{protocol}: neither epochs nor iterations is set; give the length by one of them")


def _head(problem: Problem, exam: Exam) -> nn.Linear:
    chance = torch.Generator().manual_seed(keys.integer(exam.seed, "finetune", "head"))
    head = nn.Linear(problem.width, problem.classes, device="meta").to_empty(device="cpu")  # draws no chance of its own
    with torch.no_grad():
        head.weight.normal_(0, HEAD_DEVIATION, generator=chance)
        head.bias.zero_()
    return head.to(exam.device)


def _freeze_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _replacement_notes(title: str, replaced: dict[str, str]) -> list[str]:
    if not replaced:
        return []
    named = ", ".join(f"{key} ({reason})" for key, reason in sorted(replaced.items())[:NAMED_SKIPS])
    return [f"{title}: {len(replaced)} training images could not be read at times, others took their place: {named}"]
