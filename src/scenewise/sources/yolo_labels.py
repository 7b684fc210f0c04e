"""YOLO's label files: a box or a polygon a line, in shares of the sides; every mistake is named by file and line."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from scenewise.errors import Problems, UserError
from scenewise.sources.objects import OBJECT, clip, make_table, per_image
from scenewise.sources.walk import image_names, printable

_NAMES = b"classes.txt"  # which labelImg writes among the labels
_FORMS = "`class x y width height` or `class x1 y1 x2 y2 x3 y3 ...`"


class Label(NamedTuple):
    """One line: its number, the class, whether it is a polygon, its corners as shares of width and height.

    Those of a box are the left top and the right bottom one.
    """

    line: int
    number: int
    polygon: bool
    corners: Float64[np.ndarray, "corners 2"]


def label_files(images: list[bytes]) -> tuple[list[bytes | None], bool]:
    """Return the label file of each image, None where there is none, and whether they are beside the images.

    images, files: absolute paths. Otherwise they are in a folder `labels` where the path of the images has `images`
    (the last one, as Ultralytics has it). UserError when no image has one, and for one in such a folder that has no
    image.
    """
    for beside in (False, True):
        files = [label_file(image, beside=beside) for image in images]
        if any(files):
            if not beside:
                _check_orphans(images)
            return files, beside
    first = printable(_place(images[0], beside=False) or _place(images[0], beside=True) or b"")
    raise UserError(
        f"data: none of the {len(images)} images has a label file, e.g. {first}; for images without labels name their "
        "folder"
    )


def label_file(image: bytes, *, beside: bool) -> bytes | None:
    """Return the path of an image's label file, None where it is not there."""
    place = _place(image, beside=beside)
    return place if place is not None and os.path.isfile(place) else None  # noqa: PTH113 - bytes


def _place(image: bytes, *, beside: bool) -> bytes | None:
    named = os.path.splitext(image)[0] + b".txt"  # noqa: PTH122 - bytes
    if beside:
        return named
    before, images, after = named.rpartition(b"/images/")
    return before + b"/labels/" + after if images else None


def _check_orphans(images: list[bytes]) -> None:
    """Raise UserError for the files in folders of labels that have no image."""
    places = ((_place(image, beside=False), image) for image in images)
    mirrored = {os.path.dirname(place): os.path.dirname(image) for place, image in places if place}  # noqa: PTH120
    problems = Problems()
    for labels, folder in sorted(mirrored.items()):
        if not os.path.isdir(labels):  # noqa: PTH112
            continue
        stems = {os.path.splitext(name)[0] for name in image_names(Path(os.fsdecode(folder)))}  # noqa: PTH122
        for name in sorted(os.listdir(labels)):  # noqa: PTH208
            if name.endswith(b".txt") and name != _NAMES and name[:-4] not in stems:
                shown = f"{printable(labels)}/{printable(name)}"
                problems.add(f"data: {shown} has no image in {printable(folder)}")
    problems.check()


def read_labels(file: bytes, names: Sequence[str], problems: Problems) -> tuple[list[Label], int]:
    """Return the lines of a label file that say something new, and how many repeat another; `problems` gets the faults.

    A line that is there twice counts once, as it does in YOLO's own training.
    """
    shown = printable(file)
    try:
        lines = Path(os.fsdecode(file)).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.add(f"data: cannot read {shown}: {error}")
        return [], 0
    labels, seen, repeated = list[Label](), set[tuple[float, ...]](), 0
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        try:
            values = tuple(map(_number, text.split()))
            label = _label(line, values, names)
        except ValueError as error:
            fault = (
                str(error) if not str(error).startswith("could not convert") else f"{text.strip()!r} is not {_FORMS}"
            )
            problems.add(f"data: {shown}, line {line}: {fault}")
            continue
        repeated += values in seen
        if values not in seen:
            labels.append(label)
        seen.add(values)
    return labels, repeated


def _number(word: str) -> float:
    if "_" in word:  # Python reads 0_5 as 5
        raise ValueError(f"could not convert {word!r}")
    return float(word)


def _label(line: int, values: tuple[float, ...], names: Sequence[str]) -> Label:
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise ValueError(f"{len(values)} numbers are not {_FORMS}")
    if not all(map(math.isfinite, values)):
        raise ValueError("has a number that is not finite")
    number = int(values[0])
    if number != values[0] or not 0 <= number < len(names):
        raise ValueError(f"class {values[0]:g} has no name; there are {len(names)}, from 0 ({names[0]})")
    if len(values) > 5:
        return Label(line, number, polygon=True, corners=np.array(values[1:]).reshape(-1, 2))
    x, y, width, height = values[1:]
    if width < 0 or height < 0:
        raise ValueError(f"its box is {width:g} wide and {height:g} high")
    corners = np.array([[x - width / 2, y - height / 2], [x + width / 2, y + height / 2]])
    return Label(line, number, polygon=False, corners=corners)


def read_objects(files: Sequence[bytes | None], sizes: np.ndarray, names: Sequence[str]) -> pa.Table:
    """Return the objects of the images of (n, 2) upright sizes (see objects.make_table), boxes in pixels.

    files: the label file of each image, None for one without objects. Of each object besides: its line, whether it is a
    polygon. Facts: classes, clipped, dropped, repeated, unlabelled (images without file). UserError for a faulty line,
    and for what reaches more than 1 px out of its image.
    """
    problems, repeated = Problems(), 0
    found: list[tuple[int, Label]] = []
    for row, file in enumerate(files):
        if file is not None:
            labels, twice = read_labels(file, names, problems)
            found += [(row, label) for label in labels]
            repeated += twice
    problems.check()
    images = np.array([row for row, _ in found], np.int64)
    ends = [(*label.corners.min(axis=0), *label.corners.max(axis=0)) for _, label in found]
    shares = np.array(ends, np.float64).reshape(-1, 4)
    boxes = (shares * sizes[images][:, [1, 0, 1, 0]]).round(3)  # px: 0.1 + 0.2 must not lie outside 0.3
    within = clip(boxes, sizes[images])
    for bad in np.flatnonzero(within.outside):
        row, label = found[bad]
        left, top, right, bottom = shares[bad]
        problems.add(
            f"data: {printable(files[row] or b'')}, line {label.line}: reaches from ({left:g}, {top:g}) to ({right:g}, "
            f"{bottom:g}), more than 1 px out of its image of {sizes[row][1]} x {sizes[row][0]} pixels; numbers are "
            "shares of its sides, 0 to 1"
        )
    problems.check()
    kept = np.flatnonzero(~within.empty)
    lines = np.array([label.line for _, label in found], np.int32)[kept]
    polygons = np.array([label.polygon for _, label in found], np.int8)[kept]
    return make_table(
        images[kept],
        within.boxes[kept],
        np.array([label.number for _, label in found], np.int64)[kept],
        np.full(len(kept), OBJECT),
        annotated=np.ones(len(files), bool),
        columns={
            "line": per_image(images[kept], lines, len(files)),
            "polygon": per_image(images[kept], polygons, len(files)),
        },
        facts={
            "classes": list(names),
            "clipped": int(within.moved.sum()),
            "dropped": int(within.empty.sum()),
            "repeated": repeated,
            "unlabelled": sum(file is None for file in files),
        },
    )
