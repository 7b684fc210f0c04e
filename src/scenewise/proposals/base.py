"""The interface of every proposal generator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32, UInt8


class Proposals(NamedTuple):
    """The boxes of one image: (N, 4) `x1, y1, x2, y2` in pixels, best first; their scores, where there are any.

    Scores fall along the list. They rank the boxes of one image and are not comparable between images.
    """

    boxes: Int32[np.ndarray, "N 4"]
    scores: Float32[np.ndarray, " N"] | None


@runtime_checkable
class Generator(Protocol):
    """Makes the proposals of an image. Pickles small: what is heavy is made where it is first called."""

    @property
    def name(self) -> str:
        """The name that chooses it."""
        ...

    @property
    def settings(self) -> Mapping[str, object]:
        """All that its boxes depend on besides the pixels and the chance: parameters and versions, ready for JSON."""
        ...

    def __call__(self, pixels: UInt8[np.ndarray, "H W 3"], chance: np.random.Generator) -> Proposals:
        """Return the proposals of an upright RGB image. The same pixels and state of `chance` give the same boxes."""
        ...
