"""Curves of a run as small drawings that take their colours from the page, so they fit light, dark and print."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from scenewise.report.trend import series
from scenewise.report.verdict import RULES, Rule

POINTS = 400  # of a curve: about one a pixel; longer histories are averaged in bins, with the range shown behind
SERIES = 6  # colours of the page (page.html, --series-01 to -06), used again with another dash
DASHES = ("solid", (0, (5, 2)), (0, (1.5, 1.5)))
INK, GRID, GOOD = "#010101", "#020202", "#030303"  # stand-ins: after drawing they become the page's own colours


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One line of a panel: values at fractional epochs, not necessarily finite; `number` (from 0) gives its colour."""

    label: str
    number: int
    epochs: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One drawing: `title` says what to see, `healthy` shades a rule's healthy side, `share` is shown in percent."""

    title: str
    label: str
    curves: Sequence[Curve]
    healthy: Rule | None = None
    share: bool = False
    logarithmic: bool = False


# figure -> (title that says what to see, axis label)
PANELS: Mapping[str, tuple[str, str]] = {
    "loss": ("Loss: should fall, then flatten", "loss"),
    "lr": ("Learning rate: the schedule that was asked for", "learning rate"),
    "health/feature_spread": ("Feature spread: 0 is collapse, 1 is isotropic", "spread"),
    "health/effective_rank": ("Effective rank: dimensions the features use", "dimensions"),
    "health/effective_rank_share": ("Effective rank, of what the sample allows", "share of the maximum (%)"),
    "health/alignment": ("Alignment: how far apart two views of an image are", "squared distance"),
    "health/uniformity": ("Uniformity: lower is more evenly spread", "log potential"),
    "queue/fill": ("Dictionary: rows that have been written", "rows (%)"),
    "queue/age_steps": ("Dictionary: mean age of a row", "age (steps)"),
    "labels/new_share": ("Pseudo-labels that are new: less is steadier", "pseudo-labels (%)"),
    "labels/own_image_share": ("Pseudo-labels from the query's own image", "pseudo-labels (%)"),
    "ranking/exact_ap": ("Ranking: exact average precision of the batch's views", "average precision"),
    "ranking/saturated_share": ("Ranking: queries that are ranked perfectly", "queries (%)"),
    "relation/kl": ("Soft labels: divergence of the student from its teachers", "divergence (nats)"),
    "relation/uniform_share": ("Soft labels: at 100 % the student tells no rows apart", "loss of ln(rows) (%)"),
    "codes/uniform_share": ("Assignments: stuck at 100 % is a collapse", "loss of ln(prototypes) (%)"),
    "transport/diagonal": ("Objects told apart: share of the transport from an object to itself", "mass (%)"),
    "transport/uniform_share": ("Transport: marginals without mass, made uniform", "marginals (%)"),
    "crops/fallback": ("Crops: images cut as scenes, or with random boxes for missing objects", "images (%)"),
    "crops/real_instances": ("Crops: objects found for an image", "objects"),
    "data_wait": ("Waiting for data: time the model stood still", "time (%)"),
    "images_per_second": ("Speed", "images per second"),
}
SHARES = {
    "health/effective_rank_share", "queue/fill", "labels/new_share", "labels/own_image_share",
    "ranking/saturated_share", "relation/uniform_share", "codes/uniform_share", "transport/diagonal",
    "transport/uniform_share", "crops/fallback", "data_wait",
}  # fmt: skip


def panels(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Panel]:
    """Return the panels for the figures that the runs logged; histories: run name -> objects of its metrics.jsonl.

    Figures under `health/` and `probe/` are logged an epoch, the others a step. Gradient norms get a panel a run.
    """
    healthy = {rule.figure: rule for rule in RULES}
    drawn = {"probe/": _probes(histories), "grad/": _gradients(histories)}
    for figure, (title, label) in PANELS.items():
        curves = _curves(histories, figure)
        if curves:
            share = figure in SHARES
            panel = Panel(title=title, label=label, curves=curves, healthy=healthy.get(figure), share=share)
            drawn.setdefault(figure.partition("/")[0], []).append(panel)
    first = ("loss", "lr", "probe/", "health", "grad/")
    groups = dict.fromkeys((*first, *drawn))  # then as they stand above
    return [panel for group in groups for panel in drawn.get(group, [])]


def _probes(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Panel]:
    drawn = []
    for figure in _names(histories, "probe/"):
        name = figure.removeprefix("probe/")
        curves = _curves(histories, figure)
        drawn.append(Panel(title=f"Probe: {name} on the labelled set", label=f"{name} (%)", curves=curves, share=True))
    return drawn


def _gradients(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Panel]:
    drawn = []
    for run, history in histories.items():
        terms = [(figure.removeprefix("grad/"), _curve(history, figure)) for figure in _names({run: history}, "grad/")]
        curves = [Curve(label=term, number=i, epochs=xy[0], values=xy[1]) for i, (term, xy) in enumerate(terms)]
        if curves:
            title = "Push of each loss term" + (f": {run}" if len(histories) > 1 else ": a weak one hardly counts")
            drawn.append(Panel(title=title, label="gradient norm", curves=curves, logarithmic=True))
    return drawn


