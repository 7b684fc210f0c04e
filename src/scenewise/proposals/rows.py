"""The proposals of an image as a row of Arrow: into record batches, out of them, and what is wrong in one.

Columns: `key`, `height`, `width`, `boxes` (lists of four int32 `x1, y1, x2, y2` in pixels of the upright photo, right
and bottom exclusive), `scores` (a list of float32 as long as `boxes`, or null).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Int32, Shaped

from scenewise.types import Size

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.int32(), 4))),
        ("scores", pa.list_(pa.float32())),
    ]
)


class Row(NamedTuple):
    """The proposals of one image. `reason` says why it could not be read (not in the finished file), else it is ""."""

    key: str
    size: Size
    boxes: Int32[np.ndarray, "boxes 4"]
    scores: Float32[np.ndarray, " boxes"] | None
    reason: str = ""


def record_batch(rows: Sequence[Row]) -> pa.RecordBatch:
    """Return the rows as a record batch of `SCHEMA`."""
    starts = pa.array(np.cumsum([0, *(len(row.boxes) for row in rows)]), pa.int32())
    corners = np.concatenate([np.empty((0, 4), np.int32), *(row.boxes for row in rows)])
    scores = [np.zeros(len(row.boxes), np.float32) if row.scores is None else row.scores for row in rows]
    columns = [
        pa.array([row.key for row in rows], pa.string()),
        pa.array([row.size[0] for row in rows], pa.int32()),
        pa.array([row.size[1] for row in rows], pa.int32()),
        pa.ListArray.from_arrays(starts, pa.FixedSizeListArray.from_arrays(pa.array(corners.reshape(-1)), 4)),
        pa.ListArray.from_arrays(
            starts,
            pa.array(np.concatenate([np.empty(0, np.float32), *scores])),
            mask=pa.array([row.scores is None for row in rows]),
        ),
    ]
    return pa.record_batch(columns, schema=SCHEMA)


def row_of(batch: pa.RecordBatch, place: int) -> Row:
    """Return a row of a record batch; its arrays are views of the batch's memory."""
    key, height, width, boxes, scores = (batch.column(name)[place] for name in SCHEMA.names)
    return Row(
        key.as_py(),
        (height.as_py(), width.as_py()),
        boxes.values.flatten().to_numpy().reshape(-1, 4),
        scores.values.to_numpy() if scores.is_valid else None,
    )


def impossible(corners: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return where boxes (N, 4) are empty, reversed or outside of `limits` (width, height): (N, 2), across and down."""
    wrong: np.ndarray = (corners[:, :2] < 0) | (corners[:, 2:] > limits) | (corners[:, 2:] <= corners[:, :2])
    return wrong


def find_problem(batch: pa.RecordBatch) -> str | None:
    """Return what is wrong in a record batch of `SCHEMA`'s columns, with the first image it is wrong for, or None."""
    try:
        batch.validate(full=True)
    except pa.ArrowException as error:
        return f"damaged ({' '.join(str(error).split())[:120]})"
    keys, heights, widths, boxes, scores = (batch.column(name) for name in SCHEMA.names)
    given = boxes.flatten()
    if any(column.null_count for column in (keys, heights, widths, boxes, given, given.flatten())):
        return "a value is missing"
    sizes = np.stack([widths.to_numpy(), heights.to_numpy()], axis=1)
    if (sizes < 1).any():
        place = int(np.flatnonzero((sizes < 1).any(axis=1))[0])
        return f"the image {keys[place]} has no size"
    counts = boxes.value_lengths().to_numpy()
    corners = given.flatten().to_numpy().reshape(-1, 4)
    limits = np.repeat(sizes, counts, axis=0)
    wrong = impossible(corners, limits)
    if wrong.any():
        number = int(np.flatnonzero(wrong.any(axis=1))[0])
        place = int(np.searchsorted(np.cumsum(counts), number, side="right"))
        wide, tall = sizes[place]
        return (
            f"box {corners[number].tolist()} of {keys[place]} ({wide} x {tall} pixels) is empty, reversed, or reaches "
            "outside; boxes are x1, y1, x2, y2"
        )
    return _wrong_scores(keys, counts, scores)


def _wrong_scores(keys: pa.Array, counts: Shaped[np.ndarray, " images"], scores: pa.Array) -> str | None:
    lengths = np.asarray(scores.value_lengths().fill_null(-1))
    uneven = np.flatnonzero((lengths != -1) & (lengths != counts))
    if len(uneven):
        return f"{keys[uneven[0]]} has {counts[uneven[0]]} boxes and {lengths[uneven[0]]} scores"
    values = scores.flatten()
    finite = values.null_count == 0 and np.isfinite(values.to_numpy()).all()
    return None if finite else "a score is missing or not a finite number"
