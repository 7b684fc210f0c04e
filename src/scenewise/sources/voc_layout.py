"""The files of PASCAL VOC: splits, image labels, boxes; every mistake in them is named by file and record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from scenewise.errors import Problems, UserError, unknown_name
from scenewise.types import Size

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
_NUMBER = {name: number for number, name in enumerate(CLASSES)}
_CLASS_FILES = tuple(f"{name}_" for name in CLASSES)
_VALUE = {"1": 1, "0": -1, "-1": 0}  # a class file's 0 is "only difficult ones": not to be judged


class LabelledBox(NamedTuple):
    """One object: its place in the file (from 1), its class among the 20, whether it is difficult, its box.

    The box's right and bottom are exclusive.
    """

    place: int
    number: int
    difficult: bool
    box: tuple[float, float, float, float]


class Annotations(NamedTuple):
    """The objects of each image, and how many boxes were clipped by up to a pixel, and dropped because empty.

    objects: those with a box. listed: how many the file of an image has in all, the number of the last one.
    """

    objects: list[list[LabelledBox]]
    listed: list[int]
    clipped: int
    dropped: int


def year_folder(root: Path, year: str) -> Path:
    """Return `root/VOCdevkit/VOC<year>`; UserError that names what is missing."""
    if not root.is_dir():
        raise UserError(f"data: no such folder: {root}")
    kit = root / "VOCdevkit"
    if not kit.is_dir():
        hint = (
            f"; did you mean voc:{root.parent}?" if root.name == "VOCdevkit" or root.parent.name == "VOCdevkit" else ""
        )
        raise UserError(
            f"data: voc:{root} must be the folder that holds VOCdevkit/VOC{year}, and it has no VOCdevkit{hint}"
        )
    if not (kit / f"VOC{year}").is_dir():
        years = sorted(path.name.removeprefix("VOC") for path in kit.glob("VOC*") if path.is_dir())
        raise UserError(unknown_name("data: option year of voc", year, years) + f" (in {kit})")
    for part in ("JPEGImages", "ImageSets/Main"):
        if not (kit / f"VOC{year}" / part).is_dir():
            raise UserError(
                f"data: {kit / f'VOC{year}'} has no {part}; a VOC folder has JPEGImages, ImageSets/Main, Annotations"
            )
    return kit / f"VOC{year}"


def read_split(folder: Path, split: str) -> list[str]:
    """Return the image ids of a split, as its file lists them; UserError for an unknown, empty or faulty one."""
    lists = folder / "ImageSets" / "Main"
    file = lists / f"{split}.txt"
    if "/" in split or not file.is_file():
        names = [path.stem for path in lists.glob("*.txt") if not path.stem.startswith(_CLASS_FILES)]
        raise UserError(unknown_name("data: option split of voc", split, names))
    ids, seen, problems = [], dict[str, int](), Problems()
    for line, text in enumerate(_lines(file), start=1):
        if not text.strip():
            continue
        name = text.split()[0]
        if name in seen:
            problems.add(f"data: {file}, line {line}: {name} is already in line {seen[name]}")
        elif not (folder / "JPEGImages" / f"{name}.jpg").is_file():
            problems.add(f"data: {file}, line {line}: no such image: JPEGImages/{name}.jpg")
        seen.setdefault(name, line)
        ids.append(name)
    problems.check()
    if not ids:
        raise UserError(f"data: the split {file} names no image")
    return ids


def read_class_files(folder: Path, split: str, ids: list[str]) -> dict[int, np.ndarray]:
    """Return, for each class that has a file for this split, (len(ids),) int8: 1, 0, and -1 for only difficult ones."""
    columns, problems = {}, Problems()
    for number, name in enumerate(CLASSES):
        file = folder / "ImageSets" / "Main" / f"{name}_{split}.txt"
        if not file.is_file():
            continue
        values: dict[str, int] = {}
        for line, text in enumerate(_lines(file), start=1):
            words = text.split()
            if words and (len(words) != 2 or words[1] not in _VALUE):
                problems.add(f"data: {file}, line {line}: {text.strip()!r} is not an image id and one of 1, 0, -1")
            elif words:
                values[words[0]] = _VALUE[words[1]]
        for missing in [identity for identity in ids if identity not in values]:
            problems.add(f"data: {file} says nothing of image {missing}")
        columns[number] = np.array([values.get(identity, 0) for identity in ids], np.int8)
    problems.check()
    return columns


def read_annotations(folder: Path, ids: list[str], sizes: list[Size | None]) -> Annotations | None:
    """Return the boxes of all images, or None when no image has an annotation file.

    sizes: (height, width) of each image as stored, None where it cannot be read (its boxes are then not checked).
    VOC's boxes count pixels from 1, both ends inside. Raises UserError for a missing or faulty file, an unknown class,
    a box more than 1 px outside its image.
    """
    present = {path.stem for path in (folder / "Annotations").glob("*.xml")}
    if present.isdisjoint(ids):
        return None
    problems, objects, listed, clipped, dropped = Problems(), [], [], 0, 0
    for identity, size in zip(ids, sizes, strict=True):
        file = folder / "Annotations" / f"{identity}.xml"
        kept: list[LabelledBox] = []
        try:
            found = _parse(file)
        except (OSError, ElementTree.ParseError, ValueError) as error:
            problems.add(f"data: {file}: {'no such file' if isinstance(error, FileNotFoundError) else error}")
            found = []
        for labelled in found:
            box = _clip(labelled.box, size)
            if box is None:
                assert size is not None
                shown = ", ".join(f"{value:g}" for value in labelled.box)
                problems.add(
                    f"data: {file}, object {labelled.place}: the box ({shown}) lies more than 1 px outside its image "
                    f"of {size[1]} x {size[0]} pixels"
                )
            elif box[2] <= box[0] or box[3] <= box[1]:
                dropped += 1
            else:
                clipped += box != labelled.box
                kept.append(labelled._replace(box=box))
        objects.append(kept)
        listed.append(len(found))
    problems.check()
    return Annotations(objects, listed, clipped, dropped)


def _parse(file: Path) -> list[LabelledBox]:
    found = []
    for position, element in enumerate(ElementTree.parse(file).getroot().iterfind("object"), start=1):
        name = element.findtext("name", "").strip()
        if name not in _NUMBER:
            raise ValueError(unknown_name(f"object {position}: class", name, CLASSES))
        ends = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        try:
            left, top, right, bottom = (float(end or "") for end in ends)
        except ValueError:
            raise ValueError(
                f"object {position}: bndbox needs the numbers xmin, ymin, xmax, ymax, not {ends}"
            ) from None
        if not all(map(math.isfinite, (left, top, right, bottom))):
            raise ValueError(f"object {position}: the box {ends} is not finite")
        difficult = element.findtext("difficult", "0").strip() == "1"
        found.append(LabelledBox(position, _NUMBER[name], difficult, (left - 1, top - 1, right, bottom)))
    return found


def _clip(box: tuple[float, float, float, float], size: Size | None) -> tuple[float, float, float, float] | None:
    if size is None:
        return box
    height, width = size
    left, top, right, bottom = box
    if max(-left, -top, right - width, bottom - height) > 1:
        return None
    return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"data: cannot read {file}: {error}") from None
