"""What is watched while a run trains: gradient norms per term, label-free health, time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from scenewise.distributed import mean_over_ranks
from scenewise.types import StepOutput


def term_gradients(output: StepOutput) -> dict[str, float]:
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
    return as_figures(figures)


def as_figures(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Return scalars as plain floats: those that are tensors as their mean over all processes (law 4).

    They are joined and fetched together, since each fetch waits for all that the device has to do.
    """
    tensors = {name: value.detach().double() for name, value in values.items() if isinstance(value, Tensor)}
    means = mean_over_ranks(torch.stack(list(tensors.values()))).tolist() if tensors else []
    found = dict(zip(tensors, means, strict=True))
    return {name: found[name] if name in found else float(value) for name, value in values.items()}


class Stopwatch:
    """Time spent waiting for data and in all, since the last `take`."""

    def __init__(self) -> None:
        self._start, self._waited = time.perf_counter(), 0.0

    def waited(self, since: float) -> None:
        """Count the time from `since` until now as waiting."""
        self._waited += time.perf_counter() - since

    def take(self, images: int) -> dict[str, float]:
        """Return `images_per_second` and `data_wait` (share of the time, 0..1), and start anew."""
        elapsed = max(1e-9, time.perf_counter() - self._start)
        figures = {"images_per_second": images / elapsed, "data_wait": min(1.0, self._waited / elapsed)}
        self._start, self._waited = time.perf_counter(), 0.0
        return figures
