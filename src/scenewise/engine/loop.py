"""The training loop: one visible path from a batch to a saved step.

A run is a sequence of optimiser steps. Everything random belongs to (seed, step) or (seed, epoch, image), so the loop
carries no generator: a checkpoint is the weights, the queues, the optimiser and the number of steps done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from scenewise import keys
from scenewise.distributed import gather, world_size
from scenewise.engine.checkpoints import Checkpoint, save_checkpoint
from scenewise.engine.config import to_yaml
from scenewise.engine.data import Parts, death_of_worker, make_loader
from scenewise.engine.display import Bar, Display
from scenewise.engine.folder import LAST, writing
from scenewise.engine.logs import MetricsLog, NoLog, write_skipped
from scenewise.engine.optim import learning_rate, make_optimiser
from scenewise.engine.plan import Plan
from scenewise.engine.processes import anywhere, gather_objects, share_statistics, together
from scenewise.engine.signals import Signals
from scenewise.engine.watch import Stopwatch, as_figures, term_gradients
from scenewise.errors import Interrupted, UserError
from scenewise.methods.base import Method
from scenewise.report.health import HealthWindow
from scenewise.report.verdict import sentences
from scenewise.types import Batch, Progress, Skip, StepOutput
from scenewise.views.collate import normalise

Probe = Callable[[nn.Module], dict[str, float]]  # backbone -> figures named probe/..., the first decides which is best


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


@dataclass(slots=True)
class State:
    """Where the loop stands, beside the weights."""

    step: int = 0
    skipped: dict[str, Skip] = field(default_factory=dict)
    health: HealthWindow = field(default_factory=HealthWindow)
    best: float = -math.inf
    told: set[str] = field(default_factory=set)  # figures whose unhealthy range was said


class Loop:
    """A plan on a device: its modules set up, its state, and the steps."""

    def __init__(self, plan: Plan, fabric: Fabric, folder: Path, display: Display) -> None:
        self.plan, self.fabric, self.folder, self.display = plan, fabric, folder, display
        self.state = State()
        self.method = plan.method
        self.images = torch.empty(0, dtype=torch.int64)  # of the latest step
        if plan.config.engine.channels_last:
            self.method.to(memory_format=torch.channels_last)
        self.method.to(fabric.device)
        self.optimiser: Optimizer = make_optimiser(plan.config.optimiser, self.method, plan.peak_lr)
        module, optimiser = fabric.setup(StepModule(self.method), self.optimiser)
        self.module, self.fabric_optimiser = module, optimiser

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take everything back from a checkpoint."""
        self.method.load_state_dict(checkpoint.model)
        self.optimiser.load_state_dict(checkpoint.optimiser)
        self.state.step = checkpoint.step
        self.state.health.load_state_dict(checkpoint.health)
        extra = checkpoint.extra
        self.state.best = extra["best"]
        self.state.skipped = {row[1]: Skip(*row) for row in extra["skipped"]}
        self.state.told = set(extra["told"])
        backbone = self.plan.backbone
        backbone.weights = replace(backbone.weights, mean=tuple(extra["mean"]), std=tuple(extra["std"]))

    def save(self, name: str = "last") -> None:
        """Write a checkpoint from the first process; the others wait.

        Raises UserError when the disk refuses, or a weight is not finite.
        """
        model = self.method.state_dict()
        if not all(bool(value.isfinite().all()) for value in model.values() if value.is_floating_point()):
            raise self._not_finite("a weight is not finite", step=self.state.step)
        together(lambda: self._write(name, model) if self.fabric.is_global_zero else None)

    def _write(self, name: str, model: dict[str, Any]) -> None:
        state, weights = self.state, self.plan.backbone.weights
        save_checkpoint(
            self.folder / LAST.parent,
            name,
            Checkpoint(
                step=state.step,
                method=self.plan.config.method,
                config=to_yaml(self.plan.config),
                model=model,
                optimiser=self.optimiser.state_dict(),
                health=dict(state.health.state_dict()),
                extra={
                    "best": state.best,
                    "skipped": [
                        (skip.index, skip.key, skip.reason, skip.replacement) for skip in state.skipped.values()
                    ],
                    "told": sorted(state.told),
                    "mean": list(weights.mean),
                    "std": list(weights.std),
                },
            ),
        )

    def run(self, probe: Probe | None) -> None:
        """Take every step that is left. Raises Interrupted after saving, UserError when the run cannot go on."""
        engine, schedule = self.plan.config.engine, self.plan.schedule
        parts = Parts(
            self.plan.source,
            schedule,
            policy=self.plan.config.crops,
            slots=self.plan.slots,
            proposals=self.plan.proposals,
        )
        loader = make_loader(
            parts,
            first_step=self.state.step,
            workers=engine.workers or 0,
            pin_memory=self.fabric.device.type == "cuda",
        )
        self.method.train()
        with self._log() as log:
            if schedule.steps == 0:
                self.save()
            with (
                Signals(patient=world_size() > 1) as signals,
                self.display.bar(
                    _title(self.plan.config.method, done=self.state.step >= schedule.steps), schedule.steps
                ) as bar,
            ):
                self._steps(iter(loader), log, bar, signals, probe)

    @contextmanager
    def _log(self) -> Iterator[MetricsLog | NoLog]:
        """Open the files of figures, and write skipped.csv at the end: on the first process only."""
        if not self.fabric.is_global_zero:
            yield NoLog()
            return
        with writing(self.folder):
            log = MetricsLog(self.folder, first_step=self.state.step, tensorboard=self.plan.config.engine.tensorboard)
            try:
                yield log
            finally:
                log.close()
                skipped = [*self.plan.source.unreadable, *self.state.skipped.values()]
                if skipped:
                    write_skipped(self.folder, skipped)

    def _steps(
        self,
        batches: Iterator[Batch | UserError],
        log: MetricsLog | NoLog,
        bar: Bar,
        signals: Signals,
        probe: Probe | None,
    ) -> None:
        schedule, every = self.plan.schedule, self.plan.config.engine.checkpoint_steps
        per_epoch, watch = schedule.steps_per_epoch, Stopwatch()
        since_last = 0
        while self.state.step < schedule.steps:
            progress = Progress(self.state.step, schedule.steps, per_epoch, schedule.seed)
            epoch, ends_epoch = progress.epoch + 1, (self.state.step + 1) % per_epoch == 0
            figures = self._step(batches, progress, watch, last_of_epoch=ends_epoch)
            self.state.step += 1
            since_last += 1
            line: dict[str, Any] = {"step": self.state.step, "epoch": epoch} | figures
            text = f"epoch {epoch}, loss {figures['loss']:.3f}"
            if ends_epoch:
                line |= watch.take(since_last * schedule.batch_size) | self.state.health.figures()
                self.state.health.reset()
                since_last = 0
                line |= self._probe(probe, epoch)
                self._advise(line)
                text = _words(line)
            bar.update(self.state.step, text=text)
            log.write(line)
            due = ends_epoch if every is None else self.state.step % every == 0
            if due or self.state.step == schedule.steps:
                self.save()
            stop = self._stopping(signals)
            if stop and self.state.step < schedule.steps:
                self.save()
                raise Interrupted(stop)

    def _step(
        self, batches: Iterator[Batch | UserError], progress: Progress, watch: Stopwatch, *, last_of_epoch: bool
    ) -> dict[str, float]:
        """Take one optimiser step and return its figures."""
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
        losses, images, figures = [], [], dict[str, float]()
        counted = dict[str, list[Tensor]]()
        for part in range(accumulate):
            batch = self._next(batches, watch)
            last = part == accumulate - 1
            torch.manual_seed(keys.integer(progress.seed, "dropout", progress.step, part, self.fabric.global_rank))
            with self.fabric.no_backward_sync(self.module, enabled=not last):
                output: StepOutput = self.module(Sealed(self._ready(batch), progress)).content[0]
                if last and last_of_epoch:
                    figures |= term_gradients(output)
                self.fabric.backward(output.loss / accumulate)
            losses.append(output.loss.detach())
            images.append(batch.index)
            for name, figure in batch.figures.items():
                counted.setdefault(f"crops/{name}", []).append(figure.to(self.fabric.device))
            self.state.health.add(gather(output.features), gather(output.embeddings), gather(output.targets))
        self.images = torch.cat(images)
        terms = {f"loss/{name}": term for name, term in output.terms.items()} if len(output.terms) > 1 else {}
        values: dict[str, Tensor | float] = {"loss": torch.stack(losses).mean(), "lr": lr}
        crops = {name: torch.cat(found).mean() for name, found in counted.items()}
        figures = as_figures(values | terms | crops | dict(output.metrics)) | figures
        if not math.isfinite(figures["loss"]):
            raise self._not_finite(f"the loss became {figures['loss']}", step=self.state.step + 1)
        if config.optimiser.clip_gradient is not None:
            self.fabric.clip_gradients(self.module, self.fabric_optimiser, max_norm=config.optimiser.clip_gradient)
        self.fabric_optimiser.step()
        self.fabric_optimiser.zero_grad(set_to_none=True)
        self.method.after_update(progress)
        share_statistics(self.method)
        return figures

    def _ready(self, batch: Batch) -> Batch:
        """Move a batch to the device and normalise its pixels there."""
        moved = batch.to(self.fabric.device, non_blocking=True)
        weights = self.plan.backbone.weights
        views = {name: normalise(view, mean=weights.mean, std=weights.std) for name, view in moved.views.items()}
        return replace(moved, views=views)

    def _next(self, batches: Iterator[Batch | UserError], watch: Stopwatch) -> Batch:
        """Return the next part; what another process could not read, or cannot go on for, is known here too."""
        began = time.perf_counter()
        batch = fetch(batches)
        watch.waited(began)
        problems = batch.problems if isinstance(batch, UserError) else ()
        skipped = () if isinstance(batch, UserError) else batch.skipped
        if anywhere(bool(problems or skipped), self.fabric.device):
            for others, fatal in gather_objects((skipped, problems)):
                if fatal:
                    raise UserError(*fatal)
                self._count_skipped(others)
        assert isinstance(batch, Batch)
        return batch

    def _count_skipped(self, skipped: tuple[Skip, ...]) -> None:
        """Remember the bad images of a batch; raises UserError when there are more than the run allows."""
        fresh = [skip for skip in skipped if skip.key not in self.state.skipped]
        for skip in fresh:
            self.state.skipped[skip.key] = skip
            self.display.warn(f"left out {skip.key}: {skip.reason}")
        if fresh:
            check_skipped(self.plan, len(self.state.skipped), fresh[-1])

    def _advise(self, line: Mapping[str, Any]) -> None:
        """Say in plain words, once a figure, what has left its healthy range; the first epoch is too young to judge."""
        if line["epoch"] == 1:
            return
        figures = {name: value for name, value in line.items() if isinstance(value, float)}
        for advice in sentences(figures, method=self.plan.config.method):
            if advice.level == "alarm" and advice.figure not in self.state.told:
                self.state.told.add(advice.figure)
                self.display.warn(f"epoch {line['epoch']}: {advice.sentence}")

    def _probe(self, probe: Probe | None, epoch: int) -> dict[str, float]:
        """Return the probe's figures where one is due; keep the best checkpoint by the first of them."""
        config = self.plan.config
        if config.probe.data is None or (epoch % config.probe.every and epoch != config.engine.epochs):
            return {}
        figures: dict[str, float] = gather_objects(probe(self.plan.backbone) if probe else {})[0]
        value = next(iter(figures.values()), -math.inf)
        if value > self.state.best:
            self.state.best = value
            self.save("best")
        return figures

    def _stopping(self, signals: Signals) -> int:
        """Return the signal that any of the processes received, or 0: all of them stop after the same step."""
        if world_size() == 1:
            return signals.received
        received = torch.tensor(float(signals.received), device=self.fabric.device)
        highest = self.fabric.all_reduce(received, reduce_op="max")
        return int(float(highest))

    def _not_finite(self, what: str, *, step: int) -> UserError:
        named = ", ".join(str(self.plan.source[int(index)].key) for index in self.images[:4])
        more = f" and {len(self.images) - 4} more" if len(self.images) > 4 else ""
        path = self.folder / LAST
        kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"
        return UserError(
            f"{what} at step {step} on the images {named}{more}; {kept}.\n"
            f"Try a lower optimiser.lr (now {self.plan.config.optimiser.lr}), a warm-up (optimiser.warmup_epochs), "
            "or engine.precision=32."
        )


