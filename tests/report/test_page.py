"""The page is whole, loads nothing, runs nothing, escapes what strangers wrote, and is the same each time."""

from __future__ import annotations

import base64
import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from scenewise.report.curves import PANELS, Curve, Panel, draw, panels
from scenewise.report.page import Sheet, _card, write_report
from scenewise.report.records import ComparisonTable, RunRecord, read_run
from scenewise.report.sheets import NeighbourRow, neighbour_sheet

from .conftest import Fabricate, fabricated_lines

VOID = {"meta", "img", "br", "use", "path", "link"}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>&amp;{{ 7 * 7 }}'


class Reader(HTMLParser):
    """Check that every element is closed in order; keep tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def written(out: Path, **parts: object) -> tuple[str, Reader]:
    write_report(out, title=str(parts.pop("title", "A report")), **parts)  # type: ignore[arg-type]
    page = out.read_text(encoding="utf-8")
    return page, Reader(page)


def table(*, subject: str = "mls") -> ComparisonTable:
    def result(name: str, value: float) -> dict:
        figure = {"value": value, "low": value - 0.02, "high": value + 0.03}
        return {
            "subject": name,
            "data": "made up",
            "protocols": {"knn": {"mAP": figure, "AP/cat": figure}},
            "notes": ["thin"],
        }

    return ComparisonTable.from_results([result("random", 0.2), result(subject, 0.4123)])


def sheet() -> Sheet:
    photo = np.full((40, 60, 3), 120, np.uint8)
    row = NeighbourRow(query=photo, neighbours=[photo[:25, :25]], similarities=[0.5])
    return Sheet(png=neighbour_sheet([row]), caption="where it was cut")


def test_a_full_page_holds_every_part(fabricate: Fabricate, tmp_path: Path) -> None:
    run = read_run(fabricate(skipped=60))
    page, reader = written(
        tmp_path / "r.html", runs=[run], table=table(), sheets={"Crops": sheet()}, notes=["A note of ours."]
    )
    for part in ("Verdict", "Results", "Curves", "Crops", "Configuration", "Environment", "Images left out"):
        assert part in reader.text
    assert "41.2" in reader.text
    assert "39.2 – 44.2" in reader.text
    assert "A note of ours." in reader.text
    assert "The loss fell from" in reader.text
    assert "street/0049.jpg" in reader.text
    assert "street/0050.jpg" not in reader.text
    assert "The first 50 of 60" in reader.text
    assert "versions.torch" in reader.text
    image = next(attributes for tag, attributes in reader.tags if tag == "img")
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == sheet().png
    links = {attributes["href"][1:] for tag, attributes in reader.tags if tag == "a"}
    assert links <= {attributes.get("id") for _, attributes in reader.tags}
    assert page.startswith("<!doctype html>")


def test_the_page_loads_and_runs_nothing(fabricate: Fabricate, tmp_path: Path) -> None:
    page, reader = written(tmp_path / "r.html", runs=[read_run(fabricate())], table=table(), sheets={"Crops": sheet()})
    assert not re.search(r"https?://", page)
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"} == set()
    for _, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    policy = next(a["content"] for tag, a in reader.tags if tag == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_the_same_run_gives_the_same_page(fabricate: Fabricate, tmp_path: Path) -> None:
    run = read_run(fabricate())
    pages = [written(tmp_path / name, runs=[run], table=table(), sheets={"Crops": sheet()})[0] for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_every_part_may_be_missing(tmp_path: Path) -> None:
    _, reader = written(tmp_path / "none.html")
    assert "nothing to judge" in reader.text
    folder = tmp_path / "empty"
    folder.mkdir()
    _, reader = written(tmp_path / "empty.html", runs=[read_run(folder)])
    assert "Nothing was logged" in reader.text
    assert "Metrics.jsonl is missing" in reader.text
    _, reader = written(tmp_path / "table.html", table=dataclasses.replace(table(), cells={}))
    assert "not computed" in reader.text
    odd = RunRecord(
        name="odd", history=[{"step": 0}, {"step": 1, "epoch": 0, "loss": math.nan, "lr": 0.0, "grad/a": 0.0}]
    )
    _, reader = written(tmp_path / "odd.html", runs=[odd, odd])
    assert "broken down: loss is nan" in reader.text


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    line = fabricated_lines(epochs=1, steps=2)[-1]
    line[f"probe/{HOSTILE}$x^$"] = 0.5
    line[f"grad/{HOSTILE}"] = 0.5
    run = RunRecord(
        name=HOSTILE,
        config={"method": {"name": HOSTILE}, "backbone": HOSTILE},
        config_text=HOSTILE,
        environment={HOSTILE: [HOSTILE]},
        history=[line],
        skipped_columns=(HOSTILE,),
        skipped=[(f"bad-\udcff-{HOSTILE}.jpg",)],
        problems=(HOSTILE,),
    )
    page, reader = written(
        tmp_path / "h.html",
        title=HOSTILE,
        runs=[run, run],
        table=table(subject=HOSTILE),
        sheets={HOSTILE: Sheet(png=b"", caption=HOSTILE)},
        notes=[HOSTILE],
    )
    assert "<script" not in page
    assert "49" not in re.findall(r"&amp;amp;(\d+)", page)
    assert {tag for tag, _ in reader.tags} & {"script", "iframe"} == set()
    assert not [a for _, a in reader.tags if any(name.startswith("on") for name in a)]
    assert [a["src"] for tag, a in reader.tags if tag == "img"] == ["data:image/png;base64,"]
    assert reader.text.count(HOSTILE) > 10


def test_alarms_are_seen_at_the_top(fabricate: Fabricate, tmp_path: Path) -> None:
    page, reader = written(tmp_path / "c.html", runs=[read_run(fabricate(collapsing=True))])
    assert 'class="card verdict alarm"' in page
    assert reader.text.index("The features are collapsing: spread 0.04") < reader.text.index("Curves\n")


def test_a_run_keeps_its_colour_where_another_has_no_curve() -> None:
    first, second = fabricated_lines(epochs=2), fabricated_lines(epochs=2, seed=1)
    for line in first:
        del line["labels/new_share"]
    drawn = {panel.title: panel for panel in panels({"first": first, "second": second})}
    assert [curve.number for curve in drawn["Loss: should fall, then flatten"].curves] == [0, 1]
    only = drawn["Pseudo-labels that are new: less is steadier"]
    assert [(curve.label, curve.number) for curve in only.curves] == [("second", 1)]
    assert "var(--series-02)" in draw(only)
    assert "var(--series-01)" not in draw(only)


def test_a_step_stands_at_its_place_in_the_epoch_and_health_at_its_end() -> None:
    drawn = {panel.label: panel for panel in panels({"run": fabricated_lines(epochs=2, steps=4)})}
    assert drawn["loss"].curves[0].epochs == pytest.approx(np.arange(1, 9) / 4)
    assert drawn["spread"].curves[0].epochs == pytest.approx([1, 2])


def test_a_long_history_is_drawn_with_bounded_size_and_keeps_its_extremes() -> None:
    values = np.ones(50_000)
    values[20_000], values[30_000] = 90.0, -70.0
    curve = Curve(label="run", number=0, epochs=np.linspace(0, 10, 50_000), values=values)
    drawing = draw(Panel(title="Loss", label="loss", curves=[curve]))
    assert len(drawing) < 60_000
    assert ">50</text>" in drawing  # the axis reaches the one high step and the one low step
    assert ">-50</text>" in drawing


@pytest.mark.parametrize("values", [[], [math.nan, math.inf], [0.0, 0.0], [2.0]])
@pytest.mark.parametrize("logarithmic", [False, True])
def test_odd_values_are_drawn_without_complaint(values: list[float], logarithmic: bool) -> None:
    curve = Curve(label="run", number=7, epochs=np.arange(len(values), dtype=float), values=np.array(values))
    drawing = draw(Panel(title='<"&>', label="x & $y", curves=[curve], logarithmic=logarithmic))
    Reader(drawing)
    assert 'aria-label="&lt;&quot;&amp;&gt;"' in drawing


def test_steps_and_epochs_are_those_that_were_done() -> None:
    run = RunRecord(name="run", history=fabricated_lines(epochs=2, steps=4))
    facts = dict(_card(run).facts)
    assert (facts["steps"], facts["epochs"]) == ("8", "2")


@pytest.mark.parametrize("figure", PANELS)
def test_every_figure_that_has_a_panel_is_drawn(figure: str) -> None:
    history = [{"step": step, "epoch": step, figure: 0.1 * step} for step in (1, 2, 3)]
    assert [panel.title for panel in panels({"run": history})] == [PANELS[figure][0]]
