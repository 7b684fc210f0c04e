"""A study's figure: every arm's figures with their intervals, a panel a protocol, from its JSON alone."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

WIDTH, ROW = 4.2, 0.32  # inches of a panel, and of an arm in it
MEAN, SEED = "#1f4e79", "#d08020"


def figure_svg(content: Mapping[str, Any]) -> str:
    """Return the figure as SVG text: the same bytes for the same content."""
    protocols = [(name, metric) for name, metric in content["protocols"].items() if metric is not None]
    labels = [arm["label"] for arm in content["arms"]]
    figure = Figure(
        figsize=(1.5 + WIDTH * max(1, len(protocols)), 1.2 + ROW * max(1, len(labels))), layout="constrained"
    )
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, max(1, len(protocols)), squeeze=False, sharey=True)[0]
    for panel, (protocol, metric) in zip(panels, protocols, strict=False):
        _panel(panel, content["arms"], protocol)
        panel.set_xlabel(f"{protocol} {metric} (%)")
    panels[0].set_yticks(range(len(labels)), labels)
    for text in panels[0].get_yticklabels():
        text.set_parse_math(False)
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    figure.suptitle(f"{content['study']}: mean, 95 % interval over test images, and each seed", fontsize="medium")
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