def fetch(batches: Iterator[Batch | UserError]) -> Batch | UserError:
    """Return what the loader has next; the death of one of its processes is told in words."""
    try:
        return next(batches)
    except RuntimeError as error:
        reason = death_of_worker(error)
        if reason is None:
            raise
        return UserError(
            f"engine.workers: a process that reads images died ({reason}), often for lack of memory.\n"
            "Go on with --resume, perhaps with fewer --workers"
        )


def check_skipped(plan: Plan, count: int, example: Skip) -> None:
    """Raise UserError when more images were left out than `data.max_skipped` allows; one is always allowed."""
    unreadable = len(plan.source.unreadable)
    everything, bad = len(plan.source) + unreadable, count + unreadable
    if bad > max(1, plan.config.data.max_skipped * everything):
        raise UserError(
            f"data.max_skipped: {bad} of {everything} images cannot be read, more than the share "
            f"{plan.config.data.max_skipped} allows; the last: {example.key} ({example.reason}).\n"
            "All are named in skipped.csv. Mend or remove them, or raise data.max_skipped"
        )


def _title(method: str, *, done: bool) -> str:
    return f"{method}: all steps are done already" if done else f"pre-training {method}"


def _words(line: Mapping[str, Any]) -> str:
    return (
        f"epoch {line['epoch']}, loss {line['loss']:.3f}, {line['images_per_second']:.0f} images/s, "
        f"waiting for data {100 * line['data_wait']:.0f} %"
    )
