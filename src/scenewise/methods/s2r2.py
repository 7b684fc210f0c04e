"""S2R2: every view of an image is a query that must rank the other views above all other images' views.

Paper: Varamesh, Diba, Tuytelaars, Van Gool, "Self-Supervised Ranking for Representation Learning", arXiv 2010.07258.
Slots: `views` equal views (a slot with a count), optionally small ones beside them. State: none beyond the encoder.
Departures: only the abstract could be read, so the relaxations of average precision are those of the published losses
it can have used: sigmoid (Smooth-AP) and soft histogram (FastAP). The temperature is 0.05 and not Smooth-AP's 0.01,
which was made for trained networks and gives no gradient from scratch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from scenewise.distributed import gather, gather_with_gradient, rank, world_size
from scenewise.errors import UserError
from scenewise.losses import rank_views
from scenewise.losses.similarity import lift
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import Encoder, mlp_head
from scenewise.settings import Count, Positive, Views, ViewsOrZero, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot, full_views, multi_crop


class S2R2(Method):
    """Self-supervised ranking."""

    title = "S2R2: rank the other views of an image first (relaxed average precision)"
    paper = "arXiv 2010.07258"
    batch_statistics = "run"
    training_defaults = Training(
        optimiser="adam",
        lr=6e-4,
        weight_decay=1e-6,
        warmup_epochs=10.0,
        exclude_norm_and_bias=False,
        origin="recommended for STL10 (the paper's values are unknown): Adam, 3e-4 at 128 images x 4 views",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """The paper's values are unknown; the defaults are recommendations, to be read with docs/results."""

        views: Views = 4  # of an image; 4 x 128 images are the forwards of 2 x 256
        small_views: ViewsOrZero = 0  # more views of 96 pixels each (SwAV's multi-crop)
        query_views: Count | None = None  # views of an image that are queries; None: all (paper)
        relaxation: Literal["smooth", "hist"] = "smooth"  # Smooth-AP or FastAP
        temperature: Positive = 0.05  # of the sigmoid
        bins: Count = 10  # of the histogram (FastAP)
        width: Count = 128  # of the embedding
        augmentation: AugmentationName = "simclr"  # of all views

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(backbone, mlp_head(features, features, config.width))

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Check that every image has a query and a positive."""
        total = config.views + config.small_views
        if total < 2:
            raise UserError(f"method.views: {config.views} is too few: ranking needs at least 2 views of an image")
        if config.query_views is not None and config.query_views > total:
            raise UserError(f"method.query_views: {config.query_views} must be at most the {total} views of an image")
        return config, []

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """`views` of one size and, where asked, small ones; the ranges of their areas as SwAV's when there are both."""
        if not config.small_views:
            return {"view": Slot(augmentation=config.augmentation, count=config.views)}
        return multi_crop(config.augmentation, large=("view", config.views), small=config.small_views)

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of every view."""
        return 3.0 * full_views(cls.slots(config))

    @property
    def backbone(self) -> nn.Module:
        """Return the backbone."""
        return self.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """One minus the relaxed average precision, the mean over this rank's queries, among all ranks' views.

        Views of one size go through the encoder together; an image that is twice in a batch is its own positive.
        """
        config = self.config
        encoded = [self.encoder(views.flatten(0, 1)) for views in batch.views.values()]  # (V * B, ...) each size
        count = len(batch.index)
        by_view = torch.split(torch.cat([projections for _, projections in encoded]), count)  # V of (B, D)
        embeddings = lift(torch.cat(by_view))  # (V * B, D); before the gather, so that gradients are summed in float32
        ids = batch.index.repeat(len(by_view))  # (V * B,)
        if count * world_size() == 1:
            warnings.warn("S2R2: a batch of one image has no negatives and teaches nothing", stacklevel=2)
        asked = len(by_view) if config.query_views is None else config.query_views
        queries = rank() * len(ids) + torch.arange(asked * count, device=ids.device)
        found = rank_views(
            gather_with_gradient(embeddings),
            gather(ids),
            relaxation=config.relaxation,
            temperature=config.temperature,
            bins=config.bins,
            queries=queries,
        )
        return StepOutput(
            loss=found.loss,
            terms={"ranking": found.loss},
            embeddings=by_view[0],
            targets=by_view[1].detach(),
            features=encoded[0][0][:count],
            metrics={"ranking/exact_ap": found.exact, "ranking/saturated_share": found.saturated},
        )

    def after_update(self, progress: Progress) -> None:
        """Nothing follows the optimiser: there is no teacher."""


METHOD = S2R2
