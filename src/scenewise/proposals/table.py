"""Boxes made elsewhere, by a detector or a segmenter: a table with a row a box, in the place of a generator."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
from jaxtyping import Float32, Float64, Int, Int64

from scenewise.columns import read_columns
from scenewise.errors import Problems, UserError

FIELD = "--boxes"  # what names the file, in errors
SIDES = ("x1", "y1", "x2", "y2")
SCORE = "score"
SLACK = 1.0  # pixels that a box may reach outside its image: what rounding and half-pixel conventions do


@dataclass(frozen=True, eq=False)
class Table:
    """The boxes of all images of a data set, best first; what a table says of other images is counted only.

    sha256: of the file. boxes: (n, 4) float64 in pixels of the upright photo. scores: (n,) or None. first: (images + 1)
    the number of each image's first box. unused: images of the table that the data do not have.
    """

    name: ClassVar[str] = "table"
    sha256: str
    boxes: Float64[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"] | None
    first: Int64[np.ndarray, " images_and_1"]
    unused: int

    @property
    def settings(self) -> Mapping[str, object]:
        """What the boxes depend on besides the images' names and sizes."""
        return {"sha256": self.sha256}

    def of(self, index: int) -> tuple[Float64[np.ndarray, "N 4"], Float32[np.ndarray, " N"] | None]:
        """Return the boxes of the index-th image of the data and their scores."""
        own = slice(self.first[index], self.first[index + 1])
        return self.boxes[own], None if self.scores is None else self.scores[own]


def read_table(file: Path, keys: Sequence[str], sizes: Int[np.ndarray, "images 2"]) -> Table:
    """Return the boxes that a table has for the images of these keys and upright (height, width).

    The table is UTF-8 with the header `image,x1,y1,x2,y2` in any order, `score` and others beside; `image` is the key
    (a path in the data's folder), sides are pixels of the upright photo at full size. By falling score, else as they
    stand. UserError for what is not such a table, a box that is none or more than 1 px outside its image, and where
    none of the images is in the data.
    """
    rows, digest = _read(file)
    images = rows["image"].combine_chunks()
    names = [os.path.normpath(name or "") for name in images.dictionary.to_pylist()]
    found = pa.compute.index_in(pa.array(names, pa.string()), value_set=pa.array(keys, pa.string()))
    known = pa.compute.fill_null(found, -1).to_numpy(zero_copy_only=False)  # of each image named, -1: not in the data
    if not (known >= 0).any():
        raise UserError(
            f"{FIELD}: none of the {len(names)} images named by {file} is in the data: it has {_some(names)}, the data "
            f"{_some(keys)}"
        )
    named = images.indices.to_numpy()  # by each row
    place = known[named].astype(np.int64)
    boxes = np.stack([rows[side].to_numpy() for side in SIDES], axis=1)
    scores = rows[SCORE].to_numpy() if SCORE in rows.column_names else None
    _check(file, names, named, place, boxes, scores, sizes)
    used = np.flatnonzero(place >= 0)
    falling = np.zeros(len(used)) if scores is None else -scores[used]
    order = used[np.lexsort((used, falling, place[used]))]
    return Table(
        sha256=digest,
        boxes=boxes[order],
        scores=None if scores is None else scores[order],
        first=np.searchsorted(place[order], np.arange(len(keys) + 1)),
        unused=int((known < 0).sum()),
    )


def _check(
    file: Path,
    names: list[str],
    named: Int[np.ndarray, " n"],
    place: Int64[np.ndarray, " n"],
    boxes: Float64[np.ndarray, "n 4"],
    scores: Float32[np.ndarray, " n"] | None,
    sizes: Int[np.ndarray, "images 2"],
) -> None:
    """Raise UserError with the lines of boxes that are none, that leave their image, of scores that rank nothing."""
    problems = Problems()
    with np.errstate(invalid="ignore"):
        empty = ~(np.isfinite(boxes).all(axis=1) & (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3]))
    limits = np.where((place >= 0)[:, None], sizes[place][:, [1, 0]], np.inf)
    outside = ~empty & ((boxes[:, :2] < -SLACK) | (boxes[:, 2:] > limits + SLACK)).any(axis=1) & (place >= 0)
    unranked = np.zeros(len(boxes), bool) if scores is None else ~np.isfinite(scores)
    for row in np.flatnonzero(empty | outside | unranked):
        line, box = f"{FIELD}: {file}, line {row + 2}", ", ".join(f"{side:g}" for side in boxes[row])
        if empty[row]:
            problems.add(f"{line}: {box} is no box: x1 < x2 and y1 < y2 are asked for")
        elif unranked[row]:
            problems.add(f"{line}: the score is not a finite number")
        else:
            height, width = sizes[place[row]]
            problems.add(
                f"{line}: the box {box} lies more than 1 px outside its image {names[named[row]]} of "
                f"{width} x {height} pixels; boxes are asked for in pixels of the upright photo at full size"
            )
    problems.check()


def _read(file: Path) -> tuple[pa.Table, str]:
    """Return the columns that count, and the file's SHA-256."""
    wanted = ("image", *SIDES)
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header = next(csv.reader(stream), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{FIELD}: cannot read {file} as a UTF-8 table of comma-separated values: {error}") from None
    missing = [name for name in wanted if name not in header]
    if missing:
        raise UserError(
            f"{FIELD}: {file} has no column {' and '.join(missing)}; the header must be image,x1,y1,x2,y2 and may have "
            f"score and others beside, not {','.join(header) or 'nothing'}"
        )
    scored = {SCORE: pa.float32()} if SCORE in header else {}
    types = {"image": pa.dictionary(pa.int32(), pa.string()), **dict.fromkeys(SIDES, pa.float64()), **scored}
    # "nan" is a number here, and no box; an empty field is told as one
    options = pa.csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=[""])
    rows = read_columns(file, options, field=FIELD, needed=types)
    if not len(rows):
        raise UserError(f"{FIELD}: {file} has a header but no row")
    return rows, digest


def _some(names: Sequence[str]) -> str:
    more = ", ..." if len(names) > 2 else ""
    return f"{', '.join(names[:2])}{more}"
