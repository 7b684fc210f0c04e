"""Views of single images become a batch; a batch becomes what a network sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from scenewise.types import IMAGENET_MEAN as IMAGENET_MEAN
from scenewise.types import IMAGENET_STD as IMAGENET_STD
from scenewise.types import Batch, Colour, Skip
from scenewise.views.regions import Regions

Sample = tuple[int, Mapping[str, np.ndarray], Regions]  # index, views (V, S, S, 3), where they were cut


Numbers = Mapping[str, np.ndarray]  # slot -> (V, 12): what is still to be done to an image's views


def collate(samples: Sequence[Sample], skipped: Sequence[Skip] = (), photometry: Sequence[Numbers] = ()) -> Batch:
    """Return the batch of B samples: views (V, B, 3, S, S) uint8, channels last in memory; boxes (V, B, 4) float32.

    photometry: of each sample, where its views are to be finished on the device.
    """
    slots, regions = samples[0][1], [regions for _, _, regions in samples]
    return Batch(
        index=torch.tensor([index for index, _, _ in samples], dtype=torch.int64),
        views={
            # (B, V, S, S, 3) -> (V, B, S, S, 3) in memory, shown as (V, B, 3, S, S)
            slot: torch.from_numpy(np.stack([views[slot] for _, views, _ in samples], axis=1)).permute(0, 1, 4, 2, 3)
            for slot in slots
        },
        boxes={slot: torch.from_numpy(np.stack([each.boxes[slot] for each in regions], axis=1)) for slot in slots},
        kinds={slot: torch.from_numpy(np.stack([each.kinds[slot] for each in regions], axis=1)) for slot in slots},
        figures={name: torch.tensor([each.figures[name] for each in regions]) for name in regions[0].figures},
        photometry={slot: torch.from_numpy(np.stack([each[slot] for each in photometry], axis=1)) for slot in slots}
        if photometry
        else {},
        skipped=tuple(skipped),
    )


def normalise(
    views: UInt8[Tensor, "*batch 3 H W"],
    *,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Float32[Tensor, "*batch 3 H W"]:
    """Return (views / 255 - mean) / std in float32, on the views' device and with their memory layout.

    `mean` and `std` are per channel, of RGB values in 0..1.
    """
    scale, shift = _scale_and_shift(mean, std, views.device)
    return views.to(torch.float32).mul_(scale).add_(shift)


@lru_cache(maxsize=8)
def _scale_and_shift(mean: Colour, std: Colour, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return both as (3, 1, 1), kept on the device: to copy them there in each step would be to wait for it."""
    scale = [1.0 / (255.0 * s) for s in std]
    shift = [-m / s for m, s in zip(mean, std, strict=True)]
    made = (torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1) for values in (scale, shift))
    return next(made), next(made)
