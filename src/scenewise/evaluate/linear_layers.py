"""Linear layers of several settings side by side, behind one standardisation of the features."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Standardise:
    """Subtract `mean` (G,) and multiply by `scale` (G,); features that never vary become 0."""

    mean: Float[Tensor, " features"]
    scale: Float[Tensor, " features"]

    @classmethod
    def fit(cls, features: Float[Tensor, "images features"]) -> Standardise:
        """Return the map under which these features have mean 0, deviation 1 and a mean squared length of 1."""
        deviation, mean = torch.std_mean(features, dim=0, correction=0)
        varies = deviation > 1e-6 * deviation.amax().clamp_min(torch.finfo(torch.float32).tiny)
        scale = torch.where(varies, 1 / deviation, 0.0) / math.sqrt(features.shape[1])
        return cls(mean, scale)

    def __call__(self, features: Float[Tensor, "images features"]) -> Float[Tensor, "images features"]:
        """Return the features on that scale."""
        return (features - self.mean) * self.scale


@dataclass(frozen=True, slots=True)
class Layers:
    """Linear layers of all grid points: weight (G, points * C), bias (points * C,), behind one standardisation."""

    standardise: Standardise
    weight: Float[Tensor, "features outputs"]
    bias: Float[Tensor, " outputs"]
    points: int

    def __call__(self, features: Float[Tensor, "images features"]) -> Float[Tensor, "points images classes"]:
        """Return the logits of each grid point."""
        logits = torch.addmm(self.bias, self.standardise(features), self.weight)
        return logits.reshape(len(features), self.points, -1).movedim(1, 0)
