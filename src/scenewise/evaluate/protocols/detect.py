"""Object detection: Faster R-CNN on the backbone, all layers trained, judged by COCO's figures and VOC's AP50."""

from __future__ import annotations

from scenewise.evaluate import detection
from scenewise.evaluate.detection_training import Config
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.task import Outcome

TITLE = "detect"


def run(exam: Exam, config: Config) -> Outcome:
    """Return AP, AP50, AP75, APs, APm, APl, AR1 to ARl, "AP/NAME" of every class, "AP50/voc" and "AP50/11point".

    An object is small, medium or large by the area of its box in pixels of the photo (COCO's own files give that of its
    mask, which makes some objects smaller).
    """
    return detection.evaluate_detector(exam, config, title=TITLE, masks=False)


def check(exam: Exam, config: Config) -> None:
    """Raise UserError for a size, objects or a backbone that do not fit."""
    detection.check(exam, config, title=TITLE, needs="boxes")


PROTOCOL = Protocol(
    "objects in boxes: Faster R-CNN on the backbone, every layer trained", Config, run, needs="boxes", check=check
)
