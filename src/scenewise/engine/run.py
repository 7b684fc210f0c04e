"""A run from its configuration to its folder: checked, resumed or started, trained, exported."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Set
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric

from scenewise.backbones import WEIGHTS_FILE, Backbone, save_backbone
from scenewise.distributed import world_size
from scenewise.engine.check import check_config
from scenewise.engine.checkpoints import Checkpoint
from scenewise.engine.config import RunConfig, to_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.environment import describe
from scenewise.engine.folder import (
    CONFIG,
    ENVIRONMENT,
    OWN_PROPOSALS,
    PROPOSALS,
    as_resumed,
    held,
    prepare_folder,
    remove_own,
    writing,
)
from scenewise.engine.loop import Loop
from scenewise.engine.machine import choose_device, choose_precision, computing
from scenewise.engine.plan import Plan, make_plan, make_schedule
from scenewise.engine.probes import make_probe
from scenewise.engine.processes import (
    highest,
    leave,
    make_fabric,
    quiet_libraries,
    started_rank,
    together,
    while_others_wait,
)
from scenewise.engine.proposed import AUTO, absolute_proposals
from scenewise.engine.proposing import propose
from scenewise.engine.proposing_files import partial_file
from scenewise.engine.signals import Signals
from scenewise.engine.skipped import check_skipped_at_start
from scenewise.errors import Interrupted, UserError
from scenewise.hardware import cores
from scenewise.methods import method_class
from scenewise.proposals.generators import make_generator
from scenewise.report.records import read_run
from scenewise.report.trend import TOO_YOUNG, final_advice, too_young
from scenewise.sources import Source, open_source
from scenewise.views.opencv import check_opencv

AUTO_GENERATOR = "selective-search"  # needs neither labels nor a trained model; what UniVIP uses


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A finished run: its folder, what it was, and the backbone's file."""

    folder: Path
    config: RunConfig
    backbone: Path
    notes: tuple[str, ...] = ()


def pretrain_run(
    config: RunConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    reindex: bool = False,
    report: Callable[[Path], object] = lambda folder: None,
    display: Display | None = None,
) -> Run:
    """Carry out a run and return it. Raises UserError for wrong input, before any work; Interrupted after saving.

    A signal during the last step or after it is answered when the folder is complete; `report` writes the last of it.
    In one of several processes (torchrun) the first one speaks and writes; all of them return the same.
    """
    if display is None or started_rank():
        display = Quiet()
    check_opencv()
    data = dataclasses.replace(config.data, proposals=absolute_proposals(config.data.proposals))
    config = dataclasses.replace(config, data=data)
    with nullcontext() if started_rank() else held(out):
        checkpoint = prepare_folder(out, config, resume=resume, overwrite=overwrite, display=display)
        if checkpoint is not None:
            config = as_resumed(config, checkpoint)
        check_config(config, fresh=checkpoint is None)
        device = choose_device(config.engine.device)
        precision = choose_precision(config.engine.precision, device)
        with quiet_libraries(), computing(device, precision, threads=config.engine.threads):
            fabric = make_fabric(device, precision)
            fabric.launch()
            try:
                run = _carry_out(config, out, fabric, checkpoint, display, reindex=reindex, report=report)
            except (UserError, Interrupted):  # raised on all processes; after a fault of ours the others may hang
                leave()
                raise
            leave()
            return run


def _carry_out(
    config: RunConfig,
    out: Path,
    fabric: Fabric,
    checkpoint: Checkpoint | None,
    display: Display,
    *,
    reindex: bool,
    report: Callable[[Path], object],
) -> Run:
    fresh = checkpoint is None
    source = _open(config.data.source, fabric, display, reindex=reindex)
    check_skipped_at_start(source, config.data.max_skipped)
    if config.data.proposals == AUTO:
        _check_batch_fits(config, source, fabric)
        while_others_wait(lambda go_on: _propose(config, source, out, display, fresh=fresh, go_on=go_on))
    plan = make_plan(config, source, world=fabric.world_size, rank=fabric.global_rank, fresh=fresh, folder=out)
    probe = together(
        lambda: make_probe(plan.config, plan.backbone.weights, fabric.device) if fabric.is_global_zero else None
    )
    for note in plan.notes:
        display.say(f"note: {note}")
    together(lambda: _start_folder(plan, out, fabric.device, display, fresh=fresh))
    loop = Loop(plan, fabric, out, display)
    if checkpoint is not None:
        loop.restore(checkpoint)
        display.say(f"resuming at step {checkpoint.step} of {plan.schedule.steps}")
    compile_networks(plan)
    with Signals(patient=world_size() > 1) as signals:
        loop.run(probe, signals)
        together(lambda: _finish(plan, out, display, told=loop.state.told, report=report))
    stop = highest(signals.received)
    if stop:
        display.say(f"the run in {out} was complete when it could stop")
        raise Interrupted(stop)
    return Run(folder=out, config=plan.config, backbone=out / WEIGHTS_FILE, notes=plan.notes)


