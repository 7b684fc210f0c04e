"""Open Images' tables: class names and boxes, read by column; every mistake in them is named by file and line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from scenewise.columns import read_columns
from scenewise.errors import Problems, UserError
from scenewise.sources.objects import GROUP, OBJECT, clip, make_table

_SIDES = ("XMin", "YMin", "XMax", "YMax")  # shares of width and height, in our order; the file has XMin,XMax,YMin,YMax
_TYPES = {name: pa.dictionary(pa.int32(), pa.string()) for name in ("ImageID", "LabelName")} | dict.fromkeys(
    _SIDES, pa.float32()
)
_GROUP = "IsGroupOf"  # 1 for a box around five or more that touch; the file may lack the column


def read_classes(file: Path) -> dict[str, str]:
    """Return machine id (`/m/011k07`) -> name, in the order of the file, with or without a header."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"data: cannot read {file} as a UTF-8 table of comma-separated values: {error}") from None
    if rows and rows[0][0] == "LabelName":  # since V7
        rows = rows[1:]
    classes, problems = dict[str, str](), Problems()
    for position, row in enumerate(rows, start=1):
        if len(row) != 2 or not row[0].strip() or not row[1].strip():
            problems.add(f"data: {file}, class {position}: expected two columns as /m/011k07,Tortoise, not {row}")
        elif row[0] in classes or row[1].strip() in classes.values():
            problems.add(f"data: {file}, class {position}: {row[0]} or {row[1]!r} is there already")
        else:
            classes[row[0]] = row[1].strip()
    problems.check()
    if not classes:
        raise UserError(f"data: {file} names no class")
    return classes


def read_boxes(file: Path, classes: dict[str, str], ids: list[str], sizes: np.ndarray) -> pa.Table:
    """Return the objects of the images `ids` of (n, 2) upright sizes (see objects.make_table), boxes in pixels.

    Rows of other images are only counted. A box that `IsGroupOf` is a GROUP. Facts: classes, clipped, dropped, unused
    (images in the file that `ids` has not). UserError for what is not such a table, an unknown class, a box more than
    1 px outside its image.
    """
    rows = _read(file)
    images, codes = (rows[name].combine_chunks() for name in ("ImageID", "LabelName"))
    names = codes.dictionary.to_pylist()
    problems = Problems()
    for code, name in enumerate(names):
        if name not in classes:
            line = pa.compute.index(codes.indices, code).as_py() + 2
            problems.add(f"data: {file}, line {line}: LabelName {name!r} is not among the {len(classes)} classes")
    problems.check()
    order = {machine_id: number for number, machine_id in enumerate(classes)}
    number_of = np.array([order[name] for name in names], np.int64)
    found = pa.compute.index_in(images.dictionary, value_set=pa.array(ids, pa.string()))
    image_of = pa.compute.fill_null(
        found, -1
    ).to_numpy()  # of each image id in the file, -1 where it is not on the disk
    place = image_of[images.indices.to_numpy()] if len(images) else np.empty(0, np.int64)
    used = np.flatnonzero(place >= 0)
    place, numbers = place[used], number_of[codes.indices.to_numpy()[used]]
    shares = np.stack([rows[name].to_numpy()[used] for name in _SIDES], axis=1)
    boxes = (shares * sizes[place][:, [1, 0, 1, 0]]).round(3)  # px: beyond what float32 shares can say
    within = clip(boxes, sizes[place])
    for bad in np.flatnonzero(within.outside):
        height, width = sizes[place[bad]]
        problems.add(
            f"data: {file}, line {used[bad] + 2}: the box (XMin, YMin, XMax, YMax = "
            f"{', '.join(f'{value:g}' for value in shares[bad])}) lies more than 1 px outside its image "
            f"{ids[place[bad]]} of {width} x {height} pixels"
        )
    problems.check()
    kept = ~within.empty
    group = _groups(rows)[used]
    return make_table(
        place[kept],
        within.boxes[kept],
        numbers[kept],
        np.where(group[kept], GROUP, OBJECT),
        annotated=np.bincount(place, minlength=len(ids)) > 0,
        columns={},
        facts={
            "classes": list(classes.values()),
            "clipped": int(within.moved.sum()),
            "dropped": int(within.empty.sum()),
            "unused": int((image_of < 0).sum()),
        },
    )


def _groups(rows: pa.Table) -> np.ndarray:
    """Return (n,) bool: whether a box goes around a group; -1 and an empty field stand for what nobody has said."""
    if _GROUP not in rows.column_names:
        return np.zeros(len(rows), bool)
    group: np.ndarray = pa.compute.fill_null(pa.compute.equal(rows[_GROUP], 1), False).to_numpy()
    return group


def _read(file: Path) -> pa.Table:
    try:
        with file.open("rb") as stream:
            grouped = _GROUP.encode() in stream.readline()
    except OSError as error:
        raise UserError(f"data: cannot read {file}: {error}") from None
    types = _TYPES | ({_GROUP: pa.int8()} if grouped else {})
    options = pa.csv.ConvertOptions(column_types=types, include_columns=list(types))
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,..."
    hint = f"; a table of boxes begins with the line {header}"
    return read_columns(file, options, field="data", needed=_TYPES, hint=hint)
