"""Batch normalisation in groups that belong to the run (law 4), not to the machine it happens to run on.

MoCo's queue methods need batch statistics of part of the batch (its eight GPUs' 32 images each), so that a key and its
query never share them. Here the groups are contiguous runs of the joined batch with a fixed length, each whole on one
rank: one process with four groups equals two processes with two each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ReplacedBatchNorm(nn.Module, ABC):
    """A norm for (B, C, H, W) or (B, C) in place of `layer`, with batch statistics of its own kind in training.

    It takes over the layer's tensors, their names, and what timm fuses behind the norm (`drop`, `act`), so the keys of
    a state dict stay as they are. In evaluation it is plain batch norm.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        assert layer.momentum is not None, "a running average with a fixed momentum"
        assert layer.track_running_stats, "statistics for evaluation"
        self.eps, self.momentum = layer.eps, layer.momentum
        self.register_parameter("weight", layer.weight)
        self.register_parameter("bias", layer.bias)
        for name, buffer in layer.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, child in layer.named_children():
            self.add_module(name, child)
        self.train(layer.training)

    def forward(self, images: Float[Tensor, "batch channels ..."]) -> Float[Tensor, "batch channels ..."]:
        """Normalise and apply what was fused behind the norm, if anything."""
        normal = self._by_batch(images) if self.training else self._by_running(images)
        for child in self.children():
            normal = child(normal)
        return normal

    @abstractmethod
    def _by_batch(self, images: Tensor) -> Tensor:
        """Normalise by statistics of the batch, and move the running ones."""

    def _by_running(self, images: Tensor) -> Tensor:
        return F.batch_norm(images, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards this pass's."""
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)
        self.num_batches_tracked += 1

    def extra_repr(self) -> str:
        """Return the sizes for `print(module)`."""
        return f"{len(self.running_mean)}, eps={self.eps}, momentum={self.momentum}"


class GroupedBatchNorm(ReplacedBatchNorm):
    """Batch norm over contiguous groups of `group` images.

    In training each group is normalised by its own statistics, and the running statistics move once a pass, by the mean
    over this rank's groups (MoCo's CIFAR notebook keeps them per split and averages at test time: the same mean).
    A batch that `group` does not divide raises ValueError.
    """

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, *, group: int) -> None:
        super().__init__(layer)
        self.group = group

    def _by_batch(self, images: Tensor) -> Tensor:
        if images.shape[0] % self.group:
            raise ValueError(f"a batch of {images.shape[0]} cannot be split into batch-norm groups of {self.group}")
        chunks = torch.split(images, self.group)
        # momentum 1 makes batch_norm write each group's own statistics here; the running ones move once, below
        means = self.running_mean.new_zeros(len(chunks), len(self.running_mean))
        variances = torch.zeros_like(means)
        normal = [
            F.batch_norm(chunk, mean, variance, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            for chunk, mean, variance in zip(chunks, means, variances, strict=True)
        ]
        self._move(means.mean(0), variances.mean(0))  # the engine joins them over the ranks, once a step
        return torch.cat(normal)

    def extra_repr(self) -> str:
        """Return the sizes for `print(module)`."""
        return f"{super().extra_repr()}, group={self.group}"


def group_batchnorm(module: nn.Module, group: int) -> nn.Module:
    """Replace every batch norm below `module` by a grouped one with the same tensors and key names; return the module.

    Layers of other kinds are left alone.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, GroupedBatchNorm(child, group=group))
        else:
            group_batchnorm(child, group)
    return module
