"""What the protocols that train by gradient share: a copy of the backbone, an order, a schedule, one visible loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from scenewise import keys
from scenewise.errors import UserError
from scenewise.sources.base import Progress

Schedule = Callable[[int], float]  # iteration, from 0 -> factor of every learning rate
Batch = TypeVar("Batch")
Net = TypeVar("Net", bound=nn.Module)


class DivergedError(UserError):
    """The loss is no longer a number: the learning rate is too high (a grid of several goes on with the others)."""


def private_copy(backbone: Net, device: torch.device) -> Net:
    """Return a copy that may be trained, every weight with gradient; the caller's backbone stays as it is."""
    own = copy.deepcopy(backbone).to(device)
    return own.train().requires_grad_(True)


@contextmanager
def chance(seed: int, *key: int | str, device: torch.device) -> Iterator[None]:
    """Give torch's global generators the state of a key for a while: dropout and torchvision's samplers draw from
    nothing else.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        number = keys.integer(seed, *key)
        torch.default_generator.manual_seed(number)
        if device.type == "cuda":
            torch.cuda.manual_seed(number)
        yield


def length(images: int, batch: int, *, epochs: int | None, iterations: int | None) -> int:
    """Return the number of iterations: at least as many as said, and as the epochs need; at least 1."""
    assert epochs is not None or iterations is not None
    by_epochs = 0 if epochs is None else math.ceil(epochs * math.ceil(images / batch))
    return max(1, iterations or 0, by_epochs)


def draw_batches(
    images: int, batch: int, iterations: int, *, seed: int, name: str, whole: bool = False
) -> Iterator[tuple[int, Int64[Tensor, " batch"]]]:
    """Yield (iteration, places 0..images-1): every epoch a new order from (seed, name, epoch), in nearly equal parts.

    whole: leave out the rest of an epoch instead, so that every batch has `batch` images (or all there are).
    """
    batch = min(batch, images)
    parts = images // batch if whole else math.ceil(images / batch)
    for iteration in range(iterations):
        epoch, part = divmod(iteration, parts)
        if part == 0:
            order = torch.from_numpy(keys.generator(seed, name, epoch).permutation(images))
            chunks = order[: parts * batch].chunk(parts) if whole else order.tensor_split(parts)
        yield iteration, chunks[part]


def cosine(iterations: int) -> Schedule:
    """Return the schedule from 1 to 0 along half a cosine."""
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / iterations))


def steps(iterations: int, *, at: Sequence[float], factor: float) -> Schedule:
    """Return the schedule that is multiplied by `factor` at each of the shares `at` of the run."""
    return lambda step: factor ** sum(step >= share * iterations for share in at)


def polynomial(iterations: int, *, power: float, least: float = 0.0) -> Schedule:
    """Return (1 - step / iterations) ** power, scaled to end at `least`."""
    return lambda step: least + (1 - least) * (1 - step / iterations) ** power


def warm_up(schedule: Schedule, iterations: int, *, start: float) -> Schedule:
    """Return the schedule, multiplied in its first iterations by a line from `start` to 1."""
    return lambda step: schedule(step) * (1 if step >= iterations else start + (1 - start) * step / iterations)


def fit(
    loss: Callable[[Batch], Tensor],
    optimiser: torch.optim.Optimizer,
    batches: Iterable[Batch],
    *,
    iterations: int,
    schedule: Schedule,
    title: str,
    progress: Progress | None = None,
) -> float:
    """Take one step a batch; each group's learning rate is its own times the schedule. Return the last loss.

    title: of the progress bar and the error. DivergedError, a UserError, when the loss is no longer a number.
    """
    rates = [group["lr"] for group in optimiser.param_groups]
    last = math.nan
    for step, batch in enumerate(batches):
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step)
        value = loss(batch)
        last = float(value.detach())
        if not math.isfinite(last):
            raise DivergedError(
                f"{title}: the loss is no longer a number after {step} iterations; lower the learning rate"
            )
        optimiser.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if progress is not None:
            progress(title, step + 1, iterations)
    return last
