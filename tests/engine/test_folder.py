"""A run's folder belongs to one process at a time, and is as it was where nothing came of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scenewise.engine import locks
from scenewise.engine.folder import LOCK, held
from scenewise.engine.locks import locked
from scenewise.engine.run import Run
from scenewise.errors import UserError

FORK = multiprocessing.get_context("fork")


@contextmanager
def another_process(out: Path) -> Iterator[None]:
    """Have a process hold the folder, which is killed in the end."""

    def hold(ready: Any) -> None:
        with held(out):
            ready.set()
            signal.pause()

    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(60)
    try:
        yield
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_that_another_process_writes_is_refused_and_left_alone(
    train: Callable[..., Run], reference: Run, tmp_path: Path, options: dict[str, Any]
) -> None:
    out = tmp_path / "run"
    with another_process(out):
        (out / "metrics.jsonl").write_text("theirs")
        with pytest.raises(UserError, match=r"--out: another process is writing the run in '.*run'; wait for it or"):
            train(out, **options)
        assert sorted(path.name for path in out.iterdir()) == [LOCK, "metrics.jsonl"]
    assert (out / LOCK).exists()  # a killed one leaves its file, which holds nobody up
    assert train(out, overwrite=True).backbone.read_bytes() == reference.backbone.read_bytes()
    assert not (out / LOCK).exists()


def test_loader_processes_do_not_hold_the_folder_of_a_run_that_was_killed(tmp_path: Path) -> None:
    def die(leave: Any) -> None:
        with held(tmp_path / "run"):
            if os.fork() == 0:
                leave.wait()
                os._exit(0)
            os.kill(os.getpid(), signal.SIGKILL)

    leave = FORK.Event()
    process = FORK.Process(target=die, args=(leave,))
    process.start()
    process.join()
    try:
        with held(tmp_path / "run"):
            pass
    finally:
        leave.set()


def test_a_folder_that_nothing_was_written_to_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    with pytest.raises(UserError, match="wrong"), held(out):
        assert (out / LOCK).is_file()
        raise UserError("wrong")
    assert not (tmp_path / "new").exists()
    with held(out):
        (out / "file").touch()
    assert [path.name for path in out.iterdir()] == ["file"]
    with held(out):
        pass
    assert [path.name for path in out.iterdir()] == ["file"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(UserError, match="is a file; name a folder"), held(tmp_path / "run"):
        pass


def test_a_lock_that_its_holder_removed_meanwhile_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real, calls = tmp_path / "lock", locks.fcntl.lockf, []

    def late(file: Any, command: int) -> None:
        if not calls:
            path.unlink()  # as the former holder does, between our opening of it and our locking of it
        calls.append(command)
        real(file, command)

    monkeypatch.setattr(locks.fcntl, "lockf", late)
    with locked(path, otherwise="busy"):
        assert len(calls) == 2
        assert path.exists()


def test_a_file_system_without_locks_is_written_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Any, command: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(locks.fcntl, "lockf", refuse)
    with locked(tmp_path / "lock", otherwise="busy"):
        pass
    assert not (tmp_path / "lock").exists()
