"""Train a detector on a backbone by the published recipe, and ask it what it finds.

SGD, 16 images a batch, learning rate 0.02, a tenth of it late in the run and a hundredth near the end, images at a
random shorter side, mirrored half of the time; the batch norms' statistics are measured anew before the test
(detectron2's precise batch norm). Lengths are the published ones in epochs, so that they fit any number of images.
"SyncBN" of the publications is plain batch norm here, over the images of one process: with fewer than 16 images a batch
its statistics are poorer than theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from scenewise.evaluate.detection_data import Photos, TrainingBatch, training_batches
from scenewise.evaluate.detection_matches import Detections, Mask, encode
from scenewise.evaluate.detection_views import Photo
from scenewise.evaluate.detectors import Architecture, Head, Plan, check_backbone, make_detector, pyramid_width
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.training import chance, fit, length, steps, warm_up
from scenewise.settings import BelowOne, Count, NotNegative, Positive, check_fields
from scenewise.types import Size

PUBLISHED_BATCH = 16
PRECISE_BATCHES = 200  # detectron2: TEST.PRECISE_BN.NUM_ITER
MASK_THRESHOLD = 0.5  # arXiv 1703.06870, section 3.1


@dataclass(frozen=True, slots=True)
class Schedule:
    """A published run. images: of its training set. drops: iterations at which the rate falls to a tenth.

    sides: training's shorter sides as shares of the test's. warm_up: iterations in which the rate rises.
    """

    images: int
    iterations: int
    drops: tuple[int, ...]
    sides: tuple[float, ...]
    warm_up: int

    @property
    def epochs(self) -> int:
        """Return how often the run saw each image."""
        return round(self.iterations * PUBLISHED_BATCH / self.images)


SCHEDULES: Mapping[str, Schedule] = {
    # MoCo's detection/configs/pascal_voc_R_50_C4_24k.yaml, VOC 2007 and 2012 trainval: 480, 512, ..., 800 of 800 px
    "voc": Schedule(16_551, 24_000, (18_000, 22_000), tuple(step / 25 for step in range(15, 26)), 100),
    # detectron2's 1x, COCO train2017 less the images without objects: 640, 672, ..., 800 of 800 px
    "coco": Schedule(117_266, 90_000, (60_000, 80_000), tuple(step / 25 for step in range(20, 26)), 1000),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How the detector is built and trained. The exam's size is the shorter side of a test image; 800 is published."""

    architecture: Architecture = "fpn"  # the COCO tables'; MoCo's on VOC is "c4", which takes much longer
    # "4conv1fc", with norms in box and mask head: InfoMin, DenseCL, ORL, SlotCon, PixPro. "2fc", without: detectron2's
    # default, mmselfsup. Never to be mixed in one table: a supervised ResNet-50 gets 39.7 and 38.9 on COCO.
    head: Head = "2fc"
    # None: "voc" for boxes and "coco" for masks, the schedules under which most publications give their figures.
    schedule: Literal["voc", "coco"] | None = None
    epochs: Count | None = None  # None: the schedule's, 23 (voc) or 12 (coco)
    iterations: Count | None = None
    batch_size: Count = PUBLISHED_BATCH
    learning_rate: Positive = 0.02  # at 16 images a batch, in proportion at fewer: detectron2, MoCo
    momentum: BelowOne = 0.9  # detectron2
    weight_decay: NotNegative = 1e-4  # detectron2
    width: Annotated[int, Ge(8)] | None = None  # channels of the feature pyramid; None: see `pyramid_width`
    score_threshold: BelowOne = 0.05  # least score of a detection: detectron2

    def __post_init__(self) -> None:
        check_fields("detector", self)


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learnt. places: of the training photos with something to learn. classes: their numbers in the source, of
    those that are learnt, in the order of the detector's labels 1, 2, ... ignored: whether ignored objects are learnt.
    """

    places: Int64[np.ndarray, " photos"]
    classes: Int64[np.ndarray, " learnt"]
    names: tuple[str, ...]
    ignored: bool
    objects: int
    notes: tuple[str, ...]

    @property
    def labels(self) -> dict[int, int]:
        """Return the detector's label of each class number."""
        return {int(number): place for place, number in enumerate(self.classes, start=1)}


