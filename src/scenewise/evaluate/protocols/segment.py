"""Semantic segmentation: a fully convolutional network on the backbone, all of it trained, judged by its mean IoU.

Two settings are published and their figures are not comparable: A, mmsegmentation's, as DenseCL uses it (output stride
8, an auxiliary head, colour distortion), and B, MoCo's, as PixPro and SlotCon use it (output stride 16, dilation 6).
Numbers are those of mmsegmentation's fcn_r50-d8_512x512_20k_voc12aug and of SlotCon's fcn_d6_r50-d16_513x513_30k.

Where we depart from them: the run's size takes the place of 512 and 513 px, in training and in the test, which sees
the whole photo at that shorter side, as theirs do; lengths are in epochs, so that small sets take few iterations; small
sets are trained in smaller batches, the learning rate in proportion; batch statistics are those of one process. They
train on VOC12's trainaug and test on val; DenseCL gives the mean of five runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from scenewise.backbones import Backbone
from scenewise.backbones.dilated import check_dilated
from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam, shared_images, skip_notes
from scenewise.evaluate.fcn import FCN, Design, count_pixels, make_fcn
from scenewise.evaluate.intervals import Statistic
from scenewise.evaluate.labels import listed
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.segmentation_data import KEPT_BYTES, Scenes, read_scenes, training_batches
from scenewise.evaluate.segmentation_views import SCALES, Cut, whole_view
from scenewise.evaluate.task import Outcome, measure
from scenewise.evaluate.training import Schedule, chance, fit, length, polynomial, steps
from scenewise.settings import Count, NotNegative, Positive, check_fields
from scenewise.sources.base import NOT_JUDGED
from scenewise.views.collate import normalise

BACKGROUND = "background"  # class 0 of a class map
PUBLISHED_BATCH = 16  # what the learning rates of both settings belong to
MOMENTUM = 0.9  # of both settings
LEAST_BATCHES = 8  # of an epoch, where images are few: ours, so that small sets still take some hundred steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What one publication trains: the network, its schedule and its views (see `Cut`)."""

    design: Design
    learning_rate: float
    weight_decay: float
    epochs: int
    schedule: Callable[[int], Schedule]
    distort: bool
    fullest: float


