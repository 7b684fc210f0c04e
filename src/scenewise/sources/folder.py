"""`folder:` and `imagefolder:`: photos in a folder, nested at any depth; without labels, or a class per folder."""

from __future__ import annotations

import os
from bisect import bisect_left
from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import UserError
from scenewise.sources.base import Labels, Progress, Source, check_index
from scenewise.sources.headers import ENDINGS
from scenewise.sources.index import FileIndex, folder_index
from scenewise.sources.shards_format import MANIFEST
from scenewise.sources.spec import Spec
from scenewise.sources.walk import printable
from scenewise.types import Record, Skip


@final
class FolderSource(Source):
    """Every image below a folder, sorted by relative path in byte order; the key is that path.

    Bytes of a name that are not UTF-8 appear in the key as \\xff; the file itself is opened by its true name.
    """

    def __init__(self, spec: Spec, *, reindex: bool, progress: Progress | None) -> None:
        index = folder_index(Path(spec.path), reindex=reindex, progress=progress)
        _check_images(index, spec.path)
        self._index = index
        self.spec = spec.canonical()
        self.classes = ()
        self.multi_label = False
        self.splits = None
        self.notes = _notes(index)
        self.fingerprint = index.fingerprint

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._index.unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        return self._index.record(index)

    def labels(self) -> Labels | None:
        """Return None: a folder has no labels."""
        return None


@final
class ImageFolderSource(Source):
    """One folder per class, named by the class, numbered by name; images at any depth below it."""

    def __init__(self, spec: Spec, *, reindex: bool, progress: Progress | None) -> None:
        index = folder_index(Path(spec.path), reindex=reindex, progress=progress)
        _check_images(index, spec.path)
        names = sorted(entry.name for entry in os.scandir(index.base) if _is_class(entry))
        if not names:
            raise UserError(f"data: imagefolder:{spec.path} has no folder in it; expected one folder per class")
        labels = np.full(len(index), -1, np.int64)
        for number, name in enumerate(names):
            start, stop = (bisect_left(range(len(index)), name + mark, key=index.path) for mark in (b"/", b"0"))
            labels[start:stop] = number  # "0" is the byte after "/": all of a folder's paths lie between
        self._index = index
        self._members = np.flatnonzero(labels >= 0).astype(np.int32)
        self._labels = labels[self._members]
        if not len(self._members):
            raise UserError(f"data: imagefolder:{spec.path} has images, but none of them in the folder of a class")
        self.spec = spec.canonical()
        self.classes = tuple(map(printable, names))
        self.multi_label = False
        self.splits = None
        self.notes = (*_notes(index), *self._class_notes())
        self.fingerprint = index.fingerprint

    def _class_notes(self) -> list[str]:
        notes = []
        loose = len(self._index) - len(self._members)
        if loose:
            notes.append(f"{loose} images in no class's folder were left out.")
        empty = np.flatnonzero(np.bincount(self._labels, minlength=len(self.classes)) == 0)
        if len(empty):
            notes.append(
                f"No readable image of {len(empty)} classes: " + ", ".join(self.classes[i] for i in empty[:10])
            )
        if {"train", "val", "test"}.issuperset(self.classes):
            inner = f"imagefolder:{printable(self._index.base)}{self.classes[0]}"
            notes.append(
                f"The classes are called {', '.join(self.classes)}; if these are splits, name {inner} instead."
            )
        return notes

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._index.unreadable

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Record:
        check_index(index, len(self))
        return self._index.record(int(self._members[index]), number=index, labels=int(self._labels[index]))

    def labels(self) -> Labels | None:
        """Return the class number of each image, (N,)."""
        return self._labels


def _is_class(entry: os.DirEntry[bytes]) -> bool:
    return entry.is_dir() and not entry.name.startswith(b".")


def _check_images(index: FileIndex, root: str) -> None:
    if len(index):
        return
    endings = index.facts["endings"]
    assert isinstance(endings, dict)
    if index.facts["rows"]:
        first = index.unreadable[0]
        raise UserError(
            f"data: none of the {index.facts['rows']} images in {root} can be read, e.g. {first.key}: {first.reason}"
        )
    if (Path(root) / MANIFEST).is_file():
        raise UserError(f"data: {root} holds packed images; write shards:{root}")
    if not endings:
        hidden = f" ({index.facts['hidden']} hidden files or folders are not read)" if index.facts["hidden"] else ""
        raise UserError(f"data: the folder {root} is empty{hidden}")
    raise UserError(f"data: no image in {root}; endings seen: {_listed(endings)}; read are {' '.join(ENDINGS)}")


def _listed(endings: dict[str, int]) -> str:
    ranked = sorted(endings.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ranked) - 10} more" if len(ranked) > 10 else ""
    return ", ".join(f"{ending} ({count})" for ending, count in ranked[:10]) + more


def _notes(index: FileIndex) -> tuple[str, ...]:
    facts, notes = index.facts, []
    endings = facts["endings"]
    assert isinstance(endings, dict)
    if facts["rows"] != facts["readable"]:
        broken = int(str(facts["rows"])) - len(index)
        first = index.unreadable[0]
        notes.append(
            f"{broken} of {facts['rows']} images cannot be used and were left out, e.g. {first.key} ({first.reason})."
        )
    if endings:
        notes.append(f"{sum(endings.values())} files with other endings were left out: {_listed(endings)}.")
    if facts["hidden"]:
        notes.append(f"{facts['hidden']} hidden files or folders were left out.")
    if facts["loops"]:
        notes.append(f"{facts['loops']} links to folders were not followed: they lead back or repeat.")
    return tuple(notes)
