"""UniVIP's transport plans of a batch as one tensor operation, beside the POT library's solver image by image; and what
a step of UniVIP costs against one of BYOL.

    python benchmarks/transport.py [--quick] [--json FILE]

POT (`pip install 'scenewise[dev]'`) is given the same costs and marginals as float64 arrays, 50 iterations and no early
stop: its scaling of the kernel (`sinkhorn`) and its log-domain form (`sinkhorn_log`). It scales the side it is given
first last, so it is given the columns first. The steps are forward and backward of ResNet-18 in float32; by its encoder
passes one with 4 objects costs 1.37 times BYOL's (below 224 px somewhat more: small maps are rounded up). Processor
seconds on one thread.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from rows import Row, compare, run_alone, take_turns
from torch import Tensor

from scenewise.backbones import create_backbone
from scenewise.losses import sinkhorn_plan
from scenewise.methods import Method, method_class
from scenewise.types import Batch, Progress
from scenewise.views.slots import scale_slots

IMAGES, INSTANCES, EPSILON, ITERATIONS = 256, 4, 0.1, 50
OURS = "ours, one batch"
Problem = tuple[Tensor, Tensor, Tensor]  # costs (B, K, K), shares of rows and of columns (B, K)


def problem() -> Problem:
    """Return costs and marginals as random embeddings give them: 1 - cosine in 0..2, shares of one mass."""
    generator = torch.Generator().manual_seed(0)
    cost = 2 * torch.rand(IMAGES, INSTANCES, INSTANCES, generator=generator)
    rows, columns = torch.rand(2, IMAGES, INSTANCES, generator=generator)
    return cost, rows / rows.sum(dim=1, keepdim=True), columns / columns.sum(dim=1, keepdim=True)


def ours(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return sinkhorn_plan(cost, rows, columns, epsilon=EPSILON, iterations=ITERATIONS)


def loop_of(method: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return POT's solver of that name, called for one image after the other."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it names the libraries it did not find
        import ot

    def solve(cost: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        costs = np.ascontiguousarray(cost.double().transpose(1, 2))
        first, second = columns.double().numpy(), rows.double().numpy()
        options = {"method": method, "numItermax": ITERATIONS, "stopThr": 0.0, "warn": False}
        plans = [ot.sinkhorn(first[b], second[b], costs[b], EPSILON, **options) for b in range(len(costs))]
        return torch.from_numpy(np.stack(plans)).transpose(1, 2)

    return solve


def step_of(name: str, size: int, count: int, **settings: Any) -> tuple[Method, Callable[[], None]]:
    """Return a method on ResNet-18 and a function that takes its forward and backward on a batch of noise."""
    kind = method_class(name)
    backbone = create_backbone("resnet18", seed=0)
    config, _ = kind.resolve(kind.Config(**settings), images=1000, batch_size=count)
    method = kind(config, backbone, backbone.width)
    slots = scale_slots(method.slots(config), size)
    views = {name: torch.randn(slot.count, count, 3, slot.size, slot.size) for name, slot in slots.items()}
    batch = Batch(index=torch.arange(count), views=views, boxes={})
    progress = Progress(step=0, steps=1, steps_per_epoch=1, seed=0)

    def step() -> None:
        method.zero_grad(set_to_none=True)
        method.step(batch, progress).loss.backward()

    return method, step


def rows(*, quick: bool) -> list[Row]:
    """Return the rows of this benchmark."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sides, rounds = problem(), 3 if quick else 5
    solvers: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {OURS: ours}
    if importlib.util.find_spec("ot"):
        solvers |= {f"POT {method}, a loop": loop_of(method) for method in ("sinkhorn", "sinkhorn_log")}
    else:
        print("POT is not installed and left out; pip install 'scenewise[dev]' has it")
    plans = {name: solve(*sides).double() for name, solve in solvers.items()}
    difference = max(float((plan - plans[OURS]).abs().max()) for plan in plans.values())
    assert difference < 1e-5, f"the plans of ours and of POT differ by {difference:.1e}"
    seconds = take_turns({name: partial(solve, *sides) for name, solve in solvers.items()}, rounds=rounds)
    group = f"{IMAGES} transport plans of {INSTANCES} x {INSTANCES}, {ITERATIONS} iterations"
    found = compare(group, seconds, against=OURS, unit="s")

    size, count = 224, 2 if quick else 4
    methods = {
        "BYOL": step_of("byol", size, count),
        "UniVIP, both weights 0": step_of("univip", size, count, scene_instance_weight=0.0, instance_weight=0.0),
        "UniVIP, 4 objects": step_of("univip", size, count),
    }
    steps = take_turns({name: step for name, (_, step) in methods.items()}, rounds=rounds)
    goals = {name: f"{method.passes(method.config) / 8:.2f} x by its passes" for name, (method, _) in methods.items()}
    group = f"a step of {count} images at {size} px, ResNet-18, forward and backward"
    return found + compare(group, steps, against="BYOL", unit="s", goals=goals | {"BYOL": ""})


if __name__ == "__main__":
    run_alone(rows, __doc__)
