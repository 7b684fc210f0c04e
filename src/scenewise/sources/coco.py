"""`coco:`: COCO's scenes with boxes of 80 classes (Lin 2014), or anything in its layout."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import Problems, UserError, unknown_name
from scenewise.sources.base import Instances, LabelledBoxes, Labels, Progress, Source, check_index
from scenewise.sources.coco_json import read_instances
from scenewise.sources.coco_masks import Segmentations, read_segmentations
from scenewise.sources.index import FileIndex, as_stored, check_some, listed_index, unreadable_note
from scenewise.sources.masks import paint, stacked
from scenewise.sources.objects import Objects, box_notes, file_state, kept_table, rotation_notes
from scenewise.sources.spec import Spec
from scenewise.sources.walk import image_names
from scenewise.types import Record, Skip

_SPLITS = ("train", "val", "test", "unlabeled")
_YEARS = ("2014", "2015", "2017")
_LAYOUT = "a COCO folder holds train2017/, val2017/ and annotations/instances_{train,val}2017.json (or another year's)"


@final
class CocoSource(Source):
    """One split of one year, in the order of its instances file. Key: the image's path from the folder of COCO.

    A class is present in an image with a box of it that is no crowd. Where there are only crowd regions of it, it is
    not judged (-1), as COCO's own evaluation neither rewards nor punishes what is found in them. `boxes` has no crowds.
    The splits test and unlabeled, and every split of a folder without any instances file, have no labels. The file is
    parsed once and its arrays are kept in the cache folder; its segmentations are, once more, when masks are first
    asked for.
    """

    def __init__(self, spec: Spec, *, split: str | None, reindex: bool, progress: Progress | None) -> None:
        root = Path(spec.path)
        split = spec.options.get("split", split or "train")
        year = spec.options.get("year", "2017")
        for option, value, allowed in (("split", split, _SPLITS), ("year", year, _YEARS)):
            if value not in allowed:
                raise UserError(unknown_name(f"data: option {option} of coco:", value, allowed))
        _check_folder(root, f"{split}{year}")
        file = _instances_file(root, split, year)
        self._file = file
        self._segmentations: Segmentations | None = None
        self._objects = None if file is None else _open_objects(file, spec, reindex=reindex, progress=progress)
        if file is None and "classes" in spec.options:
            raise UserError(f"data: option classes of coco: needs annotations/instances_{split}{year}.json in {root}")
        folder = root / f"{split}{year}"
        names = image_names(folder)
        listed = names if self._objects is None else _listed(self._objects, folder, names, file)
        paths = [os.fsencode(f"{split}{year}/") + name for name in listed]
        if not paths:
            raise UserError(f"data: no image in {folder}; {_LAYOUT}")
        index = listed_index(root, paths, name=f"coco {split} {year}", reindex=reindex, progress=progress)
        check_some(index, folder)
        self._index = index
        stored = None if self._objects is None else _check_sizes(self._objects, index, file)
        self.spec = spec.canonical(split=split, year=year, classes=spec.options.get("classes", ""))
        self.classes = () if self._objects is None else self._objects.classes
        self.multi_label = self._objects is not None
        self.splits = ("train", "val")
        self.notes = _notes(index, self._objects, stored, unlisted=len(set(names) - set(listed)))
        self.fingerprint = index.fingerprint

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._index.unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        record = self._index.record(index)
        if self._objects is None:
            return record
        row = self._index.row(index)
        if record.orientation != 1 and as_stored(record).size == _size(self._objects, row):
            record = as_stored(record)
        labels = self._objects.labels(np.array([row]))[0]
        return Record(index, record.key, record.size, record.orientation, record.read, labels)

    def labels(self) -> Labels | None:
        """Return (N, C) int8: 1 present, 0 absent, -1 only crowd regions; None when nothing is labelled."""
        return None if self._objects is None else self._objects.labels(self._index.rows())

    def boxes(self, index: int) -> LabelledBoxes:
        """Return the (n, 4) boxes that are no crowds, and the class of each; UserError without annotations."""
        return self._known()[0].boxes(self._index.row(check_index(index, len(self))))

    def with_boxes(self) -> np.ndarray:
        """Return (N,) bool: True where there is an instances file, as it says all that is in its images."""
        return np.full(len(self), self._objects is not None)

    def with_masks(self) -> np.ndarray:
        """Return (N,) bool: whether each object of the classes chosen, crowds too, has a segmentation.

        An image without any has one where at least one object of the split has.
        """
        if self._objects is None:
            return np.zeros(len(self), bool)
        there = self._outlines().there()
        drawn: np.ndarray = self._objects.every("position", lambda position: there[position])[self._index.rows()]
        drawn &= there.any()
        return drawn

    def instances(self, index: int, *, masks: bool = False) -> Instances:
        """Return the objects of an image in the file's order, crowds ignored; UserError without annotations."""
        objects, file = self._known()
        row = self._index.row(check_index(index, len(self)))
        found = objects.instances(row)
        if not masks:
            return found
        outlines, size = self._outlines(), _size(objects, row)
        positions = objects.of_each("position", row).tolist()
        if not outlines.there()[positions].all():
            raise UserError(f"data: {file} has objects of {self[index].key} without segmentation: it has no masks")
        drawn = [outlines.mask(position, size, file=file) for position in positions]
        return dataclasses.replace(found, masks=stacked(drawn, size))

    def class_map(self, index: int) -> np.ndarray:
        """Return (H, W) uint8, smaller objects on top of larger ones, 255 where there is only a crowd.

        What is of a class that was not chosen is left out: its pixels are those of whatever lies below it.
        """
        found = self.instances(index, masks=True)
        assert found.masks is not None
        return paint(found.masks, found.classes, found.ignored, count=len(self.classes))

    def _known(self) -> tuple[Objects, Path]:
        if self._objects is None or self._file is None:
            raise UserError(f"data: {self.spec} has no boxes: there is no annotations/instances_*.json for its images")
        return self._objects, self._file

    def _outlines(self) -> Segmentations:
        """Return the segmentations, read at the first call: nobody else shall pay for them."""
        if self._segmentations is None:
            objects, file = self._known()
            kept = kept_table(
                f"coco segmentations {file.resolve()}",
                (file_state(file), file_state(objects.file)),
                lambda: read_segmentations(file),
                reindex=False,
                check=Segmentations,
            )
            self._segmentations = Segmentations(kept)
        return self._segmentations


