"""The index of packed images, memory-mapped: a row is found by division, whatever their number."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from scenewise.errors import UserError
from scenewise.sources.arrow_files import ROWS
from scenewise.sources.base import Labels
from scenewise.sources.shards_format import Manifest, index_schema

_NUMBERS = ("height", "width", "shard", "offset", "length", "checksum")


class Place(NamedTuple):
    """Where the bytes of an image are, and what is known of it."""

    key: str
    height: int
    width: int
    shard: int
    offset: int
    length: int
    checksum: int
    label: int | np.ndarray | None


class ShardIndex:
    """The rows of an index file. Pickles as its path and three settings: each process maps the same file."""

    def __init__(self, file: Path, manifest: Manifest) -> None:
        self._file = file
        self._labelled, self._multi_label = manifest.labelled, manifest.multi_label
        self._classes = len(manifest.classes)
        self._open()
        if self._rows != manifest.images or not self._inside(manifest):
            raise self._damaged()

    def _open(self) -> None:
        try:
            with pa.memory_map(str(self._file)) as mapped:
                table = pa.ipc.open_file(mapped).read_all()
        except (OSError, pa.ArrowException):
            raise self._damaged() from None
        wanted = index_schema(labelled=self._labelled, multi_label=self._multi_label, classes=self._classes)
        lengths = [len(chunk) for chunk in table["key"].chunks] if table.schema.equals(wanted) else []
        whole = all(length == ROWS for length in lengths[:-1]) and lengths[-1:] <= [ROWS]
        if not lengths or not whole or any(column.null_count for column in table.columns):
            raise self._damaged()
        self._rows = table.num_rows
        self._keys = table["key"].chunks
        self._numbers = {name: [chunk.to_numpy() for chunk in table[name].chunks] for name in _NUMBERS}
        self._labels = [self._values(chunk) for chunk in table["label"].chunks] if self._labelled else None

    def _values(self, chunk: pa.Array) -> np.ndarray:
        if not self._multi_label:
            return np.asarray(chunk.to_numpy())
        return np.asarray(chunk.flatten().to_numpy().reshape(-1, self._classes))

    def _inside(self, manifest: Manifest) -> bool:
        """Tell whether every image lies inside its shard."""
        shards = np.array([shard.bytes for shard in manifest.shards])
        columns = [np.concatenate(self._numbers[name]) for name in ("shard", "offset", "length")]
        shard, offset, length = columns
        known = bool(((shard >= 0) & (shard < len(shards)) & (offset >= 0) & (length > 0)).all())
        return known and bool((offset <= shards[shard] - length).all())

    def _damaged(self) -> UserError:
        return UserError(f"data: {self._file} is damaged, or not the index of these shards; pack anew with --overwrite")

    def __getstate__(self) -> tuple[Path, bool, bool, int]:
        return self._file, self._labelled, self._multi_label, self._classes

    def __setstate__(self, state: tuple[Path, bool, bool, int]) -> None:
        self._file, self._labelled, self._multi_label, self._classes = state
        self._open()

    def place(self, row: int) -> Place:
        """Return a row."""
        chunk, place = divmod(row, ROWS)
        height, width, shard, offset, length, checksum = (int(self._numbers[n][chunk][place]) for n in _NUMBERS)
        label: int | np.ndarray | None = None
        if self._labels is not None:
            value = self._labels[chunk][place]
            label = np.array(value) if self._multi_label else int(value)
        return Place(self._keys[chunk][place].as_py(), height, width, shard, offset, length, checksum, label)

    def labels(self, start: int, stop: int) -> Labels | None:
        """Return the labels of the rows `start` to `stop`, exclusive: (n,) int64 or (n, classes) int8, or None."""
        return None if self._labels is None else np.concatenate(self._labels)[start:stop]
