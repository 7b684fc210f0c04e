"""The teacher: a momentum copy of the online encoder, and its shuffled pass, through which no batch statistics leak."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scenewise import keys
from scenewise.distributed import gather, local_slice, world_size
from scenewise.types import Progress

Module = TypeVar("Module", bound=nn.Module)


def momentum_copy(online: Module) -> Module:
    """Return a copy of `online` without gradient; its batch statistics come from its own passes, as in MoCo's code."""
    teacher = copy.deepcopy(online)
    teacher.requires_grad_(False)
    return teacher


@torch.no_grad()
def momentum_update(teacher: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move every parameter: teacher <- momentum * teacher + (1 - momentum) * online (MoCo Eq. 2); no buffer moves."""
    old: list[Tensor] = list(teacher.parameters())
    new: list[Tensor] = list(online.parameters())
    torch._foreach_mul_(old, momentum)
    torch._foreach_add_(old, new, alpha=1.0 - momentum)


def sharpening_notes(*, student: float, teacher: float) -> list[str]:
    """Return what to say of soft labels whose teacher is not colder than the student: nothing keeps them apart then.

    ReSSL's argument (arXiv 2107.09282, section 3.2): only a sharper target makes the trivial solution unattractive.
    """
    if teacher < student:
        return []
    return [
        f"method.teacher_temperature {teacher} is not below the student's {student}: "
        "the soft labels are not sharpened, and the run may collapse"
    ]


def cosine_momentum(base: float, progress: Progress) -> float:
    """Return the teacher's momentum at a step: from `base` at the start to 1 at the end (BYOL, section 3.3)."""
    return 1.0 - (1.0 - base) * (math.cos(math.pi * progress.fraction) + 1.0) / 2.0


def shuffle_order(count: int, progress: Progress, *, view: int = 0) -> Int[Tensor, " count"]:
    """Return the permutation (count,) of the joined batch that belongs to (seed, step) and to its `view`-th pass."""
    generator = torch.Generator().manual_seed(keys.integer(progress.seed, "shuffle", progress.step, view))
    return torch.randperm(count, generator=generator)


@torch.no_grad()
def encode_shuffled(
    encoder: nn.Module,
    images: Float[Tensor, "batch 3 height width"],
    progress: Progress,
    *,
    shuffle: bool = True,
    view: int = 0,
) -> Sequence[Float[Tensor, "joined ..."]]:
    """Encode this rank's `images` in shuffled batch-norm groups; return the joined outputs in the original order.

    `encoder(images)` returns a tuple of (batch, ...) tensors; so does this, with (world * batch, ...) rows in rank
    order on every rank. The shuffle over all processes is MoCo's (section 3.3); with batch norm in groups it does the
    same between the groups of one process. `view` numbers the shuffled passes of one step.
    """
    if not shuffle:
        return tuple(gather(output) for output in encoder(images))
    order = shuffle_order(images.shape[0] * world_size(), progress, view=view)
    order = order.to(images.device, non_blocking=True)  # a plain copy would wait for the passes before it
    shuffled = local_slice(gather(images)[order]).contiguous(memory_format=memory_format(images))
    restore = torch.argsort(order)
    return tuple(gather(output)[restore] for output in encoder(shuffled))


def memory_format(images: Tensor) -> torch.memory_format:
    """Return the memory format `images` (n, c, h, w) are in, so that an indexed copy keeps it."""
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
