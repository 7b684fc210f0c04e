"""Linear probe: one linear layer on frozen features, its settings chosen within the training part.

Softmax cross-entropy where an image has one class, a sigmoid and binary cross-entropy per class where it may have
several (labels that are not judged do not count). The whole grid of learning rates and weight decays is trained at
once: the layers of all grid points lie side by side in one matrix, so a step costs one wider matrix product.

With `recipe`, one of the published probes instead, with its own settings (`linear_recipes`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from jaxtyping import Float, Float64, Int
from torch import Tensor

from scenewise import keys
from scenewise.errors import UserError
from scenewise.evaluate.batched_precision import batched_precision_statistic
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.figures import precision_statistic
from scenewise.evaluate.held_out import HeldOut, hold_out, judge
from scenewise.evaluate.linear_layers import Layers, Standardise
from scenewise.evaluate.linear_recipes import RECIPES, train
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.task import Outcome, Part, Task
from scenewise.evaluate.training import length
from scenewise.settings import BelowOne, Count, NotNegative, Positives, check_fields
from scenewise.sources.base import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The probe of MoCo and its followers (SGD, Nesterov momentum 0.9, batch 256, cosine), but on fixed features.

    The features are standardised with the training part's mean and deviation (MSF's probe) and divided by the square
    root of their number, so that a learning rate means the same at every width.
    """

    # Up to MoCo's 30. Measured on 2,492 VOC photos, random ResNet-18: the best point gives the mAP of the best
    # L2-regularised L-BFGS solution (22.8 and 22.7); the best rates were 0.3 to 3.
    learning_rates: Positives = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    # 0 is MoCo's and SimCLR's; few labels want more (measured)
    weight_decays: Annotated[tuple[NotNegative, ...], MinLen(1)] = (0.0, 1e-4, 1e-3)
    batch_size: Count = 256  # MoCo, SwAV, MSF
    momentum: BelowOne = 0.9  # MoCo, SwAV, MSF
    held_out: HeldOut = 0.2  # of the training part, to choose the grid point on: ours
    # "grid", or the name of a published probe with all its settings, see `linear_recipes.RECIPES`.
    recipe: Literal["grid", "moco", "simsiam-lars", "simclr", "byol", "swav", "ressl", "msf"] = "grid"
    # Without either: 20 epochs and at least 1000 iterations for the grid, the recipe's own epochs otherwise.
    epochs: Count | None = None
    iterations: Count | None = None
    # Adds "mAP/batches of N", the mean of the mAP of N test images at a time, which OAC publishes (N = 256 / GPUs).
    batch_map: Count | None = None

    def __post_init__(self) -> None:
        check_fields("linear", self)
        check_recipe(self)


GRID_ONLY = (
    "learning_rates",
    "weight_decays",
    "batch_size",
    "momentum",
    "held_out",
)  # settings recipes have themselves
GRID_EPOCHS = 20  # 50,000 images take 3,920 iterations
GRID_ITERATIONS = 1000  # at least (measured: 500 give the same mAP)
IMAGENET_IMAGES = 1_281_167  # what the recipes were made for; a small data set gives them few iterations


Point = tuple[float, float]  # learning rate, weight decay


def run(task: Task, config: Config, *, progress: Progress | None = None) -> Outcome:
    """Choose the settings within the training part, learn on all of it with them, score the test images once.

    A published recipe leaves nothing to choose. UserError for settings that do not fit.
    """
    check_labels(config, multi_label=task.multi_label)
    if config.recipe == "grid":
        scores, *notes = probe(task, config)
    else:
        scores, *notes = published(task, config, progress=progress)
    if config.batch_map is None:
        return task.outcome(scores, *notes)
    scores, labels = scores.cpu(), task.test.labels.cpu()
    whole = precision_statistic(scores, labels, task.classes)
    batched = batched_precision_statistic(scores, labels, batch=config.batch_map)
    notes.append(
        f"linear: mAP/batches of {config.batch_map} is the mean of the mAP of test mini-batches, as OAC publishes it; "
        "it reads higher than mAP, which is over the whole test set"
    )
    return task.measure(lambda weights: {**whole(weights), **batched(weights)}, *notes)


