"""A run from its configuration to its folder: checked, resumed or started, trained, exported."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from lightning_fabric import Fabric

from scenewise.backbones import WEIGHTS_FILE, Backbone, save_backbone
from scenewise.engine.checkpoints import Checkpoint
from scenewise.engine.config import RunConfig, to_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.environment import describe
from scenewise.engine.folder import CONFIG, OWN_PROPOSALS, PROPOSALS, as_resumed, prepare_folder, remove_own, writing
from scenewise.engine.loop import Loop
from scenewise.engine.plan import (
    Plan,
    choose_device,
    choose_group,
    choose_precision,
    decide_optimiser,
    make_backbone,
    make_plan,
    make_schedule,
    part_of_process,
)
from scenewise.engine.probes import make_probe
from scenewise.engine.processes import (
    leave,
    make_fabric,
    quiet_libraries,
    started_rank,
    started_world,
    together,
    while_others_wait,
)
from scenewise.engine.proposed import AUTO, absolute_proposals, check_crops, check_proposals
from scenewise.engine.proposing import propose
from scenewise.engine.proposing_files import partial_file
from scenewise.engine.skipped import check_skipped_at_start
from scenewise.errors import UserError
from scenewise.methods import method_class
from scenewise.proposals.generators import make_generator
from scenewise.report.records import read_run
from scenewise.report.trend import TOO_YOUNG, final_advice, too_young
from scenewise.sources import Source, open_source, parse_spec
from scenewise.views.opencv import check_opencv, use_one_thread
from scenewise.views.slots import scale_slots

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
    display: Display | None = None,
) -> Run:
    """Carry out a run and return it. Raises UserError for wrong input, before any work; Interrupted after saving.

    In one of several processes (torchrun) the first one speaks and writes; all of them return the same.
    """
    if display is None or started_rank():
        display = Quiet()
    check_opencv()
    data = dataclasses.replace(config.data, proposals=absolute_proposals(config.data.proposals))
    config = dataclasses.replace(config, data=data)
    checkpoint = prepare_folder(out, config, resume=resume, overwrite=overwrite, display=display)
    if checkpoint is not None:
        config = as_resumed(config, checkpoint)
    check_config(config, fresh=checkpoint is None)
    device = choose_device(config.engine.device)
    with quiet_libraries(), _computing(config, device):
        fabric = make_fabric(device, choose_precision(config.engine.precision, device))
        fabric.launch()
        run = _carry_out(config, out, fabric, checkpoint, display, reindex=reindex)
        leave()
    return run


def _carry_out(
    config: RunConfig, out: Path, fabric: Fabric, checkpoint: Checkpoint | None, display: Display, *, reindex: bool
) -> Run:
    fresh = checkpoint is None
    source = _open(config.data.source, fabric, display, reindex=reindex)
    if config.data.proposals == AUTO:
        _check_batch_fits(config, source, fabric)
        while_others_wait(lambda go_on: _propose(config, source, out, display, fresh=fresh, go_on=go_on))
    plan = make_plan(config, source, world=fabric.world_size, rank=fabric.global_rank, fresh=fresh, folder=out)
    check_skipped_at_start(plan)
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
    _compile(plan)
    loop.run(probe)
    together(lambda: _finish(plan, out, display, told=loop.state.told))
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
    workers = (os.cpu_count() or 1) if config.engine.workers is None else config.engine.workers
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
        environment = describe(device) | {"processes": plan.schedule.world, "notes": list(plan.notes)}
        (out / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")


def _finish(plan: Plan, out: Path, display: Display, *, told: Set[str]) -> None:
    """Write the backbone and say in plain words what is out of its healthy range at the end and was not `told` yet."""
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


def _compile(plan: Plan) -> None:
    """Compile the backbones, the teachers' too, in place: names and weights stay as they are."""
    if plan.config.engine.compile:
        for module in plan.method.modules():
            if isinstance(module, Backbone):
                module.compile_network()


def check_config(config: RunConfig, *, fresh: bool = True) -> None:
    """Raise UserError for what is wrong whatever the data are, before they are looked at: every problem at once.

    `fresh`: the run starts anew, so the weights it starts from are needed.
    """
    problems: list[str] = []
    checks: tuple[Callable[[], object], ...] = (
        lambda: check_crops(config.crops, config.data.proposals, config.data.source),
        lambda: check_proposals(config.data.proposals),
        lambda: _check_backbone(config, fresh=fresh),
        lambda: _check_batch(config),
        # the longest data there could be: what fails for them fails for any
        lambda: method_class(config.method).resolve(
            config.method_config, images=sys.maxsize, batch_size=config.engine.batch_size
        ),
        lambda: decide_optimiser(config.optimiser, method_class(config.method), epochs=config.engine.epochs),
        lambda: choose_device(config.engine.device),
        lambda: parse_spec(config.data.source),
        lambda: None if config.probe.data is None else parse_spec(config.probe.data),
    )
    for check in checks:
        try:
            check()
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)


def _check_backbone(config: RunConfig, *, fresh: bool) -> None:
    backbone, _ = make_backbone(config, fresh=fresh)
    slots = scale_slots(method_class(config.method).slots(config.method_config), config.data.size)
    backbone.check_size(*(slot.size for slot in slots.values()))
    if method_class(config.method).needs_feature_map:
        with torch.no_grad():
            found = backbone.eval().feature_map(torch.zeros(1, 3, config.data.size, config.data.size))
        if found.shape[1] != backbone.width:
            raise UserError(
                f"backbone.name: {backbone.name!r} has a feature map of {found.shape[1]} channels and {backbone.width} "
                f"pooled features; {config.method} needs as many, for example 'resnet50'"
            )


def _check_batch(config: RunConfig) -> None:
    count = part_of_process(config, world=started_world())
    if count == started_world() == 1 and method_class(config.method).batch_statistics == "run":
        raise UserError(
            f"engine.accumulate: {config.engine.accumulate} leaves one image to be computed at once, and "
            f"{config.method} needs two for its batch statistics; use {config.engine.batch_size // 2} or less"
        )
    if method_class(config.method).batch_statistics == "groups":  # elsewhere it has no effect, and the plan says so
        choose_group(config.backbone.batchnorm_group, per_rank=count)


def open_with_display(spec: str, display: Display, *, split: str | None = None, reindex: bool = False) -> Source:
    """Open a source with a progress bar while its files are indexed."""
    with display.bar(f"reading {spec}", None) as bar:
        return open_source(
            spec,
            split=split,
            reindex=reindex,
            progress=lambda text, done, total: bar.update(done, total=total, text=text),
        )


@contextmanager
def _computing(config: RunConfig, device: str) -> Iterator[None]:
    """Compute reproducibly, with the configured number of threads; leave torch's global state as it was."""
    threads, opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cudnn = torch.backends.cudnn
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that, and hang who waits for them
    cudnn.deterministic, cudnn.benchmark = True, False  # law 2: the same bytes on the same device
    if device == "cpu" and config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
        cv2.setNumThreads(opencv_threads)
        cudnn.deterministic, cudnn.benchmark = deterministic, benchmark
