"""From proposals to windows: which boxes are worth cropping, and the whole pixels that a view is cut from.

Object-aware cropping: Mishra et al. 2022, arXiv 2112.00319. All lengths here are pixels of the photo. This runs for
every image of every epoch, so the rules of `scenewise.geometry` are written again for NumPy and plain numbers: a call
of torch costs more than the arithmetic on one box. The tests hold the two equal.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Float32

from scenewise.geometry import suppress
from scenewise.types import Size
from scenewise.views.regions import Range, Window, area_range
from scenewise.views.slots import Slot

Span = tuple[float, float]  # the near and the far edge of a box along one axis


def usable_proposals(
    size: Size,
    proposals: np.ndarray | None,
    *,
    min_side: float,
    max_aspect: float,
    limit: int | None,
    nms_iou: float | None,
) -> Float32[np.ndarray, "n 4"]:
    """Return the proposals worth cropping, in their order and clipped to the photo.

    What is dropped is what `geometry.filter_proposals` drops; a box under one pixel always is.
    """
    if proposals is None or not len(proposals):
        return np.zeros((0, 4), np.float32)
    height, width = size
    boxes = np.asarray(proposals, np.float32)
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    sides = clipped[:, 2:] - clipped[:, :2]
    short, long = sides.min(axis=1), sides.max(axis=1)
    ordered = (boxes[:, 0] < boxes[:, 2]) & (boxes[:, 1] < boxes[:, 3])
    fitting = (short >= max(1.0, min_side)) & (long <= max_aspect * short)
    kept: np.ndarray = clipped[np.isfinite(boxes).all(axis=1) & ordered & fitting]
    if nms_iou is not None and len(kept):
        order = suppress(torch.from_numpy(kept), max_iou=nms_iou, limit=limit)
        kept = kept[order.numpy()]
    return kept[:limit]


def object_windows(
    box: Float[np.ndarray, "4"], size: Size, *, side: int, dilation: float, mode: str
) -> tuple[Window, Window]:
    """Return the object's window and its dilation: the box grown to `side` pixels, and that dilated and clipped.

    Neither is empty and the second contains the first, for any box of at least a pixel in the photo. `mode` says what
    the dilation is a share of: the photo's sides (`image`) or the window's (`box`). (Growing after the dilation, as the
    published code does, can make the "dilated" window the smaller one: see `released_windows`.)
    """
    height, width = size
    left, top, right, bottom = box.tolist()
    across, down = _grown((left, right), width, side), _grown((top, bottom), height, side)
    shares = (width, height) if mode == "image" else (across[1] - across[0], down[1] - down[0])
    wider, taller = _dilated(across, width, dilation * shares[0]), _dilated(down, height, dilation * shares[1])
    return whole_pixels(across, down), whole_pixels(wider, taller)


def _grown(span: Span, limit: int, side: int) -> Span:
    """Return the span in 0..limit, grown around its centre to `side` pixels, or to the limit, and shifted inside."""
    start, end = max(span[0], 0.0), min(span[1], float(limit))
    wanted = min(side, limit)
    if end - start >= wanted:
        return start, end
    low = min(max((start + end - wanted) / 2, 0.0), float(limit - wanted))
    return low, low + wanted


def _dilated(span: Span, limit: int, growth: float) -> Span:
    """Return the span longer by `growth`, one half on each side, cut off at 0 and limit."""
    return max(span[0] - growth / 2, 0.0), min(span[1] + growth / 2, float(limit))


def released_windows(box: Float[np.ndarray, "4"], size: Size, *, side: int, dilation: float) -> tuple[Window, Window]:
    """Return the two windows as the authors' code computes them, which may leave the photo (their code pads it black).

    The dilation is a share of each coordinate and comes first; then each short side grows by half of `side` both ways,
    or, at a border, to `side`. (datasets/openimages_dataset_bing.py of their repository.)
    """
    plain = tuple(float(int(edge)) for edge in box)
    near, far = plain[:2], plain[2:]
    dilated = (*(edge - int(edge * dilation) for edge in near), *(edge + int(edge * dilation) for edge in far))
    object_window, dilated_window = (
        whole_pixels(_grown_as_released((left, right), size[1], side), _grown_as_released((top, bottom), size[0], side))
        for left, top, right, bottom in (plain, dilated)
    )
    return object_window, dilated_window


def _grown_as_released(span: Span, limit: int, side: int) -> Span:
    start, end = span
    if end - start >= side:
        return span
    if start - side / 2 > 0:
        start -= side / 2
    else:
        start, end = 0.0, float(side)
    return (start, end + side / 2) if end + side / 2 < limit else (end - side, end)


def inside(window: Window, size: Size) -> Window:
    """Return the part of a window that lies in the photo."""
    left, top, right, bottom = window
    return max(left, 0), max(top, 0), min(right, size[1]), min(bottom, size[0])


def whole_pixels(across: Span, down: Span) -> Window:
    """Return the box with every edge at the nearest pixel border, halves to the right and down.

    One rule for all edges: a box in another stays in it, and a side of whole pixels keeps its length.
    """
    left, right, top, bottom = (math.floor(edge + 0.5) for edge in (*across, *down))
    return left, top, right, bottom


def shifted_window(
    window: Window, size: Size, *, distance: tuple[float, float], tries: int, generator: np.random.Generator
) -> Window | None:
    """Return the window moved by a random length, uniform in `distance` pixels, in a random direction.

    The first of `tries` moves that stays in the photo; None where none does. Draws all lengths, then all angles.
    """
    lengths, angles = generator.uniform(*distance, tries), generator.uniform(0, 2 * math.pi, tries)
    across, down = np.rint(lengths * np.cos(angles)), np.rint(lengths * np.sin(angles))
    left, top, right, bottom = window
    fits = (left + across >= 0) & (right + across <= size[1]) & (top + down >= 0) & (bottom + down <= size[0])
    if not fits.any():
        return None
    x, y = int(across[fits.argmax()]), int(down[fits.argmax()])
    return left + x, top + y, right + x, bottom + y


def is_small(slot: Slot) -> bool:
    """Return whether the slot's views are small crops, which never show the whole of what they are cut from (SwAV)."""
    return area_range(slot)[1] < 1


def object_range(slot: Slot, *, mean_area: float | None, smallest: float | None) -> Range:
    """Return the share of an object's window that a view of the slot covers.

    A proposal is a part of the photo already, so a scene crop's shares are divided by `mean_area`, the mean share of
    its photo that a proposal covers, and capped at 1 (section on BING sizes: 0.2 / mean). `smallest` replaces the lower
    bound of views that are not small crops.
    """
    low, high = (min(1.0, bound / (mean_area or 1.0)) for bound in area_range(slot))
    return (low, high) if smallest is None or is_small(slot) else (smallest, high)


def raised_range(slot: Slot, *, smallest: float | None) -> Range:
    """Return the slot's area range with a lower bound of at least `smallest`; small crops keep theirs."""
    low, high = area_range(slot)
    return (low, high) if smallest is None or is_small(slot) else (max(low, smallest), high)
