"""Where the objects of an audited photo are: its labels, a second file of proposals, or what stands out in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float32

from scenewise.engine.proposed import LABELLED, LABELS, Proposed, StoredProposals, open_proposals
from scenewise.errors import UserError
from scenewise.geometry import filter_proposals
from scenewise.sources import Source
from scenewise.sources.base import HasBoxes
from scenewise.types import Image, Size
from scenewise.views.decode import Decoded

SALIENCY = "saliency"
JUDGE = "--judge"  # what names the file, in errors
# Spectral residual saliency (Hou and Zhang, CVPR 2007), whose map is 64 pixels wide. Blur and threshold (the paper's is
# 3 means) are ours, chosen on 150 photos of VOC trainval and 128 of COCO train: there the share of random crop pairs
# with an object in common is 0.94 and 0.91 by these regions, 0.93 and 0.92 by the labels.
MAP_SIDE = 64
BLUR = 1.5  # pixels of the map
THRESHOLD = 1.5  # times the map's mean
LEAST_AREA = 0.01  # share of the photo: smaller regions are specks
# Of a file of proposals the best five stand for the objects: measured on the same photos (selective search), share of
# pairs 0.95 and 0.91 by five, 0.99 and 0.98 by ten.
BEST = 5
MAX_IOU = 0.5  # two boxes that overlap by more are one object (UniVIP's filter, papers' 3.1)


@dataclass(frozen=True, slots=True)
class Judge:
    """Says where the objects of a photo are.

    name: what the audit's `objects_from` says. generator: what made the boxes, to tell whether it made the crops too.
    boxes: (index, size, decoded photo) -> (n, 4) float32 `x1, y1, x2, y2` in pixels of the full-size upright photo.
    """

    name: str
    generator: str
    boxes: Callable[[int, Size, Decoded], np.ndarray]


def choose_judge(asked: str | None, source: Source) -> tuple[Judge, list[str]]:
    """Return who says where the objects are, and what to say of it.

    asked: `labels`, a file of `scenewise propose`, `saliency`, or None: labels where the source has them, else
    saliency, which no generator of `scenewise propose` uses, so that crops are never judged by the boxes that made
    them. Raises UserError where the labels or the file do not fit the source.
    """
    if isinstance(source, HasBoxes) and asked in (None, LABELS):
        return Judge(LABELS, LABELS, Labelled(source)), []
    if asked == LABELS:
        raise UserError(f"{JUDGE}: {source.spec} has no labelled boxes; name a file of proposals, or {SALIENCY}")
    if asked in (None, SALIENCY):
        said = (
            "objects are regions that stand out (spectral residual saliency), found on the fly: an estimate of where "
            "objects are, not of their number (photos of single objects give as many)"
        )
        return Judge("proposals made on the fly (spectral residual saliency)", SALIENCY, Salient()), [said]
    proposed = open_proposals(Path(asked), source, field=JUDGE)
    generator = generator_of(proposed)
    said = f"objects are the best {BEST} proposals of {asked} that overlap no better one by more than {MAX_IOU}"
    return Judge(f"proposals of {asked} ({generator})", generator, BestProposals(proposed)), [said]


def generator_of(proposed: Proposed) -> str:
    """Return what made the boxes: `labels`, or the generator that a file names."""
    if not isinstance(proposed, StoredProposals) or proposed.header.origin.generator == LABELLED:
        return LABELS
    return proposed.header.origin.generator


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labelled boxes of an image."""

    source: HasBoxes

    def __call__(self, index: int, size: Size, decoded: Decoded) -> Float32[np.ndarray, "objects 4"]:
        """Return all of them."""
        del size, decoded
        return self.source.boxes(index)[0]


@dataclass(frozen=True, slots=True)
class BestProposals:
    """The best few proposals of an image."""

    proposed: Proposed

    def __call__(self, index: int, size: Size, decoded: Decoded) -> Float32[np.ndarray, "objects 4"]:
        """Return at most five that hardly overlap, sides of at least 32 px where the contract's filter asks for it."""
        del decoded
        boxes = self.proposed(index)
        if boxes is None:
            return np.zeros((0, 4), np.float32)
        candidates = torch.from_numpy(np.array(boxes, np.float32))
        best: np.ndarray = candidates[filter_proposals(candidates, size, limit=BEST, nms_iou=MAX_IOU)].numpy()
        return best


@dataclass(frozen=True, slots=True)
class Salient:
    """The regions of a photo that stand out."""

    def __call__(self, index: int, size: Size, decoded: Decoded) -> Float32[np.ndarray, "objects 4"]:
        """Return them in pixels of the full-size photo."""
        del index
        height, width = size
        found = (salient_boxes(decoded.pixels) - np.array(decoded.offset * 2, np.float32)) * decoded.reduction
        within: np.ndarray = np.clip(found, 0, np.array([width, height, width, height], np.float32))
        return within


def salient_boxes(pixels: Image) -> Float32[np.ndarray, "regions 4"]:
    """Return boxes around the regions of an image that stand out, `x1, y1, x2, y2` in its pixels, the largest first.

    Source: the spectral residual of the log amplitude spectrum, Hou and Zhang, CVPR 2007, equations 3 and 4; regions
    are the connected parts above a threshold.
    """
    height, width = pixels.shape[:2]
    _, saliency = cv2.saliency.StaticSaliencySpectralResidual.create().computeSaliency(pixels)
    scale = MAP_SIDE / min(height, width)
    across, down = (max(1, round(side * scale)) for side in (width, height))
    smooth = cv2.GaussianBlur(cv2.resize(saliency, (across, down), interpolation=cv2.INTER_AREA), (0, 0), BLUR)
    mask = (smooth > THRESHOLD * smooth.mean()).astype(np.uint8)
    _, _, regions, _ = cv2.connectedComponentsWithStats(mask)  # left, top, width, height, pixels; row 0 the background
    corner, extent = regions[1:, :2], regions[1:, 2:4]
    boxes = np.concatenate([corner, corner + extent], axis=1) * np.tile([width / across, height / down], 2)
    areas = (extent[:, 0] * extent[:, 1]) / (across * down)
    order = np.argsort(-areas, kind="stable")
    kept: np.ndarray = boxes[order][areas[order] >= LEAST_AREA].astype(np.float32)
    return kept
