"""The interface of every source: an index of images that yields cheap records, and what is known of their labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int8, Int64

from scenewise.types import Record, Skip

Progress = Callable[[str, int, int | None], None]  # what is done, how many so far, how many in all if known
Labels = Int64[np.ndarray, " images"] | Int8[np.ndarray, "images classes"]
LabelledBoxes = tuple[Float32[np.ndarray, "boxes 4"], Int64[np.ndarray, " boxes"]]


class Source(ABC):
    """Images by number. Pickles small: workers reopen files and memory maps instead of copying the index.

    spec: the canonical name of this data, which opens it again from anywhere.
    classes: names by class number; () when there are no labels.
    multi_label: whether an image may have several classes.
    splits: the names of the (train, test) splits that evaluation uses, or None.
    notes: one sentence each on what was dropped, clipped, counted.
    fingerprint: hex digest of what the source holds, for caches.
    """

    spec: str
    classes: tuple[str, ...]
    multi_label: bool
    splits: tuple[str, str] | None
    notes: tuple[str, ...]
    fingerprint: str

    @property
    @abstractmethod
    def unreadable(self) -> tuple[Skip, ...]:
        """Images that are left out because their header cannot be read: path and reason, index -1."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def __getitem__(self, index: int) -> Record:
        """Return the record of an image, without its pixels; IndexError outside 0..len-1."""

    @abstractmethod
    def labels(self) -> Labels | None:
        """Return (N,) class numbers, or (N, C) of 1 present, 0 absent, -1 not judged, or None without labels."""


@runtime_checkable
class HasBoxes(Protocol):
    """A source that knows where the objects are."""

    def boxes(self, index: int) -> LabelledBoxes:
        """Return the (n, 4) boxes `x1, y1, x2, y2` in pixels, right and bottom exclusive, and the class of each."""
        ...


def check_index(index: int, length: int) -> int:
    """Return the index if it is one of a source of that length; IndexError (which ends an iteration) if not."""
    if not 0 <= index < length:
        raise IndexError(f"image {index} of a source of {length} images")
    return int(index)
