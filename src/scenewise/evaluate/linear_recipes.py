"""Published linear probes as constants, and one linear layer trained as they say, on features that do not change.

Common to all: SGD with momentum 0.9. Where we depart from all: the published probes draw a new crop and flip of each
training image every epoch; these features are of the test view, made once. And an epoch is cut into equal batches, so
its last one is not a remainder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from scenewise import keys
from scenewise.evaluate.task import Part
from scenewise.evaluate.training import Schedule, cosine, draw_batches, fit, length, steps
from scenewise.losses.similarity import unit
from scenewise.sources.base import Progress

Start = Literal["zero", "normal", "torch", "haiku"]  # see `start`
MOMENTUM = 0.9  # of every recipe below
TRUST = 0.001  # apex.parallel.LARC, as facebookresearch/simsiam calls it


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How a published linear layer is trained.

    learning_rate: of batches of `batch` images; with `scaled` it is proportional to the batch where there are fewer
    images. drops: epochs after which the rate is a tenth; without any, a cosine to 0 that moves every iteration, or
    every epoch. weight_decay: of weight and bias alike. start: see `start`. standardised: L2-normalised features, then
    mean 0 and deviation 1 by the training part; otherwise as they are. source: where it is from.
    """

    learning_rate: float
    batch: int
    epochs: int
    source: str
    scaled: bool = False
    drops: tuple[int, ...] = ()
    moves: Literal["iteration", "epoch"] = "iteration"
    weight_decay: float = 0.0
    nesterov: bool = False
    lars: bool = False
    start: Start = "normal"
    standardised: bool = False


RECIPES: Mapping[str, Recipe] = {
    "moco": Recipe(
        learning_rate=30.0,
        batch=256,
        epochs=100,
        drops=(60, 80),
        source="facebookresearch/moco, main_lincls.py; OAC's (shlokk/object-cropping-ssl) is the same with a sigmoid",
    ),
    "simsiam-lars": Recipe(
        learning_rate=1.6,  # 0.1 * 4096 / 256
        batch=4096,
        epochs=90,
        scaled=True,
        moves="epoch",
        lars=True,
        source="facebookresearch/simsiam, main_lincls.py --lars; mmselfsup's for SimCLR and BYOL",
    ),
    "simclr": Recipe(
        learning_rate=1.6,  # 0.1 * 4096 / 256
        batch=4096,
        epochs=90,
        scaled=True,
        nesterov=True,
        start="zero",
        source="google-research/simclr; no weight decay as in arXiv 2002.05709, B.6 (the released command: 1e-6)",
    ),
    "byol": Recipe(
        learning_rate=0.8,  # 0.2 * 1024 / 256; the paper takes the best of five rates on a held-out split
        batch=1024,
        epochs=80,
        scaled=True,
        nesterov=True,
        start="haiku",
        source="deepmind-research/byol, eval_experiment.py",
    ),
    "swav": Recipe(
        learning_rate=0.3,
        batch=256,
        epochs=100,
        moves="epoch",
        weight_decay=1e-6,
        source="facebookresearch/swav, eval_linear.py",
    ),
    "ressl": Recipe(
        learning_rate=0.3,
        batch=256,
        epochs=100,
        source="ReSSL's linear_eval.py; the initial weights are those of MSVQ's, which is made from it",
    ),
    "msf": Recipe(
        learning_rate=0.01,
        batch=256,
        epochs=40,
        drops=(15, 30),  # a third drop, at 40, is the end
        weight_decay=1e-4,
        start="torch",
        standardised=True,
        source="UMBCvision/MSF, eval_linear.py",
    ),
}

Scorer = Callable[[Float[Tensor, "images features"]], Float[Tensor, "images classes"]]


