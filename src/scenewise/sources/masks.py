"""Masks of objects: from polygons and run lengths as COCO has them, and painted into one map of classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from scenewise.errors import UserError
from scenewise.sources.base import NOT_JUDGED
from scenewise.types import Size

Mask = Bool[np.ndarray, "height width"]
Masks = Bool[np.ndarray, "objects height width"]
MAX_CLASSES = 254  # of a class map: 0 is background, 255 not judged
_FINER = 5  # pycocotools walks along an outline in fifths of a pixel


def polygon_mask(points: Float64[np.ndarray, "corners 2"], size: Size) -> Mask:
    """Return the pixels inside an outline of (x, y) corners, in pixels from the image's left top corner.

    Pixel for pixel what `rleFrPoly` of pycocotools gives (common/maskApi.c, Lin and Dollar), which COCO's own
    evaluation uses: the outline is walked in fifths of a pixel, and each column switches sides where it is crossed.
    """
    height, width = size
    across, down = _walk(np.trunc(_FINER * points + 0.5).astype(np.int64))
    turns = np.flatnonzero(np.diff(across)) + 1
    column = (np.minimum(across[turns], across[turns - 1]) + 0.5) / _FINER - 0.5
    row = (np.minimum(down[turns], down[turns - 1]) + 0.5) / _FINER - 0.5
    kept = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    mask = np.zeros((width, height), bool)
    if not kept.any():
        return np.ascontiguousarray(mask.T)
    columns = column[kept].astype(np.int64)
    first, last = int(columns.min()), int(columns.max())
    place = (columns - first) * height + np.ceil(np.clip(row[kept], 0, height)).astype(np.int64)
    crossings = np.bincount(place, minlength=(last - first + 1) * height)[: (last - first + 1) * height]
    mask[first : last + 1] = (np.cumsum(crossings) % 2 == 1).reshape(-1, height)
    return np.ascontiguousarray(mask.T)


def _walk(corners: Int64[np.ndarray, "corners 2"]) -> tuple[Int64[np.ndarray, " steps"], Int64[np.ndarray, " steps"]]:
    """Return the x and y of each step along a closed outline; the longer direction of an edge is gone through by 1."""
    following = np.roll(corners, -1, axis=0)
    extent = np.abs(following - corners)
    flat = extent[:, 0] >= extent[:, 1]  # (edges,) whether x is the longer direction
    length = extent.max(axis=1)
    turned = np.where(flat, corners[:, 0] > following[:, 0], corners[:, 1] > following[:, 1])
    low, high = (np.where(turned[:, None], *pair) for pair in ((following, corners), (corners, following)))
    rise = np.where(flat, high[:, 1] - low[:, 1], high[:, 0] - low[:, 0])
    slope = rise / np.maximum(1, length)
    edge = np.repeat(np.arange(len(corners)), length + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    step = np.where(turned[edge], length[edge] - step, step)
    longer = np.where(flat, low[:, 0], low[:, 1])[edge] + step
    shorter = np.trunc(np.where(flat, low[:, 1], low[:, 0])[edge] + slope[edge] * step + 0.5).astype(np.int64)
    return np.where(flat[edge], longer, shorter), np.where(flat[edge], shorter, longer)


def runs_mask(counts: Sequence[int], size: Size) -> Mask:
    """Return the mask whose runs, down one column after another, are outside, inside, outside, ... so many pixels long.

    ValueError when the runs do not fill the image.
    """
    height, width = size
    lengths = np.array(counts, np.int64)
    if (lengths < 0).any() or lengths.sum() != height * width:
        raise ValueError(f"its runs are {int(lengths.sum())} pixels long, the image has {width} x {height}")
    return _by_columns(np.repeat(np.arange(len(lengths)) % 2 == 1, lengths), size)


def read_counts(text: str) -> list[int]:
    """Return the run lengths that COCO's compressed text says (`rleFrString` of pycocotools).

    Six bits a character above "0": five of the number, low ones first, and whether more follow; from the fourth number
    on the difference to the one before the last is written. ValueError for what is no such text.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for sign in text:
        code = ord(sign) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{sign!r} is no sign of a compressed run length")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise ValueError("the compressed run lengths end in the middle of a number")
    return counts


def _by_columns(flat: Bool[np.ndarray, " pixels"], size: Size) -> Mask:
    height, width = size
    return np.ascontiguousarray(flat.reshape(width, height).T)


def union(masks: Sequence[Mask]) -> Mask:
    """Return the pixels that are in at least one of the masks, of which there is one or more."""
    joined = masks[0].copy()
    for mask in masks[1:]:
        joined |= mask
    return joined


def stacked(masks: Sequence[Mask], size: Size) -> Masks:
    """Return the masks as one (n, height, width) array, which may have no row."""
    return np.stack(masks) if masks else np.zeros((0, *size), bool)


def paint(
    masks: Masks, classes: Int64[np.ndarray, " objects"], ignored: Bool[np.ndarray, " objects"], *, count: int
) -> UInt8[np.ndarray, "height width"]:
    """Return the class number + 1 of each pixel, 0 where there is no object, 255 where only ignored ones are.

    Larger objects are painted first, so that what lies in front of them, which is smaller, stays in sight; of equal
    ones the later lies on top. count: of classes the source has. UserError when a byte cannot tell that many apart.
    """
    if count > MAX_CLASSES:
        raise UserError(
            f"data: a map of classes tells {MAX_CLASSES} apart, but there are {count}; choose with ?classes="
        )
    painted = np.zeros(masks.shape[1:], np.uint8)
    painted[masks[ignored].any(axis=0)] = NOT_JUDGED
    for place in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        if not ignored[place]:
            painted[masks[place]] = classes[place] + 1
    return painted
