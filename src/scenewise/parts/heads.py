"""Projection and prediction heads, and the encoder they make with a backbone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


def mlp_head(features: int, hidden: int, width: int) -> nn.Sequential:
    """Return MoCo v2's head: Linear, ReLU, Linear, with biases, no batch norm.

    Also MLS's, ReSSL's, MSVQ's and S2R2's, with their own sizes (MoCo's `--mlp`; MLS section 4.1; ReSSL's and MSVQ's
    code).
    """
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))


def normed_head(features: int, hidden: int, width: int, *, output_bias: bool = True) -> nn.Sequential:
    """Return BYOL's head: Linear, batch norm, ReLU, Linear (appendix B; the authors' last layer has no bias).

    Also SwAV's (`ResNet(output_dim, hidden_mlp)`) and MSF's projector and predictor, whose last layer has one.
    """
    return nn.Sequential(
        nn.Linear(features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, width, bias=output_bias),
    )


def simclr_head(features: int, hidden: int, width: int) -> nn.Sequential:
    """Return SimCLR's head: Linear, batch norm, ReLU, Linear, batch norm without offset (model_util.py).

    The linear layers have no bias: the norm behind each would take it away.
    """
    last = nn.BatchNorm1d(width)
    last.register_parameter("bias", None)
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, width, bias=False),
        last,
    )


def dense_head(channels: int, hidden: int, width: int) -> nn.Sequential:
    """Return DenseCL's head over a feature map: 1x1 convolution, ReLU, 1x1 convolution (section 3.2)."""
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, width, 1))


class DualHead(nn.Module):
    """Two heads of one kind, for views of objects and for views of scenes (object-aware cropping, arXiv 2112.00319)."""

    def __init__(self, objects: nn.Module, scenes: nn.Module) -> None:
        super().__init__()
        self.objects, self.scenes = objects, scenes

    def forward(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 2 dim"]:
        """Return both heads' projections: of objects first. `of_kind` picks each row's own."""
        return torch.stack([self.objects(features), self.scenes(features)], dim=1)


def of_kind(projections: Float[Tensor, "batch 2 dim"], objects: Bool[Tensor, " batch"]) -> Float[Tensor, "batch dim"]:
    """Return each row's projection by its own head; no gradient reaches the other one from it."""
    return torch.where(objects[:, None], projections[:, 0], projections[:, 1])


class Encoder(nn.Module):
    """A backbone and its head: images -> (pooled features g, projection z), neither normalised."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, " batch *dim"]]:
        """Return g (B, G) in float32 and what the head makes of it: z (B, D), of a dual head (B, 2, D)."""
        features = self.backbone(images)
        return features, self.head(features)
