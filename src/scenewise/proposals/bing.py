"""BING proposals (Cheng et al., CVPR 2014) through OpenCV, with model files from the user.

Binarised normed gradients: an 8 x 8 linear filter over gradients at quantised window sizes. Object-aware cropping cuts
by them (arXiv 2112.00319). The published model was trained on the boxes of VOC 2007, of any class: where VOC is the
downstream task, that is a mild leak of labels; selective search uses none.
"""

from __future__ import annotations

import contextlib
import ctypes
import gzip
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from jaxtyping import UInt8

from scenewise.errors import UserError
from scenewise.proposals.base import Proposals

_SPACES = ("MAXBGR", "HSV", "I")  # the colour spaces whose boxes OpenCV's wrapper joins
_PARTS = ("wS1", "idx", "wS2")  # filter (8, 8); window sizes (S, 1); weight and bias of each size (S, 2)
FILES = tuple(f"ObjNessB2W8{space}.{part}.yml.gz" for space in _SPACES for part in _PARTS)
_LIBC = ctypes.CDLL(None) if os.name == "posix" else None  # its buffer holds what OpenCV printed


@dataclass(frozen=True)
class Bing:
    """Windows by OpenCV's `ObjectnessBING`, about 6,000 to 11,000 an image. UserError for a folder without its model.

    model: the folder of `FILES`, as they lie in opencv_contrib (modules/saliency/samples/ObjectnessTrainedModel).
    """

    model: Path
    name: ClassVar[str] = "bing"

    def __post_init__(self) -> None:
        missing = [name for name in FILES if not (self.model / name).is_file()]
        if missing:
            raise UserError(
                f"bing_model: {str(self.model)!r} lacks {', '.join(missing)}; wanted is the folder of the trained "
                "model of opencv_contrib (modules/saliency/samples/ObjectnessTrainedModel)"
            )
        for space in _SPACES:
            _check_model(self.model, f"ObjNessB2W8{space}")

    @property
    def settings(self) -> Mapping[str, object]:
        """OpenCV's version and a digest of the model's content."""
        content = hashlib.blake2b(digest_size=8)
        for name in FILES:
            content.update(gzip.decompress((self.model / name).read_bytes()))
        return {"opencv": cv2.__version__, "model": content.hexdigest()}

    def __call__(self, pixels: UInt8[np.ndarray, "H W 3"], chance: np.random.Generator) -> Proposals:
        """Return the windows of an image; nothing is drawn. Standard output is closed meanwhile, for all threads.

        The scores are minus the ranks that OpenCV returns as values: the rank within a colour space times 1, 3 or 5.
        """
        del chance
        with tempfile.TemporaryDirectory(prefix="scenewise-bing-") as folder, _silence():
            search = cv2.saliency.ObjectnessBING.create()
            search.setTrainingPath(str(self.model))
            search.setBBResDir(folder)  # it writes its boxes there, unasked
            _, found = search.computeSaliency(np.ascontiguousarray(pixels[..., ::-1]))
        if found is None:  # a side under 8 pixels: no window fits
            return Proposals(np.empty((0, 4), np.int32), np.empty(0, np.float32))
        ranks = np.asarray(search.getobjectnessValues(), dtype=np.float32)
        boxes = np.asarray(found, dtype=np.int32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.int32)  # counted from 1
        order = np.argsort(ranks, kind="stable")  # OpenCV leaves the three colour spaces one behind the other
        return Proposals(boxes[order], -ranks[order])


def _check_model(folder: Path, stem: str) -> None:
    """Raise UserError unless the matrices of one colour space fit together: OpenCV reads beyond them if they do not."""
    shapes = []
    for part in _PARTS:
        file = folder / f"{stem}.{part}.yml.gz"
        try:
            opened = cv2.FileStorage(str(file), cv2.FILE_STORAGE_READ)
            matrix = opened.getNode(stem).mat()  # a view of what is opened
        except (cv2.error, SystemError) as error:
            raise UserError(f"bing_model: {file} is damaged: OpenCV cannot read it") from error
        shapes.append(None if matrix is None else matrix.shape)
    sizes = None if shapes[1] is None else shapes[1][0]
    if sizes is None or shapes != [(8, 8), (sizes, 1), (sizes, 2)]:
        raise UserError(f"bing_model: {folder / stem}.*.yml.gz hold no BING model: matrices of {shapes}")


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Send what this process prints to nowhere, below Python too: OpenCV reports its time on every image."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        if _LIBC is not None:
            _LIBC.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
