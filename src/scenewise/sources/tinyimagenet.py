"""`tinyimagenet:`: 120,000 JPEGs of 64 x 64 pixels in 200 of ImageNet's classes (Stanford CS231n)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import Problems, UserError, unknown_name
from scenewise.sources.base import Labels, Progress, Source
from scenewise.sources.index import check_some, listed_index, unreadable_note
from scenewise.sources.spec import Spec
from scenewise.sources.walk import image_names
from scenewise.types import Record, Skip

_SPLITS = ("train", "val", "test")
_LAYOUT = (
    "tiny-imagenet-200/ holds wnids.txt, words.txt, train/<wnid>/images/*.JPEG, val/images/*.JPEG, "
    "val/val_annotations.txt and test/images/*.JPEG"
)


@final
class TinyImageNetSource(Source):
    """One split; key: the image's path from the folder named. Classes are numbered in the order of wnids.txt.

    train is in the order of classes, then names; val in that of val_annotations.txt; test in that of names and without
    labels, hence evaluation tests on val. A class is called by the first of its names in
    words.txt, with the wnid where two share it.
    """

    def __init__(self, spec: Spec, *, split: str | None, reindex: bool, progress: Progress | None) -> None:
        split = spec.options.get("split", split or "train")
        if split not in _SPLITS:
            raise UserError(unknown_name("data: option split of tinyimagenet", split, _SPLITS))
        root = Path(spec.path)
        folder = _folder(root)
        wnids = tuple(line.strip() for line in _lines(folder / "wnids.txt") if line.strip())
        numbers = {wnid: number for number, wnid in enumerate(wnids)}
        if not wnids or len(numbers) != len(wnids):
            raise UserError(f"data: {folder / 'wnids.txt'} must name each class once; it has {len(wnids)} lines")
        paths, labels = {"train": _train, "val": _validation, "test": _test}[split](folder, numbers)
        if folder != root:
            paths = [os.fsencode(folder.name) + b"/" + path for path in paths]
        index = listed_index(root, paths, name=f"tinyimagenet {split}", reindex=reindex, progress=progress)
        check_some(index, folder / split)
        self._index = index
        self._labels = None if labels is None else np.array(labels, np.int64)[index.rows()]
        self.spec = spec.canonical(split=split)
        self.classes = () if labels is None else _class_names(folder / "words.txt", wnids)
        self.multi_label = False
        self.splits = ("train", "val")
        self.notes = unreadable_note(index)
        self.fingerprint = index.fingerprint

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._index.unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        return self._index.record(index, labels=None if self._labels is None else int(self._labels[index]))

    def labels(self) -> Labels | None:
        """Return the class number of each image, (N,), or None for the test split."""
        return self._labels


def _folder(root: Path) -> Path:
    if not root.is_dir():
        raise UserError(f"data: no such folder: {root}")
    for folder in (root / "tiny-imagenet-200", root):
        if (folder / "wnids.txt").is_file():
            return folder
    raise UserError(f"data: tinyimagenet:{root} has no tiny-imagenet-200/wnids.txt and no wnids.txt; {_LAYOUT}")


def _train(folder: Path, numbers: dict[str, int]) -> tuple[list[bytes], list[int] | None]:
    paths, labels, problems = list[bytes](), list[int](), Problems()
    for wnid, number in numbers.items():
        names = _images(folder, f"train/{wnid}/images")
        if not names:
            problems.add(f"data: {folder}: no JPEG in train/{wnid}/images, a class of wnids.txt; {_LAYOUT}")
        paths += names
        labels += [number] * len(names)
    problems.check()
    return paths, labels


def _validation(folder: Path, numbers: dict[str, int]) -> tuple[list[bytes], list[int] | None]:
    file = folder / "val" / "val_annotations.txt"
    paths, labels, problems = dict[bytes, int](), list[int](), Problems()
    there = set(_images(folder, "val/images"))
    for line, text in enumerate(_lines(file), start=1):
        if not text.strip():
            continue
        name, wnid = (*text.split(), "", "")[:2]
        path = os.fsencode(f"val/images/{name}")
        if wnid not in numbers:
            problems.add(f"data: {file}, line {line}: {wnid!r} is not one of the classes in wnids.txt")
        elif path in paths:
            problems.add(f"data: {file}, line {line}: {name} is already in line {paths[path]}")
        elif path not in there:
            problems.add(f"data: {file}, line {line}: no such image: val/images/{name}; {_LAYOUT}")
        paths.setdefault(path, line)
        labels.append(numbers.get(wnid, -1))
    problems.check()
    if not paths:
        raise UserError(f"data: {file} names no image")
    return list(paths), labels


def _test(folder: Path, numbers: dict[str, int]) -> tuple[list[bytes], list[int] | None]:
    paths = _images(folder, "test/images")
    if not paths:
        raise UserError(f"data: {folder}: no JPEG in test/images; {_LAYOUT}")
    return paths, None


def _images(folder: Path, below: str) -> list[bytes]:
    return [os.fsencode(below) + b"/" + name for name in image_names(folder / below)]


def _class_names(file: Path, wnids: tuple[str, ...]) -> tuple[str, ...]:
    words = dict(line.split("\t", maxsplit=1) for line in _lines(file) if "\t" in line)
    missing = [wnid for wnid in wnids if wnid not in words]
    if missing:
        raise UserError(f"data: {file} has no line for {', '.join(missing[:10])}; a line is the wnid, a tab, the words")
    names = [words[wnid].split(",")[0].strip() for wnid in wnids]
    shared = Counter(names)
    return tuple(name if shared[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"data: {file.parent} has no {file.name}; {_LAYOUT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data: cannot read {file}: {error}") from None