def train_detector(
    exam: Exam, config: Config, train: Photos, lesson: Lesson, *, title: str, masks: bool
) -> tuple[nn.Module, str]:
    """Return a trained detector in eval mode and a sentence on how it was made.

    DivergedError, a UserError, when the loss is no longer a number.
    """
    kind = config.schedule or ("coco" if masks else "voc")
    published = SCHEDULES[kind]
    unset = config.epochs is None and config.iterations is None
    epochs = published.epochs if unset else config.epochs
    batch = min(config.batch_size, len(lesson.places))
    iterations = length(len(lesson.places), batch, epochs=epochs, iterations=config.iterations)
    rising = min(published.warm_up, iterations // 10)
    rate = config.learning_rate * batch / PUBLISHED_BATCH
    plan = Plan(
        architecture=config.architecture,
        head=config.head,
        classes=len(lesson.classes),
        size=exam.size,
        masks=masks,
        mean=exam.mean,
        std=exam.std,
        width=config.width,
        score_threshold=config.score_threshold,
    )
    network = make_detector(exam.backbone, plan, seed=exam.seed, device=exam.device)
    optimiser = torch.optim.SGD(
        network.parameters(), lr=rate, momentum=config.momentum, weight_decay=config.weight_decay
    )

    def batches(count: int, name: str, *, first: int = 0) -> Iterator[tuple[int, TrainingBatch]]:
        drawn = training_batches(
            train,
            lesson.places,
            sides=[max(1, round(share * exam.size)) for share in published.sides],
            labels=lesson.labels,
            ignored=lesson.ignored,
            batch=batch,
            iterations=count,
            seed=exam.seed,
            name=name,
            workers=exam.workers,
        )
        return enumerate(drawn, first)

    def loss(numbered: tuple[int, TrainingBatch]) -> Float[Tensor, ""]:
        iteration, (images, targets) = numbered
        with chance(exam.seed, "detect", iteration, device=exam.device):
            losses: dict[str, Tensor] = network(*moved(images, targets, exam.device))
        return torch.stack(list(losses.values())).sum()

    schedule = warm_up(
        steps(iterations, at=[drop / published.iterations for drop in published.drops], factor=0.1), rising, start=1e-3
    )
    fit(
        loss,
        optimiser,
        batches(iterations, "detect"),
        iterations=iterations,
        schedule=schedule,
        title=title,
        progress=exam.progress,
    )
    measured = min(PRECISE_BATCHES, math.ceil(len(lesson.places) / batch))
    measure_norms(network, loss, batches(measured, "detect statistics", first=iterations))
    spent = f"schedule {kind}, {iterations} iterations of {batch} images"
    return network.eval(), _sentence(title, plan, exam.backbone, spent)


def moved(
    images: list[Tensor], targets: list[dict[str, Tensor]], device: torch.device
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return a batch on a device."""
    there = [{name: value.to(device, non_blocking=True) for name, value in each.items()} for each in targets]
    return [image.to(device, non_blocking=True) for image in images], there


@torch.no_grad()
def measure_norms(
    network: nn.Module,
    forward: Callable[[tuple[int, TrainingBatch]], Tensor],
    batches: Iterator[tuple[int, TrainingBatch]],
) -> None:
    """Set each batch norm's mean and variance to their means over these batches (precise batch norm)."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    pace = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
    for batch in batches:
        forward(batch)
    for norm, momentum in zip(norms, pace, strict=True):
        norm.momentum = momentum


@torch.no_grad()
def detect(network: nn.Module, photo: Photo, image: UInt8[Tensor, "3 height width"], *, masks: bool) -> Detections:
    """Return what a detector finds in an image of a photo, in pixels of the photo; classes from 0."""
    device = next(network.parameters()).device
    found: dict[str, Tensor] = {name: value.cpu() for name, value in network([image.to(device)])[0].items()}
    ratio = torch.tensor([photo.size[1] / image.shape[2], photo.size[0] / image.shape[1]] * 2)
    boxes = found["boxes"] * ratio
    shapes = list[Mask]()
    if masks:
        for mask, box in zip(found["masks"][:, 0], boxes, strict=True):  # one at a time: a large photo has many pixels
            shapes += encode(pasted(mask, box, photo.size)[None].numpy())
    return Detections(
        boxes.double().numpy(), found["labels"].numpy() - 1, found["scores"].double().numpy(), tuple(shapes)
    )


def pasted(mask: Float[Tensor, "rows columns"], box: Float[Tensor, "4"], size: Size) -> Bool[Tensor, "height width"]:
    """Return which pixels of a photo are in a mask that fills a box: where its interpolated value is at least a half.

    As detectron2's `paste_masks_in_image`; torchvision's moves the box to whole pixels and makes it one wider.
    """
    height, width = size
    left, top = (int(value) for value in box[:2].floor().clamp_min(0))
    right, bottom = min(width, int(box[2].ceil())), min(height, int(box[3].ceil()))
    whole = torch.zeros(height, width, dtype=torch.bool)
    if right <= left or bottom <= top:
        return whole
    across = (torch.arange(left, right) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1  # -1..1 in the box
    down = (torch.arange(top, bottom) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
    grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=-1)  # (h, w, 2)
    values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    whole[top:bottom, left:right] = values >= MASK_THRESHOLD
    return whole


def _sentence(title: str, plan: Plan, backbone: nn.Module, spent: str) -> str:
    own = check_backbone(backbone, plan.architecture)
    if plan.architecture == "fpn":
        how = f"fpn of {plan.width or pyramid_width(own)} channels, head {plan.head}"
    else:
        how = "c4, head layer4 and a batch norm"
    return f"{title}: {how}, {spent} with a shorter side of {plan.size} px in the test"
