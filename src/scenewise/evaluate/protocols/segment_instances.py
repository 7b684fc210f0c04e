"""Instance segmentation: Mask R-CNN on the backbone, all layers trained, judged by COCO's figures."""

from __future__ import annotations

from scenewise.evaluate import detection
from scenewise.evaluate.detection_training import Config
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.task import Outcome

TITLE = "segment-instances"


def run(exam: Exam, config: Config) -> Outcome:
    """Return the figures of `detect` for the boxes, and COCO's for the masks with "mask/" in front.

    An object is small, medium or large by the area of its mask in pixels of the photo, also in the figures of the
    boxes, as with COCO's own files.
    """
    return detection.evaluate_detector(exam, config, title=TITLE, masks=True)


def check(exam: Exam, config: Config) -> None:
    """Raise UserError for a size, objects or a backbone that do not fit."""
    detection.check(exam, config, title=TITLE, needs="masks")


PROTOCOL = Protocol(
    "objects by their pixels: Mask R-CNN on the backbone, every layer trained", Config, run, needs="masks", check=check
)
