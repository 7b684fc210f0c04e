"""Random boxes: the control that tells what proposals are worth (papers on object-aware crops leave it out)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float64, UInt8

from scenewise.errors import UserError
from scenewise.proposals.base import Proposals
from scenewise.proposals.store import Store, read_header

FIELD = "--like"  # what names the file, in errors
# Without a file to follow. All ours: areas from a small object to nearly the photo, the aspects of most objects.
COUNT = 100
AREAS = (0.05, 0.8)  # share of the photo, log-uniform
ASPECTS = (0.5, 2.0)  # width over height in pixels, log-uniform


@dataclass(frozen=True)
class RandomBoxes:
    """Boxes of drawn sizes at uniform places inside the image.

    like: a proposal file. An image gets the relative sizes (width and height as shares of the photo's) of all boxes of
    one image of that file, drawn uniformly among those that have boxes, in their order: so the number of boxes and the
    sizes of the first ten, or hundred, are distributed as the file's. None: `COUNT` boxes of `AREAS` and `ASPECTS`.
    """

    name: ClassVar[str] = "random"
    like: Path | None = None

    def __post_init__(self) -> None:
        if self.like is not None:
            header = read_header(self.like, field=FIELD)
            if header.images_without_boxes == header.origin.images:
                raise UserError(f"{FIELD}: {self.like} has no boxes to take sizes from; name a file that has")
            Store(self.like, field=FIELD).check()

    @property
    def settings(self) -> Mapping[str, object]:
        """The file's origin, on which all its boxes depend, or the ranges drawn from."""
        if self.like is None:
            return {"count": COUNT, "areas": list(AREAS), "aspects": list(ASPECTS)}
        return {"like": dataclasses.asdict(read_header(self.like, field=FIELD).origin)}

    def __call__(self, pixels: UInt8[np.ndarray, "H W 3"], chance: np.random.Generator) -> Proposals:
        """Return the boxes of an image, which depend on its size alone. Draws the sizes first, then the places."""
        height, width = pixels.shape[:2]
        shares = _drawn_shares(height / width, chance) if self.like is None else self._file_shares(chance)
        limits = np.array([width, height])
        sides = np.clip(np.rint(shares * limits), 1, limits).astype(np.int64)
        corners = chance.integers(0, limits - sides, endpoint=True)
        return Proposals(np.concatenate([corners, corners + sides], axis=1).astype(np.int32), None)

    def _file_shares(self, chance: np.random.Generator) -> Float64[np.ndarray, "N 2"]:
        """Return the (width, height) of the boxes of one image of the file, as shares of that image's."""
        while True:  # ends: __post_init__ saw that some image has boxes
            row = self._store[int(chance.integers(len(self._store)))]
            if len(row.boxes):
                height, width = row.size
                return np.asarray((row.boxes[:, 2:] - row.boxes[:, :2]) / np.array([width, height]))

    @cached_property
    def _store(self) -> Store:
        assert self.like is not None
        return Store(self.like, field=FIELD)


def _drawn_shares(height_over_width: float, chance: np.random.Generator) -> Float64[np.ndarray, "N 2"]:
    """Return the (width, height) of `COUNT` boxes as shares of the photo's; a side longer than the photo is cut."""
    area = _log_uniform(AREAS, chance)
    aspect = _log_uniform(ASPECTS, chance) * height_over_width  # in shares of the photo's sides
    return np.asarray(np.minimum(np.stack([np.sqrt(area * aspect), np.sqrt(area / aspect)], axis=1), 1.0))


def _log_uniform(limits: tuple[float, float], chance: np.random.Generator) -> Float64[np.ndarray, " N"]:
    return np.exp(chance.uniform(math.log(limits[0]), math.log(limits[1]), COUNT))
