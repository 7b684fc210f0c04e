"""Which detections of an image find which of its objects, by COCO's rule and by VOC's.

COCO's rule: `COCOeval.evaluateImg` of pycocotools, Lin et al. 2014 (arXiv 1405.0312). VOC's rule: the development kit
of the challenge (`VOCevaldet.m`), as detectron2's `pascal_voc_evaluation.py` has it, without its "+ 1" since our boxes
are exclusive at the right and at the bottom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from faster_coco_eval.core import mask as run_lengths
from jaxtyping import Bool, Float, Float64, Int64, UInt8

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of the overlap: COCO
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}  # COCO
MOST = 100  # detections of a class in an image that count: COCO
VOC_THRESHOLD = 0.5  # exceeded by the overlap: VOC

Mask = dict[str, object]  # run lengths of one mask: {"size": [height, width], "counts": bytes}
Shape = Literal["box", "mask"]


@dataclass(frozen=True, slots=True)
class Objects:
    """The labelled objects of an image.

    boxes: (G, 4) `x1, y1, x2, y2`. classes: (G,). ignored: (G,) neither rewarded nor punished. areas: (G,) pixels, what
    makes an object small, medium or large. masks: of each object, or ().
    """

    boxes: Float64[np.ndarray, "objects 4"]
    classes: Int64[np.ndarray, " objects"]
    ignored: Bool[np.ndarray, " objects"]
    areas: Float64[np.ndarray, " objects"]
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector says of an image: boxes (D, 4) in pixels of the photo, classes (D,), scores (D,), masks or ()."""

    boxes: Float64[np.ndarray, "detections 4"]
    classes: Int64[np.ndarray, " detections"]
    scores: Float64[np.ndarray, " detections"]
    masks: tuple[Mask, ...] = ()


@dataclass(frozen=True, slots=True)
class Matches:
    """What became of an image's detections, D of them, class by class, the highest score of each first.

    rank: place within the class, from 0. found: (areas, thresholds, D) whether an object was found. spared: the same,
    whether the detection does not count: it found an ignored object, or found none and has another area. found_voc,
    spared_voc: (D,) by VOC's rule. counts: (areas, classes) objects to be found, which are not ignored.
    """

    classes: Int64[np.ndarray, " detections"]
    scores: Float64[np.ndarray, " detections"]
    rank: Int64[np.ndarray, " detections"]
    found: Bool[np.ndarray, "areas thresholds detections"]
    spared: Bool[np.ndarray, "areas thresholds detections"]
    found_voc: Bool[np.ndarray, " detections"]
    spared_voc: Bool[np.ndarray, " detections"]
    counts: Int64[np.ndarray, "areas classes"]


def encode(masks: Bool[np.ndarray, "objects height width"] | UInt8[np.ndarray, "objects height width"]) -> list[Mask]:
    """Return the run lengths of masks."""
    columns = np.asfortranarray(np.moveaxis(masks, 0, -1).astype(np.uint8))
    encoded: list[Mask] = run_lengths.encode(columns) if len(masks) else []
    return encoded


def mask_areas(masks: Sequence[Mask]) -> Float64[np.ndarray, " masks"]:
    """Return the number of pixels of each mask."""
    return np.asarray(run_lengths.area(list(masks)) if masks else [], dtype=np.float64)


def box_areas(boxes: Float64[np.ndarray, "boxes 4"]) -> Float64[np.ndarray, " boxes"]:
    """Return the area of each box in pixels."""
    sides = boxes[:, 2:] - boxes[:, :2]
    area: np.ndarray = sides[:, 0] * sides[:, 1]
    return area


def match_image(objects: Objects, detections: Detections, *, classes: int, shape: Shape = "box") -> Matches:
    """Return which detections of one image find which objects; shape: by the overlap of the boxes or of the masks."""
    outside = _outside(objects.areas)  # (areas, G)
    areas = box_areas(detections.boxes) if shape == "box" else mask_areas(detections.masks)
    other = _outside(areas)  # (areas, D)
    parts, order, ranks = [], [], []
    for number in np.unique(detections.classes):
        mine = np.flatnonzero(detections.classes == number)
        mine = mine[np.argsort(-detections.scores[mine], kind="stable")][:MOST]
        theirs = np.flatnonzero(objects.classes == number)
        crowd = objects.ignored[theirs]
        found, spared = match_coco(
            _overlaps(objects, detections, theirs, mine, crowd, shape), crowd, crowd | outside[:, theirs]
        )
        spared |= ~found & other[:, None, mine]
        plain = _overlaps(objects, detections, theirs, mine, np.zeros_like(crowd), "box")
        parts.append((found, spared, *match_voc(plain, crowd)))
        order.append(mine)
        ranks.append(np.arange(len(mine)))
    rows = np.concatenate(order) if order else np.zeros(0, np.int64)
    empty = np.zeros((len(AREAS), len(THRESHOLDS), 0), bool)
    joined = (
        [np.concatenate(each, axis=-1) for each in zip(*parts, strict=True)]
        if parts
        else [empty, empty] + ([empty[0, 0]] * 2)
    )
    return Matches(
        classes=detections.classes[rows],
        scores=detections.scores[rows],
        rank=np.concatenate(ranks) if ranks else rows,
        found=joined[0],
        spared=joined[1],
        found_voc=joined[2],
        spared_voc=joined[3],
        counts=_counts(objects, outside, classes),
    )


