"""Batch normalisation with the statistics of the joined batch (law 4): N processes equal one.

On GPUs that is torch's SyncBatchNorm. It does not run on CPUs; the one here does, over gloo.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from scenewise.distributed import gather, world_size
from scenewise.parts.batchnorm import ReplacedBatchNorm


class SynchronisedBatchNorm(ReplacedBatchNorm):
    """Batch norm by the mean and variance over the batches of all ranks, for (B, C, H, W) or (B, C).

    The gradient goes through the joined statistics: with a loss that is a mean over each rank's rows, and weights'
    gradients averaged over ranks afterwards (as data-parallel training does), outputs, gradients and running statistics
    are those of one process on the joined batch. A backward pass must run on all ranks, as a forward pass in training.
    Statistics are float32 (float64 for a float64 input), the output has the input's type. In a single process it is
    torch's batch norm.
    """

    def _by_batch(self, images: Tensor) -> Tensor:
        if world_size() == 1:
            self.num_batches_tracked += 1
            return F.batch_norm(
                images,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=True,
                momentum=self.momentum,
                eps=self.eps,
            )
        mean, variance, count = joined_statistics(images)
        self._move(mean, variance * (count / (count - 1)))  # unbiased, as torch keeps it
        normal: Tensor = _Normalise.apply(images, self.weight, self.bias, mean, variance, count, self.eps)
        return normal


@torch.no_grad()
def joined_statistics(
    images: Float[Tensor, "batch channels ..."],
) -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"], Float[Tensor, ""]]:
    """Return mean, biased variance and count of the values per channel over all ranks; the ranks' counts may differ.

    Each rank's variance is about its own mean, and the spread of the means is added (Chan et al. 1979): no difference
    of large sums, so a large common offset does no harm.
    """
    lifted = _lift(images)
    places = [0, *range(2, images.ndim)]
    mean = lifted.mean(places)
    variance = (lifted - _per_channel(mean, images)).square_().mean(places)
    count = mean.new_full((1,), images.numel() / images.shape[1])
    channels = images.shape[1]
    rows = gather(torch.cat([mean, variance, count])[None])  # (world, 2C + 1), in one message
    means, variances, counts = torch.split(rows, [channels, channels, 1], dim=1)
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    return mean, (shares * (variances + (means - mean).square())).sum(0), counts.sum()


class _Normalise(torch.autograd.Function):
    """y = (x - mean) / sqrt(variance + eps) * weight + bias, where mean and variance are the joined batch's own."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        variance: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        scale = torch.rsqrt(variance + eps)
        ctx.save_for_backward(images, weight, mean, scale, count)
        weight, bias = (None if tensor is None else tensor.to(mean) for tensor in (weight, bias))
        return F.batch_norm(images, mean, variance, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of this rank's images, weight and bias (the latter two are averaged over ranks later).

        With x^ the normalised image and sums over the joined batch of N values a channel (Ioffe and Szegedy 2015):
        dx = weight * scale * (dy - sum(dy) / N - x^ * sum(dy * x^) / N).
        """
        images, weight, mean, scale, count = ctx.saved_tensors
        upstream = _lift(gradient)
        places = [0, *range(2, images.ndim)]
        normal = (_lift(images) - _per_channel(mean, images)).mul_(_per_channel(scale, images))
        for_bias, for_weight = upstream.sum(places), (upstream * normal).sum(places)
        for_images = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([for_bias, for_weight])
            dist.all_reduce(sums)
            offset, slope = (_per_channel(part, images) for part in sums / count)
            factor = scale if weight is None else scale * weight
            centred = (upstream - offset).addcmul_(normal, slope, value=-1)
            for_images = centred.mul_(_per_channel(factor, images)).to(images)
        return (
            for_images,
            for_weight.to(weight) if ctx.needs_input_grad[1] else None,
            for_bias.to(weight) if ctx.needs_input_grad[2] else None,
            *(None,) * 4,
        )


def _lift(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _per_channel(values: Tensor, images: Tensor) -> Tensor:
    """Return values (C,) shaped to meet images (B, C, ...)."""
    return values.view(-1, *(1,) * (images.ndim - 2))


def synchronise_batchnorm(module: nn.Module, device_type: str) -> nn.Module:
    """Replace every plain batch norm in `module` by a synchronised one with the same tensors and key names.

    On "cuda" by torch's SyncBatchNorm, on "cpu" by SynchronisedBatchNorm. Grouped batch norm and layers of other kinds
    are left alone. Returns the module, or what replaces it when it is itself a batch norm. A single process needs
    nothing: everything stays as it is. Convert before wrapping for data-parallel training.
    """
    assert device_type in ("cpu", "cuda"), device_type
    if world_size() == 1 or isinstance(module, nn.SyncBatchNorm):
        return module
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        if device_type == "cpu":
            return SynchronisedBatchNorm(module)
        converted: nn.Module = convert_sync_batchnorm(module)  # timm's: it keeps fused drop and act
        return converted
    for name, child in module.named_children():
        setattr(module, name, synchronise_batchnorm(child, device_type))
    return module
