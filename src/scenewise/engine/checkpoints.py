"""Checkpoints: written under a temporary name, synced, renamed, with their SHA-256 beside them; read as data only."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from scenewise.errors import UserError

FORMAT = 1  # of the checkpoint's dictionary


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a run needs to go on as if it had not stopped. Everything random is a function of the seed and `step`."""

    step: int
    method: str
    config: str  # config.yaml's text
    model: dict[str, Any]
    optimiser: dict[str, Any]
    health: dict[str, Any]
    extra: dict[str, Any]


def save_checkpoint(folder: Path, name: str, checkpoint: Checkpoint) -> Path:
    """Write `folder/name.ckpt` and `.sha256`; an older one stays whole until the new one is.

    Raises UserError when the disk refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ckpt"
    temporary = folder / f".{name}.ckpt.partial"
    try:
        with temporary.open("wb") as file:
            torch.save(_content(checkpoint), file)
            file.flush()
            os.fsync(file.fileno())
        digest = _digest(temporary)
        # the digest first: a kill between the two renames leaves the old checkpoint with a digest that names both
        previous = _recorded(path)
        lines = f"{digest}  {path.name}\n" + (f"{previous}  {path.name}\n" if previous and path.exists() else "")
        _write_text(folder / f"{path.name}.sha256", lines)
        temporary.replace(path)
        _write_text(folder / f"{path.name}.sha256", f"{digest}  {path.name}\n")
        _sync_folder(folder)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, RuntimeError) and not _about_writing(error):
            raise
        kept = "; the last good checkpoint is intact" if path.exists() else ""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise UserError(f"cannot write {path}: {reason}{kept}. Free some space, then go on with --resume") from error
    return path


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint after checking its digest; `weights_only`, so nothing in it can run.

    Raises UserError when it is damaged.
    """
    recorded = _recorded_all(path)
    if recorded and _digest(path) not in recorded:
        raise UserError(f"{path}: damaged, its content does not match {path.name}.sha256; use another checkpoint")
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickles of other kinds, which are refused anyway
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: not a checkpoint of Scenewise ({reason})") from error
    if (
        not isinstance(content, dict)
        or content.get("format") != FORMAT
        or not content.keys() >= set(Checkpoint.__slots__)
    ):
        raise UserError(f"{path}: not a checkpoint of this version of Scenewise")
    return Checkpoint(**{name: content[name] for name in Checkpoint.__slots__})


def _content(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "step": checkpoint.step,
        "method": checkpoint.method,
        "config": checkpoint.config,
        "model": checkpoint.model,
        "optimiser": checkpoint.optimiser,
        "health": checkpoint.health,
        "extra": checkpoint.extra,
    }


def _about_writing(error: RuntimeError) -> bool:
    return any(word in str(error) for word in ("write", "PytorchStreamWriter", "unexpected pos"))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _recorded_all(path: Path) -> list[str]:
    beside = path.with_name(f"{path.name}.sha256")
    return [line.split()[0] for line in beside.read_text().splitlines() if line.strip()] if beside.exists() else []


def _recorded(path: Path) -> str | None:
    found = _recorded_all(path)
    return found[0] if found else None


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    temporary.replace(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
