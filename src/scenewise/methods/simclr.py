"""SimCLR: each view must find the other view of its image among all views of the batch.

Paper: Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations",
arXiv 2002.05709; google-research/simclr for what the paper leaves open.
Slots: two views with the `simclr` augmentation. State: none beyond the encoder; no teacher, no queue.
Departures: the loss is the mean over the 2N anchors (the authors' code prints the sum of the two half-batch means,
twice as much); residual branches do not start at zero (theirs do, resnet.py); LARS multiplies by the learning rate
after its momentum (theirs before: the same while the rate stands still).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from scenewise.distributed import gather_with_gradient
from scenewise.losses import nt_xent
from scenewise.losses.similarity import lift
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import Encoder, simclr_head
from scenewise.settings import Count, Positive, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot


class SimCLR(Method):
    """A simple framework for contrastive learning."""

    title = "SimCLR: two views against all others of the batch (softmax)"
    paper = "arXiv 2002.05709"
    batch_statistics = "run"
    training_defaults = Training(
        optimiser="lars",
        lr=0.3,
        weight_decay=1e-6,
        warmup_epochs=10.0,
        exclude_norm_and_bias=True,
        origin="section 2.1 and appendix B: LARS, 0.3 per 256 images, weight decay 1e-6, 10 epochs of warm-up",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the paper's ImageNet run unless said."""

        temperature: Positive = 0.1
        hidden: Count | None = None  # of the head; None: as wide as the features (2048 of ResNet-50)
        width: Count = 128  # of the embedding
        augmentation: AugmentationName = "simclr"  # of both views

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(backbone, simclr_head(features, config.hidden or features, config.width))

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Everything is decided; a batch of 2 has 2 negatives, which is said."""
        notes = []
        if batch_size < 64:
            notes.append(
                f"the {2 * batch_size - 2} negatives of a batch of {batch_size} are few for SimCLR (paper: 256+)"
            )
        return config, notes

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """Two views of one kind."""
        return {"first": Slot(augmentation=config.augmentation), "second": Slot(augmentation=config.augmentation)}

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of both views."""
        return 6.0

    @property
    def backbone(self) -> nn.Module:
        """Return the backbone."""
        return self.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """NT-Xent over both views of the joined batch (Eq. 1, algorithm 1); both go through the encoder together."""
        self.check_views(batch)
        views = torch.cat([batch.views["first"][0], batch.views["second"][0]])  # (2B, 3, S, S)
        features, projections = self.encoder(views)  # (2B, G), (2B, D)
        first, second = lift(projections).chunk(2)  # (B, D); lifted here, so that gradients are summed in float32 too
        joined = gather_with_gradient(first), gather_with_gradient(second)  # (world * B, D)
        loss = nt_xent(*joined, temperature=self.config.temperature)
        return StepOutput(
            loss=loss,
            terms={"contrast": loss},
            embeddings=first,
            targets=second.detach(),
            features=features.chunk(2)[0],
        )

    def after_update(self, progress: Progress) -> None:
        """Nothing follows the optimiser: there is no teacher."""


METHOD = SimCLR
