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

from lightning_fabric import Fabric
from torch import nn

from scenewise.engine.checkpoints import Checkpoint, save_checkpoint
from scenewise.engine.config import to_yaml
from scenewise.engine.data import Parts, fetch, make_loader
from scenewise.engine.display import Bar, Display
from scenewise.engine.folder import LAST, writing
from scenewise.engine.logs import MetricsLog, NoLog, write_skipped
from scenewise.engine.plan import Plan, loader_facts
from scenewise.engine.processes import gather_objects, highest, together
from scenewise.engine.signals import Signals
from scenewise.engine.skipped import check_skipped
from scenewise.engine.step import Stepper, Taken
from scenewise.engine.watch import FIRST_STEPS, Stopwatch
from scenewise.errors import Interrupted, UserError
from scenewise.report.health import HealthWindow
from scenewise.report.verdict import DATA_WAIT, FALLBACK, sentences
from scenewise.report.waiting import PREFIX
from scenewise.types import Batch, Progress, Skip

# By default an epoch's end is saved once 20 times as long has passed as the last save took: a checkpoint takes seconds,
# the epoch of a small folder on a GPU no more (our choice).
SAVING = 20
Probe = Callable[[nn.Module], dict[str, float]]  # backbone -> figures named probe/..., the first decides which is best


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
        self.stepper = Stepper(plan, fabric)
        self.taken: Taken | None = None  # the latest step
        self._next_save = -math.inf  # when the end of an epoch is saved again

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take everything back from a checkpoint."""
        self.method.load_state_dict(checkpoint.model)
        self.stepper.restore(checkpoint.optimiser)
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
        finite = all(bool(value.isfinite().all()) for value in model.values() if value.is_floating_point())
        if highest(int(not finite)):
            raise self._not_finite("a weight is not finite", self.taken)
        began = time.monotonic()
        together(lambda: self._write(name, model) if self.fabric.is_global_zero else None)
        if name == "last":
            now = time.monotonic()
            self._next_save = now + SAVING * (now - began)

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
                optimiser=self.stepper.optimiser.state_dict(),
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

    def run(self, probe: Probe | None, signals: Signals) -> None:
        """Take every step that is left. Raises Interrupted after saving, UserError when the run cannot go on.

        A signal that comes during the last step is left to the caller, who has a run to finish.
        """
        engine, schedule = self.plan.config.engine, self.plan.schedule
        parts = Parts(
            self.plan.source,
            schedule,
            policy=self.plan.config.crops,
            slots=self.plan.slots,
            proposals=self.plan.proposals,
            finished=engine.photometrics != "device",
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
            title = _title(self.plan.config.method, done=self.state.step >= schedule.steps)
            with self.display.bar(title, schedule.steps) as bar:
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
        per_epoch, watch = schedule.steps_per_epoch, Stopwatch(loader_facts(self.plan))
        since_last, count, start_up = 0, 0, max(1, self.plan.config.engine.workers or 0)
        began = first = watch.now()
        untold: Taken | None = None  # given to the device; what is told of it is read when the next one is, too
        while self.state.step < schedule.steps:
            progress = Progress(self.state.step, schedule.steps, per_epoch, schedule.seed)
            ends_epoch = (self.state.step + 1) % per_epoch == 0
            try:
                taken = self._step(batches, progress, watch, last_of_epoch=ends_epoch)
            except Exception:
                if untold is not None:  # done, and perhaps the reason
                    self._tell(self._figures(untold, watch), log, bar)
                raise
            self.state.step += 1
            if untold is not None:
                self._tell(self._figures(untold, watch), log, bar)
            untold = taken
            since_last, count, now = since_last + 1, count + 1, watch.now()
            if count == start_up:
                first = now
            if count == start_up + FIRST_STEPS:
                self._say_waiting(watch.between(first, now, images=FIRST_STEPS * schedule.batch_size))
            due = ends_epoch and self._is_due() if every is None else self.state.step % every == 0
            # a signal that any of the processes received: all of them stop after the same step
            stop, done = highest(signals.received), self.state.step == schedule.steps
            if not (ends_epoch or due or stop or done):
                continue
            line = self._figures(taken, watch)
            if ends_epoch:
                now = watch.now()
                line |= watch.between(began, now, images=since_last * schedule.batch_size)
                line |= self.state.health.figures()
                self.state.health.reset()
                if since_last >= FIRST_STEPS:
                    self._say_waiting(line)
                since_last, began = 0, now
                line |= self._probe(probe, progress.epoch + 1)
                self._advise(line)
            self._tell(line, log, bar)
            untold = None
            if due or stop or done:
                self.save()
            if stop and not done:
                raise Interrupted(stop)

    def _is_due(self) -> bool:
        """Return whether the end of an epoch is saved: all processes ask, and do what the first one's clock says."""
        return bool(gather_objects(time.monotonic() >= self._next_save)[0])

    def _step(
        self, batches: Iterator[Batch | UserError], progress: Progress, watch: Stopwatch, *, last_of_epoch: bool
    ) -> Taken:
        """Take one optimiser step on the next parts."""
        taken = self.stepper.take(
            lambda: self._next(batches, watch), progress, self.state.health, last_of_epoch=last_of_epoch
        )
        self.taken = taken
        return taken

    def _figures(self, taken: Taken, watch: Stopwatch) -> dict[str, Any]:
        """Return the line of a step, waiting for its figures; raises UserError when its loss is not finite."""
        figures = taken.figures.read()
        watch.waited(taken.waited())
        if not math.isfinite(figures["loss"]):
            raise self._not_finite(f"the loss became {figures['loss']}", taken)
        epoch = (taken.number - 1) // self.plan.schedule.steps_per_epoch + 1
        return {"step": taken.number, "epoch": epoch} | figures

    def _tell(self, line: Mapping[str, Any], log: MetricsLog | NoLog, bar: Bar) -> None:
        """Write a step's line and show it; an epoch's says more."""
        words = _words(line) if "images_per_second" in line else f"epoch {line['epoch']}, loss {line['loss']:.3f}"
        bar.update(line["step"], text=words)
        log.write(line)

    def _next(self, batches: Iterator[Batch | UserError], watch: Stopwatch) -> Batch:
        """Return the next part; what another process could not read, or cannot go on for, is known here too."""
        batch = fetch(batches)
        problems = batch.problems if isinstance(batch, UserError) else ()
        skipped = () if isinstance(batch, UserError) else batch.skipped
        if highest(int(bool(problems or skipped))):
            for others, fatal in gather_objects((skipped, problems)):
                if fatal:
                    raise UserError(*fatal)
                self._count_skipped(others)
        assert isinstance(batch, Batch)
        watch.loaded(batch.effort)
        return batch

    def _count_skipped(self, skipped: tuple[Skip, ...]) -> None:
        """Remember the bad images of a batch; raises UserError when there are more than the run allows."""
        fresh = [skip for skip in skipped if skip.key not in self.state.skipped]
        for skip in fresh:
            self.state.skipped[skip.key] = skip
            self.display.warn(f"left out {skip.key}: {skip.reason}")
        if fresh:
            share = self.plan.config.data.max_skipped
            check_skipped(self.plan.source, share, len(self.state.skipped), fresh[-1])

    def _advise(self, line: Mapping[str, Any]) -> None:
        """Say in plain words, once a figure, what has left its healthy range; the first epoch tells of crops only."""
        early = line["epoch"] == 1  # too young to judge what is learnt
        figures = {
            name: value
            for name, value in line.items()
            if isinstance(value, float) and (not early or name == FALLBACK.figure)
        }
        for advice in sentences(figures, method=self.plan.config.method):
            if advice.level == "alarm" and advice.figure not in self.state.told:
                self.state.told.add(advice.figure)
                self.display.warn(f"epoch {line['epoch']}: {advice.sentence}")

    def _say_waiting(self, figures: Mapping[str, Any]) -> None:
        """Say once what would shorten the waiting for data, measured over steps enough; it changes no result."""
        measured = {name: figures[name] for name in figures if name == DATA_WAIT.figure or name.startswith(PREFIX)}
        for advice in sentences(measured, method=self.plan.config.method):
            if advice.level != "ok" and advice.figure not in self.state.told:
                self.state.told.add(advice.figure)
                self.display.warn(advice.sentence)

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

    def _not_finite(self, what: str, taken: Taken | None) -> UserError:
        """Return what to say when all processes find something not finite: the images are of those where it began."""
        if taken is None:
            return UserError(f"{what} before the first step: backbone.init {self.plan.config.backbone.init!r} holds it")
        found = gather_objects((bool(taken.loss.isfinite()), taken.images.tolist()))
        images = [index for finite, indices in found if not finite for index in indices]
        images = images or [index for _, indices in found for index in indices]
        named = ", ".join(str(self.plan.source[index].key) for index in images[:4])
        more = f" and {len(images) - 4} more" if len(images) > 4 else ""
        path = self.folder / LAST
        kept = f"the last good checkpoint is {path}" if path.exists() else "no checkpoint was written yet"
        return UserError(
            f"{what} at step {taken.number} on the images {named}{more}; {kept}.\n"
            f"Try a lower optimiser.lr (now {self.plan.config.optimiser.lr}), a warm-up (optimiser.warmup_epochs), "
            "or engine.precision=32."
        )


def _title(method: str, *, done: bool) -> str:
    return f"{method}: all steps are done already" if done else f"pre-training {method}"


def _words(line: Mapping[str, Any]) -> str:
    return (
        f"epoch {line['epoch']}, loss {line['loss']:.3f}, {line['images_per_second']:.0f} images/s, "
        f"waiting for data {100 * line['data_wait']:.0f} %"
    )
