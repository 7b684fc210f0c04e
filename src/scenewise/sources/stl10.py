"""`stl10:`: 113,000 pictures of 96 x 96 pixels, 13,000 of them labelled with one of 10 classes (Coates 2011)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import final

import numpy as np

from scenewise.errors import UserError, unknown_name
from scenewise.sources.base import Labels, Source, check_index
from scenewise.sources.spec import Spec
from scenewise.types import Record, Skip

SIDE = 96  # pixels
_SHAPE = (3, SIDE, SIDE)  # of a picture as stored: red, green and blue planes, each column by column
_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("train",),
        "test": ("test",),
        "unlabeled": ("unlabeled",),
        "train+unlabeled": ("train", "unlabeled"),  # what MSVQ and others pre-train on: 105,000 pictures
    }
)
_LAYOUT = "stl10_binary/ holds {train,test,unlabeled}_X.bin, {train,test}_y.bin and class_names.txt"


@final
class Stl10Source(Source):
    """One split, in the order of its files, which are memory-mapped. Key: part and number, `unlabeled/17`.

    Splits are train (5,000 pictures), test (8,000), unlabeled (100,000, no labels) and train+unlabeled, where the
    label of the latter part is -1: not known. Classes are numbered from 0 (in the files from 1).
    """

    def __init__(self, spec: Spec, *, split: str | None) -> None:
        split = spec.options.get("split", split or "train")
        if split not in _PARTS:
            raise UserError(unknown_name("data: option split of stl10", split, _PARTS))
        folder = _folder(Path(spec.path))
        self._names = _PARTS[split]
        self._files = tuple(_file(folder, f"{name}_X.bin") for name in self._names)
        self.classes = () if split == "unlabeled" else _class_names(_file(folder, "class_names.txt"))
        self._load()
        self.spec = spec.canonical(split=split)
        self.multi_label = False
        self.splits = ("train", "test")
        self.notes = ()
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        self.fingerprint = hashlib.blake2b(repr(states).encode(), digest_size=16).hexdigest()

    def _load(self) -> None:
        self._pictures = [_pictures(file) for file in self._files]
        self._starts = np.cumsum([0, *map(len, self._pictures)])
        self._labels = None
        if self.classes:
            parts = zip(self._files, map(len, self._pictures), strict=True)
            self._labels = np.concatenate([_labels(file, count, len(self.classes)) for file, count in parts])

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_pictures", "_starts", "_labels")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._load()

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Always empty: the pictures have no headers to read."""
        return ()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Record:
        part = int(np.searchsorted(self._starts, check_index(index, len(self)), side="right")) - 1
        row = index - int(self._starts[part])
        read = functools.partial(_upright, self._pictures[part], row)
        labels = None if self._labels is None else int(self._labels[index])
        return Record(index, f"{self._names[part]}/{row}", (SIDE, SIDE), 1, read, labels)

    def labels(self) -> Labels | None:
        """Return the class number of each picture, (N,): -1 in the unlabelled part; None for that part alone."""
        return self._labels


def _upright(pictures: np.ndarray, row: int) -> np.ndarray:
    return np.ascontiguousarray(pictures[row].transpose(2, 1, 0))


def _folder(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"data: no such folder: {root}")
    for folder in (root / "stl10_binary", root):
        if any(folder.glob("*_X.bin")):
            return folder
    raise UserError(f"data: {root} has no stl10_binary/*_X.bin and no *_X.bin; {_LAYOUT}")


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(f"data: {folder} has no {name}; {_LAYOUT}")
    return folder / name


def _pictures(file: Path) -> np.ndarray:
    size, each = file.stat().st_size, int(np.prod(_SHAPE))
    if size == 0 or size % each:
        raise UserError(
            f"data: {file}: {size} bytes are not a whole number of pictures of {each} bytes (3 planes of 96 x 96)"
        )
    return np.memmap(file, np.uint8, mode="r", shape=(size // each, *_SHAPE))


def _labels(pictures: Path, count: int, classes: int) -> np.ndarray:
    name = pictures.name.removesuffix("_X.bin")
    if name == "unlabeled":
        return np.full(count, -1, np.int64)
    file = _file(pictures.parent, f"{name}_y.bin")
    stored = np.fromfile(file, np.uint8)
    if len(stored) != count:
        raise UserError(f"data: {file} has {len(stored)} labels, but {pictures.name} {count} pictures")
    wrong = np.flatnonzero((stored < 1) | (stored > classes))
    if len(wrong):
        raise UserError(f"data: {file}, record {wrong[0]}: label {stored[wrong[0]]} is not one of 1..{classes}")
    return stored.astype(np.int64) - 1


def _class_names(file: Path) -> tuple[str, ...]:
    try:
        names = tuple(file.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data: cannot read {file}: {error}") from None
    if len(set(names)) != 10 or len(names) != 10:
        raise UserError(
            f"data: {file} must name 10 different classes, one a line, not {len(names)}: {', '.join(names)}"
        )
    return names
