"""What N processes share: gathers in rank order and means; each is the identity in a single process.

The joined ("global") batch is the concatenation of the ranks' batches in rank order; rank r holds its r-th contiguous
slice.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Return the number of processes of the run (1 when it was started plainly)."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return this process's number, 0 .. world_size() - 1."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """Join `tensor` (n, ...) of all processes along the first axis in rank order: (world * n, ...), without gradient.

    Every process must hold the same shape.
    """
    if world_size() == 1:
        return tensor.detach()
    own = tensor.detach().contiguous()  # all_gather copies memory, so every part needs the same, plain layout
    parts = [torch.empty_like(own) for _ in range(world_size())]
    dist.all_gather(parts, own)
    return torch.cat(parts)


class _GatherWithGradient(torch.autograd.Function):
    """Forward: `gather`. Backward: the sum over processes of the gradients that reached this process's slice."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return local_slice(total)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Join `tensor` (n, ...) of all processes in rank order, differentiably.

    With gradients averaged over processes afterwards (as data-parallel training does), a loss that every process
    computes on the joined batch has exactly the gradient of a single process on that batch.
    """
    if world_size() == 1:
        return tensor
    joined: Tensor = _GatherWithGradient.apply(tensor)
    return joined


def local_slice(tensor: Tensor) -> Tensor:
    """Return this process's contiguous slice of a joined tensor (world * n, ...): (n, ...)."""
    count = tensor.shape[0] // world_size()
    return tensor[rank() * count : (rank() + 1) * count]


@torch.no_grad()
def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean of `tensor` over all processes."""
    if world_size() == 1:
        return tensor.detach()
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()
