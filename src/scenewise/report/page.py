"""One self-contained page on one or several runs: it loads nothing, runs nothing, and reads well on paper."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from scenewise.outputs import write_whole
from scenewise.report.curves import Panel, draw, panels, style
from scenewise.report.records import ComparisonTable, Interval, RunRecord, read_run
from scenewise.report.trend import final_advice, last_figures, series, summary, too_young
from scenewise.report.verdict import Advice, Level

__all__ = ["Sheet", "read_run", "write_report"]

SKIPPED_SHOWN = 50
LEVEL_WORDS: Mapping[Level, str] = {"ok": "Healthy", "warn": "Worth a look", "alarm": "Something is wrong"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A picture of the page: PNG bytes and a caption that says what to see."""

    png: bytes
    caption: str

    @property
    def source(self) -> str:
        """Return the picture as a data address."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class RunCard:
    """A run as the page shows it."""

    record: RunRecord
    level: Level
    word: str
    told: Sequence[str]
    advice: Sequence[Advice]
    facts: Sequence[tuple[str, str]]
    environment: Sequence[tuple[str, str]]


def write_report(
    out: Path,
    *,
    title: str,
    runs: Sequence[RunRecord] = (),
    table: ComparisonTable | None = None,
    sheets: Mapping[str, Sheet] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the page to `out`, one UTF-8 HTML file; its folder must exist.

    runs: their histories share the drawings, so their names should differ. sheets: heading -> picture.
    notes: sentences shown under the verdict. Everything from runs, tables and notes is escaped as text.
    """
    page = template("page.html").render(
        title=title,
        runs=[_card(run) for run in runs],
        table=table,
        panels=[(panel, Markup(draw(panel)), _legend(panel)) for panel in panels(_named(runs))],
        sheets=sheets or {},
        notes=notes,
        skipped_shown=SKIPPED_SHOWN,
        whisker=whisker,
        best=best,
    )
    write_page(out, page)


def write_page(out: Path, page: str) -> None:
    """Write a page to `out`, whole or not at all; its folder must exist."""
    write_whole(out, page.encode("utf-8", "backslashreplace"))  # a file name need not be valid Unicode


def template(name: str) -> Template:
    """Return a page's template, one of the files beside this; what is put into it is escaped as text."""
    return Environment(
        loader=PackageLoader("scenewise", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)


def _named(runs: Sequence[RunRecord]) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Return the histories by run name, a number added to a name that was there before."""
    histories: dict[str, Sequence[Mapping[str, Any]]] = {}
    for run in runs:
        name, number = run.name, 2
        while name in histories:
            name, number = f"{run.name} ({number})", number + 1
        histories[name] = run.history
    return histories


def _card(run: RunRecord) -> RunCard:
    advice = final_advice(run.history, method=run.method)
    level: Level = advice[0].level if advice else "ok"
    nothing = "Too short to be judged" if too_young(run.history) else "No health figures were logged"
    return RunCard(
        record=run,
        level=level,
        word=LEVEL_WORDS[level] if advice else nothing,
        told=summary(run.history, method=run.method),
        advice=advice,
        facts=_facts(run),
        environment=list(_flat(run.environment)),
    )


def _facts(run: RunRecord) -> list[tuple[str, str]]:
    """Return the few figures a reader looks for first, those that are known."""
    backbone = run.config.get("backbone", "")
    if isinstance(backbone, Mapping):
        backbone = backbone.get("name", "")
    facts = [("method", run.method), ("backbone", str(backbone or ""))]
    if run.history:
        last = run.history[-1]
        if isinstance(last.get("step"), int):
            facts.append(("steps", f"{last['step']:,}"))
        if isinstance(last.get("epoch"), int):
            facts.append(("epochs", f"{last['epoch']:,}"))
        losses = series(run.history, "loss")
        facts.append(("loss, last epoch", f"{losses[-1][1]:.3g}" if losses else ""))
        figures = last_figures(run.history)
        if "images_per_second" in figures:
            facts.append(("images per second", f"{figures['images_per_second']:,.0f}"))
    facts.append(("images left out", f"{len(run.skipped):,}"))
    return [(name, value) for name, value in facts if value]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    """Return a nested record as (dotted name, text) rows."""
    if isinstance(value, Mapping) and value:
        return [row for key, item in value.items() for row in _flat(item, f"{name}.{key}" if name else str(key))]
    if isinstance(value, list):
        return [(name, " ".join(map(str, value)))]
    return [(name, str(value))] if name else []


def _legend(panel: Panel) -> list[tuple[str, str, str]]:
    """Return (label, colour, line style) of each curve; a first curve alone in its panel needs no name."""
    if len(panel.curves) < 2 and panel.curves[0].number == 0:
        return []
    return [(curve.label, *style(curve)) for curve in panel.curves]


def best(table: ComparisonTable, column: tuple[str, str]) -> float:
    """Return the highest value of a column, NaN when it has none."""
    cells = (table.cells.get((subject, *column)) for subject in table.subjects)
    return max((cell.value for cell in cells if cell is not None and math.isfinite(cell.value)), default=math.nan)


def whisker(table: ComparisonTable, column: tuple[str, str], cell: Interval) -> dict[str, str] | None:
    """Return where value and interval lie between the lowest and highest end of the column, in percent of the width."""
    cells = [table.cells.get((subject, *column)) for subject in table.subjects]
    ends = [
        end for item in cells if item is not None for end in (item.low, item.high, item.value) if math.isfinite(end)
    ]
    if not all(map(math.isfinite, (cell.low, cell.value, cell.high))) or max(ends) == min(ends):
        return None

    def place(value: float) -> float:
        return 2 + 96 * (value - min(ends)) / (max(ends) - min(ends))

    return {
        "left": f"{place(cell.low):.1f}%",
        "width": f"{place(cell.high) - place(cell.low):.1f}%",
        "value": f"{place(cell.value):.1f}%",
    }