def draw(panel: Panel) -> str:
    """Return a panel as an `<svg>` element for a page: same panel, same text; no link, script or style sheet in it."""
    buffer = io.StringIO()
    # text stays text: small, selectable, in the page's font; a fixed salt gives fixed names
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "scenewise", "font.size": 9}):
        figure = Figure(figsize=(5.2, 2.7), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        for curve in panel.curves:
            _line(axes, curve, share=panel.share)
        if panel.logarithmic and any((curve.values > 0).any() for curve in panel.curves):
            axes.set_yscale("log", nonpositive="mask")
        if panel.healthy is not None:
            _shade(axes, panel.healthy, share=panel.share)
        _dress(axes, panel)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _for_the_page(buffer.getvalue(), name=panel.title)


def style(curve: Curve) -> tuple[str, str]:
    """Return a curve's colour and line style as style sheets write them: after six colours the dash changes."""
    dash = ("solid", "dashed", "dotted")[curve.number // SERIES % len(DASHES)]
    return f"var(--series-{curve.number % SERIES + 1:02d})", dash


def _curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], figure: str) -> list[Curve]:
    found = [(run, *_curve(history, figure)) for run, history in histories.items()]
    return [  # a run keeps its number, so its colour, where another run has no curve
        Curve(label=run, number=number, epochs=epochs, values=values)
        for number, (run, epochs, values) in enumerate(found)
        if len(epochs)
    ]


def _curve(history: Sequence[Mapping[str, Any]], figure: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (epochs, values) of a figure: at the end of its epoch, or at the step's place in the epoch."""
    if figure.startswith(("health/", "probe/")):
        points = series(history, figure)
        return np.array([epoch for epoch, _ in points], float), np.array([value for _, value in points], float)
    lengths: dict[int, int] = {}
    places = []
    for line in history:
        epoch, value = line.get("epoch"), line.get(figure)
        if isinstance(epoch, int) and isinstance(value, int | float):
            lengths[epoch] = lengths.get(epoch, 0) + 1
            places.append((epoch, lengths[epoch], float(value)))
    steps = max(lengths.values(), default=1)
    return (
        np.array([epoch - 1 + place / steps for epoch, place, _ in places], float),
        np.array([value for *_, value in places], float),
    )


def _names(histories: Mapping[str, Sequence[Mapping[str, Any]]], prefix: str) -> list[str]:
    lines = (line for history in histories.values() for line in history)
    return sorted({name for line in lines for name in line if name.startswith(prefix)})


def _line(axes: Axes, curve: Curve, *, share: bool) -> None:
    """Draw one curve; a long one as the mean of bins, with the range of each bin behind it."""
    colour, dash = f"#0000{curve.number % SERIES + 1:02x}", DASHES[curve.number // SERIES % len(DASHES)]
    finite = np.isfinite(curve.values)
    epochs, values = curve.epochs[finite], curve.values[finite] * (100 if share else 1)
    if len(values) > POINTS:
        bins = np.array_split(np.arange(len(values)), POINTS)
        low = np.array([values[rows].min() for rows in bins])
        high = np.array([values[rows].max() for rows in bins])
        epochs = np.array([epochs[rows].mean() for rows in bins])
        values = np.array([values[rows].mean() for rows in bins])
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if len(values) <= 40 else ""
    axes.plot(epochs, values, color=colour, linestyle=dash, linewidth=1.6, marker=marker, markersize=3)


def _shade(axes: Axes, rule: Rule, *, share: bool) -> None:
    """Shade the healthy side of a rule; the axis holds its bound, and 0 for figures that are never negative."""
    bound = rule.healthy * (100 if share else 1)
    low, high = axes.get_ylim()
    low = 0 if axes.dataLim.y0 >= 0 else low
    margin = 0.08 * (max(high, bound) - min(low, bound) or 1)
    low, high = min(low, bound - margin), max(high, bound + margin)
    start, end = (bound, high) if rule.good == "above" else (low, bound)
    axes.axhspan(start, end, color=GOOD, alpha=0.13, linewidth=0, zorder=0)
    axes.set_ylim(low, high)


def _dress(axes: Axes, panel: Panel) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel.label, parse_math=False)  # a probe may be called anything
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    if axes.get_yscale() == "log":
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(visible=True, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(GRID)
    axes.tick_params(colors=INK, length=0, which="both")
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(INK)


def _for_the_page(file: str, *, name: str) -> str:
    """Return matplotlib's file as an element of a page: bare of metadata and namespaces, in the page's colours."""
    body = file[file.index(">", file.index("<svg")) + 1 :]
    for part in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r" font-family:[^;]*;"):
        body = re.sub(part, "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="\w+"', "<g", body)
    body = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]).replace("\n", ""), body)
    body = re.sub(r"#0000(\d\d)", r"var(--series-\1)", body)
    for stand_in, colour in ((INK, "--ink-soft"), (GRID, "--grid"), (GOOD, "--good")):
        body = body.replace(stand_in, f"var({colour})")
    box = re.search(r'viewBox="[^"]*"', file)
    assert box is not None, "matplotlib gives its drawings a view box"
    return f'<svg {box[0]} role="img" aria-label="{html.escape(name)}">{body}'
