"""A file that one process holds while it writes what lies beside it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from scenewise.errors import UserError


@contextmanager
def locked(path: Path, *, otherwise: str) -> Iterator[None]:
    """Hold the file, made for it and removed afterwards; UserError that says `otherwise` where a process holds it.

    The lock goes with the process, however it ends. A POSIX lock: one of BSD's kind would live on in the loader
    processes of a run that was killed. It says nothing to this process itself, and on a file system without locks
    nothing at all. Raises OSError where the file cannot be made.
    """
    file = _hold(path, otherwise)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder is gone, or its drive
            path.unlink()
        file.close()


def _hold(path: Path, otherwise: str) -> BinaryIO:
    while True:
        file = path.open("ab")
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            raise UserError(otherwise) from None
        except OSError:  # a file system without locks
            return file
        if _is_there(path, file):
            return file
        file.close()  # the process that held it removed it after we had opened it


def _is_there(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
