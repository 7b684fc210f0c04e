"""What an audit knows of every image without decoding it: sizes, lengths of files, copies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenewise.engine.display import Display
from scenewise.sources import Source
from scenewise.sources.headers import FileReader
from scenewise.tools.audit_duplicates import same_bytes

TINY = 32  # pixels of the short side, as the contract has it
NO_FILE = -1
REPORTED = 1000  # images between two reports of progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """All images of a source whose header can be read.

    sizes: (N, 2) int32 upright height and width. lengths: (N,) int64 bytes of each file, -1 where there is none.
    copies: groups of images with the same bytes, None where there are no files to compare.
    """

    sizes: np.ndarray
    lengths: np.ndarray
    copies: list[list[int]] | None

    @property
    def short_side(self) -> float:
        """Return the short side in pixels that three quarters of the images reach."""
        return float(np.percentile(self.sizes.min(axis=1), 25))

    @property
    def tiny(self) -> np.ndarray:
        """Tell which images have a short side under 32 px, (N,) bool."""
        small: np.ndarray = self.sizes.min(axis=1) < TINY
        return small

    @property
    def bytes(self) -> int | None:
        """Return the bytes of all files, or None where there are none."""
        return int(self.lengths.sum()) if self.copies is not None else None


def survey_images(source: Source, display: Display) -> Survey:
    """Return what is known of every image: one pass over the records, and over files that may be copies."""
    sizes, lengths = np.empty((len(source), 2), np.int32), np.full(len(source), NO_FILE, np.int64)
    with display.bar("looking at sizes", len(source)) as bar:
        for index in range(len(source)):
            record = source[index]
            sizes[index] = record.size
            if isinstance(record.read, FileReader):
                lengths[index] = record.read.length
            if index % REPORTED == 0:
                bar.update(index)
    copies = None
    if (lengths != NO_FILE).all():
        with display.bar("comparing files of equal length", None):
            copies = same_bytes(lengths, lambda index: _reader(source, index))
    return Survey(sizes=sizes, lengths=lengths, copies=copies)


def _reader(source: Source, index: int) -> FileReader:
    read = source[index].read
    assert isinstance(read, FileReader)
    return read
