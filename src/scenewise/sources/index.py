"""The file index: made once from headers, kept in the cache folder, reused while nothing has moved, memory-mapped."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa

from scenewise.errors import UserError
from scenewise.sources import arrow_files
from scenewise.sources.base import Progress, check_index
from scenewise.sources.cache import cache_folder
from scenewise.sources.headers import FileReader
from scenewise.sources.walk import Found, Walk, printable
from scenewise.types import Record, Skip

_VERSION = 1  # raise when the rows of the same files would change
# Files looked at when an index is opened, whatever their number (measured: 3 ms, the disk's cache warm). Times that
# changed on all of them (a copy, another mount) are seen at once, changes to 2 % of them but for once in 170 times.
LOOKED_AT = 256
Facts = dict[str, object]


class FileIndex:
    """Image files below a folder, by number: those whose header can be read, in the order they were found.

    Pickles as two paths; the tables are memory-mapped again on the other side, so workers share the same pages.
    `base` ends in "/"; paths are relative to it or, of a list, absolute, as bytes. `facts` is what was counted when the
    index was made.
    """

    def __init__(self, base: bytes, file: Path, facts: Facts) -> None:
        self.base = base
        self.file = file
        self.facts = facts
        self._open()

    def _open(self) -> None:
        try:
            with pa.memory_map(str(self.file)) as source:
                table = pa.ipc.open_file(source).read_all()
        except OSError:
            raise UserError(
                f"data: the index of {printable(self.base)} was remade by another process; start again"
            ) from None
        if table.num_rows != self.facts["rows"]:
            raise pa.ArrowInvalid("not the table this index was made with")
        self._paths = table["path"].chunks
        self._reasons = table["reason"].chunks
        names = ("bytes", "mtime_ns", "height", "width", "orientation")
        self._numbers = [[chunk.to_numpy() for chunk in table[name].chunks] for name in names]
        broken = [np.flatnonzero(np.asarray(chunk.is_valid())) for chunk in self._reasons]
        starts = [row + start * arrow_files.ROWS for start, row in enumerate(broken)]
        self._broken = np.concatenate([np.empty(0, np.int64), *starts])
        self._shift = self._broken - np.arange(len(self._broken))

    def __getstate__(self) -> tuple[bytes, Path, Facts]:
        return self.base, self.file, self.facts

    def __setstate__(self, state: tuple[bytes, Path, Facts]) -> None:
        self.base, self.file, self.facts = state
        self._open()

    def __len__(self) -> int:
        return int(str(self.facts["readable"]))

    @property
    def fingerprint(self) -> str:
        """Hex digest of all paths, sizes, times and dimensions."""
        return str(self.facts["fingerprint"])

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """The files that are not counted, with the reason."""
        places = [divmod(int(row), arrow_files.ROWS) for row in self._broken]
        return tuple(Skip(-1, printable(self._paths[c][r].as_py()), self._reasons[c][r].as_py()) for c, r in places)

    def row(self, index: int) -> int:
        """Return the row of the index-th readable file among all files, unreadable ones counted."""
        return index + int(np.searchsorted(self._shift, index, side="right"))

    def rows(self) -> np.ndarray:
        """Return the rows of all readable files, (len,) int64."""
        return np.delete(np.arange(int(str(self.facts["rows"]))), self._broken)

    def path(self, index: int) -> bytes:
        """Return the path of the index-th readable file, as it was found or listed."""
        chunk, row = divmod(self.row(check_index(index, len(self))), arrow_files.ROWS)
        return bytes(self._paths[chunk][row].as_py())

    def paths(self) -> list[bytes]:
        """Return the paths of all readable files, as they were found or listed."""
        paths = [path for chunk in self._paths for path in chunk.to_pylist()]
        broken = set(self._broken.tolist())
        return [path for row, path in enumerate(paths) if row not in broken] if broken else paths

    def sizes(self) -> np.ndarray:
        """Return the upright (height, width) of all readable files, (len, 2) int32."""
        return np.stack([self._column(2), self._column(3)], axis=1)

    def orientations(self) -> np.ndarray:
        """Return the EXIF orientation (1..8) of all readable files, (len,) int32."""
        return self._column(4)

    def _column(self, place: int) -> np.ndarray:
        return np.delete(np.concatenate([np.empty(0, np.int32), *self._numbers[place]]), self._broken)

    def is_current(self) -> bool:
        """Return whether files evenly spread over all of them have the size and time they were indexed with."""
        for index in np.linspace(0, len(self) - 1, num=min(LOOKED_AT, len(self))).astype(int).tolist():
            chunk, row = divmod(self.row(index), arrow_files.ROWS)
            try:
                status = os.stat(os.path.join(self.base, self._paths[chunk][row].as_py()))  # noqa: PTH116, PTH118 - bytes
            except OSError:
                return False
            if (status.st_size, status.st_mtime_ns) != (self._numbers[0][chunk][row], self._numbers[1][chunk][row]):
                return False
        return True

    def record(self, index: int, *, number: int | None = None, labels: int | np.ndarray | None = None) -> Record:
        """Return the record of the index-th readable file; `number` is its index in the source if that is another."""
        chunk, row = divmod(self.row(check_index(index, len(self))), arrow_files.ROWS)
        path = bytes(self._paths[chunk][row].as_py())
        length, mtime_ns, height, width, orientation = (int(column[chunk][row]) for column in self._numbers)
        read = FileReader(os.path.join(self.base, path), length, mtime_ns)  # noqa: PTH118 - a Path cannot hold bytes
        return Record(index if number is None else number, printable(path), (height, width), orientation, read, labels)


def as_stored(record: Record) -> Record:
    """Return the record without its EXIF rotation, for boxes that count the pixels of the file as it is stored."""
    height, width = record.size if record.orientation < 5 else record.size[::-1]
    return dataclasses.replace(record, size=(height, width), orientation=1)


def check_some(index: FileIndex, where: Path) -> None:
    """Raise UserError, with the first reason, when no image of `where` can be read."""
    if not len(index):
        first = index.unreadable[0]
        raise UserError(f"data: no image of {where} can be read, e.g. {first.key}: {first.reason}")


def unreadable_note(index: FileIndex) -> tuple[str, ...]:
    """Return the sentence on the listed images that cannot be read, if there are any."""
    broken = int(str(index.facts["rows"])) - len(index)
    if not broken:
        return ()
    first = index.unreadable[0]
    what = f"{broken} of {index.facts['rows']} images cannot be used and were left out"
    return (f"{what}, e.g. {first.key} ({first.reason}).",)


def folder_index(root: Path, *, reindex: bool = False, progress: Progress | None = None) -> FileIndex:
    """Return the index of every image below a folder, from the cache if no folder in it has changed since.

    Nor one of the files that are looked at: a file that is written anew in place leaves its folder's time as it was.
    Raises UserError when the folder does not exist, is a file, or cannot be listed.
    """
    if not os.path.exists(root):  # noqa: PTH110 - Path.exists raises for names that are too long
        raise UserError(f"data: no such folder: {root}")
    if not root.is_dir():
        raise UserError(f"data: {root} is a file, not a folder; for a table of images write csv:{root}")
    if not os.access(root, os.R_OK | os.X_OK):
        raise UserError(f"data: no permission to list {root}")
    base = os.fsencode(os.path.realpath(root)).rstrip(b"/") + b"/"
    walk = Walk(base)

    def counted() -> tuple[Iterable[tuple[bytes, int]], Facts]:
        facts: Facts = {"hidden": walk.hidden, "loops": walk.loops, "endings": dict(walk.endings)}
        return walk.directories, facts

    return _kept_or_made(b"folder", base, walk, counted, {}, reindex=reindex, progress=progress)


def listed_index(
    base: Path, paths: list[bytes], *, name: str, reindex: bool = False, progress: Progress | None = None
) -> FileIndex:
    """Return the index of the files named by a list, in its order; `name` tells lists over the same folder apart.

    Paths are relative to `base`, or absolute.
    It is reused while the list is the same and the modification times of the folders of its files are, and of the files
    that are looked at.
    """
    root = os.fsencode(os.path.realpath(base)).rstrip(b"/") + b"/"
    folders = {os.path.dirname(path): None for path in paths}  # noqa: PTH120 - a Path cannot hold bytes
    times = [(folder, os.stat(os.path.join(root, folder)).st_mtime_ns) for folder in folders]  # noqa: PTH116, PTH118
    listed = hashlib.blake2b(b"\0".join(paths), digest_size=16).hexdigest()
    facts: Facts = {"listed": listed, "hidden": 0, "loops": 0, "endings": {}}
    found = (Found(path) for path in paths)
    expected: Facts = {"listed": listed}
    return _kept_or_made(
        name.encode(), root, found, lambda: (times, facts), expected, reindex=reindex, progress=progress
    )


def _kept_or_made(
    name: bytes,
    base: bytes,
    found: Iterable[Found],
    counted: Callable[[], tuple[Iterable[tuple[bytes, int]], Facts]],
    expected: Facts,
    *,
    reindex: bool,
    progress: Progress | None,
) -> FileIndex:
    folder = cache_folder() / "index"
    folder.mkdir(exist_ok=True)
    stem = hashlib.blake2b(b"\0".join([str(_VERSION).encode(), name, base]), digest_size=12).hexdigest()
    kept = folder / f"{stem}.folders.arrow"
    with filelock.FileLock(folder / f"{stem}.lock"):  # the processes of one run index once and share the result
        index = None if reindex else _open_kept(kept, base, expected)
        if index is not None:
            return index
        images = folder / f"{stem}.{uuid.uuid4().hex[:8]}.arrow"
        temporary = images.with_suffix(".tmp")
        try:
            written = arrow_files.write_images(temporary, base, found, progress=progress)
            temporary.replace(images)
            watched, facts = counted()
            facts |= written._asdict() | {"images": images.name}
            arrow_files.write_watched(kept, watched, facts)  # from here on this is the index
        except OSError as error:  # the disk of the cache is full, the drive of the data is gone
            raise UserError(f"data: cannot index {printable(base)} (index kept in {folder}): {error}") from None
        finally:
            temporary.unlink(missing_ok=True)
        for older in folder.glob(f"{stem}.*.arrow"):
            if older not in (kept, images):
                older.unlink(missing_ok=True)
        return FileIndex(base, images, facts)


def _open_kept(kept: Path, base: bytes, expected: Facts) -> FileIndex | None:
    facts = arrow_files.read_facts(kept, base)
    if facts is None or not expected.items() <= facts.items():
        return None
    try:
        index = FileIndex(base, kept.with_name(str(facts["images"])), facts)
    except (UserError, pa.ArrowInvalid, KeyError):
        return None
    return index if index.is_current() else None
