"""What is watched while a run trains: gradient norms per term, label-free health, time spent waiting for data."""

from __future__ import annotations

import math
import operator
import time
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from scenewise.distributed import mean_over_ranks
from scenewise.report.waiting import PREFIX
from scenewise.types import Effort, StepOutput

# Measured once the loader has started. Long enough to empty what 8 workers (the most that are started unasked) hold
# ready, 3 batches each, twice over; then said before the first minutes are over.
FIRST_STEPS = 50


def term_gradients(output: StepOutput) -> dict[str, Tensor]:
    """Return `grad/TERM`: the mean gradient norm per query that each term of weight 1 has on what the terms share.

    That is the sphere of embeddings, or what the method names. A loss is a mean over B queries and a cosine does not
    see a vector's length, so it is B * mean(|z| * |dL/dz|).
    """
    figures: dict[str, Tensor] = {}
    shared = output.embeddings if output.shared is None else output.shared
    for name, term in output.terms.items():
        if not term.requires_grad:
            continue
        (gradient,) = torch.autograd.grad(term, shared, retain_graph=True, materialize_grads=True)
        lengths = shared.detach().float().flatten(1).norm(dim=1) * gradient.float().flatten(1).norm(dim=1)
        figures[f"grad/{name}"] = lengths.sum()
    return figures


class Awaited:
    """Scalars on their way from the device: those that are tensors as their mean over all processes (law 4).

    They travel together, and nobody waits for them until they are read.
    """

    def __init__(self, values: Mapping[str, Tensor | float]) -> None:
        tensors = {name: value.detach().double() for name, value in values.items() if isinstance(value, Tensor)}
        self._awaited = list(tensors)
        # in the order they are told, whatever has to come yet
        self._known = {name: math.nan if name in tensors else float(value) for name, value in values.items()}
        means = mean_over_ranks(torch.stack(list(tensors.values()))) if tensors else torch.zeros(0)
        self._here = torch.empty(means.shape, dtype=means.dtype, pin_memory=means.is_cuda)
        self._here.copy_(means, non_blocking=True)
        self._arrival = arrival(means.device)

    def read(self) -> dict[str, float]:
        """Return the scalars as plain floats, once they have come."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self._known | dict(zip(self._awaited, self._here.tolist(), strict=True))


def arrival(device: torch.device) -> torch.cuda.Event | None:
    """Return the moment at which a GPU will have done all it was given so far; None where nothing is done later."""
    if device.type != "cuda":
        return None
    event: torch.cuda.Event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


class Moment(NamedTuple):
    """What a stopwatch shows: the time, the seconds waited for data so far, what loading them took so far."""

    time: float
    waited: float
    effort: Effort


class Stopwatch:
    """Time spent waiting for data, and what loading them took.

    facts: what is known of the loader beside, put under the figures of a loading that was measured.
    """

    def __init__(self, facts: Mapping[str, float] | None = None) -> None:
        self._facts = dict(facts or {})
        self._waited, self._effort = 0.0, Effort()

    def loaded(self, effort: Effort) -> None:
        """Count what the loading of a batch took."""
        self._effort = Effort._make(map(sum, zip(self._effort, effort, strict=True)))

    def waited(self, seconds: float) -> None:
        """Count seconds that were waited for data."""
        self._waited += seconds

    def now(self) -> Moment:
        """Return what it shows."""
        return Moment(time.perf_counter(), self._waited, self._effort)

    def between(self, start: Moment, end: Moment, *, images: int) -> dict[str, float]:
        """Return the figures of the time in which so many images were trained on.

        They are `images_per_second`, `data_wait` (share of the time, 0..1) and those of the loading.
        """
        elapsed = max(1e-9, end.time - start.time)
        waited = min(1.0, (end.waited - start.waited) / elapsed)
        effort = Effort._make(map(operator.sub, end.effort, start.effort))
        return {"images_per_second": images / elapsed, "data_wait": waited} | loading_figures(effort, self._facts)


def loading_figures(effort: Effort, facts: Mapping[str, float]) -> dict[str, float]:
    """Return `loading/...`: milliseconds an image of each stage, megapixels of a photo, the facts; {} of no image."""
    if not effort.images:
        return {}
    milliseconds = {
        name: 1000 * seconds / effort.images
        for name, seconds in (("read", effort.read), ("decode", effort.decode), ("rest", effort.rest))
    }
    known = {**milliseconds, "megapixels": effort.pixels / effort.images / 1e6, **facts}
    return {f"{PREFIX}{name}": float(value) for name, value in known.items()}
