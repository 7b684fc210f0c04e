"""A run from its configuration to its folder: checked, resumed or started, trained, exported."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
import yaml
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy

from scenewise.backbones import IMAGENET_MEAN, IMAGENET_STD, WEIGHTS_FILE, create_backbone, save_backbone
from scenewise.engine.checkpoints import Checkpoint, load_checkpoint
from scenewise.engine.config import RESUMABLE, RunConfig, build, flatten, to_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.environment import describe
from scenewise.engine.loop import Loop, check_skipped
from scenewise.engine.plan import Plan, choose_device, choose_precision, make_plan
from scenewise.engine.probes import make_probe
from scenewise.errors import UserError
from scenewise.methods import method_class
from scenewise.report.records import read_run
from scenewise.report.trend import last_figures
from scenewise.report.verdict import sentences
from scenewise.sources import Source, open_source, parse_spec
from scenewise.views.opencv import check_opencv
from scenewise.views.regions import policy
from scenewise.views.slots import scale_slots

OWN_FILES = (
    "config.yaml",
    "environment.json",
    "metrics.jsonl",
    "tensorboard",
    "checkpoints",
    WEIGHTS_FILE,
    "skipped.csv",
    "report.html",
)


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
    """Carry out a run and return it. Raises UserError for wrong input, before any work; Interrupted after saving."""
    display = display or Quiet()
    check_opencv()
    check_config(config)
    checkpoint = prepare_folder(out, config, resume=resume, overwrite=overwrite, display=display)
    if checkpoint is not None:
        config = _as_resumed(config, checkpoint)
    device = choose_device(config.engine.device)
    with _quiet_libraries(), torch.random.fork_rng(devices=[]), _threads(config, device):
        fabric = make_fabric(device, choose_precision(config.engine.precision, device))
        fabric.launch()
        source = _open(config, fabric, display, reindex=reindex)
        plan = make_plan(config, source, world=fabric.world_size, rank=fabric.global_rank)
        check_skipped_at_start(plan)
        for note in plan.notes:
            display.say(f"note: {note}")
        return _carry_out(plan, out, fabric, checkpoint, display)


def _carry_out(plan: Plan, out: Path, fabric: Fabric, checkpoint: Checkpoint | None, display: Display) -> Run:
    probe = make_probe(plan.config, fabric.device)
    if fabric.is_global_zero:
        if checkpoint is None:
            _remove_own(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(to_yaml(plan.config), encoding="utf-8")
        environment = describe(fabric.device) | {"notes": list(plan.notes)}
        (out / "environment.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    fabric.barrier()
    loop = Loop(plan, fabric, out, display)
    if checkpoint is not None:
        loop.restore(checkpoint)
        display.say(f"resuming at step {checkpoint.step} of {plan.schedule.steps}")
    if plan.config.engine.compile:
        for module in (plan.backbone,):
            module.compile()
    loop.run(probe)
    if fabric.is_global_zero:
        save_backbone(
            out / WEIGHTS_FILE,
            plan.backbone,
            size=plan.config.data.size,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            method=plan.config.method,
        )
        _advise(out, plan.config.method, display)
    fabric.barrier()
    return Run(folder=out, config=plan.config, backbone=out / WEIGHTS_FILE, notes=plan.notes)


def _advise(out: Path, method: str, display: Display) -> None:
    """Say in plain words what is out of its healthy range at the end."""
    figures = last_figures(read_run(out).history)
    for advice in sentences(figures, method=method):
        if advice.level != "ok":
            display.warn(advice.sentence)


def check_config(config: RunConfig) -> None:
    """Raise UserError for what is wrong before any data is looked at: every problem at once."""
    problems: list[str] = []
    for check in (
        lambda: policy(config.data.crops),
        lambda: _check_backbone(config),
        lambda: parse_spec(config.data.source),
        lambda: choose_device(config.engine.device),
    ):
        try:
            check()
        except UserError as error:
            problems.extend(error.problems)
    if problems:
        raise UserError(*problems)


def _check_backbone(config: RunConfig) -> None:
    """Raise UserError for an architecture that cannot be made, without its memory."""
    asked = config.backbone
    with torch.device("meta"):
        backbone = create_backbone(asked.name, stem=asked.stem, norm=asked.norm, seed=0, size=config.data.size)
        slots = scale_slots(method_class(config.method).slots, config.data.size)
        backbone.check_size(*(slot.size for slot in slots.values()))


def check_skipped_at_start(plan: Plan) -> None:
    """Raise UserError when the index alone holds more unreadable images than the run allows."""
    unreadable = plan.source.unreadable
    if unreadable:
        check_skipped(plan, 0, unreadable[-1])


def prepare_folder(
    out: Path, config: RunConfig, *, resume: bool, overwrite: bool, display: Display
) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None for a fresh start. Nothing is removed here."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a file; name a folder that does not exist yet")
    used = out.is_dir() and any(out.iterdir())
    last = out / "checkpoints" / "last.ckpt"
    if resume:
        if not last.exists():
            display.say(f"nothing to resume in {out}: starting from the beginning")
            foreign = [entry.name for entry in out.iterdir() if entry.name not in OWN_FILES] if used else []
            if foreign:
                raise UserError(f"--out: {str(out)!r} holds other files ({', '.join(sorted(foreign)[:3])}); name a run folder")
            return None
        checkpoint = load_checkpoint(last)
        _check_same(config, checkpoint)
        return checkpoint
    if used and not overwrite:
        raise UserError(
            f"--out: {str(out)!r} exists and is not empty; name another folder, go on with --resume, "
            "or replace the run in it with --overwrite"
        )
    return None


def _check_same(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raise UserError when the run asked for is not the one in the checkpoint, but for what --resume may change."""
    if config.method != checkpoint.method:
        raise UserError(
            f"method: the checkpoint is of {checkpoint.method!r}, not of {config.method!r}; "
            "resume with its own method or name another --out"
        )
    before, now = flatten(build(yaml.safe_load(checkpoint.config))), flatten(config)
    changed = [
        f"{name}: {value!r} was asked for, the run has {before[name]!r}; --resume may change only device, workers and logging"
        for name, value in now.items()
        if name not in RESUMABLE
        and value is not None
        and value != "auto"
        and value != before.get(name)
        and not (name == "data.source" and same_data(value, before[name]))
    ]
    if changed:
        raise UserError(*changed)


