"""The ranking loss of 512 images x 8 views, forward and backward: time and memory, beside the published all-pairs form.

    python benchmarks/ranking.py [--quick] [--json FILE]

The published Smooth-AP code compares every row with every row for every query (views x views x views), which at 4096
views would need several tensors of 275 GB; so it is timed at 256 views, where ours is timed too, and the two take turns
in one process. Processor seconds on one thread. Memory is the growth of the peak resident set over the inputs, each
case in a process of its own.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
from functools import partial
from pathlib import Path

import torch
from rows import Row, compare, run_alone, take_turns
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


def step(name: str, embeddings: Tensor, ids: Tensor) -> Tensor:
    """Take one forward and backward of a loss; return the gradient."""
    leaf = embeddings.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](leaf, ids), leaf)
    return gradient


def resident_peak() -> int:
    """Return the highest resident set of this process so far, in bytes.

    Where there is /proc it is read there: what getrusage says includes the process that started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text(encoding="ascii").split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def growth(name: str, views: int) -> int:
    """Return by how many bytes one forward and backward raise the peak; to be called in a fresh process."""
    torch.set_num_threads(1)
    step(name, *batch(2 * VIEWS))  # libraries load on first use
    embeddings, ids = batch(views)
    before = resident_peak()
    step(name, embeddings, ids)
    return resident_peak() - before


def memory(name: str, views: int) -> float:
    """Return the megabytes of `growth` as measured in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(growth, (name, views)) / 1e6


def rows(*, quick: bool) -> list[Row]:
    """Return the rows of this benchmark."""
    torch.set_num_threads(1)
    small = batch(256)
    difference = (step(PUBLISHED, *small) - step("smooth", *small)).abs().max().item()
    assert difference < 1e-5, f"the gradients of smooth and of the published form differ by {difference:.1e}"
    found = []
    for views, names in ((256, (PUBLISHED, "smooth", "hist")), (512 if quick else 4096, ("smooth", "hist"))):
        group = f"ranking loss of {views} views of width {WIDTH}, {VIEWS} an image, forward and backward"
        seconds = take_turns({name: partial(step, name, *batch(views)) for name in names}, rounds=3 if quick else 5)
        megabytes = {name: [memory(name, views) for _ in range(1 if quick else 3)] for name in names}
        found += compare(group, seconds, against=names[0], unit="s")
        found += compare(f"{group}: memory", megabytes, against=names[0], unit="MB")
    return found


if __name__ == "__main__":
    run_alone(rows, __doc__)