def check_recipe(config: Config) -> None:
    """Raise UserError for settings that would have no effect on the recipe."""
    given, usual = asdict(config), {entry.name: entry.default for entry in fields(config)}
    problems = [
        f"linear.{name}: {given[name]} has no effect on recipe {config.recipe}, which has its own; leave it out, "
        'or set recipe to "grid"'
        for name in GRID_ONLY
        if config.recipe != "grid" and given[name] != usual[name]
    ]
    if problems:
        raise UserError(*problems)


def check_labels(config: Config, *, multi_label: bool) -> None:
    """Raise UserError for a figure that such labels do not have."""
    if config.batch_map is not None and not multi_label:
        raise UserError("linear.batch_map: is for data with several classes an image; leave it out")


def published(
    task: Task, config: Config, *, progress: Progress | None = None
) -> tuple[Float64[Tensor, "images classes"], str, str]:
    """Return the test images' scores (N, C) by the published recipe, and sentences on how it was trained."""
    recipe, classes = RECIPES[config.recipe], len(task.classes)
    scorer, how = train(
        task.train,
        recipe,
        classes,
        seed=task.seed,
        epochs=config.epochs,
        iterations=config.iterations,
        progress=progress,
    )
    usual = length(IMAGENET_IMAGES, recipe.batch, epochs=recipe.epochs, iterations=None)
    published_length = f"published: batch {recipe.batch}, {recipe.epochs} epochs, on ImageNet {usual:,} iterations"
    return (
        scorer(task.test.features).double(),
        f"linear: recipe {config.recipe}: {how} ({published_length}); nothing was chosen",
        "linear: the published probe also crops and flips the training images; here each is seen in the test view",
    )


def probe(task: Task, config: Config) -> tuple[Float64[Tensor, "images classes"], str]:
    """Return the test images' scores (N, C) and a sentence on the settings chosen from the grid."""
    grid = [(rate, decay) for decay in config.weight_decays for rate in config.learning_rates]
    point, note = choose(task.train, grid, len(task.classes), seed=task.seed, config=config)
    layers = fit(task.train, [point], len(task.classes), seed=task.seed, config=config)
    return layers(task.test.features)[0].double(), note


