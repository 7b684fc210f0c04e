"""A whole training step, from the loader's uint8 batch to the moved teacher, beside the backbone passes it contains.

    python benchmarks/step.py [--quick] [--json FILE]

ResNet-18, 64-pixel views, 128 images (the studies' batch), on one thread of the CPU in float32; where there is a CUDA
device also ResNet-50, 224 pixels, 256 images in bf16 there. The bare passes take the same normalised views through
copies of the run's own backbones: MoCo v2 one view forward and back and one forward, SimCLR both views forward and
back. What the step adds is, on CUDA, flips, colours and blurs, and everywhere normalisation, heads, loss, queue,
gradients' sums, optimiser, teacher and the health figures; it is also timed part by part. Seconds, of processor time on
the CPU (others on the machine do not count then), of wall clock on CUDA, where a turn is five steps in a row, each
given to the device before the last one's figures are read, as a run does it; medians over rounds.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count, repeat
from pathlib import Path

import numpy as np
import torch
from rows import Row, compare, run_alone, take_turns

from scenewise.engine.config import build
from scenewise.engine.display import Quiet
from scenewise.engine.loop import Loop
from scenewise.engine.machine import choose_precision, computing
from scenewise.engine.plan import make_plan
from scenewise.engine.processes import make_fabric, quiet_libraries
from scenewise.engine.run import compile_networks
from scenewise.engine.step import Taken
from scenewise.engine.watch import Stopwatch
from scenewise.sources import open_source
from scenewise.types import Batch, Progress
from scenewise.views.collate import normalise
from scenewise.views.on_device import as_numbers
from scenewise.views.pipeline import draw_views

BARE, WHOLE = "bare backbone passes", "whole step"
GOAL = "at most 1.05 x"
IN_A_ROW = 5  # steps of a turn on CUDA


@contextmanager
def training(
    device: str, *, method: str, backbone: str, size: int, images: int, compiled: bool = False
) -> Iterator[tuple[Loop, Batch]]:
    """Hand over the loop of a run on generated scenes, which are never drawn, and a batch of noise for it.

    While it lasts torch computes as in a run: in bf16 on CUDA, in float32 on the CPU.
    """
    source = open_source("synthetic:100000")
    precision = choose_precision("auto" if device == "cuda" else "32", device)
    tree = {
        "data": {"source": source.spec, "size": size},
        "method": {"name": method},
        "crops": {"name": "scene"},  # nothing is cut, so no proposals are needed
        "backbone": {"name": backbone},
        "engine": {"batch_size": images, "epochs": 1, "device": device, "precision": precision, "compile": compiled},
    }
    with ExitStack() as stack:
        stack.enter_context(quiet_libraries())
        stack.enter_context(computing(device, precision))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        plan = make_plan(build(tree), source)
        loop = Loop(plan, make_fabric(device, precision), folder, Quiet())
        compile_networks(plan)
        loop.method.train()
        yield loop, make_batch(loop, images)


def make_batch(loop: Loop, images: int) -> Batch:
    """Return noise as the loader hands it over: uint8, channels last in memory, finished or to be finished."""
    generator = torch.Generator().manual_seed(0)
    views = {
        name: torch.randint(256, (slot.count, images, slot.size, slot.size, 3), generator=generator, dtype=torch.uint8)
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

    def query_and_key() -> None:
        with fabric.autocast():
            features = online(first)
            with torch.no_grad():
                teacher(second)
        features.float().sum().backward()
        online.zero_grad(set_to_none=True)

    return both_views if method == "simclr" else query_and_key


def step_of(loop: Loop, batch: Batch) -> Callable[[], None]:
    """Return a function that takes a step on the batch, and reads the figures of the one before."""
    plan, watch, before = loop.plan, Stopwatch(), list[Taken]()
    numbers = count()

    def step() -> None:
        progress = Progress(next(numbers), plan.schedule.steps, plan.schedule.steps_per_epoch, 0)
        before.append(loop._step(repeat(batch), progress, watch, last_of_epoch=False))
        if len(before) > 1:
            before.pop(0).figures.read()

    return step


def in_a_row(device: str, work: Callable[[], object], steps: int) -> None:
    """Do the work so many times and wait for all that the device has to do."""
    for _ in range(steps):
        work()
    if device == "cuda":
        torch.cuda.synchronize()


def parts_of(loop: Loop, batch: Batch, method: str) -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""

    def update() -> None:
        for parameter in loop.method.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        loop.stepper.optimiser.step()
        loop.method.after_update(Progress(0, loop.plan.schedule.steps, loop.plan.schedule.steps_per_epoch, 0))

    return {
        BARE: bare(loop, batch, method),
        WHOLE: step_of(loop, batch),
        "  of it: optimiser and teacher": update,
        "  of it: views to the device, finished and normalised": lambda: loop.stepper.ready(batch),
    }


def measure(device: str, method: str, *, backbone: str, size: int, images: int, rounds: int) -> list[Row]:
    """Return the rows of one method on one device."""
    clock, steps = (time.perf_counter, IN_A_ROW) if device == "cuda" else (time.process_time, 1)
    with training(device, method=method, backbone=backbone, size=size, images=images) as (loop, batch):
        work = {name: partial(in_a_row, device, part, steps) for name, part in parts_of(loop, batch, method).items()}
        turns = take_turns(work, rounds=rounds, clock=clock)
    seconds = {name: [turn / steps for turn in values] for name, values in turns.items()}
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
