"""The objects of every image of a source: read and checked once, kept beside the file indexes, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import pyarrow as pa

from scenewise.errors import UserError
from scenewise.sources.base import Instances, LabelledBoxes
from scenewise.sources.cache import cache_folder

_VERSION = 2  # raise when the same label file would give another table
OBJECT, GROUP, REGION = range(3)  # one thing; a box around many; a region that leaves its class not judged (a crowd)
Facts = dict[str, object]


class Within(NamedTuple):
    """Boxes clipped to their images, (n, 4), and (n,) bool each: further out than 1 px, moved by clipping, empty."""

    boxes: np.ndarray
    outside: np.ndarray
    moved: np.ndarray
    empty: np.ndarray


def box_notes(*, clipped: int, dropped: int) -> list[str]:
    """Return a sentence on the boxes that were clipped, and one on those that were dropped, where there are any."""
    notes = []
    if clipped:
        notes.append(f"{clipped} labelled boxes reached up to 1 px outside their image and were clipped.")
    if dropped:
        notes.append(f"{dropped} empty labelled boxes were dropped.")
    return notes


def rotation_notes(count: int) -> list[str]:
    """Return the sentence on images whose boxes are those of the pixels as stored, where there are any."""
    said = f"{count} images have an EXIF rotation; it is not applied, as the boxes are those of the files."
    return [said] if count else []


def clip(boxes: np.ndarray, sizes: np.ndarray) -> Within:
    """Clip (n, 4) boxes `x1, y1, x2, y2` to their images of (n, 2) sizes (height, width), pixels; NaN is outside."""
    limits = sizes[:, [1, 0, 1, 0]].astype(boxes.dtype)
    excess = np.maximum(-boxes, boxes - limits).max(axis=1)
    clipped = np.clip(boxes, 0, limits)
    empty = (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1])
    return Within(clipped, ~(excess <= 1), (clipped != boxes).any(axis=1) & ~empty, empty)


def make_table(
    images: np.ndarray,
    boxes: np.ndarray,
    numbers: np.ndarray,
    kinds: np.ndarray,
    *,
    annotated: np.ndarray,
    columns: dict[str, pa.Array],
    facts: Facts,
) -> pa.Table:
    """Return the table of the images, one row each.

    images, boxes, numbers, kinds: (n,) row, (n, 4) pixels, (n,) class and (n,) kind (OBJECT, GROUP, REGION) of each
    object, in any order; those of an image keep theirs. annotated: (rows,) bool, whether anybody looked for objects.
    columns: what else is known of each image (`per_image` makes one of what is known of each object). facts: what was
    counted, and `classes`.
    """
    rows = len(annotated)
    flat = pa.array(np.ascontiguousarray(_by_image(images, boxes), np.float32).reshape(-1))
    lists = {
        "box": _lists(images, pa.FixedSizeListArray.from_arrays(flat, 4), rows),
        "number": per_image(images, numbers.astype(np.int16), rows),
        "kind": per_image(images, kinds.astype(np.int8), rows),
        "annotated": pa.array(annotated.astype(np.int8)),
    }
    table = pa.table(lists | columns)
    return table.replace_schema_metadata({"facts": json.dumps(facts)})


def per_image(images: np.ndarray, values: np.ndarray, rows: int) -> pa.Array:
    """Return the (n,) values as a list for each of `rows` images; images: the (n,) row of each."""
    return _lists(images, pa.array(_by_image(images, values)), rows)


def _by_image(images: np.ndarray, values: np.ndarray) -> np.ndarray:
    ordered: np.ndarray = values[np.argsort(images, kind="stable")]
    return ordered


def _lists(images: np.ndarray, values: pa.Array, rows: int) -> pa.Array:
    counts = np.bincount(images, minlength=rows)
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(counts)]), pa.int32()), values)


def kept_table(
    name: str,
    state: Sequence[object],
    make: Callable[[], pa.Table],
    *,
    reindex: bool,
    check: Callable[[Path], object] | None = None,
) -> Path:
    """Return the file of a table in the cache folder, made now unless it is there.

    name: of what the table is about; state: what it was made from, as sizes and modification times: another state of
    the same name takes its place. check: opens the table, `Objects` unless said; one that it cannot open is made again.
    The processes of one run make it once.
    """
    folder = cache_folder() / "index"
    folder.mkdir(exist_ok=True)
    stem = hashlib.blake2b(name.encode(), digest_size=12).hexdigest()
    digest = hashlib.blake2b(repr((_VERSION, *state)).encode(), digest_size=8).hexdigest()
    file = folder / f"{stem}.{digest}.objects.arrow"
    with filelock.FileLock(folder / f"{stem}.lock"):
        if not reindex and _opens(file, check or Objects):
            return file
        table = make()
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        try:
            with pa.ipc.new_file(str(temporary), table.schema) as writer:
                writer.write_table(table)
            temporary.replace(file)
        except OSError as error:
            raise UserError(f"data: cannot keep the labels of {name} in {folder}: {error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        for older in folder.glob(f"{stem}.*.objects.arrow"):
            if older != file:
                older.unlink(missing_ok=True)
    return file


def _opens(file: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(file)
    except (UserError, pa.ArrowException, KeyError, ValueError):
        return False
    return True


def file_state(file: Path) -> tuple[str, int, int]:
    """Return what a table made from a file rests on: its name, size and modification time."""
    status = file.stat()
    return str(file.resolve()), status.st_size, status.st_mtime_ns


class Objects:
    """The boxes and classes of the images of a kept table, by row. Pickles as a path and the classes chosen.

    file: the table's.
    chosen: the class numbers of the table that are wanted, None for all; results count classes within them.
    """

    def __init__(self, file: Path, chosen: Sequence[int] | None = None) -> None:
        self.file = file
        self._chosen = chosen
        self._open()

    def _open(self) -> None:
        try:
            with pa.memory_map(str(self.file)) as source:
                self.table = pa.ipc.open_file(source).read_all()
        except OSError:
            raise UserError(
                f"data: the labels kept in {self.file} were remade by another process; start again"
            ) from None
        self.facts: Facts = json.loads(self.table.schema.metadata[b"facts"])
        names = self.facts["classes"]
        assert isinstance(names, list)
        chosen = list(range(len(names))) if self._chosen is None else list(self._chosen)
        self.classes = tuple(str(names[number]) for number in chosen)
        self._column = np.full(len(names), -1)
        self._column[chosen] = np.arange(len(chosen))
        self._annotated = self.table["annotated"].chunk(0).to_numpy()  # int8: bits are no array
        box, number, kind = (self.table[name].chunk(0) for name in ("box", "number", "kind"))
        self._boxes = box.values.values.to_numpy().reshape(-1, 4)
        self._offsets, self._numbers = number.offsets.to_numpy(), number.values.to_numpy()
        self._kinds = kind.values.to_numpy()

    def __getstate__(self) -> tuple[Path, Sequence[int] | None]:
        return self.file, self._chosen

    def __setstate__(self, state: tuple[Path, Sequence[int] | None]) -> None:
        self.file, self._chosen = state
        self._open()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def counted(self, name: str) -> int:
        """Return how often something was met when the table was made: `clipped`, `dropped` boxes and others."""
        return int(str(self.facts[name]))

    def annotated(self) -> np.ndarray:
        """Return (rows,) bool: whether anybody has looked for objects in the image."""
        annotated: np.ndarray = self._annotated == 1
        return annotated

    def boxes(self, row: int) -> LabelledBoxes:
        """Return the (n, 4) boxes of an image and the class of each, regions and those of other classes left out."""
        places, columns = self._of(row)
        kept = self._kinds[places] != REGION
        return self._boxes[places][kept], columns[kept]

    def instances(self, row: int) -> Instances:
        """Return every object of an image; groups and regions are ignored ones."""
        places, columns = self._of(row)
        return Instances(self._boxes[places], columns, self._kinds[places] != OBJECT)

    def of_each(self, name: str, row: int) -> np.ndarray:
        """Return what the column `name`, made by `per_image`, says of each of the instances of an image, (n,)."""
        values: np.ndarray = self.table[name].chunk(0).values.to_numpy()[self._of(row)[0]]
        return values

    def every(self, name: str, holds: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Return (rows,) bool: whether `holds`, of the values of a `per_image` column, is true of each instance."""
        values = self.table[name].chunk(0).values.to_numpy()
        lacking = (self._column[self._numbers] >= 0) & ~holds(values)
        images = np.repeat(np.arange(len(self)), np.diff(self._offsets))
        without: np.ndarray = np.bincount(images[lacking], minlength=len(self)) == 0
        return without

    def any(self, name: str, holds: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Return whether `holds`, of the values of a `per_image` column, is true of any object of the table."""
        return bool(holds(self.table[name].chunk(0).values.to_numpy()).any())

    def _of(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the places in the table of the objects of an image, and the class of each among those chosen."""
        places = np.arange(*self._offsets[row : row + 2])
        columns = self._column[self._numbers[places]]
        return places[columns >= 0], columns[columns >= 0].astype(np.int64)

    def labels(self, rows: np.ndarray) -> np.ndarray:
        """Return (len(rows), classes) int8: 1 has a box, -1 not judged (a region only, or not annotated), 0 absent."""
        labels = np.zeros((len(rows), len(self.classes)), np.int8)
        labels[self._annotated[rows] == 0] = -1
        counts = self._offsets[rows + 1] - self._offsets[rows]
        places = np.repeat(self._offsets[rows + 1] - np.cumsum(counts), counts) + np.arange(counts.sum())
        images, columns = np.repeat(np.arange(len(rows)), counts), self._column[self._numbers[places]]
        region = self._kinds[places] == REGION
        for chosen, value in (((columns >= 0) & region, -1), ((columns >= 0) & ~region, 1)):
            labels[images[chosen], columns[chosen]] = value
        return labels
