"""Checkpoints are whole or the old one, and nothing in them can run."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scenewise.engine import checkpoints
from scenewise.engine.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from scenewise.errors import UserError


def made(step: int) -> Checkpoint:
    return Checkpoint(
        step=step,
        method="mls",
        config="seed: 0\n",
        model={"weight": torch.full((1000,), float(step))},
        optimiser={"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        health={"features": torch.zeros(0, 0)},
        extra={"best": -float("inf"), "skipped": [(3, "a.jpg", "truncated", 4)]},
    )


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "checkpoints", "last", made(3))
    read = load_checkpoint(path)
    assert torch.equal(read.model["weight"], made(3).model["weight"])
    for field in dataclasses.fields(Checkpoint):
        if field.name not in ("model", "optimiser", "health"):
            assert vars_of(read)[field.name] == vars_of(made(3))[field.name]


def vars_of(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "method": checkpoint.method,
        "config": checkpoint.config,
        "extra": checkpoint.extra,
    }


def test_the_digest_is_in_sha256sums_format(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "last", made(1))
    save_checkpoint(tmp_path, "last", made(2))
    beside = tmp_path / "last.ckpt.sha256"
    assert beside.read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  last.ckpt\n"
    if sys.platform == "linux":
        subprocess.run(["sha256sum", "--check", "--quiet", beside.name], cwd=tmp_path, check=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, "last", made(1))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04."])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"format": 99}, {"format": checkpoints.FORMAT, "step": 1}])
def test_a_file_with_something_else_in_it_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(path)


class Trap:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_nothing_in_a_checkpoint_can_run(tmp_path: Path) -> None:
    path, target = tmp_path / "last.ckpt", tmp_path / "made"
    torch.save({"format": checkpoints.FORMAT, "step": Trap(target)}, path)
    with pytest.raises(UserError):
        load_checkpoint(path)
    assert not target.exists()


def full(*_arguments: Any, **_options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["save", "sync", "digest"])
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = save_checkpoint(tmp_path, "last", made(1))
    target = {"save": (torch, "save"), "sync": (os, "fsync"), "digest": (checkpoints, "_digest")}[what]
    with monkeypatch.context() as patch:
        patch.setattr(*target, full)
        with pytest.raises(UserError, match=r"No space left on device; the last good checkpoint is intact"):
            save_checkpoint(tmp_path, "last", made(2))
    assert load_checkpoint(path).step == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]


def test_a_writer_that_fails_halfway_is_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's zip writer turns the refused write into a RuntimeError of its own."""
    path = save_checkpoint(tmp_path, "last", made(1))

    def half(content: object, file: io.BufferedWriter) -> None:
        file.write(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(UserError, match="intact"):
        save_checkpoint(tmp_path, "last", made(2))
    assert load_checkpoint(path).step == 1


@pytest.mark.parametrize("renames", [1, 2])
def test_a_kill_between_the_renames_leaves_a_checkpoint_that_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    save_checkpoint(tmp_path, "last", made(1))
    real, done = Path.replace, []

    def die_after(self: Path, target: Path) -> Path:
        if len(done) == renames:
            raise KeyboardInterrupt  # nothing below catches it, as nothing runs after a kill
        done.append(target)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die_after)
        with pytest.raises(KeyboardInterrupt):
            save_checkpoint(tmp_path, "last", made(2))
    assert load_checkpoint(tmp_path / "last.ckpt").step == renames  # the digest's rename is the first
