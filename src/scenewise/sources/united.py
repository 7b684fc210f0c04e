"""Two tables of labels that do not name the same classes, one class list for both."""

from __future__ import annotations

import dataclasses
from typing import final

import numpy as np

from scenewise.sources.base import HasBoxes, HasInstances, Labels, Source
from scenewise.types import Record, Skip


def with_common_classes(train: Source, test: Source) -> tuple[Source, Source]:
    """Return the sources with the classes of both, sorted, where each has its own and labels alone (csv, imagefolder).

    Such classes are those that some image has, so a small test part lacks the rare ones; which classes can be judged
    is then for the evaluation to say. Sources with boxes or masks have a class list of their own and are left as they
    are, and so are sources without labels.
    """
    if train.classes == test.classes or not all(_labels_alone(source) for source in (train, test)):
        return train, test
    classes = tuple(sorted({*train.classes, *test.classes}))
    return UnitedSource(train, classes), UnitedSource(test, classes)


def _labels_alone(source: Source) -> bool:
    return bool(source.classes) and not isinstance(source, HasBoxes | HasInstances)


@final
class UnitedSource(Source):
    """A source whose labels are numbered by a longer list of classes; no image has those that were not its own."""

    def __init__(self, source: Source, classes: tuple[str, ...]) -> None:
        self._source = source
        self._number = np.array([classes.index(name) for name in source.classes], np.int64)
        self.spec, self.splits, self.fingerprint = source.spec, source.splits, source.fingerprint
        self.classes, self.multi_label = classes, source.multi_label
        self.notes = source.notes

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._source.unreadable

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        record = self._source[index]
        assert record.labels is not None
        labels = self._renumbered(np.asarray(record.labels)[None])[0]
        return dataclasses.replace(record, labels=labels if self.multi_label else int(labels))

    def labels(self) -> Labels | None:
        """Return the labels by the longer list: (N,) class numbers, or (N, C) with 0 in the new columns."""
        labels = self._source.labels()
        assert labels is not None
        return self._renumbered(labels)

    def _renumbered(self, labels: np.ndarray) -> np.ndarray:
        if not self.multi_label:
            return np.where(labels < 0, labels, self._number[labels])
        wide = np.zeros((len(labels), len(self.classes)), labels.dtype)
        wide[:, self._number] = labels
        return wide