def same_data(asked: str, recorded: str) -> bool:
    """Return whether a data spec names the recorded canonical one, which says more (a default split, an absolute path)."""
    first, second = parse_spec(asked), parse_spec(recorded)
    same_options = all(second.options.get(name) == value for name, value in first.options.items())
    return first.canonical() == second.canonical() and same_options


def _as_resumed(config: RunConfig, checkpoint: Checkpoint) -> RunConfig:
    """Return the checkpoint's configuration with what --resume may change taken from the new one."""
    before = build(yaml.safe_load(checkpoint.config))
    engine = dataclasses.replace(
        before.engine,
        device=config.engine.device,
        workers=config.engine.workers,
        tensorboard=config.engine.tensorboard,
    )
    return dataclasses.replace(before, engine=engine)


def _remove_own(out: Path) -> None:
    """Remove a former run's files from a folder, and nothing else."""
    for name in OWN_FILES:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _open(config: RunConfig, fabric: Fabric, display: Display, *, reindex: bool) -> Source:
    """Open the source, its index made by one process of each machine and read by the others."""
    if fabric.local_rank == 0:
        source = open_with_display(config.data.source, display, reindex=reindex)
    fabric.barrier()
    return source if fabric.local_rank == 0 else open_source(config.data.source)


def open_with_display(spec: str, display: Display, *, split: str | None = None, reindex: bool = False) -> Source:
    """Open a source with a progress bar while its files are indexed."""
    with display.bar(f"reading {spec}", None) as bar:
        return open_source(
            spec,
            split=split,
            reindex=reindex,
            progress=lambda text, done, total: bar.update(done, total=total, text=text),
        )


def make_fabric(device: str, precision: str) -> Fabric:
    """Return the Fabric of this process: plain, or one of torchrun's."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    strategy = (
        DDPStrategy(process_group_backend="nccl" if device == "cuda" else "gloo", broadcast_buffers=False)
        if world > 1
        else "auto"
    )
    return Fabric(
        accelerator=device,
        devices=local,
        num_nodes=world // local,
        strategy=strategy,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )


@contextmanager
def _threads(config: RunConfig, device: str) -> Iterator[None]:
    """Compute with the configured number of threads on CPU; OpenCV single-threaded in this process too."""
    before, before_opencv = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(0)
    if device == "cpu" and config.engine.threads is not None:
        torch.set_num_threads(config.engine.threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        cv2.setNumThreads(before_opencv)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep Fabric's hints about settings that are decided here from the user."""
    loggers = [logging.getLogger(name) for name in ("lightning.fabric", "lightning_utilities.core.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\.")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
