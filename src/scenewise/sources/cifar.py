"""`cifar10:` and `cifar100:`: 60,000 pictures of 32 x 32 pixels in 10 or 100 classes (Krizhevsky 2009)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import final

import numpy as np

from scenewise.errors import UserError, unknown_name
from scenewise.sources import cifar_names
from scenewise.sources.base import Labels, Source, check_index
from scenewise.sources.cifar_files import LabelField, Part, read_names, read_part
from scenewise.sources.spec import Spec
from scenewise.types import Record, Skip


@dataclass(frozen=True, slots=True)
class _Edition:
    """What tells the two sets apart: names of files without ending, usual folders by ending, labels by `?labels=`."""

    title: str
    parts: Mapping[str, tuple[str, ...]]
    folders: Mapping[str, str]
    fields: Mapping[str, LabelField]


_EDITIONS: Mapping[str, _Edition] = MappingProxyType(
    {
        "cifar10": _Edition(
            title="CIFAR-10",
            parts={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
            folders={".bin": "cifar-10-batches-bin", ".npz": "", "": "cifar-10-batches-py"},
            fields={"": LabelField(cifar_names.CIFAR10, column=0, columns=1, array="label", entry=b"labels")},
        ),
        "cifar100": _Edition(
            title="CIFAR-100",
            parts={"train": ("train",), "test": ("test",)},
            folders={".bin": "cifar-100-binary", ".npz": "", "": "cifar-100-python"},
            fields={
                "fine": LabelField(
                    cifar_names.FINE,
                    column=1,
                    columns=2,
                    array="label",
                    entry=b"fine_labels",
                    names_file="fine_label_names.txt",
                    names_entry=b"fine_label_names",
                ),
                "coarse": LabelField(
                    cifar_names.COARSE,
                    column=0,
                    columns=2,
                    array="coarse",
                    entry=b"coarse_labels",
                    names_file="coarse_label_names.txt",
                    names_entry=b"coarse_label_names",
                ),
            },
        ),
    }
)


@final
class CifarSource(Source):
    """The train or the test pictures, in the order of the files. Key: name of the file and number of the record.

    CIFAR-100 has 100 fine classes and, with `?labels=coarse`, 20. Binary files are memory-mapped; the others (15 MB of
    JPEGs, or 150 MB of pixels) are read again by each worker.
    """

    def __init__(self, spec: Spec, *, split: str | None) -> None:
        root, edition = Path(spec.path), _EDITIONS[spec.kind]
        split = spec.options.get("split", split or "train")
        if split not in edition.parts:
            raise UserError(unknown_name(f"data: option split of {spec.kind}", split, edition.parts))
        labelling = spec.options.get("labels", next(iter(edition.fields)))
        if labelling not in edition.fields:
            raise UserError(unknown_name(f"data: option labels of {spec.kind}", labelling, edition.fields))
        self._field = edition.fields[labelling]
        self._files = _find(root, edition, split)
        self._load()
        self.spec = spec.canonical(split=split, labels=labelling)
        self.classes = read_names(self._files[0], self._field)
        self.multi_label = False
        self.splits = ("train", "test")
        self.notes = ()
        states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self._files]
        self.fingerprint = hashlib.blake2b(repr(states).encode(), digest_size=16).hexdigest()

    def _load(self) -> None:
        self._parts: list[Part] = [read_part(file, self._field) for file in self._files]
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


def _find(root: Path, edition: _Edition, split: str) -> tuple[Path, ...]:
    if not root.is_dir():
        raise UserError(f"data: no such folder: {root}")
    parts = edition.parts[split]
    for ending, usual in edition.folders.items():
        for folder in (root, root / usual):
            files = tuple(folder / f"{name}{ending}" for name in parts)
            missing = [file.name for file in files if not file.is_file()]
            if not missing:
                return files
            if len(missing) < len(files):
                raise UserError(
                    f"data: {folder} has no {', '.join(missing)}; {split} is made of {len(files)} such files"
                )
    names = parts[0] if len(parts) == 1 else f"{parts[0]} .. {parts[-1][-1]}"
    raise UserError(
        f"data: no {split} files of {edition.title} in {root}: expected {names} with .bin (binary, in "
        f"{edition.folders['.bin']}/), .npz (jpeg, offset, label), or no ending (pickles, in {edition.folders['']}/)"
    )