def train(
    part: Part,
    recipe: Recipe,
    classes: int,
    *,
    seed: int,
    epochs: int | None = None,
    iterations: int | None = None,
    progress: Progress | None = None,
) -> tuple[Scorer, str]:
    """Return the map from features to logits that the recipe learns on the part, and how it was trained, in words.

    epochs, iterations: another length; schedules shrink with it. UserError when the loss is no longer a number.
    """
    prepare = standardise(part.features) if recipe.standardised else (lambda features: features)
    features, images = prepare(part.features), len(part.labels)
    batch = min(recipe.batch, images)
    rate = recipe.learning_rate * (batch / recipe.batch if recipe.scaled else 1)
    if epochs is None and iterations is None:
        epochs = recipe.epochs
    count = length(images, batch, epochs=epochs, iterations=iterations)
    weight, bias = start(recipe.start, features.shape[1], classes, seed=seed)
    parameters = [value.to(features).requires_grad_() for value in (weight, bias)]
    for parameter in parameters:
        if recipe.lars:
            assert recipe.weight_decay == 0, "no published recipe joins LARC and weight decay"
            _scale_gradient(parameter)
    optimiser = torch.optim.SGD(
        parameters, lr=rate, momentum=MOMENTUM, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )

    def loss(rows: Tensor) -> Tensor:
        chosen = rows.to(features.device)
        return classification_loss(torch.addmm(parameters[1], features[chosen], parameters[0]), part.labels[chosen])

    batches = (rows for _, rows in draw_batches(images, batch, count, seed=seed, name="linear"))
    schedule = _schedule(recipe, count, per_epoch=math.ceil(images / batch))
    fit(loss, optimiser, batches, iterations=count, schedule=schedule, title="linear", progress=progress)
    weight, bias = (parameter.detach() for parameter in parameters)
    kind = "LARS" if recipe.lars else "SGD"
    how = f"{kind}, learning rate {rate:g}, batch {batch}, {count} iterations"
    return lambda inputs: torch.addmm(bias, prepare(inputs), weight), how


def classification_loss(
    logits: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"] | Int[Tensor, "batch classes"]
) -> Float[Tensor, ""]:
    """Return the cross-entropy, or the binary cross-entropy averaged over all labels that are judged (OAC)."""
    if labels.dim() == 1:
        return F.cross_entropy(logits, labels.long())
    judged = labels >= 0
    each = F.binary_cross_entropy_with_logits(logits, labels.clamp_min(0).to(logits.dtype), reduction="none")
    return (each * judged).sum() / judged.sum().clamp_min(1)


def start(
    kind: Start, width: int, classes: int, *, seed: int
) -> tuple[Float[Tensor, "features classes"], Float[Tensor, " classes"]]:
    """Return the initial weight (G, C) and bias (C,).

    zero; normal: deviation 0.01, bias 0 (MoCo, SwAV); torch: both uniform within 1 / sqrt(G) (nn.Linear); haiku: normal
    of deviation 1 / sqrt(G) cut at twice that, bias 0.
    """
    weight, bias = torch.zeros(width, classes), torch.zeros(classes)
    chance = torch.Generator().manual_seed(keys.integer(seed, "linear", "weights"))
    bound = 1 / math.sqrt(width)
    if kind == "normal":
        weight.normal_(0.0, 0.01, generator=chance)
    elif kind == "torch":
        weight.uniform_(-bound, bound, generator=chance)
        bias.uniform_(-bound, bound, generator=chance)
    elif kind == "haiku":
        torch.nn.init.trunc_normal_(weight, std=bound, a=-2 * bound, b=2 * bound, generator=chance)
    return weight, bias


def standardise(bank: Float[Tensor, "bank features"]) -> Scorer:
    """Return MSF's map: L2-normalised features, less the bank's mean, over the root of its variance plus 1e-5."""
    variance, mean = torch.var_mean(unit(bank), dim=0, correction=min(1, len(bank) - 1))
    return lambda features: (unit(features) - mean) / (variance + 1e-5).sqrt()


def lars_factor(weight: Float[Tensor, "*shape"], gradient: Float[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Return LARC's factor of a gradient without weight decay: 0.001 |w| / (|g| + 1e-8), and 1 where a norm is 0."""
    size, slope = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
    return torch.where((size > 0) & (slope > 0), TRUST * size / (slope + 1e-8), 1.0)


def _scale_gradient(parameter: Tensor) -> None:
    """Have every gradient of the parameter multiplied by LARC's factor."""
    parameter.register_hook(  # type: ignore[no-untyped-call]
        lambda gradient: gradient * lars_factor(parameter.detach(), gradient)
    )


def _schedule(recipe: Recipe, count: int, *, per_epoch: int) -> Schedule:
    """Return the recipe's schedule over so many iterations."""
    if recipe.drops:
        return steps(count, at=[epoch / recipe.epochs for epoch in recipe.drops], factor=0.1)
    if recipe.moves == "iteration":
        return cosine(count)
    by_epoch = cosine(math.ceil(count / per_epoch))
    return lambda step: by_epoch(step // per_epoch)
