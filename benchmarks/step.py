"""A whole training step, from the loader's uint8 batch to the moved teacher, beside the backbone passes it contains.

    python benchmarks/step.py [--quick] [--json FILE]

ResNet-18, 64-pixel views, 128 images (the studies' batch), on one thread of the CPU in float32; where there is a CUDA
device also ResNet-50, 224 pixels, 256 images in bf16 there. The bare passes take the same normalised views through
copies of the run's own backbones: MoCo v2 one view forward and back and one forward, SimCLR both views forward and
back. What the step adds is, on CUDA, flips, colours and blurs, and everywhere normalisation, heads, loss, queue,
gradients' sums, optimiser, teacher and the health figures; it is also timed part by part. Seconds, of processor time on
the CPU (others on the machine do not count then), of wall clock on CUDA; medians over rounds.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from itertools import count, repeat
from pathlib import Path

import numpy as np
import torch
from lightning_fabric import Fabric
from rows import Row, compare, run_alone, take_turns

from scenewise.engine.config import build
from scenewise.engine.display import Quiet
from scenewise.engine.loop import Loop
from scenewise.engine.machine import choose_precision
from scenewise.engine.plan import make_plan
from scenewise.engine.processes import make_fabric, quiet_libraries
from scenewise.engine.watch import Stopwatch
from scenewise.sources import open_source
from scenewise.types import Batch, Progress
from scenewise.views.collate import normalise
from scenewise.views.on_device import as_numbers
from scenewise.views.pipeline import draw_views

BARE, WHOLE = "bare backbone passes", "whole step"
GOAL = "at most 1.05 x"


def make_loop(fabric: Fabric, folder: Path, *, method: str, backbone: str, size: int, images: int) -> Loop:
    """Return the loop of a run on generated scenes, which are never drawn."""
    source = open_source("synthetic:100000")
    tree = {
        "data": {"source": source.spec, "size": size},
        "method": {"name": method},
        "backbone": {"name": backbone},
        "engine": {"batch_size": images, "epochs": 1, "device": fabric.device.type, "precision": "32"},
    }
    return Loop(make_plan(build(tree), source), fabric, folder, Quiet())


def make_batch(loop: Loop, size: int, images: int) -> Batch:
    """Return noise as the loader hands it over: uint8, channels last in memory, finished or to be finished."""
    generator = torch.Generator().manual_seed(0)
    views = {
        name: torch.randint(256, (slot.count, images, size, size, 3), generator=generator, dtype=torch.uint8)
        for name, slot in loop.plan.slots.items()
    }
    drawn = [draw_views(loop.plan.slots, seed=0, epoch=0, index=index) for index in range(images)]
    finished = loop.plan.config.engine.photometrics != "device"
    numbers = {
        name: torch.from_numpy(
            np.array([[as_numbers(each[name][view]) for each in drawn] for view in range(slot.count)])
        )
        for name, slot in loop.plan.slots.items()
    }
    batch = Batch(
        index=torch.arange(images),
        views={name: view.permute(0, 1, 4, 2, 3) for name, view in views.items()},
        boxes={name: torch.zeros(view.shape[0], images, 4) for name, view in views.items()},
        kinds={name: torch.zeros(view.shape[:2], dtype=torch.int8) for name, view in views.items()},
        photometry={} if finished else numbers,
    )
    return batch.pin_memory() if loop.fabric.device.type == "cuda" else batch


def bare(loop: Loop, batch: Batch, method: str) -> Callable[[], None]:
    """Return the passes that the method's step contains, through copies of its backbone."""
    fabric = loop.fabric
    online = copy.deepcopy(loop.plan.backbone)
    teacher = copy.deepcopy(online).requires_grad_(False)
    first, second = (normalise(view.to(fabric.device))[0] for view in batch.views.values())

    def both_views() -> None:
        with fabric.autocast():
            features = online(torch.cat([first, second]))
        features.float().sum().backward()
        online.zero_grad(set_to_none=True)
        wait(fabric)

    def query_and_key() -> None:
        with fabric.autocast():
            features = online(first)
            with torch.no_grad():
                teacher(second)
        features.float().sum().backward()
        online.zero_grad(set_to_none=True)
        wait(fabric)

    return both_views if method == "simclr" else query_and_key


def wait(fabric: Fabric) -> None:
    """Wait for all that the device has to do."""
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)


def parts_of(loop: Loop, batch: Batch, method: str) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    numbers, watch, plan = count(), Stopwatch(), loop.plan

    def progress() -> Progress:
        return Progress(next(numbers), plan.schedule.steps, plan.schedule.steps_per_epoch, 0)

    def whole() -> None:
        loop._step(repeat(batch), progress(), watch, last_of_epoch=False).figures.read()
        wait(loop.fabric)

    def update() -> None:
        for parameter in loop.method.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        loop.stepper.optimiser.step()
        loop.method.after_update(progress())
        wait(loop.fabric)

    def ready() -> None:
        loop.stepper.ready(batch)
        wait(loop.fabric)

    return {
        BARE: bare(loop, batch, method),
        WHOLE: whole,
        "  of it: optimiser and teacher": update,
        "  of it: views to the device, finished and normalised": ready,
    }


def measure(device: str, method: str, *, backbone: str, size: int, images: int, rounds: int) -> list[Row]:
    """Return the rows of one method on one device."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    fabric = make_fabric(device, choose_precision("auto" if device == "cuda" else "32", device))
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        loop = make_loop(fabric, Path(folder), method=method, backbone=backbone, size=size, images=images)
        loop.method.train()
        batch = make_batch(loop, size, images)
        seconds = take_turns(parts_of(loop, batch, method), rounds=rounds, clock=clock)
    group = f"{method} on {device}: {backbone}, {size} px, {images} images"
    return compare(group, seconds, against=BARE, unit="s", goals={WHOLE: GOAL})


def rows(*, quick: bool) -> list[Row]:
    """Return the rows of this benchmark."""
    torch.set_num_threads(1)
    rounds = 3 if quick else 9
    found = []
    for method in ("mocov2", "simclr"):
        found += measure("cpu", method, backbone="resnet18", size=64, images=128, rounds=rounds)
        if torch.cuda.is_available():
            found += measure("cuda", method, backbone="resnet50", size=224, images=256, rounds=rounds)
    return found


if __name__ == "__main__":
    run_alone(rows, __doc__)