def _open(spec: str, fabric: Fabric, display: Display, *, reindex: bool) -> Source:
    """Open the source, its index made by one process of each machine and found in the cache by the others."""
    first = fabric.local_rank == 0
    opened = together(lambda: open_with_display(spec, display, reindex=reindex) if first else None)
    return together(lambda: open_source(spec) if opened is None else opened)


def _check_batch_fits(config: RunConfig, source: Source, fabric: Fabric) -> None:
    """Raise UserError for what the plan will refuse in data of this size, before hours are spent on proposals."""
    images = len(source)
    make_schedule(config, images, world=fabric.world_size, rank=fabric.global_rank)
    method_class(config.method).resolve(config.method_config, images=images, batch_size=config.engine.batch_size)


def _propose(
    config: RunConfig, source: Source, out: Path, display: Display, *, fresh: bool, go_on: Callable[[], None]
) -> None:
    """Make the proposals of `--proposals auto` in the run's folder, or go on with them; a resumed run keeps its own."""
    file = out / PROPOSALS
    if not fresh and file.exists():
        return
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    workers = cores() if config.engine.workers is None else config.engine.workers
    propose(
        source,
        file,
        make_generator(AUTO_GENERATOR),
        seed=config.seed,
        workers=workers,
        resume=file.exists() or partial_file(file).exists(),
        overwrite=True,
        display=display,
        alive=go_on,
    )


def _start_folder(plan: Plan, out: Path, device: torch.device, display: Display, *, fresh: bool) -> None:
    """Write what is known before the first step, once a former run's files are gone."""
    if started_rank():
        return
    with writing(out):
        if fresh:
            used = plan.config.data.proposals in (AUTO, str((out / PROPOSALS).absolute()))
            if not used and (out / PROPOSALS).exists():
                display.say(f"{out / PROPOSALS} of the former run is removed: this one is not cut by it")
            remove_own(out, but=OWN_PROPOSALS if used else ())
        out.mkdir(parents=True, exist_ok=True)
        (out / CONFIG).write_text(to_yaml(plan.config), encoding="utf-8")
        engine = plan.config.engine
        environment = describe(device) | {
            "processes": plan.schedule.world,
            "engine": {name: getattr(engine, name) for name in ("precision", "photometrics", "threads", "workers")},
            "notes": list(plan.notes),
        }
        (out / ENVIRONMENT).write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


def _finish(plan: Plan, out: Path, display: Display, *, told: Set[str], report: Callable[[Path], object]) -> None:
    """Write the backbone and the report; say what is out of its healthy range at the end and was not `told` yet."""
    if started_rank():
        return
    weights = plan.backbone.weights
    with writing(out):
        save_backbone(
            out / WEIGHTS_FILE,
            plan.backbone,
            size=plan.config.data.size,
            mean=weights.mean,
            std=weights.std,
            method=plan.config.method,
        )
    history = read_run(out).history
    if too_young(history):
        display.say(f"note: {TOO_YOUNG}")
    for advice in final_advice(history, method=plan.config.method):
        if advice.level != "ok" and advice.figure not in told:
            display.warn(advice.sentence)
    with writing(out):
        report(out)


def compile_networks(plan: Plan) -> None:
    """Compile the backbones where the plan says so, the teachers' too, in place: names and weights stay as they are."""
    if plan.config.engine.compile:
        for module in plan.method.modules():
            if isinstance(module, Backbone):
                module.compile_network()


def open_with_display(spec: str, display: Display, *, split: str | None = None, reindex: bool = False) -> Source:
    """Open a source with a progress bar while its files are indexed."""
    with display.bar(f"reading {spec}", None) as bar:
        return open_source(
            spec,
            split=split,
            reindex=reindex,
            progress=lambda text, done, total: bar.update(done, total=total, text=text),
        )
