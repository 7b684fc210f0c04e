"""`voc:`: PASCAL VOC scenes with image labels and boxes."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import UserError, unknown_name
from scenewise.sources import voc_layout, voc_masks
from scenewise.sources.base import NOT_JUDGED, Instances, LabelledBoxes, Labels, Progress, Source, check_index
from scenewise.sources.index import FileIndex, as_stored, check_some, listed_index, unreadable_note
from scenewise.sources.masks import stacked
from scenewise.sources.objects import box_notes, rotation_notes
from scenewise.sources.spec import Spec
from scenewise.types import Record, Skip


@final
class VocSource(Source):
    """One split of one year, in the order of its list. Key: the image's path from the folder that holds VOCdevkit.

    Image labels come from `ImageSets/Main/<class>_<split>.txt` (there 1 is present, 0 only difficult ones, -1 absent),
    else from the objects: present if one is not difficult, -1 (not judged) if all are. Boxes are those of
    the files as stored, so an EXIF rotation is not applied. What is of a class that was not chosen is left out: it is
    no instance, and background in the class map.
    """

    def __init__(self, spec: Spec, *, split: str | None, reindex: bool, progress: Progress | None) -> None:
        root = Path(spec.path)
        year = spec.options.get("year", "2007")
        split = spec.options.get("split", split or "trainval")
        chosen = _chosen(spec.options.get("classes"))
        folder = voc_layout.year_folder(root, year)
        ids = voc_layout.read_split(folder, split)
        paths = [f"VOCdevkit/VOC{year}/JPEGImages/{identity}.jpg".encode() for identity in ids]
        index = listed_index(root, paths, name=f"voc {year} {split}", reindex=reindex, progress=progress)
        check_some(index, folder)
        self._index = index
        self._folder, self._chosen = folder, np.array(chosen)
        rotated = int((index.orientations() != 1).sum())
        rows = index.rows()
        sizes: list[tuple[int, int] | None] = [None] * len(ids)
        for i, row in enumerate(rows):
            sizes[row] = self._stored(i).size
        annotations = voc_layout.read_annotations(folder, ids, sizes)
        labels = _labels(voc_layout.read_class_files(folder, split, ids), annotations, len(ids))
        self._labels = None if labels is None else np.ascontiguousarray(labels[rows][:, chosen])
        self._keep_boxes(annotations, rows, chosen)
        self.spec = spec.canonical(split=split, year=year, classes=spec.options.get("classes", ""))
        self.classes = () if labels is None else tuple(voc_layout.CLASSES[number] for number in chosen)
        self.multi_label = labels is not None
        self.splits = ("trainval", "test")
        self.notes = _notes(index, annotations, rotated)
        self.fingerprint = index.fingerprint

    def _keep_boxes(self, annotations: voc_layout.Annotations | None, rows: np.ndarray, chosen: list[int]) -> None:
        self._offsets: np.ndarray | None = None
        if annotations is None:
            return
        kept = [[each for each in annotations.objects[row] if each.number in chosen] for row in rows]
        self._offsets = np.cumsum([0, *map(len, kept)])
        self._listed = np.array(annotations.listed, np.int64)[rows]
        self._places = np.array([each.place for boxes in kept for each in boxes], np.int64)
        self._difficult = np.array([each.difficult for boxes in kept for each in boxes], bool)
        self._boxes = np.array([each.box for boxes in kept for each in boxes], np.float32).reshape(-1, 4)
        self._numbers = np.array([chosen.index(each.number) for boxes in kept for each in boxes], np.int64)

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._index.unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        record = self._stored(index)
        return record if self._labels is None else dataclasses.replace(record, labels=self._labels[index])

    def _stored(self, index: int) -> Record:
        return as_stored(self._index.record(index))

    def labels(self) -> Labels | None:
        """Return (N, C) int8: 1 present, 0 absent, -1 only difficult objects; None when nothing is labelled."""
        return self._labels

    def boxes(self, index: int) -> LabelledBoxes:
        """Return the (n, 4) boxes, difficult ones too, and the class of each; UserError without annotations."""
        own = self._own(index)
        return self._boxes[own], self._numbers[own]

    def with_boxes(self) -> np.ndarray:
        """Return (N,) bool: True where the split has annotations, as each of its images then must have one."""
        return np.full(len(self), self._offsets is not None)

    def with_masks(self) -> np.ndarray:
        """Return (N,) bool: whether an image has both pictures, of the masks of its objects and of its classes."""
        masked = voc_masks.masked_ids(self._folder)
        there: np.ndarray = self.with_boxes()
        there &= np.array([_identity(path) in masked for path in self._index.paths()])
        return there

    def instances(self, index: int, *, masks: bool = False) -> Instances:
        """Return the objects of an image, difficult ones ignored; UserError without annotations, or a faulty picture.

        Where masks are asked for, an object without a pixel is ignored too: VOC paints void over what is unclear.
        """
        own = self._own(index)
        found = Instances(self._boxes[own], self._numbers[own], self._difficult[own])
        if not masks:
            return found
        size = self._stored(index).size
        numbers = voc_masks.read_objects(
            self._folder, self._identity(index), size=size, listed=int(self._listed[index])
        )
        drawn = stacked([numbers == place for place in self._places[own]], size)
        return dataclasses.replace(found, ignored=found.ignored | ~drawn.any(axis=(1, 2)), masks=drawn)

    def class_map(self, index: int) -> np.ndarray:
        """Return (H, W) uint8 as `SegmentationClass` says, 255 where it is void; classes that were not chosen are 0."""
        check_index(index, len(self))
        value = np.zeros(256, np.uint8)
        value[self._chosen + 1] = np.arange(len(self._chosen)) + 1
        value[NOT_JUDGED] = NOT_JUDGED
        painted = voc_masks.read_classes(self._folder, self._identity(index), size=self._stored(index).size)
        classes: np.ndarray = value[painted]
        return classes

    def _own(self, index: int) -> slice:
        check_index(index, len(self))
        if self._offsets is None:
            raise UserError(f"data: {self.spec} has no boxes: there is no Annotations/*.xml for its images")
        return slice(*self._offsets[index : index + 2])

    def _identity(self, index: int) -> str:
        return _identity(self._index.path(index))


def _identity(path: bytes) -> str:
    return Path(os.fsdecode(path)).stem


def _chosen(text: str | None) -> list[int]:
    names = voc_layout.CLASSES if text is None else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in voc_layout.CLASSES:
            raise UserError(unknown_name("data: option classes of voc", name, voc_layout.CLASSES))
    return sorted({voc_layout.CLASSES.index(name) for name in names})


def _labels(
    columns: dict[int, np.ndarray], annotations: voc_layout.Annotations | None, count: int
) -> np.ndarray | None:
    if annotations is None and len(columns) < len(voc_layout.CLASSES):
        return None
    labels = np.zeros((count, len(voc_layout.CLASSES)), np.int8)
    for row, objects in enumerate(annotations.objects if annotations is not None else ()):
        for each in objects:
            if not each.difficult:
                labels[row, each.number] = 1
            elif labels[row, each.number] == 0:
                labels[row, each.number] = -1
    for number, column in columns.items():
        labels[:, number] = column
    return labels


def _notes(index: FileIndex, annotations: voc_layout.Annotations | None, rotated: int) -> tuple[str, ...]:
    notes = list(unreadable_note(index))
    if annotations is None:
        notes.append("No image of this split has an annotation file: there are no boxes.")
    else:
        notes += box_notes(clipped=annotations.clipped, dropped=annotations.dropped)
    return (*notes, *rotation_notes(rotated))
