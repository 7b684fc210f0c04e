"""UniVIP: BYOL on two crops that share K objects, which must also predict both scenes and be told apart by transport.

Paper: Li et al., "UniVIP: A Unified Framework for Self-Supervised Visual Pre-training", arXiv 2203.06965.
Slots: BYOL's two views, and K whole objects common to both (`crops: overlap`), seen once by the online network and once
by the teacher. State: the teacher. With both weights 0 it is BYOL, and no object is looked at.
Departures: the authors published no code and the full text could not be read; the marginals of the transport are
rescaled to one mass, since as printed the two sides weigh differently and no plan exists. The projectors, the solver's
numbers and the augmentation of the objects are BYOL's, OTA's and ORL's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scenewise.losses import Matching, cosine_regression, instance_loss, match_instances
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.byol_core import BYOLCore, MomentumSchedule
from scenewise.settings import Count, NotNegative, Positive, Share, Views, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import REFERENCE_SIZE, SMALL_SIZE, Slot


class UniVIP(Method):
    """Unified self-supervised visual pre-training."""

    title = "UniVIP: BYOL on crops with common objects, which predict the scene and are matched by optimal transport"
    paper = "arXiv 2203.06965"
    batch_statistics = "run"
    crops = "overlap"
    training_defaults = Training(
        optimiser="sgd",
        lr=0.2,
        weight_decay=1e-4,
        warmup_epochs=4.0,
        exclude_norm_and_bias=False,
        origin="COCO: ORL's code, whose protocol UniVIP shares (SGD 0.4 at 512 photos, linear warm-up of 4 epochs)",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the paper where it says them, else of the code named."""

        instances: Views = 4  # K objects of an image; more gain nothing (a re-implementation's account of the paper)
        scene_instance_weight: NotNegative = 1.0  # of the term; at 0 it is not computed
        instance_weight: NotNegative = 1.0  # of the term; at 0 it is not computed
        instance_head: Literal["linear", "mean"] = "linear"  # makes one embedding of K; "mean" is an ablation
        # what the teacher sees of an object: another augmentation of it (ORL's patch pairs), or the very same picture
        instance_aug: Literal["independent", "shared"] = "independent"
        regression: Literal["neg_cosine", "byol"] = "neg_cosine"  # - cos as printed, or 2 - 2 cos: twice the gradient
        marginal_norm: Literal["sum1", "none"] = "sum1"  # "none": as printed, with a mass that nothing bounds
        marginal_features: Literal["raw", "l2"] = "raw"  # as printed, or of length 1
        epsilon: Positive = 0.1  # of Sinkhorn's iterations for the transport: OTA's (arXiv 2103.14259)
        iterations: Count = 50  # of Sinkhorn: OTA's
        momentum: Share = 0.99  # of the teacher at the start: ORL's
        momentum_schedule: MomentumSchedule = "cosine"  # to 1 at the end: ORL's
        hidden: Count = 4096  # of projector and predictor: BYOL's
        width: Count = 256  # of the projection: BYOL's
        # of the first scene, and of the objects the online network sees
        first_augmentation: AugmentationName = "byol-first"
        # of the second scene, and of the objects the teacher sees
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
        # drawn after BYOL's weights, which stay those of BYOL; without a use it would never get a gradient
        linear = config.scene_instance_weight and config.instance_head == "linear"
        self.instance_linear = nn.Linear(config.instances * config.width, config.width) if linear else None

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Everything is decided."""
        return config, []

    @staticmethod
    def looks_at_objects(config: Config) -> bool:
        """Return whether a term is on that needs them."""
        return bool(config.scene_instance_weight or config.instance_weight)

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """BYOL's two views, and what each network sees of the K objects: 96 pixels, not cropped any further."""
        slots = {
            "first": Slot(augmentation=config.first_augmentation),
            "second": Slot(augmentation=config.second_augmentation),
        }
        patches = Slot(augmentation=config.first_augmentation, size=SMALL_SIZE, count=config.instances, instance=True)
        if cls.looks_at_objects(config):
            slots["instances"] = patches
        if config.instance_weight and config.instance_aug == "independent":
            slots["target_instances"] = dataclasses.replace(patches, augmentation=config.second_augmentation)
        return slots

    @classmethod
    def passes(cls, config: Config) -> float:
        """BYOL's 8; the objects, by their area, through the online network and back, and through the teacher."""
        area = config.instances * (SMALL_SIZE / REFERENCE_SIZE) ** 2
        online, teacher = 3.0 * cls.looks_at_objects(config), 1.0 * (config.instance_weight != 0)
        return 8.0 + (online + teacher) * area

    @property
    def backbone(self) -> nn.Module:
        """Return the online backbone."""
        return self.core.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """L_scene + L_scene_instance + L_instance; each scene, and the objects, have their own batch statistics."""
        self.check_views(batch)
        config = self.config
        features, predictions = self._predict(batch)  # (B, G), (B, 2 + K, D)
        targets = self._targets(batch)  # (B, 2, D)
        scenes, instances = predictions[:, :2], predictions[:, 2:]
        forwards = self._regression(scenes[:, 0], targets[:, 1])
        loss = forwards + self._regression(scenes[:, 1], targets[:, 0])
        terms, metrics = {"scene": loss}, dict[str, Tensor | float]()
        if config.scene_instance_weight:
            guess = self._scene_of(instances)  # (B, D)
            terms["scene_instance"] = self._regression(guess, targets[:, 0]) + self._regression(guess, targets[:, 1])
            loss = loss + config.scene_instance_weight * terms["scene_instance"]
            metrics["weight/scene_instance"] = config.scene_instance_weight
        if config.instance_weight:
            target_instances = self._target_instances(batch)  # (B, K, D)
            matching = self._match(predictions, targets, target_instances)
            terms["instance"] = instance_loss(instances, target_instances, matching.plan)
            if config.regression == "byol":  # scaled as the other terms are
                terms["instance"] = 2 + 2 * terms["instance"]
            loss = loss + config.instance_weight * terms["instance"]
            metrics |= {
                "weight/instance": config.instance_weight,
                "transport/diagonal": matching.diagonal,
                "transport/row_error": matching.row_error,
                "transport/uniform_share": matching.uniform_share,
            }
        return StepOutput(
            loss=loss,
            terms=terms,
            embeddings=predictions[:, 0],
            targets=targets[:, 1],
            features=features,
            metrics=metrics,
            shared=predictions,
        )

    @torch.no_grad()
    def match(self, batch: Batch) -> Matching:
        """Return which object of the online network each object of the teacher belongs to, to look at."""
        self.check_views(batch)
        _, predictions = self._predict(batch)
        return self._match(predictions, self._targets(batch), self._target_instances(batch))

    def _predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return features (B, G) of the first scene and predictions (B, 2 + K, D) of both scenes and of the objects."""
        features, first = self.core.predict(batch.views["first"][0])
        _, second = self.core.predict(batch.views["second"][0])
        if not self.looks_at_objects(self.config):
            return features, torch.stack([first, second], dim=1)
        patches = batch.views["instances"]  # (K, B, 3, S, S)
        _, instances = self.core.predict(patches.flatten(0, 1))  # (K * B, D)
        return features, torch.stack([first, second, *instances.view(*patches.shape[:2], -1)], dim=1)

    def _targets(self, batch: Batch) -> Tensor:
        """Return the teacher's projections of both scenes (B, 2, D)."""
        return torch.stack([self.core.target(batch.views[name][0]) for name in ("first", "second")], dim=1)

    def _target_instances(self, batch: Batch) -> Tensor:
        """Return the teacher's projections of the objects, (B, K, D) in the order of the online ones."""
        patches = batch.views["instances" if self.config.instance_aug == "shared" else "target_instances"]
        return self.core.target(patches.flatten(0, 1)).view(*patches.shape[:2], -1).transpose(0, 1)

    def _scene_of(self, instances: Tensor) -> Tensor:
        """Return what K objects (B, K, D) together say of the scene (B, D)."""
        if self.instance_linear is None:
            return instances.mean(dim=1)
        scene: Tensor = self.instance_linear(instances.flatten(1))  # (B, K, D) -> (B, K * D) -> (B, D)
        return scene

    def _match(self, predictions: Tensor, targets: Tensor, target_instances: Tensor) -> Matching:
        """Return the transport between the objects of (B, 2 + K, D) and (B, K, D); the scenes give the marginals."""
        return match_instances(
            predictions[:, 2:],
            target_instances,
            predictions[:, :2],
            targets,
            marginal_features=self.config.marginal_features,
            marginal_norm=self.config.marginal_norm,
            epsilon=self.config.epsilon,
            iterations=self.config.iterations,
        )

    def _regression(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Return - cos or 2 - 2 cos of (B, D) and (B, D), the mean over the batch."""
        distance = cosine_regression(prediction, target)
        return distance if self.config.regression == "byol" else distance / 2 - 1

    def after_update(self, progress: Progress) -> None:
        """Move the teacher."""
        self.core.move_teacher(progress)


METHOD = UniVIP
