"""A study's figures: arms with their intervals, a panel a protocol, from its JSON alone; all of them, and by claim."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH, ROW = 3.4, 0.32  # inches of a panel, and of an arm in it
MEAN, SEED = "#1f4e79", "#d08020"


def figure_svg(content: Mapping[str, Any]) -> str:
    """Return the figure as SVG text: the same bytes for the same content."""
    figure, panels = _canvas(content["arms"], len(_protocols(content)))
    for panel, (protocol, metric) in zip(panels, _protocols(content), strict=False):
        _panel(panel, content["arms"], protocol)
        panel.set_xlabel(f"{protocol} {metric} (%)")
    figure.suptitle(f"{content['study']}: mean, 95 % interval over test images, and each seed", fontsize="medium")
    return _svg(figure)


def claim_svg(content: Mapping[str, Any], claim: Mapping[str, Any]) -> str:
    """Return the figure of a claim: its arms' figures, and beside them the differences to their controls."""
    by_label = {arm["label"]: arm for arm in content["arms"]}
    arms = [by_label[label] for label in claim["arms"]]
    protocols = _protocols(content)
    figure, panels = _canvas(arms, 2 * len(protocols))
    for panel, (protocol, metric) in zip(panels[::2], protocols, strict=False):
        _panel(panel, arms, protocol)
        panel.set_xlabel(f"{protocol} {metric} (%)")
    for panel, (protocol, _) in zip(panels[1::2], protocols, strict=False):
        _differences(panel, arms, protocol)
        panel.set_xlabel(f"Δ {protocol} (points)")
    figure.suptitle(f"{claim['name']}: figures, and differences to the control, with 95 % intervals", fontsize="medium")
    return _svg(figure)


def _protocols(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, metric) for name, metric in content["protocols"].items() if metric is not None]


def _canvas(arms: Sequence[Mapping[str, Any]], panels: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with a row for each arm and so many panels side by side."""
    labels = [arm["label"] for arm in arms]
    figure = Figure(figsize=(1.5 + WIDTH * max(1, panels), 1.2 + ROW * max(1, len(labels))), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, max(1, panels), squeeze=False, sharey=True)[0]
    axes[0].set_yticks(range(len(labels)), labels)
    for text in axes[0].get_yticklabels():
        text.set_parse_math(False)
    axes[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure, list(axes)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "scenewise", "svg.fonttype": "none"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _panel(panel: Axes, arms: Sequence[Mapping[str, Any]], protocol: str) -> None:
    panel.grid(axis="x", linewidth=0.4)
    for place, arm in enumerate(arms):
        found = arm["figures"].get(protocol)
        if found is None:
            continue
        if found["low"] is not None:
            ends = [100 * found["low"], 100 * found["high"]]
            panel.plot(ends, [place, place], color=MEAN, linewidth=2, solid_capstyle="butt")
        panel.plot([100 * found["value"]], [place], marker="o", color=MEAN)
        runs = [run["figures"][protocol][found["metric"]]["value"] for run in arm["runs"] if "figures" in run]
        if len(runs) > 1:
            panel.plot([100 * each for each in runs], [place] * len(runs), "|", color=SEED, markersize=9)


def _differences(panel: Axes, arms: Sequence[Mapping[str, Any]], protocol: str) -> None:
    """Draw each arm's difference to its control, which is named beside it."""
    panel.grid(axis="x", linewidth=0.4)
    panel.axvline(0.0, color="black", linewidth=0.8)
    for place, arm in enumerate(arms):
        found = arm["differences"].get(protocol)
        if found is None:
            continue
        panel.plot([100 * found["low"], 100 * found["high"]], [place, place], color=MEAN, linewidth=2)
        panel.plot([100 * found["value"]], [place], marker="o", color=MEAN)
        if len(found["by_seed"]) > 1:
            panel.plot([100 * each for each in found["by_seed"]], [place] * len(found["by_seed"]), "|", color=SEED)
        note = panel.annotate(
            f"to {arm['control']}",
            (100 * found["value"], place),
            (0, 5),
            textcoords="offset points",
            fontsize=6,
            ha="center",
        )
        note.set_parse_math(False)