def choose(part: Part, grid: list[Point], classes: int, *, seed: int, config: Config) -> tuple[Point, str]:
    """Return the grid point that is best on a held-out share of the training part, and a sentence that says so.

    Best is the highest accuracy or mAP; among equals the first of the grid. Where nothing can be judged (fewer than two
    images, no positive held out) it is the middle of the grid.
    """
    held = hold_out(part.labels, share=config.held_out, seed=seed)
    middle = grid[len(grid) // 2]
    if len(grid) == 1 or not held.any() or held.all():
        return (grid[0] if len(grid) == 1 else middle), _sentence(grid[0] if len(grid) == 1 else middle, "not chosen")
    fitted = fit(Part(part.features[~held], part.labels[~held]), grid, classes, seed=seed, config=config)
    judged = torch.tensor([judge(scores, part.labels[held]) for scores in fitted(part.features[held]).cpu()])
    if judged.isnan().all():
        return middle, _sentence(middle, "not chosen: no positive was held out")
    best = int(judged.nan_to_num(-1.0).argmax())
    quantity = "accuracy" if part.labels.dim() == 1 else "mAP"
    how = f"best of {len(grid)} on {int(held.sum())} of {len(held)} training images ({quantity} {judged[best]:.1%})"
    rates, decays = {rate for rate, _ in grid}, {decay for _, decay in grid}
    rate, decay = grid[best]
    outermost = (len(rates) > 1 and rate in (min(rates), max(rates))) or (len(decays) > 1 and decay == max(decays))
    return grid[best], _sentence(grid[best], how + ("; at the edge of the grid" if outermost else ""))


def _sentence(point: Point, how: str) -> str:
    return f"linear: learning rate {point[0]:g}, weight decay {point[1]:g}, {how}"


def fit(part: Part, grid: list[Point], classes: int, *, seed: int, config: Config) -> Layers:
    """Return the layers of all grid points, learnt on the part: Nesterov SGD from zero weights, cosine to 0.

    The loss is the mean over the images of the cross-entropy, summed over the classes where each is a problem of its
    own; weight decay does not touch the bias. Batches are the same for all grid points.
    """
    standardise = Standardise.fit(part.features)
    features, points = standardise(part.features), len(grid)
    images, width = features.shape
    weight = features.new_zeros(width, points * classes)
    bias = features.new_zeros(points * classes)
    weight_speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    rates = features.new_tensor([rate for rate, _ in grid]).repeat_interleave(classes)  # (points * C,)
    decays = features.new_tensor([decay for _, decay in grid]).repeat_interleave(classes)
    batch = min(config.batch_size, images)
    steps = _iterations(images, batch, config)
    for step, rows in enumerate(_batches(images, batch, steps, seed=seed)):
        rows = rows.to(features.device)
        inputs = features[rows]  # (B, G)
        logits = torch.addmm(bias, inputs, weight).reshape(-1, points, classes)  # (B, points, C)
        errors = _errors(logits, part.labels[rows]).flatten(1) / len(rows)  # (B, points * C)
        rate = rates * (0.5 * (1 + math.cos(math.pi * step / steps)))
        weight_slope = torch.addmm(weight * decays, inputs.T, errors)
        bias_slope = errors.sum(dim=0)
        for value, speed, slope in ((weight, weight_speed, weight_slope), (bias, bias_speed, bias_slope)):
            speed.mul_(config.momentum).add_(slope)
            value.sub_(rate * (slope + config.momentum * speed))
    return Layers(standardise, weight, bias, points)


def _iterations(images: int, batch: int, config: Config) -> int:
    if config.epochs is None and config.iterations is None:
        return length(images, batch, epochs=GRID_EPOCHS, iterations=GRID_ITERATIONS)
    return length(images, batch, epochs=config.epochs, iterations=config.iterations)


def _errors(
    logits: Float[Tensor, "batch points classes"], labels: Int[Tensor, " batch"] | Int[Tensor, "batch classes"]
) -> Float[Tensor, "batch points classes"]:
    """Return the gradient of each image's loss by its logits: probability minus target, 0 where not judged."""
    if labels.dim() == 1:
        return logits.softmax(dim=2) - F.one_hot(labels.long(), logits.shape[2]).to(logits.dtype)[:, None]
    targets = labels.to(logits.dtype)[:, None]  # (B, 1, C)
    return torch.where(targets >= 0, logits.sigmoid() - targets, 0.0)


def _batches(images: int, batch: int, steps: int, *, seed: int) -> list[Int[Tensor, " batch"]]:
    """Return `steps` batches of image numbers: every epoch a new order, in equal parts."""
    per_epoch = math.ceil(images / batch)
    batches: list[Tensor] = []
    for epoch in range(math.ceil(steps / per_epoch)):
        order = keys.generator(seed, "linear", epoch).permutation(images)
        batches += torch.from_numpy(order).chunk(per_epoch)
    return batches[:steps]


def _run(exam: Exam, config: Config) -> Outcome:
    return run(exam.task(), config, progress=exam.progress)


def _check(exam: Exam, config: Config) -> None:
    check_labels(config, multi_label=exam.train.multi_label)


PROTOCOL = Protocol(
    "a linear layer on the frozen features, its settings chosen within the training part", Config, _run, check=_check
)
