"""What a report is made of: a run read back from its folder, and a table of figures with intervals."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from scenewise.evaluate.evaluation import CLASS_PREFIXES

_FORMS = re.compile(r"/(area|11point|voc|batches of \d+)(/|$)")  # of average precision, beside a protocol's own
_MASK = "mask/"
_AMOUNT = re.compile(r"k=\d+|[\d.]+%")  # of labels, in a figure's name


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """A run as its folder tells it; what is missing is empty, what is damaged is named in `problems`.

    history: the objects of metrics.jsonl in order. skipped: rows of skipped.csv under `skipped_columns`.
    """

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    config_text: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[Mapping[str, Any]] = ()
    skipped_columns: tuple[str, ...] = ()
    skipped: Sequence[tuple[str, ...]] = ()
    problems: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """Return the method's name, "" when the configuration does not say."""
        method = self.config.get("method", "")
        if isinstance(method, Mapping):
            method = method.get("name", "")
        return method if isinstance(method, str) else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonTable:
    """Subjects x figures, as shares 0..1; a figure that could not be computed is absent and explained in `notes`.

    columns: (protocol, metric) pairs, in the order shown. cells: (subject, protocol, metric) -> figure.
    """

    subjects: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    cells: Mapping[tuple[str, str, str], Interval]
    notes: tuple[str, ...] = ()
    data: str = ""

    @classmethod
    def from_results(cls, results: Sequence[Mapping[str, Any]]) -> ComparisonTable:
        """Return the table of several results of `evaluate` (its JSON, one a subject)."""
        cells: dict[tuple[str, str, str], Interval] = {}
        columns: dict[tuple[str, str], None] = {}  # a set that keeps its order
        for result in results:
            for protocol, metrics in result["protocols"].items():
                for metric, figure in metrics.items():
                    columns[protocol, metric] = None
                    cells[result["subject"], protocol, metric] = Interval(
                        value=float(figure["value"]), low=float(figure["low"]), high=float(figure["high"])
                    )
        notes = [note for result in results for note in _notes(result.get("notes", ()))]
        return cls(
            subjects=tuple(dict.fromkeys(result["subject"] for result in results)),
            columns=tuple(columns),
            cells=cells,
            notes=tuple(dict.fromkeys(notes)),
            data=", ".join(dict.fromkeys(str(result["data"]) for result in results if "data" in result)),
        )

    def whole(self) -> ComparisonTable:
        """Return the table without the figures of single classes ("AP/cat") and other forms of one ("mAP/area")."""
        return self._only([column for column in self.columns if _is_whole(column[1])])

    def classes(self) -> ComparisonTable:
        """Return the table of what `whole` leaves out."""
        return self._only([column for column in self.columns if not _is_whole(column[1])])

    def main(self) -> ComparisonTable:
        """Return the table with one figure of each protocol: the first of the whole set that it reports.

        Where a protocol reports it for several amounts of labels ("mAP/k=4", "10%/mAP"), it is that of the most; where
        it reports figures of masks beside those of boxes, it is the first of the masks.
        """
        found: dict[str, tuple[str, str]] = {}
        for protocol, metric in self.whole().columns:
            first = found.setdefault(protocol, (protocol, metric))[1]
            of_masks = metric.startswith(_MASK) and not first.startswith(_MASK)
            if of_masks or _AMOUNT.sub("", first) == _AMOUNT.sub("", metric):
                found[protocol] = protocol, metric
        return self._only(list(found.values()))

    def _only(self, columns: Sequence[tuple[str, str]]) -> ComparisonTable:
        return ComparisonTable(
            subjects=self.subjects, columns=tuple(columns), cells=self.cells, notes=self.notes, data=self.data
        )


def read_run(folder: Path) -> RunRecord:
    """Return what a run folder holds. Nothing in it is executed or trusted, and a missing or damaged file is no error.

    A line of metrics.jsonl that was cut off (the run was killed while writing) is left out and named.
    """
    problems: list[str] = []
    config_text = _text(folder / "config.yaml", problems)
    try:
        config = yaml.safe_load(config_text)
    except yaml.YAMLError as error:
        config = None
        problems.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}")
    try:
        environment = json.loads(_text(folder / "environment.json", problems) or "{}")
    except ValueError as error:
        environment = None
        problems.append(f"environment.json cannot be read: {error}")
    columns, skipped = _skipped(folder / "skipped.csv", problems)
    return RunRecord(
        name=folder.resolve().name,
        config=config if isinstance(config, dict) else {},
        config_text=config_text,
        environment=environment if isinstance(environment, dict) else {},
        history=_in_order(_metrics(folder / "metrics.jsonl", problems)),
        skipped_columns=columns,
        skipped=skipped,
        problems=tuple(problems),
    )


def _text(path: Path, problems: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        problems.append(f"{path.name} is missing")
        return ""


def _metrics(path: Path, problems: list[str]) -> Iterator[Mapping[str, Any]]:
    lines = _text(path, problems).removesuffix("\n").split("\n")
    damaged = []
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if isinstance(value, dict):
            yield value
        elif line.strip():
            damaged.append(number)
    if damaged == [len(lines)]:
        problems.append("the last line of metrics.jsonl was cut off and is left out")
    elif damaged:
        problems.append(f"metrics.jsonl: {len(damaged)} lines cannot be read and are left out, first line {damaged[0]}")


def _in_order(lines: Iterator[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines of a run that was perhaps killed and resumed: where it went back, the later lines count.

    Lines of the same step, one after the other, become one.
    """
    history: list[Mapping[str, Any]] = []
    for line in lines:
        step = line.get("step")
        if not isinstance(step, int):
            continue
        while history and history[-1]["step"] > step:
            history.pop()
        if history and history[-1]["step"] == step:
            line = {**history.pop(), **line}
        history.append(line)
    return history


def _skipped(path: Path, problems: list[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    if not path.exists():  # a run that left nothing out need not write it
        return (), []
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = [tuple(row) for row in csv.reader(file) if row]
    except (OSError, csv.Error) as error:
        problems.append(f"skipped.csv cannot be read: {error}")
        return (), []
    return (rows[0], rows[1:]) if rows else ((), [])


def _is_whole(metric: str) -> bool:
    return not metric.startswith(CLASS_PREFIXES) and _FORMS.search(metric) is None


def _notes(notes: Any) -> list[str]:
    if isinstance(notes, Mapping):
        return [f"{name}: {note}" for name, note in notes.items()]
    return [notes] if isinstance(notes, str) else [str(note) for note in notes]


def percent(interval: Interval) -> str:
    """Return a share as the tables show it: percent with its interval, or a dash when it is not a number."""
    if not math.isfinite(interval.value):
        return "–"
    return f"{100 * interval.value:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
