"""The tables beside the shards: where each image is, its label, its objects, its proposals."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from scenewise.engine.proposed import StoredProposals
from scenewise.proposals.rows import Row
from scenewise.proposals.store import sync_folder
from scenewise.sources.arrow_files import ROWS
from scenewise.sources.objects import make_table
from scenewise.sources.shards_format import Contents, Shard, index_schema
from scenewise.tools.pack_images import (
    BOX_CLASSES,
    BOX_KINDS,
    BOXES,
    LABEL,
    NOT_JUDGED,
    PRESENT,
    scale_proposals,
)
from scenewise.tools.pack_journal import Journal, Line

_HASHED = 2**22  # bytes read at once


def _blocks(journal: Journal) -> Iterator[list[Line]]:
    """Return the lines of the images that are packed, in blocks of the index."""
    block: list[Line] = []
    for line in journal:
        if line.reason:
            continue
        block.append(line)
        if len(block) == ROWS:
            yield block
            block = []
    if block:
        yield block


def write_index(
    file: Path, journal: Journal, shards: Sequence[Shard], *, labelled: bool, multi_label: bool, classes: int
) -> Contents:
    """Write where the bytes of every packed image are, its size and its label, as `sources.shards_index` reads them."""
    schema = index_schema(labelled=labelled, multi_label=multi_label, classes=classes)
    numbers = {shard.name: number for number, shard in enumerate(shards)}

    def write(temporary: Path) -> None:
        with pa.ipc.new_file(str(temporary), schema) as writer:
            for block in _blocks(journal):
                columns: list[list[object] | pa.Array] = [
                    [line.key for line in block],
                    [line.sidecar["height"] for line in block],
                    [line.sidecar["width"] for line in block],
                    [numbers[line.shard] for line in block],
                    [line.offset for line in block],
                    [line.length for line in block],
                    [line.checksum for line in block],
                ]
                if labelled and multi_label:
                    matrix = np.stack([_vector(line, classes) for line in block])
                    columns.append(pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), classes))
                elif labelled:
                    columns.append([line.sidecar[LABEL] for line in block])
                arrays = [
                    column if isinstance(column, pa.Array) else pa.array(column, field.type)
                    for column, field in zip(columns, schema, strict=True)
                ]
                writer.write_batch(pa.record_batch(arrays, schema=schema))

    write_whole(file, write)
    return contents(file)


def _vector(line: Line, classes: int) -> np.ndarray:
    """Return the labels of an image, (classes,) int8."""
    labels = np.zeros(classes, np.int8)
    labels[line.sidecar[PRESENT]] = 1
    labels[line.sidecar[NOT_JUDGED]] = -1
    return labels


def write_objects(file: Path, journal: Journal, classes: tuple[str, ...]) -> Contents:
    """Write the labelled objects of all images, as `sources.objects` reads them."""
    images: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    numbers: list[np.ndarray] = []
    kinds: list[np.ndarray] = []
    annotated: list[np.ndarray] = []
    row = 0
    for block in _blocks(journal):
        given = [line.sidecar.get(BOXES, []) for line in block]
        images.append(np.repeat(np.arange(row, row + len(block)), [len(each) for each in given]))
        boxes += [np.array(each, np.float32).reshape(-1, 4) for each in given]
        for name, column in ((BOX_CLASSES, numbers), (BOX_KINDS, kinds)):
            column.append(np.array([value for line in block for value in line.sidecar.get(name, [])], np.int64))
        annotated.append(np.array([BOXES in line.sidecar for line in block], bool))
        row += len(block)
    table = make_table(
        np.concatenate(images),
        np.concatenate(boxes),
        np.concatenate(numbers),
        np.concatenate(kinds),
        annotated=np.concatenate(annotated),
        columns={},
        facts={"classes": list(classes), "clipped": 0, "dropped": 0},
    )

    def write(temporary: Path) -> None:
        with pa.ipc.new_file(str(temporary), table.schema) as writer:
            writer.write_table(table)

    write_whole(file, write)
    return contents(file)


class Rows:
    """The proposals of the packed images of a split, scaled as these are; may be iterated again."""

    def __init__(self, journal: Journal, split: int, proposed: StoredProposals) -> None:
        self._journal, self._split, self._proposed = journal, split, proposed

    def __iter__(self) -> Iterator[Row]:
        lines = (line for line in self._journal if line.split == self._split)
        for index, line in enumerate(lines):
            if not line.reason:
                row, size = self._proposed.row(index), (line.sidecar["height"], line.sidecar["width"])
                yield row._replace(size=size, boxes=scale_proposals(row.boxes, row.size, size))


def contents(file: Path) -> Contents:
    """Return the length and the SHA-256 of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while content := opened.read(_HASHED):
            digest.update(content)
    return Contents(bytes=file.stat().st_size, sha256=digest.hexdigest())


def write_whole(file: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name, see to it that it is on the disk, and rename it."""
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        write(temporary)
        descriptor = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(file)
        sync_folder(file.parent)
    finally:
        temporary.unlink(missing_ok=True)
