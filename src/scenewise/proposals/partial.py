"""Proposals on their way: an Arrow stream of short batches that a kill at any time leaves fit to go on with."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from scenewise.errors import UserError
from scenewise.proposals.rows import SCHEMA, Row, find_problem, record_batch, row_of
from scenewise.proposals.store import Origin, sync_folder

_SCHEMA = SCHEMA.append(pa.field("reason", pa.string()))  # why an image could not be read, "" else
_ORIGIN = b"scenewise"  # the metadata's key


class Partial:
    """The rows made so far, in a file of one writer: another process that opens it is refused.

    What was half written at its end is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("r+b")
        try:
            lock_file(self._file, path)
            self.origin, end, self._rows = _measure(self._file, path)
            self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[Row]:
        """Return the rows in their order."""
        for batch, _ in _batches(self._file):
            reasons = batch.column("reason").to_pylist()
            for place, reason in enumerate(reasons):
                yield row_of(batch, place)._replace(reason=reason)

    def append(self, rows: Sequence[Row]) -> None:
        """Add rows and see to it that they are on the disk. Raises OSError when the disk refuses."""
        if not rows:
            return
        batch = record_batch(rows).append_column("reason", pa.array([row.reason for row in rows], pa.string()))
        assert find_problem(batch) is None, "what a generator made is fit to be read again"
        self._file.seek(0, os.SEEK_END)
        self._file.write(batch.serialize())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._rows += len(rows)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def start_partial(path: Path, origin: Origin) -> Partial:
    """Return a new file without rows; one that is there is replaced, unless a process is writing it (UserError)."""
    if path.exists():
        with path.open("r+b") as former:
            lock_file(former, path)
    schema = _SCHEMA.with_metadata({_ORIGIN: json.dumps(dataclasses.asdict(origin))})
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(schema.serialize())
    temporary.replace(path)
    sync_folder(path.parent)
    return Partial(path)


def lock_file(file: BinaryIO, path: Path) -> None:
    """Lock a file for this process; the lock goes with the process, or when it closes any opening of the file.

    A POSIX lock: one of BSD's kind would live on in the loader processes of a making that was killed.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UserError(f"--out: another process is making {path}; wait for it or stop it") from None


def _measure(file: BinaryIO, path: Path) -> tuple[Origin, int, int]:
    """Return the origin, where the last whole batch ends (bytes), and the number of rows until there."""
    origin, end = _read_origin(file, path)
    rows = 0
    for batch, here in _batches(file):
        rows, end = rows + batch.num_rows, here
    return origin, end, rows


def _read_origin(file: BinaryIO, path: Path) -> tuple[Origin, int]:
    file.seek(0)
    try:
        schema = pa.ipc.open_stream(file).schema
        origin: Origin = TypeAdapter(Origin).validate_json((schema.metadata or {})[_ORIGIN])
        if schema.equals(_SCHEMA):
            return origin, file.tell()
    except (OSError, pa.ArrowException, KeyError, ValidationError):
        pass
    raise UserError(
        f"--resume: {path} is not what an interrupted `scenewise propose` leaves; begin anew with --overwrite"
    )


def _batches(file: BinaryIO) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Return the whole batches of a stream, each with the byte after it; they end where the file is torn."""
    file.seek(0)
    reader = pa.ipc.open_stream(file)
    while True:
        try:
            batch = reader.read_next_batch()
        except (StopIteration, OSError, MemoryError, pa.ArrowException):  # too short, or no length at all
            return
        if find_problem(batch) is not None:  # a power cut can leave a length without its content
            return
        yield batch, file.tell()
