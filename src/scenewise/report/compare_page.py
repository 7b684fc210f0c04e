"""One self-contained page on several subjects: what may be said, every figure, every difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scenewise.report.differences import Difference, points
from scenewise.report.page import best, template, whisker, write_page
from scenewise.report.records import ComparisonTable

VERDICTS = {"better": ("", "▲ better"), "worse": ("alarm", "▼ worse"), "not decided": ("open", "not decided")}


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparePage:
    """What the page shows.

    facts: (name, value) in the order shown. differences: of every figure; a pair of subjects is a row of its drawing.
    remarks: on this comparison, for example what was left out. reading: how to read any.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    sentences: Sequence[str]
    table: ComparisonTable
    differences: Sequence[Difference]
    remarks: Sequence[str]
    reading: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A difference as the page draws it: places in percent of the width, 0 in the middle; None: not drawn."""

    shown: str
    interval: str
    style: str
    word: str
    left: str | None = None
    width: str | None = None
    value: str | None = None


def compare_html(page: ComparePage) -> str:
    """Return the page as text of one HTML file, which loads and runs nothing; all that comes from data is escaped."""
    pairs = list(dict.fromkeys((item.first, item.second) for item in page.differences))
    return template("compare_page.html").render(
        page=page,
        table=page.table,
        pairs=pairs,
        whole=_bars(page.differences, page.table.whole()),
        classes=_bars(page.differences, page.table.classes()),
        whisker=whisker,
        best=best,
    )


def write_comparison(out: Path, page: ComparePage) -> None:
    """Write the page to `out`, whole or not at all; its folder must exist."""
    write_page(out, compare_html(page))


def _bars(
    differences: Sequence[Difference], table: ComparisonTable
) -> dict[tuple[str, str], dict[tuple[str, str], Bar]]:
    """Return for each of the table's columns the bars of all pairs, on one scale."""
    bars: dict[tuple[str, str], dict[tuple[str, str], Bar]] = {}
    for column in table.columns:
        items = [item for item in differences if (item.protocol, item.metric) == column]
        ends = [abs(end) for item in items for end in _ends(item) if math.isfinite(end)]
        if items:
            bars[column] = {(item.first, item.second): bar(item, widest=max(ends, default=0.0)) for item in items}
    return bars


def bar(difference: Difference, *, widest: float) -> Bar:
    """Return the drawing of a difference; `widest`: the share at either end of the scale."""
    style, word = VERDICTS[difference.verdict()]
    value, low, high = difference.interval.value, difference.interval.low, difference.interval.high
    text = points(value)
    shown = text if text.startswith("-") or float(text) == 0 else f"+{text}"
    if not all(map(math.isfinite, _ends(difference))):
        return Bar(shown=shown, interval="no interval", style=style, word=word)
    interval = f"{points(low)} to {points(high)}"
    if widest == 0:
        return Bar(shown=shown, interval=interval, style=style, word=word)

    def place(share: float) -> float:
        return 50 + 48 * share / widest

    return Bar(
        shown=shown,
        interval=interval,
        style=style,
        word=word,
        left=f"{place(low):.1f}%",
        width=f"{place(high) - place(low):.1f}%",
        value=f"{place(value):.1f}%",
    )


def _ends(difference: Difference) -> tuple[float, float, float]:
    interval = difference.interval
    return interval.low, interval.value, interval.high
