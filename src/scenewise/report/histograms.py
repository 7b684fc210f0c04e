"""Histograms as small drawings that take their colours from the page."""

from __future__ import annotations

import html
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT, FOOT = 360, 110, 18  # of the drawing and of the line of labels below it
BINS = 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Counts of a figure between edges; `title` says what to see.

    edges: (bins + 1,) ascending; counts: (bins,). What lies beyond the edges is in the first and last bin.
    """

    title: str
    edges: np.ndarray
    counts: np.ndarray


def histogram(title: str, values: np.ndarray, *, low: float | None = None, high: float | None = None) -> Histogram:
    """Return the histogram of values in 24 bins from `low` to `high` (by default the 1 % and 99 % quantiles)."""
    start = float(np.quantile(values, 0.01)) if low is None else low
    stop = float(np.quantile(values, 0.99)) if high is None else high
    edges = np.linspace(start, stop if stop > start else start + 1, BINS + 1)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    return Histogram(title=title, edges=edges, counts=counts)


def whole_histogram(title: str, values: np.ndarray, *, most: int) -> Histogram:
    """Return the histogram of whole numbers, a bar each from 0 to `most`, which holds what is above as well."""
    counts = np.bincount(np.clip(values, 0, most).astype(np.int64), minlength=most + 1)
    return Histogram(title=title, edges=np.arange(most + 2), counts=counts)


def draw_histogram(drawn: Histogram) -> str:
    """Return a histogram as an `<svg>` element: bars, and labels under the first, middle and last edge."""
    bins = len(drawn.counts)
    most = max(1, int(drawn.counts.max(initial=0)))
    wide, full = WIDTH / bins, HEIGHT - FOOT
    edges = [_number(float(edge)) for edge in drawn.edges]
    bars = "".join(
        f'<rect x="{place * wide:.1f}" y="{full - full * count / most:.1f}" width="{wide - 1:.1f}" '
        f'height="{full * count / most:.1f}"><title>{edges[place]} to {edges[place + 1]}: {int(count):,}</title></rect>'
        for place, count in enumerate(drawn.counts)
        if count
    )
    labels = "".join(
        f'<text x="{place * wide:.1f}" y="{HEIGHT - 4}" text-anchor="{anchor}">{edges[place]}</text>'
        for place, anchor in ((0, "start"), (bins // 2, "middle"), (bins, "end"))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(drawn.title)}" font-size="11">'
        f'<g fill="var(--series-01)">{bars}</g><path d="M0 {full}H{WIDTH}" stroke="var(--grid)"/>'
        f'<g fill="var(--ink-soft)">{labels}</g></svg>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
