"""`yolo:`: images with labels as YOLO's trainers read them, boxes or polygons in a text file an image."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import Problems, UserError, unknown_name
from scenewise.sources.base import Instances, LabelledBoxes, Labels, Progress, Source, check_index
from scenewise.sources.index import FileIndex, check_some, listed_index, unreadable_note
from scenewise.sources.masks import paint, polygon_mask, stacked
from scenewise.sources.objects import Objects, box_notes, kept_table
from scenewise.sources.spec import Spec
from scenewise.sources.walk import printable
from scenewise.sources.yolo_labels import label_file, label_files, read_labels, read_objects
from scenewise.sources.yolo_layout import find_split
from scenewise.types import Record, Skip


@final
class YoloSource(Source):
    """One split, in the order of its folders or list. Key: the image's path from the folder of the data set.

    A class is present in an image with a label of it, absent from any other: an image without a label file has no
    object, as YOLO has it, and is counted. Shares of the sides become pixels of the upright image. The label files are
    read once and their boxes are kept in the cache folder.
    """

    def __init__(self, spec: Spec, *, split: str | None, reindex: bool, progress: Progress | None) -> None:
        split = spec.options.get("split", split or "train")
        root, images, names = find_split(Path(spec.path), split)
        base = os.fsencode(root)
        paths = [os.path.relpath(image, base) for image in images]
        index = listed_index(root, paths, name=f"yolo {split}", reindex=reindex, progress=progress)
        check_some(index, root)
        every, self._beside = label_files(images)
        files = [every[row] for row in index.rows()]
        self._index = index
        if progress is not None:
            progress("reading label files", 0, None)
        kept = kept_table(
            f"yolo {os.path.abspath(spec.path)} {split}",  # noqa: PTH100
            (index.fingerprint, names, _state(files)),
            lambda: read_objects(files, index.sizes(), names),
            reindex=reindex,
        )
        self._names = names
        self._objects = Objects(kept, _chosen(spec.options.get("classes"), names))
        self.spec = spec.canonical(split=split, classes=spec.options.get("classes", ""))
        self.classes = self._objects.classes
        self.multi_label = True
        self.splits = ("train", "val")
        self.notes = _notes(index, self._objects)
        self.fingerprint = index.fingerprint

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._index.unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        return self._index.record(index, labels=self._objects.labels(np.array([index]))[0])

    def labels(self) -> Labels | None:
        """Return (N, C) int8: 1 present, 0 absent."""
        return self._objects.labels(np.arange(len(self)))

    def boxes(self, index: int) -> LabelledBoxes:
        """Return the (n, 4) boxes of the upright image, around the polygons where labels are such, and the classes."""
        return self._objects.boxes(check_index(index, len(self)))

    def with_boxes(self) -> np.ndarray:
        """Return (N,) True."""
        return self._objects.annotated()

    def with_masks(self) -> np.ndarray:
        """Return (N,) bool: whether each label of the classes chosen is a polygon.

        An image without labels has masks where at least one label of the split is a polygon.
        """
        drawn: np.ndarray = self._objects.every("polygon", lambda polygon: polygon == 1)
        drawn &= self._objects.any("polygon", lambda polygon: polygon == 1)
        return drawn

    def instances(self, index: int, *, masks: bool = False) -> Instances:
        """Return the objects of an image in the order of its lines, none ignored; UserError where masks are missing."""
        found = self._objects.instances(check_index(index, len(self)))
        if not masks:
            return found
        size = self[index].size
        return dataclasses.replace(
            found, masks=stacked([polygon_mask(each, size) for each in self._outlines(index)], size)
        )

    def class_map(self, index: int) -> np.ndarray:
        """Return (H, W) uint8, smaller objects on top of larger ones; UserError where a label is no polygon."""
        found = self.instances(index, masks=True)
        assert found.masks is not None
        return paint(found.masks, found.classes, found.ignored, count=len(self.classes))

    def _outlines(self, index: int) -> list[np.ndarray]:
        """Return the (corners, 2) pixels of each label of an image, read again from its file."""
        lines = self._objects.of_each("line", index).tolist()
        if not lines:
            return []
        image = os.path.normpath(self._index.base + self._index.path(index))
        file, problems = label_file(image, beside=self._beside) or b"", Problems()
        labels = {label.line: label for label in read_labels(file, self._names, problems)[0]}
        problems.check()
        if not set(lines) <= set(labels):
            raise UserError(f"data: {printable(file)} has changed since it was read; start again")
        for line in lines:
            if not labels[line].polygon:
                raise UserError(f"data: {printable(file)}, line {line} is a box: the image has no masks")
        height, width = self[index].size
        return [labels[line].corners * (width, height) for line in lines]


def _chosen(text: str | None, names: tuple[str, ...]) -> list[int] | None:
    if text is None:
        return None
    chosen = [name.strip() for name in text.split(",")]
    for name in chosen:
        if name not in names:
            raise UserError(unknown_name("data: option classes of yolo", name, names))
    return sorted({names.index(name) for name in chosen})


def _state(files: list[bytes | None]) -> str:
    """Return a digest of the paths, sizes and modification times of the label files."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        if file is not None:
            status = os.stat(file)  # noqa: PTH116 - bytes
            digest.update(b"%b\0%d\0%d\0" % (file, status.st_size, status.st_mtime_ns))
    return digest.hexdigest()


def _notes(index: FileIndex, objects: Objects) -> tuple[str, ...]:
    notes = list(unreadable_note(index))
    if unlabelled := objects.counted("unlabelled"):
        notes.append(f"{unlabelled} of {len(index)} images have no label file: they count as images without objects.")
    if repeated := objects.counted("repeated"):
        notes.append(f"{repeated} labels repeat another line of their file and were left out.")
    return (*notes, *box_notes(clipped=objects.counted("clipped"), dropped=objects.counted("dropped")))
