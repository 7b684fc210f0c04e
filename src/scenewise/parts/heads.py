"""Projection heads, and the encoder they make with a backbone."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


def mlp_head(features: int, hidden: int, width: int) -> nn.Sequential:
    """Return MoCo v2's head: Linear, ReLU, Linear, with biases, no batch norm (MoCo's `--mlp`; MLS section 4.1)."""
    return nn.Sequential(nn.Linear(features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, width))


class Encoder(nn.Module):
    """A backbone and its head: images -> (pooled features g, projection z), neither normalised."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch features"], Float[Tensor, "batch dim"]]:
        """Return g (B, G) in float32 and z (B, D)."""
        features = self.backbone(images)
        return features, self.head(features)
