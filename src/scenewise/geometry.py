"""Boxes as numbers: overlap, dilation, growth and the filter for object proposals.

A box is `x1, y1, x2, y2` in pixels, origin top left, right and bottom exclusive. An image size is (height, width).
Half precision is lifted to float32; float64 stays float64.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import nms

from scenewise.types import Size


def _lift(boxes: Tensor) -> Tensor:
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def _limits(boxes: Tensor, size: Size) -> Tensor:
    height, width = size
    return boxes.new_tensor([width, height, width, height])


def clip(boxes: Float[Tensor, "*batch 4"], size: Size) -> Float[Tensor, "*batch 4"]:
    """Return the part of each box that lies inside the image; a box outside becomes empty, at the border."""
    boxes = _lift(boxes)
    return torch.minimum(boxes.clamp(min=0), _limits(boxes, size))


def area(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Return the area of each box in square pixels, 0 for a reversed one."""
    boxes = _lift(boxes)
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def intersection(a: Float[Tensor, "*#batch 4"], b: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*_ 4"]:
    """Return the common part of each pair of boxes (broadcast); of boxes that lie apart, a reversed one of area 0."""
    a, b = _lift(a), _lift(b)
    return torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1)


def iou(a: Float[Tensor, "N 4"], b: Float[Tensor, "M 4"]) -> Float[Tensor, "N M"]:
    """Return the intersection over union of every box of `a` with every box of `b`, 0..1; 0 where both are empty."""
    a, b = _lift(a), _lift(b)
    common = area(intersection(a[:, None], b[None, :]))  # (N, 1, 4), (1, M, 4) -> (N, M)
    union = area(a)[:, None] + area(b)[None, :] - common
    return torch.where(union > 0, common / union.clamp(min=torch.finfo(union.dtype).tiny), torch.zeros_like(union))


def dilate(
    boxes: Float[Tensor, "*batch 4"], size: Size, *, fraction: float | int, mode: str = "image"
) -> Float[Tensor, "*batch 4"]:
    """Return the boxes with each pair of opposite edges moved outwards by `fraction` in total, clipped to the image.

    The fraction (>= 0) is of the image's side (`mode="image"`) or of the box's own side (`mode="box"`). A box inside
    the image lies inside its dilation. Object-aware cropping's second window (Mishra et al. 2022, arXiv 2112.00319).
    """
    boxes = _lift(boxes)
    if fraction < 0:
        raise ValueError(f"fraction: {fraction} is negative; dilation needs a share >= 0")
    if mode == "image":
        height, width = size
        sides = boxes.new_tensor([width, height])
    elif mode == "box":
        sides = boxes[..., 2:] - boxes[..., :2]
    else:
        raise ValueError(f"mode: unknown name {mode!r}. Known: box, image")
    margin = sides * (fraction / 2)
    return clip(torch.cat([boxes[..., :2] - margin, boxes[..., 2:] + margin], dim=-1), size)


def grow(boxes: Float[Tensor, "*batch 4"], size: Size, *, minimum: float | int) -> Float[Tensor, "*batch 4"]:
    """Return the boxes with each side shorter than `minimum` pixels grown to it.

    A side grows around its centre, is shifted inside the image and never exceeds the image's side; a side that is long
    enough is left as it is. Boxes are clipped to the image first.
    """
    boxes = clip(boxes, size)
    limits = _limits(boxes, size)[:2]
    start, end = boxes[..., :2], boxes[..., 2:]
    wanted = limits.clamp(max=minimum)
    low = torch.minimum(((start + end) / 2 - wanted / 2).clamp(min=0), limits - wanted)
    short = end - start < wanted
    return torch.cat([torch.where(short, low, start), torch.where(short, low + wanted, end)], dim=-1)


def filter_proposals(
    boxes: Float[Tensor, "N 4"],
    size: Size,
    *,
    min_side: float | int = 32,
    max_aspect: float | int = 4.0,
    limit: int | None = 10,
    nms_iou: float | int | None = None,
) -> Int[Tensor, " kept"]:
    """Return the indices of the proposals worth cropping, in their order, `limit` at most (None: all).

    Dropped: boxes with a number that is not finite, reversed or empty ones, those whose shorter side is under
    `min_side` pixels or whose longer side exceeds `max_aspect` times the shorter (both after clipping, both limits
    kept), and, with `nms_iou`, those that overlap a kept one by more. Origin of the defaults: ten boxes an image as in
    object-aware cropping (arXiv 2112.00319, its loaders); 32 px and 4 are ours, the paper names no filter.
    """
    boxes = _lift(boxes)
    finite = torch.isfinite(boxes).all(dim=-1)
    ordered = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    inside = clip(boxes, size)
    sides = inside[:, 2:] - inside[:, :2]
    short, long = sides.amin(dim=-1), sides.amax(dim=-1)
    good = finite & ordered & (short > 0) & (short >= min_side) & (long <= max_aspect * short)
    candidates = good.nonzero().squeeze(-1)
    if nms_iou is not None:
        candidates = candidates[suppress(inside[candidates], max_iou=nms_iou, limit=limit)]
    return candidates if limit is None else candidates[:limit]


def suppress(boxes: Float[Tensor, "N 4"], *, max_iou: float | int, limit: int | None = None) -> Int[Tensor, " kept"]:
    """Return, in order, the indices of the boxes whose IoU with every box kept before is at most `max_iou`.

    `limit` at most (None: all). Boxes are finite and not empty. The IoU is compared in the boxes' own precision.
    """
    boxes = _lift(boxes)
    ranks = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    threshold = float(boxes.new_tensor(max_iou))  # nms itself would compare with the float64 number
    wanted = len(boxes) if limit is None else limit
    first = max(2 * wanted, 1)  # what is kept of the first boxes does not depend on the others: often that is enough
    kept: Tensor = nms(boxes[:first], ranks[:first], threshold)
    while len(kept) < wanted and first < len(boxes):
        first *= 2
        kept = nms(boxes[:first], ranks[:first], threshold)
    return kept[:wanted]
