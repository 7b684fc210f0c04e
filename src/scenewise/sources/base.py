"""The interface of every source: an index of images that yields cheap records, and what is known of their labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int8, Int64, UInt8

from scenewise.types import Record, Skip

Progress = Callable[[str, int, int | None], None]  # what is done, how many so far, how many in all if known
Labels = Int64[np.ndarray, " images"] | Int8[np.ndarray, "images classes"]
LabelledBoxes = tuple[Float32[np.ndarray, "boxes 4"], Int64[np.ndarray, " boxes"]]
NOT_JUDGED = 255  # in a class map: pixels that are neither right nor wrong


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


@runtime_checkable
class HasProposals(Protocol):
    """A source whose images may come with object proposals."""

    def packed_proposals(self) -> Path | None:
        """Return the file of the proposals (`proposals.store`), whose rows are the images; None without any."""
        ...


@dataclass(frozen=True, slots=True)
class Instances:
    """The labelled objects of an image.

    boxes: (n, 4) `x1, y1, x2, y2` in pixels, right and bottom exclusive. classes: (n,) class numbers. ignored: (n,)
    whether finding the object is neither rewarded nor punished (VOC's difficult objects, COCO's crowds). masks: (n, H,
    W) pixels of each object, or None.
    """

    boxes: Float32[np.ndarray, "objects 4"]
    classes: Int64[np.ndarray, " objects"]
    ignored: Bool[np.ndarray, " objects"]
    masks: Bool[np.ndarray, "objects height width"] | None = None


@runtime_checkable
class HasInstances(Protocol):
    """A source that knows the objects of its images, and of some perhaps their masks."""

    def with_boxes(self) -> Bool[np.ndarray, " images"]:
        """Return which images somebody has looked at for objects (they may have none)."""
        ...

    def with_masks(self) -> Bool[np.ndarray, " images"]:
        """Return which images have a mask of each of their objects."""
        ...

    def instances(self, index: int, *, masks: bool = False) -> Instances:
        """Return the objects of an image that `with_boxes`; with `masks`, of one that `with_masks`."""
        ...

    def class_map(self, index: int) -> UInt8[np.ndarray, "height width"]:
        """Return the class number + 1 of each pixel, 0 background, 255 not judged, of an image that `with_masks`."""
        ...


def check_index(index: int, length: int) -> int:
    """Return the index if it is one of a source of that length; IndexError (which ends an iteration) if not."""
    if not 0 <= index < length:
        raise IndexError(f"image {index} of a source of {length} images")
    return int(index)
