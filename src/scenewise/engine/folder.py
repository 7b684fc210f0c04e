"""The run folder: may it be used, is there something to resume, and what may be removed from it."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
import yaml

from scenewise.backbones import WEIGHTS_FILE
from scenewise.engine.checkpoints import Checkpoint, load_checkpoint
from scenewise.engine.config import RESUMABLE, RunConfig, build, flatten
from scenewise.engine.display import Display
from scenewise.engine.locks import locked
from scenewise.errors import UserError
from scenewise.sources import parse_spec

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
LAST = Path("checkpoints") / "last.ckpt"
LOCK = ".lock"  # there while a process writes the folder
PROPOSALS = "proposals.arrow"  # where --proposals auto makes them
OWN_PROPOSALS = (PROPOSALS, f"{PROPOSALS}.partial", "proposals.skipped.csv")
OWN_FILES = (
    CONFIG,
    ENVIRONMENT,
    "metrics.jsonl",
    "tensorboard",
    "checkpoints",
    WEIGHTS_FILE,
    "skipped.csv",
    "report.html",
    *OWN_PROPOSALS,
)
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EIO)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the disk's refusal to write into a UserError that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        raise UserError(f"cannot write {error.filename or path}: {error.strerror}") from error


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Let no other process write a run's folder meanwhile; UserError where one does.

    A folder that is not there is made, and removed again where nothing was written to it.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a file; name a folder that does not exist yet")
    missing = [path for path in (out, *out.parents) if not path.exists()]
    busy = f"--out: another process is writing the run in {str(out)!r}; wait for it or stop it"
    with ExitStack() as lock:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            lock.enter_context(locked(out / LOCK, otherwise=busy))
        try:
            yield
        finally:
            lock.close()
            for path in missing:  # the innermost first
                with suppress(OSError):  # it is not empty
                    path.rmdir()


def prepare_folder(
    out: Path, config: RunConfig, *, resume: bool, overwrite: bool, display: Display
) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None for a fresh start. Nothing is removed here."""
    with writing(out):
        used = sorted(entry.name for entry in out.iterdir() if entry.name != LOCK) if out.is_dir() else []
    if resume and (out / LAST).exists():
        checkpoint = load_checkpoint(out / LAST)
        _check_same(config, checkpoint)
        return checkpoint
    foreign = [name for name in used if name not in OWN_FILES]
    if resume and foreign:
        raise UserError(f"--out: {str(out)!r} holds other files ({', '.join(foreign[:3])}); name a run folder")
    if resume:
        display.say(f"nothing to resume in {out}: starting from the beginning")
    elif used and not overwrite:
        raise UserError(
            f"--out: {str(out)!r} exists and is not empty; name another folder, go on with --resume, "
            "or replace the run in it with --overwrite"
        )
    return None


def remove_own(out: Path, *, but: Collection[str] = ()) -> None:
    """Remove a former run's files from a folder, `but` those named, and nothing else."""
    for name in OWN_FILES:
        if name in but:
            continue
        path = out / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _check_same(config: RunConfig, checkpoint: Checkpoint) -> None:
    """Raise UserError when the run asked for is not the one in the checkpoint, but for what --resume may change."""
    if config.method != checkpoint.method:
        raise UserError(
            f"method: the checkpoint is of {checkpoint.method!r}, not of {config.method!r}; "
            "resume with its own method or name another --out"
        )
    before, now = flatten(recorded(checkpoint)), flatten(config)
    changed = [
        f"{name}: {value!r} was asked for, the run has {before[name]!r}; "
        "--resume may change only device, workers and logging"
        for name, value in now.items()
        if name not in RESUMABLE
        and value is not None
        and value != "auto"
        and value != before[name]
        and not (name in ("data.source", "probe.data") and same_data(value, before[name]))
    ]
    if changed:
        raise UserError(*changed)


def recorded(checkpoint: Checkpoint) -> RunConfig:
    """Return the configuration a checkpoint was made with."""
    return build(yaml.safe_load(checkpoint.config))


def same_data(asked: str, recorded: str | None) -> bool:
    """Return whether a data spec names the recorded one, which says more (a default split, an absolute path)."""
    if recorded is None:
        return False
    first, second = parse_spec(asked), parse_spec(recorded)
    same_options = all(second.options.get(name) == value for name, value in first.options.items())
    return first.canonical() == second.canonical() and same_options


def _device(recorded: Literal["auto", "cpu", "cuda"]) -> Literal["auto", "cpu", "cuda"]:
    """Return the device of a run that goes on, where none is asked for: its own, if this machine has it."""
    if recorded == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "engine.device: the run was made on a GPU, and torch sees none here; "
            "go on with --device cpu, and not to the same bytes, or on a machine that has one"
        )
    return recorded


def as_resumed(config: RunConfig, checkpoint: Checkpoint) -> RunConfig:
    """Return the checkpoint's configuration with what --resume may change taken from the new one, where it says so."""
    before = recorded(checkpoint)
    asked = config.engine
    engine = dataclasses.replace(
        before.engine,
        device=_device(before.engine.device) if asked.device == "auto" else asked.device,
        workers=before.engine.workers if asked.workers is None else asked.workers,
        tensorboard=asked.tensorboard,
    )
    return dataclasses.replace(before, engine=engine)
