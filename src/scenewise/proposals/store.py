"""The proposal file: Arrow IPC, one row an image, best box first; memory-mapped, a row found by division.

Its columns are those of `rows`; the schema's metadata hold a `Header`.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int32, Int64
from pydantic import TypeAdapter

from scenewise.errors import UserError
from scenewise.proposals.rows import SCHEMA, Row, find_problem, impossible, record_batch, row_of
from scenewise.types import Size

FORMAT = 1  # raise when files of before cannot be read any more
ROWS = 256  # images in each record batch but the last
FIRST = 10  # boxes of an image that `Header.mean_area` looks at: those that object-aware cropping draws from
CHECKED = 100_000  # rows that are looked at when a file is opened: a second or two, however long it is
FIELD = "data.proposals"  # the setting that names a file, in errors; a command's own option where one does
_HEADER = b"scenewise"  # the metadata's key
_ARROW = b"ARROW1"  # how an Arrow IPC file begins, and ends when it is whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """All that the boxes of a file depend on: two files of the same origin are the same."""

    generator: str
    settings: Mapping[str, Any]  # the generator's own, with the versions of its libraries
    keep: int  # boxes an image has at most
    max_iou: float  # boxes that overlap a better one by more were dropped
    seed: int
    versions: Mapping[str, str]  # of what decodes and writes
    source: str  # the data's spec
    fingerprint: str  # the data's
    images: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What a file says of itself.

    images_without_boxes: `unreadable` ones, and those in which nothing was found.
    mean_area: for each image with boxes the mean share of the image that one of its first ten boxes covers, then the
    mean over these images; 1 where no image has boxes.
    """

    format: int
    origin: Origin
    images_without_boxes: int
    unreadable: int
    boxes: int
    mean_area: float


class Store:
    """The proposals of a file, by row. Pickles as a path: each process maps the same file, nothing is copied.

    field: what named the file, for errors.
    """

    def __init__(self, file: Path, *, field: str = FIELD) -> None:
        self.file, self.field = file, field
        self._open()

    def _open(self) -> None:
        self.header, self._batches = _map(self.file, self.field)
        self._state = _state(self.file)

    def __getstate__(self) -> tuple[Path, str, tuple[int, int, int]]:
        return self.file, self.field, self._state

    def __setstate__(self, state: tuple[Path, str, tuple[int, int, int]]) -> None:
        self.file, self.field, before = state
        self._open()
        if self._state != before:
            raise UserError(f"{self.field}: {self.file} was replaced while it was in use; start again")

    def __len__(self) -> int:
        return self.header.origin.images

    def __getitem__(self, row: int) -> Row:
        """Return a row of the file; IndexError outside 0..len-1."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        batch, place = divmod(row, ROWS)
        return row_of(self._batches[batch], place)

    def find(self, keys: Sequence[str]) -> Int64[np.ndarray, " keys"]:
        """Return the row of each key, -1 for those that are not there."""
        known = pa.chunked_array([batch.column("key") for batch in self._batches], pa.string())
        found = pc.index_in(pa.array(keys, pa.string()), value_set=known)
        return np.asarray(found.fill_null(-1), dtype=np.int64)

    def sizes(self) -> Int32[np.ndarray, "images 2"]:
        """Return the (height, width) of every image."""
        columns = [[batch.column(name).to_numpy() for batch in self._batches] for name in ("height", "width")]
        return np.stack([np.concatenate([np.empty(0, np.int32), *column]) for column in columns], axis=1)

    def check(self, *, most: int = CHECKED) -> None:
        """Raise UserError for what a file of ours cannot hold: missing values, boxes that are empty or reach outside.

        Reads rows from all over the file, about `most` of them: who uses the others looks at each (`check_row`).
        """
        step = max(1, len(self) // most)
        for batch in self._batches[::step]:
            problem = find_problem(batch)
            if problem is not None:
                raise UserError(f"{self.field}: {self.file}: {problem}; make it anew with `scenewise propose`")


def check_row(row: Row) -> str | None:
    """Return what a row of ours cannot hold: boxes that are empty, reversed or reach outside; None where it may be."""
    if impossible(row.boxes, np.array([row.size[1], row.size[0]])).any():
        return (
            f"{row.key} has boxes that are empty, reversed or reach outside of its {row.size[1]} x {row.size[0]} pixels"
        )
    return None


def read_header(file: Path, *, field: str = FIELD) -> Header:
    """Return the header of a proposal file; raises UserError where it is not one, is cut off, or of another version.

    field: what named the file, for errors.
    """
    return _map(file, field)[0]


def write_store(file: Path, origin: Origin, rows: Iterable[Row]) -> Header:
    """Write the finished file under a temporary name, sync and rename it; return its header.

    `rows` are iterated twice. The same rows give the same bytes. Raises OSError when the disk refuses.
    """
    header = _summarise(origin, rows)
    schema = SCHEMA.with_metadata({_HEADER: json.dumps(dataclasses.asdict(header))})
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with temporary.open("wb") as target:
            with pa.ipc.new_file(target, schema) as writer:
                for block in _blocks(rows):
                    writer.write_batch(record_batch(block))
            target.flush()
            os.fsync(target.fileno())
        temporary.replace(file)
        sync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return header


def sync_folder(folder: Path) -> None:
    """Make a rename in the folder outlive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _map(file: Path, field: str) -> tuple[Header, list[pa.RecordBatch]]:
    """Map a file into memory; nothing but its footer and the batches' heads is read."""
    try:
        with pa.memory_map(str(file)) as mapped, pa.ipc.open_file(mapped) as reader:
            schema, columns = reader.schema, _columns(reader.schema)
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(_unreadable(file, field, error)) from None
    if columns != _columns(SCHEMA):
        raise UserError(
            f"{field}: {file} has other columns than a file of `scenewise propose`: {columns}.\n"
            f"Wanted: {_columns(SCHEMA)}"
        )
    header = _parse(file, field, schema)
    lengths = [batch.num_rows for batch in batches]
    if sum(lengths) != header.origin.images or any(length != ROWS for length in lengths[:-1]) or lengths[-1:] > [ROWS]:
        raise UserError(f"{field}: {file} is damaged: its rows are not the {header.origin.images} of its header")
    return header, batches


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name}: {field.type}" for field in schema)


