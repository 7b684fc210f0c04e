"""One pass over a folder: every image file below it, in an order that does not depend on the file system."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from scenewise.sources.headers import ENDINGS

_ENDINGS = tuple(ending.encode() for ending in ENDINGS)
_TICK_NS = 20_000_000  # two changes within one tick of the file system's clock leave the same modification time
_MAX_WALKS = 8  # times one folder is walked through links: k folders that all link to one another have k! paths


def printable(path: bytes) -> str:
    r"""Return a path as text that can be printed and stored anywhere: bytes that are not UTF-8 are written as \xff."""
    return path.decode("utf-8", "backslashreplace")


def image_names(folder: Path) -> list[bytes]:
    """Return the names of the image files in one folder, in byte order, hidden ones left out; [] without the folder."""
    if not folder.is_dir():
        return []
    with os.scandir(os.fsencode(folder)) as entries:
        return sorted(e.name for e in entries if e.name.lower().endswith(_ENDINGS) and not e.name.startswith(b"."))


class Found(NamedTuple):
    """A file with an image's ending, or a folder that cannot be listed (then `reason` says why)."""

    path: bytes
    reason: str | None = None


class _Frame(NamedTuple):
    path: bytes  # relative to the root, "" or ending in "/"
    identity: tuple[int, int]
    entries: Iterator[bytes]  # names in order, those of folders ending in "/"


class Walk:
    """Iterates over the image files below a folder, by relative path in byte order, and counts what it leaves out.

    Names are bytes, as the file system has them, so that no name is too strange. Links to files and folders are
    followed; a link to a folder that contains it is not (it would never end). After the iteration:

    directories: (relative path, modification time in ns) of each folder listed, the root's path being b"".
    hidden: files and folders whose name starts with a dot. loops: links to folders that were not followed.
    endings: how many other files there are, by ending.
    """

    def __init__(self, root: bytes) -> None:
        self.root = root
        self.directories: list[tuple[bytes, int]] = []
        self.hidden = 0
        self.loops = 0
        self.endings: Counter[str] = Counter()
        self._through_links: Counter[tuple[int, int]] = Counter()

    def __iter__(self) -> Iterator[Found]:
        """Yield each image file, depth first; OSError when the root itself cannot be listed."""
        stack = [self._enter(b"")]
        while stack:
            frame = stack[-1]
            name = next(frame.entries, None)
            if name is None:
                stack.pop()
            elif name.endswith(b"/"):
                path = frame.path + name
                try:
                    if self._follow(path, {above.identity for above in stack}):
                        stack.append(self._enter(path))
                except OSError as error:
                    yield Found(path, f"the folder cannot be listed: {(error.strerror or str(error)).lower()}")
            else:
                yield Found(frame.path + name)

    def _follow(self, path: bytes, above: set[tuple[int, int]]) -> bool:
        full = (self.root + path).rstrip(b"/")
        if not os.path.islink(full):  # noqa: PTH114 - a Path cannot hold bytes
            return True
        status = os.stat(full)  # noqa: PTH116
        identity = (status.st_dev, status.st_ino)
        self._through_links[identity] += 1
        if identity in above or self._through_links[identity] > _MAX_WALKS:
            self.loops += 1
            return False
        return True

    def _enter(self, path: bytes) -> _Frame:
        full = self.root + path
        status = os.stat(full)  # noqa: PTH116
        if 0 <= time.time_ns() - status.st_mtime_ns < _TICK_NS:  # a change right after listing must show in the time
            time.sleep(_TICK_NS / 1e9)
        names = self._list(full)
        self.directories.append((path, status.st_mtime_ns))
        return _Frame(path, (status.st_dev, status.st_ino), iter(names))

    def _list(self, full: bytes) -> list[bytes]:
        names = []
        with os.scandir(full) as entries:
            for entry in entries:
                if entry.name.startswith(b"."):
                    self.hidden += 1
                elif entry.is_dir():
                    names.append(entry.name + b"/")  # sorted with the slash: then depth first is byte order of paths
                elif entry.name.lower().endswith(_ENDINGS):
                    names.append(entry.name)
                else:
                    self.endings[PurePath(printable(entry.name)).suffix.lower() or "(none)"] += 1
        names.sort()
        return names
