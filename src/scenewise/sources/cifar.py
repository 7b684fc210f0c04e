"""`cifar10:`: 60,000 pictures of 32 x 32 pixels in 10 classes (Krizhevsky 2009)."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import UserError, unknown_name
from scenewise.sources.base import Labels, Source, check_index
from scenewise.sources.cifar_files import Part, read_part
from scenewise.sources.spec import Spec
from scenewise.types import Record, Skip

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PARTS = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
_LAYOUTS = ((".bin", "cifar-10-batches-bin"), (".npz", ""), ("", "cifar-10-batches-py"))  # ending, usual folder


@final
class CifarSource(Source):
    """The train or the test pictures, in the order of the files. Key: name of the file and number of the record.

    Binary files are memory-mapped; the others (15 MB of JPEGs, or 150 MB of pixels) are read again by each worker.
    """

    def __init__(self, spec: Spec, *, split: str | None) -> None:
        root = Path(spec.path)
        split = spec.options.get("split", split or "train")
        if split not in _PARTS:
            raise UserError(unknown_name("data: option split of cifar10:", split, _PARTS))
        self._files = _find(root, split)
        self._load()
        self.spec = spec.canonical(split=split)
        self.classes = CLASSES
        self.multi_label = False
        self.splits = ("train", "test")
        self.notes = ()
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        self.fingerprint = hashlib.blake2b(repr(states).encode(), digest_size=16).hexdigest()

    def _load(self) -> None:
        self._parts: list[Part] = [read_part(file) for file in self._files]
        self._starts = np.cumsum([0, *(len(part.labels) for part in self._parts)])

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_parts", "_starts")}

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
        place = int(np.searchsorted(self._starts, check_index(index, len(self)), side="right")) - 1
        row = index - int(self._starts[place])
        part = self._parts[place]
        read = functools.partial(part.read, row)
        return Record(index, f"{self._files[place].stem}/{row}", (32, 32), 1, read, int(part.labels[row]))

    def labels(self) -> Labels | None:
        """Return the class number of each picture, (N,)."""
        return np.concatenate([part.labels for part in self._parts])


def _find(root: Path, split: str) -> tuple[Path, ...]:
    if not root.is_dir():
        raise UserError(f"data: no such folder: {root}")
    for ending, usual in _LAYOUTS:
        for folder in (root, root / usual):
            files = tuple(folder / f"{name}{ending}" for name in _PARTS[split])
            missing = [file.name for file in files if not file.is_file()]
            if not missing:
                return files
            if len(missing) < len(files):
                raise UserError(
                    f"data: {folder} has no {', '.join(missing)}; {split} is made of {len(files)} such files"
                )
    first, last = _PARTS[split][0], _PARTS[split][-1]
    names = first if first == last else f"{first} .. {last[-1]}"
    raise UserError(
        f"data: no {split} files of CIFAR-10 in {root}: expected {names} with .bin (binary), "
        ".npz (jpeg, offset, label), or no ending (pickles)"
    )
