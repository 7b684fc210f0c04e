"""Regular windows, from the whole photo to small ones: what boxes reach that do not look at the pixels."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import UInt8

from scenewise.proposals.base import Proposals

SIDES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18)  # of the photo's sides: steps of about 1 / sqrt 2, ours
MAX_ASPECT = 2.1  # of a window in shares: it may be one side of the list longer than wide, or two (ours)
STEP = 0.5  # between neighbours, in sides of the window; evenly spread, so a little less (ours)


@dataclass(frozen=True)
class Grid:
    """Windows of every pair of sides whose aspect is not extreme, half overlapping, largest first."""

    name: ClassVar[str] = "grid"

    @property
    def settings(self) -> Mapping[str, object]:
        """The sides, aspects and steps."""
        return {"sides": list(SIDES), "max_aspect": MAX_ASPECT, "step": STEP}

    def __call__(self, pixels: UInt8[np.ndarray, "H W 3"], chance: np.random.Generator) -> Proposals:
        """Return the windows of an image, which depend on its size alone; nothing is drawn."""
        del chance
        height, width = pixels.shape[:2]
        shares = [
            (left, top, left + wide, top + high)
            for wide, high in sorted(itertools.product(SIDES, SIDES), key=lambda sides: -sides[0] * sides[1])
            if max(wide, high) <= MAX_ASPECT * min(wide, high)
            for top in _starts(high)
            for left in _starts(wide)
        ]
        boxes = np.rint(np.array(shares) * [width, height, width, height]).astype(np.int32)
        return Proposals(boxes, None)


def _starts(side: float) -> list[float]:
    """Return where windows of a side (share of the photo's) begin: evenly spread, `STEP` sides apart at most."""
    count = int(np.ceil((1 - side) / (STEP * side))) + 1
    return [float(start) for start in np.linspace(0, 1 - side, count)]