def _unreadable(file: Path, field: str, error: Exception) -> str:
    out = shlex.quote(str(file))
    if not file.exists():
        return f"{field}: no such file: {str(file)!r}; make it with `scenewise propose DATA --out {out}`"
    if file.is_dir():
        return f"{field}: {str(file)!r} is a folder; name a file of `scenewise propose`"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{field}: cannot read {file}: {error.strerror or error}"
    with file.open("rb") as opened:
        if opened.read(len(_ARROW)) != _ARROW:
            return f"{field}: {file} is not a file of `scenewise propose` (no Arrow IPC file)"
    return f"{field}: {file} is cut off or damaged; make it anew with `scenewise propose DATA --out {out} --overwrite`"


def _parse(file: Path, field: str, schema: pa.Schema) -> Header:
    try:
        content = json.loads((schema.metadata or {})[_HEADER])
        version = content["format"]
        header: Header | None = TypeAdapter(Header).validate_python(content) if version == FORMAT else None
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{field}: {file} has no header of `scenewise propose` or a damaged one") from error
    if header is None:
        raise UserError(
            f"{field}: {file} is of format {version!r}, this version reads {FORMAT}; "
            f"make it anew with `scenewise propose DATA --out {shlex.quote(str(file))} --overwrite`"
        )
    if not 0 < header.mean_area <= 1:
        raise UserError(f"{field}: {file} is damaged: a mean area of {header.mean_area} in its header")
    return header


def _state(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def mean_share(boxes: Int[np.ndarray, "N 4"], size: Size) -> float:
    """Return the mean share of an image that one of its first ten boxes covers (at least one box, whole pixels)."""
    sides = (boxes[:FIRST, 2:] - boxes[:FIRST, :2]).astype(np.float64)
    return float(sides.prod(axis=1).mean()) / (size[0] * size[1])


def _summarise(origin: Origin, rows: Iterable[Row]) -> Header:
    boxes, images, unreadable, shares = 0, 0, 0, list[float]()
    for row in rows:
        images += 1
        boxes += len(row.boxes)
        unreadable += bool(row.reason)
        if len(row.boxes):
            shares.append(mean_share(row.boxes, row.size))
    assert images == origin.images, "a file is written once all its rows are there"
    return Header(
        format=FORMAT,
        origin=origin,
        images_without_boxes=images - len(shares),
        unreadable=unreadable,
        boxes=boxes,
        mean_area=float(np.mean(shares)) if shares else 1.0,
    )


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    for row in rows:
        block.append(row)
        if len(block) == ROWS:
            yield block
            block = []
    if block:
        yield block
