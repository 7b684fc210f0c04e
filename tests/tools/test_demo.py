"""The demo, small: it tells the whole story in one folder."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from scenewise.backbones import load_backbone
from scenewise.engine.display import Quiet
from scenewise.tools.demo import demo, demo_tree


class Told(Quiet):
    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []

    def say(self, text: str) -> None:
        self.words.append(text)


def test_the_demo_ends_with_a_table_a_report_and_a_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATA": "synthetic:96", "SIZE": 32, "EPOCHS": 1, "BACKBONE": "test_resnet"}.items():
        monkeypatch.setattr(f"scenewise.tools.demo.{name}", value)
    display = Told()
    out = demo(tmp_path / "story", display=display)
    rows = {row["subject"]: row for row in json.loads((out / "results.json").read_text())}
    assert list(rows) == ["random init", "MoCo v2", "MLS"]
    for row in rows.values():
        assert {"knn", "linear"} == row["protocols"].keys()
        assert all("mAP" in figures for figures in row["protocols"].values())
    table = next(words for words in display.words if words.startswith("| subject"))
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(rows)
    page = html.unescape((out / "report.html").read_text())
    for first, second in (("MoCo v2", "random init"), ("MLS", "random init"), ("MLS", "MoCo v2")):
        for protocol in ("knn", "linear"):
            about = rf"{first} is .*than {second} on {protocol} mAP "
            (told,) = [words for words in display.words if re.search(about, words)]
            assert told in page
            values = [rows[name]["protocols"][protocol]["mAP"]["value"] for name in (first, second)]
            size = float(re.search(r"(-?[0-9.]+) points", told)[1]) * (-1 if "is worse" in told else 1)
            assert size == pytest.approx(100 * (values[0] - values[1]), abs=0.06)
    assert "intervals overlap" not in page
    assert "Pseudo-labels of MLS" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert load_backbone(out / "mls").name == "test_resnet"


def test_the_two_runs_share_everything_but_the_method() -> None:
    first, second = demo_tree("mocov2", 3), demo_tree("mls", 3)
    assert first.pop("method")["name"] == "mocov2"
    assert second.pop("method")["name"] == "mls"
    assert first == second
