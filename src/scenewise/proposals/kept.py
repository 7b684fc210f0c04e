"""What is kept of a generator's boxes: whole pixels inside the image, none twice, best first, so many at most."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32

from scenewise import geometry
from scenewise.types import Size

LIMIT = 1000
MAX_IOU = 0.9


def keep(
    boxes: Int[np.ndarray, "N 4"] | Float[np.ndarray, "N 4"],
    scores: Float32[np.ndarray, " N"] | None,
    size: Size,
    *,
    limit: int = LIMIT,
    max_iou: float = MAX_IOU,
) -> tuple[Int32[np.ndarray, "K 4"], Float32[np.ndarray, " K"] | None]:
    """Return the boxes worth storing, in their order (best first), `limit` at most, and their scores.

    boxes: `x1, y1, x2, y2` in pixels; clipped to the image, then rounded to whole pixels (halves to even).
    Dropped: boxes with a number that is not finite, reversed or empty ones (before or after), and those that overlap
    a kept one by an IoU over `max_iou`. Exact: the IoU of whole boxes is compared in float64, in one thread. Origin of
    the defaults: ours; 0.9 takes near copies only, so that a filter at reading (0.5 in UniVIP) still has its choice.
    """
    whole, good = _whole(boxes, size)
    candidates = good.nonzero()[0]
    inside = torch.from_numpy(whole[candidates])
    chosen = candidates[geometry.suppress(inside, max_iou=max_iou, limit=limit).numpy()]
    return whole[chosen].astype(np.int32), None if scores is None else scores[chosen]


def _whole(
    boxes: Int[np.ndarray, "N 4"] | Float[np.ndarray, "N 4"], size: Size
) -> tuple[Float[np.ndarray, "N 4"], np.ndarray]:
    """Return the boxes in whole pixels inside the image, float64, and (N,) bool: which of them are boxes at all."""
    height, width = size
    exact = boxes.astype(np.float64)
    good = np.isfinite(exact).all(axis=1) & (exact[:, 0] < exact[:, 2]) & (exact[:, 1] < exact[:, 3])
    whole = np.rint(np.clip(np.where(good[:, None], exact, 0), 0, [width, height, width, height]))
    return whole, good & (whole[:, 0] < whole[:, 2]) & (whole[:, 1] < whole[:, 3])
