"""What loading a batch takes, stage by stage: figures for advice, never for anything that is trained."""

from __future__ import annotations

import time
from typing import final

import numpy as np

from scenewise.types import Effort, Size


@final
class Meter:
    """Counts from its making on; what is neither reading nor decoding is the rest."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._images, self._read, self._decode, self._pixels = 0, 0.0, 0.0, 0.0

    def add(self, data: bytes | np.ndarray, size: Size, *, read: float, decode: float) -> None:
        """Count an image of that size and the seconds its `data` took; where they are no file, it was not read."""
        self._images += 1
        self._read += 0.0 if isinstance(data, np.ndarray) else read
        self._decode += decode
        self._pixels += float(size[0] * size[1])

    def effort(self) -> Effort:
        """Return what has been counted until now."""
        whole = time.perf_counter() - self._began
        rest = max(0.0, whole - self._read - self._decode)
        return Effort(self._images, self._read, self._decode, rest, self._pixels)
