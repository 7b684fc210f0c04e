"""`csv:`: a table with the header `image,labels`, one row an image, labels split by `;`."""

from __future__ import annotations

import csv
import os
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from scenewise.errors import Problems, UserError
from scenewise.sources.base import Labels, Progress, Source
from scenewise.sources.index import listed_index, unreadable_note
from scenewise.sources.spec import Spec
from scenewise.types import Record, Skip
from scenewise.wording import counted


@final
class CsvSource(Source):
    """The rows of a table in their order; the key is the image's path as the table gives it.

    Paths are relative to the table's folder, or to `?root=`, or absolute. Several labels in any row, or `?multi=1`,
    make the labels vectors; a row without a label is then an image of no class, and otherwise an error. A row with more
    cells than the header, or without a cell for image or labels, is an error.
    """

    def __init__(self, spec: Spec, *, reindex: bool, progress: Progress | None) -> None:
        file = Path(spec.path)
        table = _Table(file, Path(spec.options.get("root", file.parent)).expanduser(), _flag(spec))
        index = listed_index(table.root, table.paths, name=f"csv {file.resolve()}", reindex=reindex, progress=progress)
        if not len(index):
            first = index.unreadable[0]
            raise UserError(f"data: none of the images named by {file} can be read, e.g. {first.key}: {first.reason}")
        root = str(table.root.absolute()) if "root" in spec.options else ""
        self._index = index
        self._labels = table.labels()[index.rows()]
        self.spec = spec.canonical(root=root, multi="1" if _flag(spec) else "")
        self.classes = table.classes
        self.multi_label = table.multi
        self.splits = None
        self.notes = unreadable_note(index)
        self.fingerprint = index.fingerprint

    @property
    def unreadable(self) -> tuple[Skip, ...]:
        """Images whose header cannot be read."""
        return self._index.unreadable

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int) -> Record:
        record = self._index.record(index)
        labels = self._labels[index] if self.multi_label else int(self._labels[index])
        return Record(index, record.key, record.size, record.orientation, record.read, labels)

    def labels(self) -> Labels | None:
        """Return (N,) class numbers, or (N, C) int8 of 1 and 0 when an image may have several classes."""
        labels: Labels = self._labels
        return labels


class _Table:
    """A table read and checked as a whole: columns, duplicates, missing files, missing labels."""

    def __init__(self, file: Path, root: Path, multi: bool) -> None:
        self.root = root
        self.paths: list[bytes] = []
        self._rows = array("q")  # number of the row of each label
        self._names = array("q")  # class of each label, by first appearance
        self._known: dict[str, int] = {}
        if not file.exists():
            raise UserError(f"data: no such table: {file}")
        if not root.is_dir():
            raise UserError(f"data: no such folder of images: {root} (option root of csv:{file})")
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                unlabelled = self._read(file, csv.DictReader(stream))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"data: cannot read {file} as a UTF-8 table of comma-separated values: {error}") from None
        counts = np.bincount(np.frombuffer(self._rows, np.int64), minlength=1) if self._rows else np.zeros(1)
        self.multi = multi or bool(counts.max() > 1)
        self.classes = tuple(sorted(self._known))
        problems = Problems()
        for line in unlabelled if not self.multi else ():
            problems.add(f"data: {file}, line {line}: no label; give one, or write ?multi=1 if images may have none")
        problems.check()
        if not self.classes:
            raise UserError(f"data: {file} gives no label at all; for images without labels name their folder")

    def _read(self, file: Path, rows: csv.DictReader[str]) -> list[int]:
        problems, seen, unlabelled = Problems(), dict[bytes, int](), list[int]()
        base = os.fsencode(self.root)
        missing = [name for name in ("image", "labels") if name not in (rows.fieldnames or ())]
        if missing:
            found = ",".join(rows.fieldnames or ()) or "nothing"
            raise UserError(
                f"data: {file} has no column {' and '.join(missing)}; the header must be image,labels, not {found}"
            )
        for row in rows:
            line, name = rows.line_num, (row["image"] or "").strip()
            path = os.fsencode(os.path.normpath(name))
            if not name:
                problems.add(f"data: {file}, line {line}: no image named")
            elif path in seen:
                problems.add(f"data: {file}, line {line}: {name} is already in line {seen[path]}")
            elif not os.path.isfile(os.path.join(base, path)):  # noqa: PTH113, PTH118 - quick for a million rows
                where = "" if os.path.isabs(path) else f" (in {self.root})"  # noqa: PTH117
                problems.add(f"data: {file}, line {line}: no such image: {name}{where}")
            seen.setdefault(path, line)
            odd = _odd_row(row, len(rows.fieldnames or ()))
            if odd:
                problems.add(f"data: {file}, line {line}: {odd}")
                continue
            labels = {label.strip() for label in (row["labels"] or "").split(";")} - {""}
            if not labels:
                unlabelled.append(line)
            for label in sorted(labels):
                self._rows.append(len(self.paths))
                self._names.append(self._known.setdefault(label, len(self._known)))
            self.paths.append(path)
        problems.check()
        if not self.paths:
            raise UserError(f"data: {file} has a header but no row")
        return unlabelled

    def labels(self) -> np.ndarray:
        """Return the labels of all rows, classes numbered by name."""
        number = np.empty(len(self._known), np.int64)
        number[[self._known[name] for name in self.classes]] = np.arange(len(self.classes))
        rows, names = np.frombuffer(self._rows, np.int64), number[np.frombuffer(self._names, np.int64)]
        if not self.multi:
            single: np.ndarray = names
            return single
        labels = np.zeros((len(self.paths), len(self.classes)), np.int8)
        labels[rows, names] = 1
        return labels


def _odd_row(row: Mapping[str | None, Any], columns: int) -> str:
    """Return what is wrong with a row that has more cells than the header, or lacks one; "" where nothing is."""
    more = row.get(None, [])
    if any(cell.strip() for cell in more):
        cells, means = columns + len(more), "labels are separated by ; and a name with a comma is put in quotes"
    elif row["image"] is None or row["labels"] is None:
        cells, means = (
            sum(cell is not None for cell in row.values()),
            "every row needs a cell for each of image and labels, if an empty one",
        )
    else:
        return ""
    return f"{counted(cells, 'cell')}, the header has {counted(columns, 'column')}; {means}"


def _flag(spec: Spec) -> bool:
    value = spec.options.get("multi", "0")
    if value not in ("0", "1"):
        raise UserError(f"data: option multi of csv: is {value!r}; allowed are 0 and 1")
    return value == "1"
