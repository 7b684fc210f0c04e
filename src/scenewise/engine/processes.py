"""The processes of a run: one, or those that torchrun started; what they must agree on."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from scenewise.distributed import mean_over_ranks, world_size
from scenewise.errors import Interrupted, UserError

Result = TypeVar("Result")
STATISTICS = ("running_mean", "running_var")  # the buffers of every batch norm
STILL_BUSY = 60.0  # seconds between two words to those that wait: they give up after 600 (NCCL) or 1800 (gloo)


def started_rank() -> int:
    """Return this process's number among those of torchrun, also before they know of each other; 0 when plain."""
    return int(os.environ.get("RANK", "0"))


def started_world() -> int:
    """Return how many processes torchrun started; 1 when plain."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_world() -> int:
    """Return how many of them are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(started_world())))


def make_fabric(device: str, precision: str) -> Fabric:
    """Return the Fabric of this process: plain, or one of torchrun's."""
    world = started_world()
    strategy = (
        DDPStrategy(process_group_backend="nccl" if device == "cuda" else "gloo", broadcast_buffers=False)
        if world > 1
        else "auto"
    )
    return Fabric(
        accelerator=device,
        devices=local_world(),
        num_nodes=world // local_world(),
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )


@cache
def _between_hosts() -> dist.ProcessGroup | None:
    """Return the group in which processes agree without their GPUs, which would be waited for; None: the usual one."""
    if dist.get_backend() != "nccl":
        return None
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup), "every process is in it"
    return group


def gather_objects(value: Any) -> list[Any]:
    """Return the (small) value of every process, in rank order."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value, group=_between_hosts())
    return found


def highest(number: int) -> int:
    """Return the highest number of any process: cheap enough for every step."""
    if world_size() == 1:
        return number
    joined = torch.tensor(number)
    dist.all_reduce(joined, op=dist.ReduceOp.MAX, group=_between_hosts())
    return int(joined)


def together(action: Callable[[], Result]) -> Result:
    """Return what `action` does here; a UserError on one process is raised on all, so that none waits for it."""
    problems: tuple[str, ...] = ()
    result: list[Result] = []
    try:
        result.append(action())
    except UserError as error:
        problems = error.problems
    for found in gather_objects(problems):
        if found:
            raise UserError(*found)
    return result[0]


def while_others_wait(action: Callable[[Callable[[], None]], object]) -> None:
    """Let the first process do what may take hours, and the others wait for it, however long it takes.

    `action` is handed a function to call now and then, which tells those that wait that it goes on. A UserError or
    Interrupted there is raised on all.
    """
    problems: tuple[str, ...] = ()
    number = 0
    if started_rank():
        busy = True
        while busy:
            busy, problems, number = gather_objects(None)[0]
    else:
        told = time.monotonic()

        def go_on() -> None:
            nonlocal told
            if time.monotonic() - told > STILL_BUSY:
                gather_objects((True, (), 0))
                told = time.monotonic()

        try:
            action(go_on)
        except UserError as error:
            problems = error.problems
        except Interrupted as error:
            number = error.signal
        gather_objects((False, problems, number))
    if problems:
        raise UserError(*problems)
    if number:
        raise Interrupted(number)


@torch.no_grad()
def share_statistics(module: nn.Module) -> None:
    """Make every process's running batch statistics their mean over all: what one process with the joined batch has.

    The statistics move linearly, so it does not matter how often this is done; done at every step it does not depend on
    when a run was interrupted either.
    """
    if world_size() == 1:
        return
    buffers: list[Tensor] = [value for name, value in module.named_buffers() if name.rpartition(".")[2] in STATISTICS]
    if not buffers:
        return
    joined = mean_over_ranks(torch.cat([buffer.flatten() for buffer in buffers]))
    means = torch.split(joined, [buffer.numel() for buffer in buffers])
    torch._foreach_copy_(buffers, [mean.view_as(buffer) for buffer, mean in zip(buffers, means, strict=True)])


def leave() -> None:
    """Take leave of the other processes, where there are any."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        _between_hosts.cache_clear()


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep Fabric's hints about settings that are decided here from the user."""
    loggers = [
        logging.getLogger(name)
        for name in ("lightning_fabric", "lightning.fabric", "lightning_utilities.core.rank_zero")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning_fabric\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
