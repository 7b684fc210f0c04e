"""The file index on disk: an Arrow table of images, memory-mapped, and a small one of the folders it was made from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from scenewise.sources.base import Progress
from scenewise.sources.headers import Header, quiet_headers, read_header
from scenewise.sources.walk import Found

ROWS = 65_536  # images in each Arrow batch but the last, so that a row is found by division
_CHUNK = 256  # headers read between two reports of progress
_THREADS = 8  # they wait for the disk together: what bounds a first index on a cold disk or a network drive
IMAGES = pa.schema(
    [
        ("path", pa.binary()),
        ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("orientation", pa.int8()),
        ("reason", pa.string()),
    ]
)
WATCHED = pa.schema([("path", pa.binary()), ("mtime_ns", pa.int64())])


class Written(NamedTuple):
    """What came out of writing the table of images: how many rows, how many of them readable, a digest of them all."""

    rows: int
    readable: int
    fingerprint: str


def write_images(target: Path, base: bytes, found: Iterable[Found], *, progress: Progress | None) -> Written:
    """Read the header of every file found, by its path from `base`; stream the rows to `target`, a batch in memory."""
    digest, rows, readable = hashlib.blake2b(digest_size=16), 0, 0
    with pa.ipc.new_file(str(target), IMAGES) as writer, quiet_headers(), ThreadPoolExecutor(_THREADS) as pool:
        for block in _blocks(found, ROWS):
            headers: list[Header] = []
            chunks = [block[start : start + _CHUNK] for start in range(0, len(block), _CHUNK)]
            for chunk in pool.map(lambda files: _headers(base, files), chunks):
                headers += chunk
                if progress is not None:
                    progress("indexing images", rows + len(headers), None)
            columns = [[file.path for file in block], *map(list, zip(*headers, strict=True))]
            batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, IMAGES, strict=True)], schema=IMAGES)
            for column in batch.columns:
                for buffer in column.buffers():
                    digest.update(buffer if buffer is not None else b"-")
            writer.write_batch(batch)
            rows += len(block)
            readable += batch.column("reason").null_count
    return Written(rows, readable, digest.hexdigest())


def _headers(base: bytes, files: list[Found]) -> list[Header]:
    paths = (os.path.join(base, file.path) for file in files)  # noqa: PTH118 - a Path cannot hold bytes
    return [Header(reason=f.reason) if f.reason else read_header(path) for f, path in zip(files, paths, strict=True)]


def _blocks(found: Iterable[Found], length: int) -> Iterator[list[Found]]:
    block: list[Found] = []
    for file in found:
        block.append(file)
        if len(block) == length:
            yield block
            block = []
    if block:
        yield block


def write_watched(target: Path, watched: Iterable[tuple[bytes, int]], facts: dict[str, object]) -> None:
    """Write the folders (or files) on whose modification times the index rests, with the facts; atomically."""
    paths, times = zip(*watched, strict=True)
    schema = WATCHED.with_metadata({"facts": json.dumps(facts)})
    table = pa.table([pa.array(paths, pa.binary()), pa.array(times, pa.int64())], schema=schema)
    temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    with pa.ipc.new_file(str(temporary), schema) as writer:
        writer.write_table(table)
    temporary.replace(target)


def read_facts(file: Path, base: bytes) -> dict[str, object] | None:
    """Return the facts of a kept index if everything it rests on is unchanged: one stat a folder, no listing.

    None when there is no such file, it is damaged, or a folder has changed.
    """
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all()
            metadata = reader.schema.metadata
        for path, mtime_ns in zip(table["path"], table["mtime_ns"], strict=True):
            folder = os.path.join(base, path.as_py())  # noqa: PTH118 - a Path cannot hold bytes
            if os.stat(folder).st_mtime_ns != mtime_ns.as_py():  # noqa: PTH116
                return None
        facts = json.loads(metadata[b"facts"])
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
