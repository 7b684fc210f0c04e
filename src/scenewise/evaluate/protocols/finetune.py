"""Fine-tuning: the whole network and a linear layer, trained on the labelled training images with augmentation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

from scenewise.evaluate.exam import Exam
from scenewise.evaluate.finetuning import (
    BatchNorm,
    BatchSize,
    Problem,
    Recipe,
    check_images,
    check_length,
    choose,
    fine_tune,
    score,
)
from scenewise.evaluate.held_out import HeldOut
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.task import Outcome
from scenewise.evaluate.training import cosine, steps
from scenewise.evaluate.training_images import labelled
from scenewise.settings import BelowOne, Count, NotNegative, Positives, check_fields


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Fine-tuning on VOC2007's classes as S2R2's lab publishes it, in code that its paper does not describe further.

    That code is CupidJay/Scaled-down-self-supervised-learning (arXiv 2103.13559), voc_eval: SGD, binary cross-entropy,
    one learning rate for all weights. It has two scripts: main_voc.py (batch 64, 60 epochs, crops at a fixed scale,
    batch norm frozen) and train_voc.py (batch 16, 30 epochs, the whole photo, batch norm trained). Departures of ours:
    torchvision's random resized crop, as in the other publications on fine-tuning; the test images are looked at once,
    at the end, where both scripts look after every epoch and keep the best; the layer learns faster than the backbone.

    With several learning rates or multipliers, the pair is chosen on a held-out share of the training images.
    """

    learning_rates: Positives = (0.01,)  # both scripts; on its other sets the best of 0.001, 0.01, 0.1
    # The layer's rate over the backbone's. 1 in both scripts; OpenSelfSup's grid is 1, 10, 100; SwAV has 20 for 10 %.
    # Measured on 200 photos each of VOC train and val, random ResNet-18, 12 epochs, one seed: mAP 12.4, 13.6, 14.0 on
    # val for 1, 10, 100.
    head_multipliers: Positives = (10.0,)
    weight_decay: NotNegative = 1e-5  # both scripts; 5e-4 on its sets of one class an image
    momentum: BelowOne = 0.9  # both scripts
    batch_size: BatchSize = 64  # main_voc.py
    epochs: Count | None = 30  # train_voc.py; 60 of main_voc.py for the published length at batch 64
    iterations: Count | None = 100  # at least: ours, so that a few images are learnt from at all
    schedule: Literal["cosine", "steps"] = "cosine"  # steps: a tenth after 1/3 and 2/3, train_voc.py
    batch_norm: BatchNorm = "train"  # train_voc.py, SwAV, OpenSelfSup; main_voc.py: frozen
    held_out: HeldOut = 0.2  # of the training images, to choose on where there is a choice: ours, as the linear probe's

    def __post_init__(self) -> None:
        check_fields("finetune", self)
        check_length("finetune", epochs=self.epochs, iterations=self.iterations)


def run(exam: Exam, config: Config) -> Outcome:
    """Fine-tune a copy of the backbone, score the test images once; figures as of the probes."""
    task = exam.task()
    train, test = labelled(exam, task, "train"), labelled(exam, task, "test")
    problem = Problem(train, classes=len(task.classes), width=task.train.features.shape[1])
    grid = recipes(config)
    usual = grid[len(grid) // 2]
    recipe, note = choose(exam, problem, grid, usual=usual, share=config.held_out, title="finetune")
    network, replaced = fine_tune(exam, problem, recipe, title="finetune")
    return task.outcome(score(exam, network, test, title="finetune"), note, *replaced)


def recipes(config: Config) -> list[Recipe]:
    """Return a recipe for each pair of a learning rate and a multiplier."""
    schedule = cosine if config.schedule == "cosine" else partial(steps, at=(1 / 3, 2 / 3), factor=0.1)
    return [
        Recipe(
            learning_rate=rate,
            head_learning_rate=rate * multiplier,
            weight_decay=config.weight_decay,
            batch_size=config.batch_size,
            epochs=config.epochs,
            iterations=config.iterations,
            schedule=schedule,
            momentum=config.momentum,
            batch_norm=config.batch_norm,
        )
        for rate in config.learning_rates
        for multiplier in config.head_multipliers
    ]


def check(exam: Exam, config: Config) -> None:
    """Raise UserError for too few training images."""
    del config
    check_images(len(exam.outline().train.labels), title="finetune")


PROTOCOL = Protocol(
    "the whole network and a linear layer, trained on the labelled images with augmentation", Config, run, check=check
)
