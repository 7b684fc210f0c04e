"""The ranking loss of 512 images x 8 views, forward and backward: time and memory, beside the published all-pairs form.

    python benchmarks/ranking.py [--threads 2] [--rounds 5] [--json FILE]

The published Smooth-AP code compares every row with every row for every query (views x views x views), which at 4096
views would need several tensors of 275 GB; so it is timed at 256 views, where ours is timed too, and the two take turns
in one process. Times are medians over rounds with the lowest and highest, ratios are of medians: on a shared machine
only those count. Memory is the growth of the peak resident set over the inputs, each case in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from scenewise.losses import ranking_loss
from scenewise.losses.similarity import unit

WIDTH = 128
VIEWS = 8
PUBLISHED = "published, all pairs"
LOSSES = {
    "smooth": lambda embeddings, ids: ranking_loss(embeddings, ids, relaxation="smooth"),
    "hist": lambda embeddings, ids: ranking_loss(embeddings, ids, relaxation="hist"),
}


def published(embeddings: Tensor, ids: Tensor) -> Tensor:
    """Return Smooth-AP as its public code computes it, every pair for every query, with the query left out."""
    units, count = unit(embeddings), len(ids)
    scores = units @ units.T
    above = torch.sigmoid((scores[:, None, :] - scores[:, :, None]) / 0.05)  # (M, M, M): query, i, j
    itself = torch.eye(count, dtype=torch.bool)
    above = above * ~itself[None] * ~itself[:, None, :]  # neither j = i nor j = query
    positive = (ids[:, None] == ids) & ~itself
    among = 1 + (above * positive[:, None, :]).sum(dim=2)
    precision = among / (1 + above.sum(dim=2)) * positive
    return 1 - (precision.sum(dim=1) / positive.sum(dim=1)).mean()


LOSSES[PUBLISHED] = published


def batch(views: int) -> tuple[Tensor, Tensor]:
    """Return embeddings whose views of one image are somewhat alike, and the images' numbers."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(views // VIEWS).repeat_interleave(VIEWS)
    centres = torch.randn(views // VIEWS, WIDTH, generator=generator)
    return centres[ids] + 2 * torch.randn(views, WIDTH, generator=generator), ids


def step(loss: Callable[[Tensor, Tensor], Tensor], embeddings: Tensor, ids: Tensor) -> tuple[float, Tensor]:
    """Return the seconds of one forward and backward, and the gradient."""
    leaf = embeddings.clone().requires_grad_()
    start = time.perf_counter()
    (gradient,) = torch.autograd.grad(loss(leaf, ids), leaf)
    return time.perf_counter() - start, gradient


def times(views: int, names: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Return name -> median, lowest and highest seconds; the contestants take turns."""
    embeddings, ids = batch(views)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            taken, _ = step(LOSSES[name], embeddings, ids)
            if turn:  # the first round warms up
                seconds[name].append(taken)
    return {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in seconds.items()
    }


def resident_peak() -> int:
    """Return the highest resident set of this process so far, in bytes.

    Where there is /proc it is read there: what getrusage says includes the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text(encoding="ascii").split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def growth(name: str, views: int, threads: int) -> int:
    """Return by how many bytes one forward and backward raise the peak; to be called in a fresh process."""
    torch.set_num_threads(threads)
    step(LOSSES[name], *batch(2 * VIEWS))  # libraries load on first use
    embeddings, ids = batch(views)
    before = resident_peak()
    step(LOSSES[name], embeddings, ids)
    return resident_peak() - before


def memory(name: str, views: int, threads: int) -> int:
    """Return `growth` as measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(growth, (name, views, threads))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    small = batch(256)
    difference = (step(published, *small)[1] - step(LOSSES["smooth"], *small)[1]).abs().max().item()
    print(
        f"largest difference between the gradients of smooth and of the published form at 256 views: {difference:.1e}"
    )
    results = {}
    for views, names in ((256, [PUBLISHED, "smooth", "hist"]), (4096, ["smooth", "hist"])):
        figures = times(views, names, options.rounds)
        print(f"{views} views of width {WIDTH}, {VIEWS} an image, {options.threads} threads, forward and backward")
        for name, figure in figures.items():
            figure["bytes"] = memory(name, views, options.threads)
            line = f"  {name:21} {figure['median']:8.4f} s ({figure['low']:.4f} to {figure['high']:.4f})"
            line += f"  {figure['bytes'] / 1e6:7.1f} MB"
            if PUBLISHED in figures:
                first = figures[PUBLISHED]
                line += f"  {first['median'] / figure['median']:6.1f} x the speed of the published form"
                line += f", {first['bytes'] / max(figure['bytes'], 1):.0f} x less memory"
            print(line)
        results[str(views)] = figures
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