def _check_folder(root: Path, images: str) -> None:
    if not root.is_dir():
        raise UserError(f"data: no such folder: {root}")
    if not (root / images).is_dir():
        inside = root.name.startswith(("train", "val", "annotations")) and (root.parent / images).is_dir()
        hint = f"; did you mean coco:{root.parent}?" if inside else ""
        raise UserError(f"data: {root} has no {images}/{hint}; {_LAYOUT}")


def _instances_file(root: Path, split: str, year: str) -> Path | None:
    file = root / "annotations" / f"instances_{split}{year}.json"
    if split in ("test", "unlabeled"):
        return None
    if file.is_file():
        return file
    others = sorted(path.name for path in file.parent.glob("instances_*.json"))
    if others:
        raise UserError(f"data: {file.parent} has no {file.name}, only {', '.join(others)}; {_LAYOUT}")
    return None


def _open_objects(file: Path, spec: Spec, *, reindex: bool, progress: Progress | None) -> Objects:
    if progress is not None:
        progress(f"reading {file.name}", 0, None)
    kept = kept_table(f"coco {file.resolve()}", file_state(file), lambda: read_instances(file), reindex=reindex)
    every = Objects(kept)
    if "classes" not in spec.options:
        return every
    names = [name.strip() for name in spec.options["classes"].split(",")]
    for name in names:
        if name not in every.classes:
            raise UserError(unknown_name("data: option classes of coco", name, every.classes))
    return Objects(kept, sorted({every.classes.index(name) for name in names}))


def _listed(objects: Objects, folder: Path, names: list[bytes], file: Path | None) -> list[bytes]:
    listed = [os.fsencode(name) for name in objects.table["file_name"].to_pylist()]
    there, problems = set(names), Problems()
    for row, name in enumerate(listed):
        if name not in there and not (folder / os.fsdecode(name)).is_file():
            problems.add(f"data: {file}, images[{row}]: no such image: {folder.name}/{os.fsdecode(name)}")
    problems.check()
    return listed


def _size(objects: Objects, row: int) -> tuple[int, int]:
    return objects.table["height"][row].as_py(), objects.table["width"][row].as_py()


def _check_sizes(objects: Objects, index: FileIndex, file: Path | None) -> int:
    """Return how many images have an EXIF rotation that their boxes do not know of; UserError where sizes differ."""
    rows, upright, orientations = index.rows(), index.sizes(), index.orientations()
    said = np.stack([objects.table[name].to_numpy() for name in ("height", "width")], axis=1)[rows]
    stored = np.where(orientations[:, None] >= 5, upright[:, ::-1], upright)
    as_is, turned = (said == stored).all(axis=1), (said == upright).all(axis=1)
    problems = Problems()
    for place in np.flatnonzero(~as_is & ~turned):
        name = objects.table["file_name"][int(rows[place])].as_py()
        problems.add(
            f"data: {file}, images[{rows[place]}]: {name} is said to have {said[place, 1]} x {said[place, 0]} pixels, "
            f"but the file has {stored[place, 1]} x {stored[place, 0]}"
        )
    problems.check()
    return int((as_is & (orientations != 1)).sum())


def _notes(index: FileIndex, objects: Objects | None, stored: int | None, *, unlisted: int) -> tuple[str, ...]:
    notes = list(unreadable_note(index))
    if objects is None:
        notes.append("There is no instances file for these images: no labels, no boxes.")
        return tuple(notes)
    if unlisted:
        notes.append(f"{unlisted} images that the instances file does not list were left out.")
    notes += box_notes(clipped=objects.counted("clipped"), dropped=objects.counted("dropped"))
    if crowds := objects.counted("crowds"):
        notes.append(f"{crowds} crowd regions are no boxes; alone they leave their class not judged.")
    return (*notes, *rotation_notes(stored or 0))
