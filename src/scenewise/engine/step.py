"""One optimiser step: from the batches of its parts to moved weights, teachers and queues, and to what is told of it.

Nothing here reads a value that the device has computed: the host goes on while the device works, and the figures of a
step are read when the next one has been given to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int64
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from scenewise import keys
from scenewise.distributed import gather
from scenewise.engine.optim import learning_rate, make_optimiser
from scenewise.engine.plan import Plan
from scenewise.engine.processes import share_statistics
from scenewise.engine.watch import Awaited, arrival, term_gradients
from scenewise.methods.base import Method
from scenewise.report.health import HealthWindow
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.collate import normalise
from scenewise.views.on_device import apply_to_batch


class Sealed:
    """A frozen record on its way through Fabric's wrappers, which would take dataclasses apart and rebuild them."""

    __slots__ = ("content",)

    def __init__(self, *content: Any) -> None:
        self.content = content


class StepModule(nn.Module):
    """The method as Fabric and DDP want to see it: one forward that is the step."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, sealed: Sealed) -> Sealed:
        """Return the sealed StepOutput of a sealed (batch, progress)."""
        return Sealed(self.method.step(*sealed.content))


@dataclass(frozen=True, slots=True)
class Fetch:
    """The host waited `seconds` for a part; a GPU was `idle` from when it had done all else until it went on."""

    seconds: float
    idle: tuple[torch.cuda.Event, torch.cuda.Event] | None

    def waited(self) -> float:
        """Return the seconds that the device waited for the part, once it has gone on."""
        if self.idle is None:
            return self.seconds
        idle: float = self.idle[0].elapsed_time(self.idle[1]) / 1000.0
        return min(self.seconds, idle)


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was given to the device: its number from 1, this process's images and loss, the figures of all."""

    number: int
    images: Int64[Tensor, " images"]
    loss: Tensor
    figures: Awaited
    fetches: tuple[Fetch, ...]

    def waited(self) -> float:
        """Return the seconds that the device waited for data, once the figures are read."""
        return sum(fetch.waited() for fetch in self.fetches)


class Stepper:
    """The method and its optimiser on a device."""

    def __init__(self, plan: Plan, fabric: Fabric) -> None:
        self.plan, self.fabric, self.method = plan, fabric, plan.method
        if plan.config.engine.channels_last:
            self.method.to(memory_format=torch.channels_last)
        self.method.to(fabric.device)
        self.optimiser: Optimizer = make_optimiser(
            plan.config.optimiser, self.method, plan.peak_lr, fused=fabric.device.type == "cuda"
        )
        module, optimiser = fabric.setup(StepModule(self.method), self.optimiser)
        self.module, self.fabric_optimiser = module, optimiser

    def restore(self, optimiser: dict[str, Any]) -> None:
        """Take the optimiser's state from a checkpoint, but for how this device computes it.

        That goes in first: where torch puts the state's step counts depends on it.
        """
        saved = optimiser["param_groups"]
        own = [{"fused": group["fused"]} if "fused" in group else {} for group in self.optimiser.param_groups]
        groups = [group | ours for group, ours in zip(saved, own, strict=True)]
        self.optimiser.load_state_dict({**optimiser, "param_groups": groups})

    def take(
        self, next_batch: Callable[[], Batch], progress: Progress, health: HealthWindow, *, last_of_epoch: bool
    ) -> Taken:
        """Take one optimiser step; `health` is given its rows, the last of an epoch has its terms' gradients told."""
        config = self.plan.config
        lr = learning_rate(
            config.optimiser,
            peak=self.plan.peak_lr,
            step=progress.step,
            steps=progress.steps,
            steps_per_epoch=progress.steps_per_epoch,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        accumulate = config.engine.accumulate
        images, fetches, gradients = [], [], dict[str, Tensor]()
        parts, counted = dict[str, list[Tensor | float]](), dict[str, list[Tensor]]()
        for part in range(accumulate):
            batch, fetch = self._fetched(next_batch)
            fetches.append(fetch)
            last = part == accumulate - 1
            torch.manual_seed(keys.integer(progress.seed, "dropout", progress.step, part, self.fabric.global_rank))
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                output: StepOutput = self.module(Sealed(self.ready(batch), progress)).content[0]
                if last and last_of_epoch:
                    gradients = term_gradients(output)
                self.fabric.backward(output.loss / accumulate)
            images.append(batch.index)
            for name, value in _logged(output).items():
                parts.setdefault(name, []).append(value)
            for name, figure in batch.figures.items():
                counted.setdefault(f"crops/{name}", []).append(figure.to(self.fabric.device, non_blocking=True))
            health.add(gather(output.features), gather(output.embeddings), gather(output.targets))
        means = {name: sum(values) / len(values) for name, values in parts.items()}
        crops = {name: torch.cat(found).mean() for name, found in counted.items()}
        figures = Awaited({"loss": means["loss"], "lr": lr, **crops, **means, **gradients})
        if config.optimiser.clip_gradient is not None:
            self.fabric.clip_gradients(
                self.module,
                self.fabric_optimiser,
                max_norm=config.optimiser.clip_gradient,
                error_if_nonfinite=False,  # to know would be to wait; the loss is not finite either
            )
        self.fabric_optimiser.step()
        self.fabric_optimiser.zero_grad(set_to_none=True)
        self.method.after_update(progress)
        share_statistics(self.method)
        return Taken(progress.step + 1, torch.cat(images), torch.as_tensor(means["loss"]), figures, tuple(fetches))

    def _fetched(self, next_batch: Callable[[], Batch]) -> tuple[Batch, Fetch]:
        free, asked = arrival(self.fabric.device), time.perf_counter()
        batch = next_batch()
        seconds, on = time.perf_counter() - asked, arrival(self.fabric.device)
        return batch, Fetch(seconds, None if free is None or on is None else (free, on))

    def ready(self, batch: Batch) -> Batch:
        """Move a batch to the device, finish its views there where the loader did not, and normalise their pixels."""
        moved = replace(batch, photometry={}).to(self.fabric.device, non_blocking=True)
        weights, views = self.plan.backbone.weights, dict(moved.views)
        for name, numbers in batch.photometry.items():
            views[name] = apply_to_batch(views[name], numbers, compiled=self.plan.config.engine.compile)
        views = {name: normalise(view, mean=weights.mean, std=weights.std) for name, view in views.items()}
        return replace(moved, views=views)


def _logged(output: StepOutput) -> dict[str, Tensor | float]:
    """Return what is logged of a part: its loss, the loss's terms where there are several, the method's figures."""
    terms = {f"loss/{name}": term for name, term in output.terms.items()} if len(output.terms) > 1 else {}
    found = {"loss": output.loss, **terms, **output.metrics}
    return {name: value.detach() if isinstance(value, Tensor) else value for name, value in found.items()}
