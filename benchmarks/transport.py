"""UniVIP's transport plans of a batch as one tensor operation, beside the POT library's solver image by image; and what
a step of UniVIP costs against one of BYOL.

    python benchmarks/transport.py [--threads 1] [--rounds 5] [--size 224] [--batch 4] [--json FILE]

POT (`pip install 'scenewise[dev]'`) is given the same costs and marginals as float64 arrays, 50 iterations and no early
stop: its scaling of the kernel (`sinkhorn`) and its log-domain form (`sinkhorn_log`). It scales the side it is given
first last, so it is given the columns first. The steps are forward and backward of ResNet-18 in float32; by its encoder
passes one with 4 objects costs 1.37 times BYOL's (below 224 px somewhat more: small maps are rounded up). Times are
processor time, on one thread unless asked otherwise, so that others on the machine do not count; medians over rounds
with the lowest and highest. The contestants take turns in one process; ratios are of medians.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
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


def times(work: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Return name -> median, lowest and highest processor seconds; the contestants take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, run in work.items():
            start = time.process_time()
            run()
            if turn:  # the first round warms up
                seconds[name].append(time.process_time() - start)
    return {
        name: {"median": statistics.median(values), "low": min(values), "high": max(values)}
        for name, values in seconds.items()
    }


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


def line(name: str, figure: Mapping[str, float], said: str) -> str:
    """Return a row of a table."""
    spread = f"({figure['low']:.4f} to {figure['high']:.4f})"
    return f"  {name:26} {figure['median']:8.4f} s {spread:20}  {said}"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=224, help="pixels of a scene; the objects have 96/224 of it")
    parser.add_argument("--batch", type=int, default=4, help="images of a step")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    sides = problem()
    solvers: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {OURS: ours}
    if importlib.util.find_spec("ot"):
        solvers |= {f"POT {method}, a loop": loop_of(method) for method in ("sinkhorn", "sinkhorn_log")}
    else:
        print("POT is not installed and left out; pip install 'scenewise[dev]' has it")
    plans = {name: solve(*sides).double() for name, solve in solvers.items()}
    difference = max(float((plan - plans[OURS]).abs().max()) for plan in plans.values())
    print(f"largest difference between the plans of ours and of POT: {difference:.1e}")
    print(f"{IMAGES} plans of {INSTANCES} x {INSTANCES}, {ITERATIONS} iterations, threads: {options.threads}")
    transport = times({name: lambda solve=solve: solve(*sides) for name, solve in solvers.items()}, options.rounds)
    for name, figure in transport.items():
        print(line(name, figure, f"{figure['median'] / transport[OURS]['median']:6.1f} x the time of ours"))

    methods = {
        "BYOL": step_of("byol", options.size, options.batch),
        "UniVIP, both weights 0": step_of(
            "univip", options.size, options.batch, scene_instance_weight=0.0, instance_weight=0.0
        ),
        "UniVIP, 4 objects": step_of("univip", options.size, options.batch),
    }
    print(f"a step of {options.batch} images at {options.size} px, ResNet-18, forward and backward")
    steps = times({name: step for name, (_, step) in methods.items()}, options.rounds)
    for name, figure in steps.items():
        ratio = figure["median"] / steps["BYOL"]["median"]
        method, _ = methods[name]
        passes = method.passes(method.config) / 8
        print(line(name, figure, f"{ratio:5.2f} x BYOL (by its passes {passes:.2f})"))
    if options.json:
        options.json.write_text(json.dumps({"transport": transport, "steps": steps}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
