"""BYOL's two networks: the online one with its predictor, and the slow copy whose projections it predicts.

Paper: Grill et al., "Bootstrap Your Own Latent", arXiv 2006.07733. UniVIP (arXiv 2203.06965) is built on the same two.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scenewise.parts.heads import Encoder, normed_head
from scenewise.parts.momentum import cosine_momentum, momentum_copy, momentum_update
from scenewise.types import Progress

MomentumSchedule = Literal["cosine", "constant"]


class BYOLCore(nn.Module):
    """Online encoder, predictor and teacher (the paper's target network), which starts as a copy of the encoder.

    hidden, width: of projector and predictor. momentum: of the teacher, at the start of a cosine to 1 or throughout.
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        *,
        hidden: int,
        width: int,
        momentum: float,
        momentum_schedule: MomentumSchedule,
    ) -> None:
        super().__init__()
        self.momentum, self.momentum_schedule = momentum, momentum_schedule
        self.encoder = Encoder(backbone, normed_head(features, hidden, width, output_bias=False))
        self.predictor = normed_head(width, hidden, width, output_bias=False)
        self.teacher = momentum_copy(self.encoder)

    def predict(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch dim"]]:
        """Return the features (B, G) and the prediction (B, D) of views that share their batch statistics."""
        features, projection = self.encoder(images)
        return features, self.predictor(projection)

    @torch.no_grad()
    def target(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch dim"]:
        """Return the teacher's projection (B, D) of views, with batch statistics of this pass."""
        projection: Tensor = self.teacher(images)[1]
        return projection

    def move_teacher(self, progress: Progress) -> None:
        """Move the teacher after an optimiser step (Eq. 1; section 3.3 for its momentum)."""
        constant = self.momentum_schedule == "constant"
        momentum = self.momentum if constant else cosine_momentum(self.momentum, progress)
        momentum_update(self.teacher, self.encoder, momentum)
