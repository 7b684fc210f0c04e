"""BYOL: the online network predicts what its slowly moving copy makes of the other view; no negatives.

Paper: Grill et al., "Bootstrap Your Own Latent", arXiv 2006.07733; deepmind-research/byol for what it leaves open.
Slots: two views with BYOL's two asymmetric augmentations. State: the teacher (the paper's target network).
Departures: the teacher starts as a copy of the online network (the authors draw it from another seed); `momentum` is
the base of 100 to 300 epochs (0.996 belongs to 1,000); crops are resized bilinearly (theirs bicubically).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from scenewise.losses import cosine_regression
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.byol_core import BYOLCore, MomentumSchedule
from scenewise.settings import Count, Share, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot


class BYOL(Method):
    """Bootstrap your own latent."""

    title = "BYOL: predict a slow teacher's projection of the other view (no negatives)"
    paper = "arXiv 2006.07733"
    batch_statistics = "run"
    training_defaults = Training(
        optimiser="lars",
        lr=0.3,
        weight_decay=1e-6,
        warmup_epochs=10.0,
        exclude_norm_and_bias=True,
        origin="deepmind-research/byol: the run of 300 epochs",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the authors' code, the run of 300 epochs, unless said."""

        momentum: Share = 0.99  # of the teacher at the start
        momentum_schedule: MomentumSchedule = "cosine"  # to 1 at the end (section 3.3)
        hidden: Count = 4096  # of projector and predictor
        width: Count = 256  # of the projection
        first_augmentation: AugmentationName = "byol-first"
        second_augmentation: AugmentationName = "byol-second"

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.core = BYOLCore(
            backbone,
            features,
            hidden=config.hidden,
            width=config.width,
            momentum=config.momentum,
            momentum_schedule=config.momentum_schedule,
        )

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Everything is decided."""
        return config, []

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """Two views of two kinds (table 6: T blurs always, T' solarises)."""
        return {
            "first": Slot(augmentation=config.first_augmentation),
            "second": Slot(augmentation=config.second_augmentation),
        }

    @classmethod
    def passes(cls, config: Config) -> float:
        """Both views through the online network and back, and through the teacher."""
        return 8.0

    @property
    def backbone(self) -> nn.Module:
        """Return the online backbone."""
        return self.core.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Both directions, summed (Eq. 2 and the symmetric loss below it); each view has its own batch statistics."""
        self.check_views(batch)
        first, second = batch.views["first"][0], batch.views["second"][0]  # (B, 3, S, S)
        features, first_prediction = self.core.predict(first)  # (B, G), (B, D)
        _, second_prediction = self.core.predict(second)
        first_target, second_target = self.core.target(first), self.core.target(second)  # (B, D)
        forwards = cosine_regression(first_prediction, second_target)
        backwards = cosine_regression(second_prediction, first_target)
        loss = forwards + backwards
        return StepOutput(
            loss=loss,
            terms={"regression": loss},
            embeddings=first_prediction,
            targets=second_target,
            features=features,
        )

    def after_update(self, progress: Progress) -> None:
        """Move the teacher."""
        self.core.move_teacher(progress)


METHOD = BYOL
