"""The page of a comparison: every figure and difference is there, drawn to scale, and strangers' text stays text."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from scenewise.report.compare_page import ComparePage, bar, compare_html, write_comparison
from scenewise.report.differences import Difference
from scenewise.report.records import ComparisonTable, Interval

from .test_page import HOSTILE, Reader


def difference(value: float, low: float, high: float, metric: str = "mAP", first: str = "RUN") -> Difference:
    interval = Interval(value=value, low=low, high=high)
    return Difference(first=first, second="random", protocol="knn", metric=metric, interval=interval)


def page(*, name: str = "RUN", differences: list[Difference] | None = None) -> ComparePage:
    figure = {"value": 0.4, "low": 0.3, "high": 0.5}
    results = [
        {
            "subject": subject,
            "data": "voc:x",
            "protocols": {"knn": {"mAP": figure, "mAP/area": figure, "AP/cat": figure}},
        }
        for subject in ("random", name)
    ]
    found = [difference(0.1, 0.05, 0.2, first=name), difference(0.1, -0.1, 0.2, "AP/cat", first=name)]
    return ComparePage(
        title=f"Comparison of {name}",
        facts=[("seed", "0")],
        sentences=[f"{name} is better (95 %: 1 to 2)."],
        table=ComparisonTable.from_results(results),
        differences=found if differences is None else differences,
        remarks=["left out: nothing"],
        reading=["Intervals."],
    )


def test_the_page_holds_figures_differences_and_words() -> None:
    shown = compare_html(page())
    text = re.sub(r"\s+", " ", Reader(shown).text)
    for part in (
        "RUN is better (95 %: 1 to 2).",
        "left out: nothing",
        "Intervals.",
        "+10.0",
        "5.0 to 20.0",
        "▲ better",
    ):
        assert part in text
    for part in ("knn AP/cat", "knn mAP/area", "not decided", "against random"):
        assert part in text
    assert "://" not in shown
    assert shown == compare_html(page())


def test_names_of_strangers_are_text(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_comparison(out, page(name=HOSTILE))
    read = Reader(out.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in read.tags}
    assert HOSTILE in read.text
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_one_subject_alone_has_no_differences() -> None:
    shown = compare_html(page(differences=[]))
    assert 'id="differences"' not in shown
    assert "#differences" not in shown


def test_bars_are_to_scale_with_0_in_the_middle() -> None:
    drawn = bar(difference(0.1, -0.1, 0.2), widest=0.2)
    assert (drawn.shown, drawn.interval, drawn.word) == ("+10.0", "-10.0 to 20.0", "not decided")
    assert (drawn.left, drawn.value, drawn.width) == ("26.0%", "74.0%", "72.0%")
    below = bar(difference(-0.2, -0.2, -0.1), widest=0.2)
    assert (below.shown, below.left, below.value, below.word) == ("-20.0", "2.0%", "2.0%", "▼ worse")


@pytest.mark.parametrize("ends", [(0.0, 0.0, 0.0), (0.1, math.nan, math.nan)])
def test_what_cannot_be_drawn_is_written(ends: tuple[float, float, float]) -> None:
    drawn = bar(difference(*ends), widest=0.0)
    assert drawn.value is None
    assert drawn.word == "not decided"
    assert drawn.shown == ("0.0" if ends[0] == 0 else "+10.0")
    assert compare_html(page(differences=[difference(*ends)]))
