"""What has been packed so far: a file of one JSON line an image that a kill at any time leaves fit to go on with."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from scenewise.errors import UserError
from scenewise.proposals.partial import lock_file
from scenewise.proposals.store import sync_folder
from scenewise.sources.shards_format import Origin


class Line(NamedTuple):
    """An image that is packed, or with a `reason` was left out.

    split: by number. shard: the file's name. offset, length, checksum: the image's bytes in it. end: where the shard
    goes on after the image's sidecar.
    """

    split: int
    key: str
    reason: str = ""
    shard: str = ""
    offset: int = 0
    length: int = 0
    checksum: int = 0
    end: int = 0
    sidecar: Mapping[str, Any] = {}


class Tail(NamedTuple):
    """The shard that is being written: its split by number, name, images and length in bytes."""

    split: int
    shard: str
    images: int
    length: int


class Journal:
    """The lines of all images so far, in their order, in a file of one writer: another process is refused.

    What was half written at its end is dropped. images: lines so far; shards: the names of all in them; tail: the last.
    """

    tail: Tail | None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("r+b")
        try:
            lock_file(self._file, path)
            self.origin = self._read_origin()
            self.images, self.shards, self.tail, end = 0, set[str](), None, self._file.tell()
            for line in self:
                end = self._file.tell()
                self._count(line)
            self._file.truncate(end)
        except BaseException:
            self._file.close()
            raise

    def _count(self, line: Line) -> None:
        self.images += 1
        if line.shard:
            before = self.tail.images if self.tail is not None and self.tail.shard == line.shard else 0
            self.tail = Tail(line.split, line.shard, before + 1, line.end)
            self.shards.add(line.shard)

    def __iter__(self) -> Iterator[Line]:
        """Return the lines in their order; they end where the file is torn."""
        self._file.seek(0)
        self._file.readline()
        while (text := self._file.readline()).endswith(b"\n"):
            try:
                line = Line(*json.loads(text))
            except (ValueError, TypeError):  # a power cut can leave a length without its content
                return
            yield line

    def _read_origin(self) -> Origin:
        text = self._file.readline()
        try:
            origin: Origin = TypeAdapter(Origin).validate_json(text)
            if text.endswith(b"\n"):
                return origin
        except ValidationError:
            pass
        raise UserError(
            f"--resume: {self.path} is not what an interrupted `scenewise pack` leaves; begin anew with --overwrite"
        )

    def append(self, lines: Sequence[Line]) -> None:
        """Add lines and see to it that they are on the disk. Raises OSError when the disk refuses."""
        if not lines:
            return
        self._file.seek(0, os.SEEK_END)
        self._file.write(b"".join(_encoded(line) for line in lines))
        self._file.flush()
        os.fsync(self._file.fileno())
        for line in lines:
            self._count(line)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def start_journal(path: Path, origin: Origin) -> Journal:
    """Return a new journal without lines, in the place of one that may be there and that nobody writes (UserError)."""
    if path.exists():
        with path.open("r+b") as former:
            lock_file(former, path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(_encoded(dataclasses.asdict(origin)))
    temporary.replace(path)
    sync_folder(path.parent)
    return Journal(path)


def _encoded(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("ascii") + b"\n"