SETTINGS = {
    "A": Setting(
        design=Design(
            output_stride=8,
            channels=None,  # 512 of ResNet-50's 2048; mmsegmentation's ResNet-18 has 128 of 512
            dilation=1,
            joined=True,
            dropout=0.1,
            auxiliary=0.4,
            corners=False,
        ),
        learning_rate=0.01,
        weight_decay=5e-4,
        epochs=30,  # 20,000 iterations of 16 on 10,582 images
        schedule=lambda iterations: polynomial(iterations, power=0.9, least=0.01),  # ends at 1e-4
        distort=True,
        fullest=0.75,
    ),
    "B": Setting(
        design=Design(
            output_stride=16,
            channels=256,
            dilation=6,
            joined=False,
            dropout=0.0,
            auxiliary=0.0,
            corners=True,
        ),
        learning_rate=0.003,
        weight_decay=1e-4,
        epochs=45,  # 30,000 iterations of 16 on 10,582 images
        schedule=lambda iterations: steps(iterations, at=(0.7, 0.9), factor=0.1),  # 21,000 and 27,000
        distort=False,
        fullest=1.0,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Which of the two settings, and what of it is changed; None is the setting's own value."""

    variant: Literal["A", "B"] = "B"  # the one that takes a third of the time
    epochs: Count | None = None  # A: 30, B: 45
    iterations: Count | None = None  # at least
    learning_rate: Positive | None = None  # of a batch of 16; A: 0.01, B: 0.003
    weight_decay: NotNegative | None = None  # A: 5e-4, B: 1e-4
    batch_size: Count = PUBLISHED_BATCH  # smaller where an epoch would have fewer than 8 batches

    def __post_init__(self) -> None:
        check_fields("segment", self)


def check(exam: Exam, config: Config) -> None:
    """Raise UserError when the backbone has no such network, or the size or the classes do not fit."""
    design, problems = SETTINGS[config.variant].design, []
    if not isinstance(exam.backbone, Backbone):
        problems.append("backbone: segment needs one with feature maps; use scenewise.load_backbone")
    else:
        check_dilated(exam.backbone, design.output_stride)
    if exam.size < 2 * design.output_stride:
        problems.append(
            f"size: {exam.size} px gives segment's network a map of one pixel; at least {2 * design.output_stride}"
        )
    if len(exam.train.classes) >= NOT_JUDGED:
        problems.append(
            f"data: a class map tells {NOT_JUDGED - 1} classes apart, {exam.train.spec} has {len(exam.train.classes)}"
        )
    if problems:
        raise UserError(*problems)


def run(exam: Exam, config: Config) -> Outcome:
    """Train the network, segment the test photos, return mIoU, "IoU/NAME" and the pixel accuracy, shares 0..1.

    UserError, before any training, when no image of a part can be read, each test image is a training image, or a class
    map does not fit its photo.
    """
    check(exam, config)
    keep = KEPT_BYTES if exam.workers == 0 else 0  # processes would each hold a copy
    train = read_scenes(exam, "train", side=round(exam.size * SCALES[1]), keep=keep)
    test = read_scenes(exam, "test", side=exam.size)
    shared = shared_images(train.digest, test.digest)
    network, how = train_network(exam, config, train)
    names = (BACKGROUND, *exam.train.classes)
    counts = torch.stack([count.cpu() for count in _counted(exam, network, test)])  # (N, 3, K)
    skipped = {"train": train.skipped, "test": test.skipped}
    notes = [
        note
        for part, scenes in (("train", train), ("test", test))
        for note in skip_notes(part, scenes.skipped, len(scenes.skipped) + len(scenes))
    ]
    seen = counts[:, 1].sum(dim=0) > 0
    return measure(
        iou_statistic(counts, names),
        tuple(test.digest.tolist()),
        seed=exam.seed,
        resamples=exam.resamples,
        notes=(
            *notes,
            *shared,
            how,
            *_missing("training", names, lambda number: number in train.present),
            *_missing("test", names, lambda number: bool(seen[number])),
            *_constant(counts, names),
        ),
        counts=exam.counts(classes=len(exam.train.classes), train=len(train), test=len(test), skipped=skipped),
        skipped=skipped,
    )


def _missing(part: str, names: Sequence[str], has: Callable[[int], bool]) -> list[str]:
    without = [name for number, name in enumerate(names) if not has(number)]
    return [f"segment: no pixel in the {part} images: {listed(without)}"] if without else []


def _constant(counts: Int64[Tensor, "images 3 classes"], names: Sequence[str]) -> list[str]:
    predicted = counts[:, 2].sum(dim=0).nonzero()[:, 0].tolist()
    if len(predicted) != 1:
        return []
    return [
        f"segment: every test pixel is predicted to be {names[predicted[0]]}: the network learnt nothing else in this "
        "time; more epochs or a higher segment.learning_rate"
    ]


def train_network(exam: Exam, config: Config, scenes: Scenes) -> tuple[FCN, str]:
    """Return the network, trained on a copy of the exam's backbone, in eval mode, and a sentence on how."""
    assert isinstance(exam.backbone, Backbone)
    setting = SETTINGS[config.variant]
    batch = batch_size(len(scenes), config.batch_size)
    given = setting.learning_rate if config.learning_rate is None else config.learning_rate
    rate = given * batch / PUBLISHED_BATCH
    by_setting = setting.epochs if config.epochs is None and config.iterations is None else config.epochs
    iterations = length(len(scenes), batch, epochs=by_setting, iterations=config.iterations)
    classes = 1 + len(exam.train.classes)
    network = make_fcn(exam.backbone, setting.design, classes=classes, seed=exam.seed, device=exam.device)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=rate,
        momentum=MOMENTUM,
        weight_decay=setting.weight_decay if config.weight_decay is None else config.weight_decay,
    )

    def loss(views: tuple[Tensor, Tensor]) -> Tensor:
        images, target = (each.to(exam.device, non_blocking=True) for each in views)
        return network.loss(normalise(images, mean=exam.mean, std=exam.std), target)

    cut = Cut(size=exam.size, distort=setting.distort, fullest=setting.fullest, fill=exam.mean)
    batches = training_batches(scenes, cut, batch=batch, iterations=iterations, seed=exam.seed, workers=exam.workers)
    with chance(exam.seed, "segment", "dropout", device=exam.device):
        fit(
            loss,
            optimiser,
            batches,
            iterations=iterations,
            schedule=setting.schedule(iterations),
            title="segment",
            progress=exam.progress,
        )
    how = f"segment: variant {config.variant}, {iterations} iterations of {batch} images, learning rate {rate:g}"
    if batch != PUBLISHED_BATCH:
        how += f" ({given:g} for {PUBLISHED_BATCH} images)"
    return network.eval(), how


def batch_size(images: int, wanted: int) -> int:
    """Return the images of a batch: as wanted, or so few that an epoch has 8 batches, but no fewer than 2."""
    return min(wanted, images, max(2, images // LEAST_BATCHES))


@torch.no_grad()
def _counted(exam: Exam, network: FCN, scenes: Scenes) -> list[Int64[Tensor, "3 classes"]]:
    """Return each test photo's pixel counts (3, K), one photo at a time, in float32."""
    found = []
    corners = network.design.corners
    for place in range(len(scenes)):
        scene = scenes[place]
        view = torch.from_numpy(whole_view(scene, size=exam.size).copy()).to(exam.device)  # (h, w, 3)
        logits = network(normalise(view.permute(2, 0, 1)[None], mean=exam.mean, std=exam.std))
        # Twice, as mmsegmentation: first to what the network saw, then to the photo's own size.
        seen = torch.nn.functional.interpolate(logits, view.shape[:2], mode="bilinear", align_corners=corners)
        truth = torch.from_numpy(scene.class_map).to(exam.device)
        found.append(count_pixels(seen[0], truth, corners=corners))
        if exam.progress is not None:
            exam.progress("segment: testing", place + 1, len(scenes))
    return found


def iou_statistic(counts: Int64[Tensor, "images 3 classes"], names: Sequence[str]) -> Statistic:
    """Return the statistic of mIoU, the pixel accuracy and "IoU/NAME" of every class, shares 0..1.

    counts: see `count_pixels`. A class is judged over all pixels of all images together: those rightly it, over those
    that are it or are predicted to be it. A class that neither occurs in a sample nor is predicted there has no IoU and
    is left out of its mean.
    """
    table = counts.double()

    def statistic(weights: Int[Tensor, "samples images"]) -> dict[str, Tensor]:
        right, truth, guess = (weights.double() @ table[:, row] for row in range(3))  # each (samples, K)
        shares = right / (truth + guess - right)  # 0 / 0 = NaN
        figures = {"mIoU": shares.nanmean(dim=1), "pixel accuracy": right.sum(dim=1) / truth.sum(dim=1)}
        return figures | {f"IoU/{name}": shares[:, number] for number, name in enumerate(names)}

    return statistic


PROTOCOL = Protocol(
    "semantic segmentation, a fully convolutional network trained with the backbone: mean IoU",
    Config,
    run,
    needs="masks",
    check=check,
)
