"""`openimages:`: Open Images' photos with boxes of 600 classes (V4 and later; Kuznetsova 2020)."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path, PurePath
from typing import final

import numpy as np

from scenewise.errors import UserError, unknown_name
from scenewise.sources.base import Instances, LabelledBoxes, Labels, Progress, Source, check_index
from scenewise.sources.index import FileIndex, folder_index, unreadable_note
from scenewise.sources.objects import Objects, box_notes, file_state, kept_table
from scenewise.sources.openimages_csv import read_boxes, read_classes
from scenewise.sources.spec import Spec
from scenewise.types import Record, Skip

_SPLITS = ("train", "validation", "test")
_CLASSES = ("class-descriptions-boxable.csv", "oidv7-class-descriptions-boxable.csv")
_LAYOUT = (
    "an Open Images folder holds train/, validation/ or test/ with IMAGEID.jpg, and class-descriptions-boxable.csv and "
    "{train,validation,test}-annotations-bbox.csv (or oidv6-train-...) beside them or in annotations/"
)


@final
class OpenImagesSource(Source):
    """The images on the disk of one split, sorted by path, a subset as well as all. Key: the path from the root.

    A class is present in an image with a box of it, boxes around groups and of depictions among them; no other is. As
    instances, groups are ignored: neither rewarded nor punished (Open Images' own challenge scores them apart). An
    image that the table of boxes does not name has not been looked at: none of its classes is judged (-1). The table is
    read once and its arrays are kept in the cache folder. Shares of the sides become pixels of the upright image.
    """

    def __init__(self, spec: Spec, *, split: str | None, reindex: bool, progress: Progress | None) -> None:
        root = Path(spec.path)
        split = spec.options.get("split", split or "train")
        if split not in _SPLITS:
            raise UserError(unknown_name("data: option split of openimages", split, _SPLITS))
        if not root.is_dir():
            raise UserError(f"data: no such folder: {root}")
        if not (root / split).is_dir():
            raise UserError(f"data: {root} has no {split}/; {_LAYOUT}")
        described = _table(root, _CLASSES)
        file = _table(root, (f"{split}-annotations-bbox.csv", f"oidv6-{split}-annotations-bbox.csv"))
        classes = read_classes(described)
        chosen = _chosen(spec.options.get("classes"), classes)
        self._split = split
        self._index = folder_index(root / split, reindex=reindex, progress=progress)
        if not len(self._index):
            bad = self._index.unreadable[:1]
            seen = f"can be read, e.g. {bad[0].key}: {bad[0].reason}" if bad else f"is there; {_LAYOUT}"
            raise UserError(f"data: no image of {root / split} {seen}")
        if progress is not None:
            progress(f"reading {file.name}", 0, None)
        kept = kept_table(
            f"openimages {root.resolve()} {split}",
            (self._index.fingerprint, file_state(described), file_state(file)),
            lambda: read_boxes(file, classes, _ids(self._index, root / split), self._index.sizes()),
            reindex=reindex,
        )
        self._objects = Objects(kept, chosen)
        if not self._objects.annotated().any():
            raise UserError(f"data: {file} names none of the {len(self._index)} images in {root / split}")
        self.spec = spec.canonical(split=split, classes=spec.options.get("classes", ""))
        self.classes = self._objects.classes
        self.multi_label = True
        self.splits = ("train", "validation")
        self.notes = _notes(self._index, self._objects)
        self.fingerprint = self._index.fingerprint

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return tuple(dataclasses.replace(skip, key=f"{self._split}/{skip.key}") for skip in self._index.unreadable)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        record = self._index.record(index, labels=self._objects.labels(np.array([index]))[0])
        return dataclasses.replace(record, key=f"{self._split}/{record.key}")

    def labels(self) -> Labels | None:
        """Return (N, C) int8: 1 present, 0 absent, a row of -1 for an image that was not looked at."""
        return self._objects.labels(np.arange(len(self)))

    def boxes(self, index: int) -> LabelledBoxes:
        """Return the (n, 4) boxes of the upright image, those of groups too, and the class of each."""
        return self._objects.boxes(check_index(index, len(self)))

    def with_boxes(self) -> np.ndarray:
        """Return (N,) bool: whether the table of boxes names the image."""
        return self._objects.annotated()

    def with_masks(self) -> np.ndarray:
        """Return (N,) False: Open Images' masks, which only some of its objects have, are not read."""
        return np.zeros(len(self), bool)

    def instances(self, index: int, *, masks: bool = False) -> Instances:
        """Return the objects of an image, those of groups ignored; UserError for masks."""
        if masks:
            raise _no_masks(self.spec)
        return self._objects.instances(check_index(index, len(self)))

    def class_map(self, index: int) -> np.ndarray:
        """Raise UserError: there are no masks."""
        raise _no_masks(self.spec)


def _no_masks(spec: str) -> UserError:
    return UserError(f"data: {spec} has no masks: only the boxes of Open Images are read")


def _table(root: Path, names: tuple[str, ...]) -> Path:
    for folder in (root, root / "annotations"):
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise UserError(f"data: {root} has no {' or '.join(names)}; {_LAYOUT}. For images without labels name their folder")


def _chosen(text: str | None, classes: dict[str, str]) -> list[int] | None:
    if text is None:
        return None
    number = {name: place for names in (classes, classes.values()) for place, name in enumerate(names)}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in number:
            raise UserError(unknown_name("data: option classes of openimages", name, classes.values()))
    return sorted({number[name] for name in names})


def _ids(index: FileIndex, folder: Path) -> list[str]:
    ids = [PurePath(path.decode("utf-8", "backslashreplace")).stem for path in index.paths()]
    if len(set(ids)) != len(ids):
        first = next(name for name, following in itertools.pairwise(sorted(ids)) if name == following)
        raise UserError(f"data: {folder} has two images called {first}; an image's name is its id and must be unique")
    return ids


def _notes(index: FileIndex, objects: Objects) -> tuple[str, ...]:
    notes = list(unreadable_note(index))
    unknown = int((~objects.annotated()).sum())
    if unknown:
        notes.append(f"{unknown} of {len(index)} images are not in the table of boxes: no class of theirs is judged.")
    if unused := objects.counted("unused"):
        notes.append(f"{unused} images in the table of boxes are not on the disk.")
    return (*notes, *box_notes(clipped=objects.counted("clipped"), dropped=objects.counted("dropped")))