def match_coco(
    overlaps: Float[np.ndarray, "detections objects"],
    crowd: Bool[np.ndarray, " objects"],
    ignored: Bool[np.ndarray, "areas objects"],
) -> tuple[Bool[np.ndarray, "areas thresholds detections"], Bool[np.ndarray, "areas thresholds detections"]]:
    """Return which detections, best first, find an object, and which of them find an ignored one.

    Each takes the free object it overlaps most (the last of equals), one to be found before an ignored one. A crowd
    stays free.
    """
    found = np.zeros((len(ignored), len(THRESHOLDS), len(overlaps)), bool)
    spared = np.zeros_like(found)
    taken = np.zeros((len(ignored), len(THRESHOLDS), len(crowd)), bool)
    if not len(crowd):
        return found, spared
    last = len(crowd) - 1
    for place in np.flatnonzero(overlaps.max(axis=1) >= THRESHOLDS[0]):
        overlap = overlaps[place]
        free = (overlap >= THRESHOLDS[:, None]) & (~taken | crowd)  # (areas, thresholds, G)
        wanted = free & ~ignored[:, None]
        usable = np.where(wanted.any(axis=-1, keepdims=True), wanted, free)
        best = last - np.where(usable, overlap, -1.0)[..., ::-1].argmax(axis=-1)[..., None]  # (areas, thresholds, 1)
        hit = usable.any(axis=-1, keepdims=True)
        now = np.take_along_axis(taken, best, axis=-1) | hit
        np.put_along_axis(taken, best, now, axis=-1)
        found[..., place] = hit[..., 0]
        spared[..., place] = (hit & np.take_along_axis(ignored[:, None], best, axis=-1))[..., 0]
    return found, spared


def match_voc(
    overlaps: Float[np.ndarray, "detections objects"], ignored: Bool[np.ndarray, " objects"]
) -> tuple[Bool[np.ndarray, " detections"], Bool[np.ndarray, " detections"]]:
    """Return which detections, best first, find an object, and which do not count because theirs is ignored.

    A detection belongs to the object it overlaps most, the first of equals; a second one of the same object is wrong.
    """
    found, spared = np.zeros(len(overlaps), bool), np.zeros(len(overlaps), bool)
    if not len(ignored):
        return found, spared
    best, taken = overlaps.argmax(axis=1), np.zeros(len(ignored), bool)
    for place in np.flatnonzero(overlaps.max(axis=1) > VOC_THRESHOLD):
        own = best[place]
        spared[place] = ignored[own]
        found[place] = not ignored[own] and not taken[own]
        taken[own] = True
    return found, spared


def _outside(areas: Float64[np.ndarray, " shapes"]) -> Bool[np.ndarray, "areas shapes"]:
    """Return for each range of areas which shapes are not in it."""
    return np.stack([(areas < least) | (areas > most) for least, most in AREAS.values()])


def _overlaps(
    objects: Objects,
    detections: Detections,
    theirs: Int64[np.ndarray, " objects"],
    mine: Int64[np.ndarray, " detections"],
    crowd: Bool[np.ndarray, " objects"],
    shape: Shape,
) -> Float64[np.ndarray, "detections objects"]:
    """Return intersection over union; over the detection's own area where the object is a crowd."""
    if not len(theirs):
        return np.zeros((len(mine), 0))
    crowds = crowd.astype(int).tolist()
    if shape == "mask":
        found, wanted = [detections.masks[place] for place in mine], [objects.masks[place] for place in theirs]
        return np.asarray(run_lengths.iou(found, wanted, crowds), np.float64)
    return np.asarray(
        run_lengths.iou(_sides(detections.boxes[mine]), _sides(objects.boxes[theirs]), crowds), np.float64
    )


def _sides(boxes: Float64[np.ndarray, "boxes 4"]) -> Float64[np.ndarray, "boxes 4"]:
    """Return boxes as `x, y, width, height`, as COCO's files have them."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _counts(
    objects: Objects, outside: Bool[np.ndarray, "areas objects"], classes: int
) -> Int64[np.ndarray, "areas classes"]:
    counted = ~objects.ignored & ~outside
    return np.stack([np.bincount(objects.classes[row], minlength=classes) for row in counted]).astype(np.int64)
