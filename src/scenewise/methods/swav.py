"""SwAV: the prototypes that one large crop is assigned to are predicted from the other crops of its image.

Paper: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments", arXiv 2006.09882;
facebookresearch/swav for what it leaves open.
Slots: two large crops, six small ones (multi-crop). State: prototypes, a queue of past embeddings.
Departures: the queue is written from the first step (the authors start to fill it when it is first used); the trust
ratio divides by |g + decay w| (theirs: |g| + decay |w|); images are normalised with 0.229 for red (theirs: 0.228);
batch statistics are the whole run's (theirs, on 64 GPUs: of 8 GPUs, 512 images, each).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn

from scenewise.distributed import gather, local_slice
from scenewise.losses import prototype_codes, swapped_prediction
from scenewise.losses.similarity import unit
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import normed_head
from scenewise.parts.prototypes import Prototypes
from scenewise.parts.queue import Queue, resolve_dictionary_size, uniform_share
from scenewise.settings import Count, CountOrZero, NotNegative, Positive, ViewsOrZero, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot, full_views, multi_crop

LARGE = 2  # crops that assign


class SwAV(Method):
    """Swapped assignments between views."""

    title = "SwAV: predict one crop's cluster assignment from the others (multi-crop, prototypes)"
    paper = "arXiv 2006.09882"
    batch_statistics = "run"
    training_defaults = Training(
        optimiser="lars",
        lr=0.6,
        weight_decay=1e-6,
        warmup_epochs=0.0,
        exclude_norm_and_bias=False,
        final_lr=0.001,
        origin="the authors' small-batch runs: LARC, 0.6 at 256 images falling to 0.0006, no warm-up",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the authors' small-batch (256 images) ImageNet runs unless said."""

        small_crops: ViewsOrZero = 6  # 0: two crops only (of 0.08 to 1 of the area)
        # 3000, at most one for ten images; a single one would be assigned to every image
        prototypes: Annotated[int, Ge(2)] | None = None
        freeze_epochs: NotNegative = 1.0  # in which the prototypes do not move (5005 steps of 256 ImageNet photos)
        temperature: Positive = 0.1
        epsilon: Positive = 0.05  # entropy of the assignment; 0.03 is the authors' remedy for a collapse
        iterations: Count = 3  # of Sinkhorn-Knopp
        # past embeddings a large crop: 3840, capped at a tenth of the data; 0: none
        dictionary_size: CountOrZero | None = None
        queue_epochs: NotNegative = 15.0  # before the queue joins the assignment
        hidden: Count | None = None  # of the head; None: as wide as the features (2048 of ResNet-50)
        width: Count = 128  # of the embedding
        augmentation: AugmentationName = "simclr"  # of all crops

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the queue's size"
        assert config.prototypes is not None, "resolve() decides the number of prototypes"
        self.config = config
        self.encoder_backbone = backbone
        self.head = normed_head(features, config.hidden or features, config.width)
        self.prototypes = Prototypes(config.prototypes, config.width)
        size, count = config.dictionary_size, LARGE if config.dictionary_size else 0
        # one queue for each large crop
        self.queues = nn.ModuleList(Queue(size, {"projection": config.width}) for _ in range(count))

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the number of prototypes and the queue's size."""
        size, notes = resolve_dictionary_size(
            config.dictionary_size, paper=3840, images=images, written=batch_size, may_be_none=True
        )
        prototypes = min(3000, max(2, images // 10)) if config.prototypes is None else config.prototypes
        if config.prototypes is None and prototypes < 3000:
            notes.append(
                f"method.prototypes is {prototypes} instead of the paper's 3000: one for ten of {images} images"
            )
        return dataclasses.replace(config, dictionary_size=size, prototypes=prototypes), notes

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """Two large crops and the small ones; the ranges of their areas are those of multi-crop (section 3.2)."""
        if not config.small_crops:
            return {"large": Slot(augmentation=config.augmentation, count=LARGE, scale=(0.08, 1.0))}
        return multi_crop(config.augmentation, large=("large", LARGE), small=config.small_crops)

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of every crop."""
        return 3.0 * full_views(cls.slots(config))

    @property
    def backbone(self) -> nn.Module:
        """Return the backbone."""
        return self.encoder_backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Swapped prediction (Eq. 1 and 2): codes from the large crops, predicted from every other crop.

        Crops of one size go through the backbone together, all crops through the head together (the authors' code).
        """
        self.check_views(batch)
        config, count = self.config, len(batch.index)
        views = [batch.views[name] for name in self.slots(config)]  # large, small
        features = [self.backbone(crops.flatten(0, 1)) for crops in views]  # (V * B, G) each size
        by_crop = torch.split(self.head(torch.cat(features)), count)  # V of (B, D)
        embeddings = unit(torch.cat(by_crop))  # (V * B, D)
        scores = list(torch.split(self.prototypes(embeddings, frozen=self._frozen(progress)), count))  # V of (B, P)
        joined = [gather(rows) for rows in torch.split(embeddings, count)[:LARGE]]  # (world * B, D)
        loss = swapped_prediction(
            scores,
            assign=tuple(range(LARGE)),
            temperature=config.temperature,
            codes=self._codes(joined, progress),
        )
        for number in range(len(self.queues)):
            self._queue(number).push(
                {"projection": joined[number]},
                image=gather(batch.index),
                box=gather(batch.boxes["large"][number]),
                step=progress.step,
            )
        return StepOutput(
            loss=loss,
            terms={"swapped": loss},
            embeddings=by_crop[0],
            targets=by_crop[1].detach(),
            features=features[0][:count],
            metrics={"codes/uniform_share": uniform_share(loss, len(self.prototypes.weight))},
        )

    @torch.no_grad()
    def _codes(self, joined: list[Tensor], progress: Progress) -> list[Tensor]:
        """Return this rank's codes (B, P) of each large crop, assigned together with all ranks and, later, the past."""
        config, codes = self.config, []
        for number, embeddings in enumerate(joined):
            known = self._past(number, progress, len(embeddings))
            scores = self.prototypes(torch.cat([known, embeddings]) if known is not None else embeddings)
            assigned = prototype_codes(scores, epsilon=config.epsilon, iterations=config.iterations)
            codes.append(local_slice(assigned[-len(embeddings) :]))
        return codes

    def _past(self, number: int, progress: Progress, per_step: int) -> Tensor | None:
        """Return the queue of a large crop (Q, D) once it is full and its time has come."""
        waits = progress.step < self.config.queue_epochs * progress.steps_per_epoch
        if not self.queues or waits or progress.step * per_step < self._queue(number).size:
            return None
        return self._queue(number).read().rows["projection"]

    def _queue(self, number: int) -> Queue:
        queue = self.queues[number]
        assert isinstance(queue, Queue)
        return queue

    def _frozen(self, progress: Progress) -> bool:
        """Return whether the prototypes do not move at this step."""
        return progress.step < self.config.freeze_epochs * progress.steps_per_epoch

    def after_update(self, progress: Progress) -> None:
        """Bring the prototypes back to length 1, or while they are frozen to their start."""
        self.prototypes.settle(frozen=self._frozen(progress))


METHOD = SwAV
