"""Batch normalisation in groups that belong to the run (law 4), not to the machine it happens to run on.

MoCo's queue methods need batch statistics of part of the batch (its eight GPUs' 32 images each), so that a key and its query never share
them. Here the groups are contiguous runs of the joined batch with a fixed length, each whole on one rank: one process with four groups
equals two processes with two each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GroupedBatchNorm(nn.Module):
    """Batch norm over contiguous groups of `group` images, for (B, C, H, W) or (B, C); torch's key names.

    In training each group is normalised by its own statistics, and the running statistics move once a pass, by the mean over
    groups (SplitBatchNorm of MoCo's CIFAR notebook instead keeps them per split and averages at test time: the same mean).
    A batch that `group` does not divide raises ValueError. In evaluation it is plain batch norm.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, channels: int, *, group: int, eps: float, momentum: float, activation: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.channels, self.group, self.eps, self.momentum = channels, group, eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.act = activation or nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Normalise (B, C, ...) and apply the activation that was fused into the layer, if any."""
        if not self.training:
            normal = F.batch_norm(
                images, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
            return self._activate(normal)
        if images.shape[0] % self.group:
            raise ValueError(f"a batch of {images.shape[0]} cannot be split into batch-norm groups of {self.group}")
        chunks = images.split(self.group)
        # momentum 1 makes batch_norm write the group's own statistics into these; the running ones move once, below
        means = [torch.zeros_like(self.running_mean) for _ in chunks]
        variances = [torch.zeros_like(self.running_var) for _ in chunks]
        normal = [
            F.batch_norm(chunk, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
            for chunk, mean, variance in zip(chunks, means, variances, strict=True)
        ]
        with torch.no_grad():
            self.running_mean.lerp_(torch.stack(means).mean(0), self.momentum)
            self.running_var.lerp_(torch.stack(variances).mean(0), self.momentum)
            self.num_batches_tracked += 1
        return self._activate(normal[0] if len(normal) == 1 else torch.cat(normal))

    def _activate(self, normal: Tensor) -> Tensor:
        out: Tensor = self.act(normal)
        return out

    def extra_repr(self) -> str:
        """Return the sizes for `print(module)`."""
        return f"{self.channels}, group={self.group}, eps={self.eps}, momentum={self.momentum}"


def group_batchnorm(module: nn.Module, group: int) -> nn.Module:
    """Replace every batch norm below `module` by a grouped one with the same weights, statistics and key names; return the module.

    timm's norm-and-activation layers keep their activation. Layers of other kinds are left alone.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _grouped(child, group))
        else:
            group_batchnorm(child, group)
    return module


def _grouped(layer: nn.modules.batchnorm._BatchNorm, group: int) -> GroupedBatchNorm:
    children = dict(layer.named_children())  # BatchNormAct2d: `drop` (identity or dropout) and `act`
    activation = nn.Sequential(*children.values()) if children else None
    momentum = 0.1 if layer.momentum is None else layer.momentum
    new = GroupedBatchNorm(layer.num_features, group=group, eps=layer.eps, momentum=momentum, activation=activation)
    new.load_state_dict(layer.state_dict())
    return new
