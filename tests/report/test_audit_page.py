"""The audit's drawings show the figures they were given."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image, ImageColor

from scenewise.report.audit_page import LISTED, AuditPage, PolicyRow, audit_html
from scenewise.report.audit_sheet import FIRST, SECOND, CutPhoto, cut_sheet
from scenewise.report.histograms import BINS, draw_histogram, histogram, whole_histogram
from scenewise.report.sheets import GAP, HEADING, MARGIN


def test_a_histogram_counts_every_value() -> None:
    values = np.array([-5.0, 0, 0.1, 0.5, 1, 7])
    drawn = histogram("Share", values, low=0.0, high=1.0)
    assert drawn.counts.sum() == len(values)
    assert drawn.counts[0] == 2  # what lies beyond an edge is in the last bin there
    assert drawn.counts[-1] == 2
    whole = whole_histogram("Objects", np.array([0, 3, 3, 20, 99]), most=20)
    assert whole.counts.tolist() == [1, 0, 0, 2, *[0] * 16, 2]
    assert len(histogram("Same", np.full(4, 224)).counts) == BINS


def test_bars_are_as_high_as_their_counts() -> None:
    drawn = draw_histogram(whole_histogram("A <b>", np.array([0, 0, 0, 0, 1, 1, 3]), most=3))
    heights = [float(text) for text in re.findall(r'height="([\d.]+)"', drawn)]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.11) == pytest.approx(4 * heights[2], abs=0.21)
    assert len(heights) == 3
    assert "A &lt;b&gt;" in drawn


def test_a_pair_is_outlined_in_the_column_of_its_policy() -> None:
    photo = CutPhoto(
        photo=np.full((75, 105, 3), (10, 200, 10), np.uint8),  # drawn at twice its size
        objects=np.array([[20.0, 20, 40, 50]]),
        proposals=np.zeros((0, 4)),
        pairs={"scene": np.array([[0.0, 0, 60, 50], [70, 30, 105, 75]]), "object": np.array([[5.0, 5, 50, 50]] * 2)},
        told={"scene": "nothing in common", "object": "object in common"},
        caption="photo.jpg",
    )
    png = cut_sheet([photo, photo])
    assert png == cut_sheet([photo, photo])
    sheet = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    left, top = MARGIN + 210 + GAP, MARGIN + HEADING
    scene = sheet[top : top + 150, left : left + 210]
    assert tuple(scene[99, 60]) == ImageColor.getrgb(FIRST)  # bottom edge of the first: 50 x 2, exclusive
    assert tuple(scene[100, 60]) != ImageColor.getrgb(FIRST)
    assert tuple(scene[100, 140]) == ImageColor.getrgb(SECOND)
    assert cut_sheet([]) == cut_sheet([])


def page(unreadable: int) -> AuditPage:
    return AuditPage(
        title="Audit of <folder>",
        facts=[("read", "3")],
        choice="--method mls",
        reasons=["because"],
        commands=["scenewise pretrain"],
        policies=[
            PolicyRow(name="scene", title="random", common=None, overlap=(0.5, 0.4, 0.6), fallback=0.0),
            PolicyRow(name="object", title="aware", common=(0.9, 0.8, 1.0), overlap=(0.5, 0.4, 0.6), fallback=0.25),
        ],
        objects_from="labels",
        histograms=[histogram("Short side (px)", np.arange(10))],
        sheets={},
        twins=[],
        unreadable=[(f"{number}.jpg", "empty file") for number in range(unreadable)],
        notes=["measured so"],
    )


def test_the_page_shows_its_figures_as_text() -> None:
    shown = audit_html(page(LISTED + 5))
    assert "Audit of &lt;folder&gt;" in shown
    assert "no objects known" in shown
    assert "90.0" in shown
    assert "25.0" in shown
    assert f"The first {LISTED} of {LISTED + 5}" in shown
    assert f"{LISTED - 1}.jpg" in shown
    assert f"{LISTED}.jpg" not in shown
    assert "no unreadable image" in audit_html(page(0))
