"""Run folders as they are found: whole, cut off, resumed, damaged, empty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scenewise.report.records import ComparisonTable, Interval, read_run

from .conftest import EPOCHS, STEPS, Fabricate


def test_a_whole_folder_is_read(fabricate: Fabricate) -> None:
    run = read_run(fabricate(skipped=4))
    assert (run.name, run.method, run.problems) == ("mls-run", "mls", ())
    assert [line["step"] for line in run.history] == list(range(1, EPOCHS * STEPS + 1))
    assert run.environment["versions"] == {"torch": "2.14.1"}
    assert run.skipped_columns == ("key", "reason")
    assert len(run.skipped) == 4


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_cut_off_last_line_is_left_out_and_named(fabricate: Fabricate, cut: int) -> None:
    folder = fabricate()
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes().removesuffix(b"\n")[:-cut])
    run = read_run(folder)
    assert len(run.history) == EPOCHS * STEPS - 1
    assert run.problems == ("the last line of metrics.jsonl was cut off and is left out",)


def test_a_damaged_line_within_is_counted(fabricate: Fabricate) -> None:
    folder = fabricate()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[3] = "\x00\x00"
    lines[7] = "[1, 2]"
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    run = read_run(folder)
    assert len(run.history) == EPOCHS * STEPS - 2
    assert run.problems == ("metrics.jsonl: 2 lines cannot be read and are left out, first line 4",)


def test_where_a_resumed_run_went_back_the_later_lines_count(tmp_path: Path) -> None:
    lines = [{"step": step, "epoch": 0, "loss": float(step)} for step in range(6)]
    again = [{"step": step, "epoch": 0, "loss": 10.0 + step} for step in range(3, 8)]
    end = {"step": 7, "probe/knn_mAP": 0.5}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, *again, end]))
    history = read_run(tmp_path).history
    assert [line["step"] for line in history] == list(range(8))
    assert [line["loss"] for line in history] == [0, 1, 2, 13, 14, 15, 16, 17]
    assert history[-1]["probe/knn_mAP"] == 0.5


def test_an_empty_folder_is_no_error(tmp_path: Path) -> None:
    run = read_run(tmp_path)
    assert (run.history, run.method, run.skipped) == ([], "", [])
    assert run.problems == ("config.yaml is missing", "environment.json is missing", "metrics.jsonl is missing")


def test_nothing_in_a_folder_runs_and_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("method: !!python/object/apply:os.mkdir [made-by-yaml]\n")
    (tmp_path / "environment.json").write_text("{")
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    (tmp_path / "skipped.csv").write_text('key,reason\n"' + "x" * 200_000 + '",long\n')
    run = read_run(tmp_path)
    assert run.config == {}
    assert [problem.split()[0] for problem in run.problems] == ["config.yaml", "environment.json", "skipped.csv", "the"]


@pytest.mark.parametrize(
    ("text", "method"), [("method: mls", "mls"), ("method: {name: x}", "x"), ("method: 3", ""), ("- 1", "")]
)
def test_the_method_is_found_where_it_is(tmp_path: Path, text: str, method: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert read_run(tmp_path).method == method


def test_a_table_keeps_the_order_and_sets_classes_apart() -> None:
    figure = {"value": 0.4, "low": 0.3, "high": 0.5}
    table = ComparisonTable.from_results(
        [
            {
                "subject": "b",
                "data": "voc:x",
                "protocols": {"linear": {"mAP": figure, "AP/cat": figure}},
                "notes": ["thin"],
            },
            {"subject": "a", "data": "voc:x", "protocols": {"knn": {"mAP": figure}}, "notes": {"linear": "not run"}},
        ]
    )
    assert table.subjects == ("b", "a")
    assert table.whole().columns == (("linear", "mAP"), ("knn", "mAP"))
    assert table.classes().columns == (("linear", "AP/cat"),)
    assert table.cells["a", "knn", "mAP"] == Interval(value=0.4, low=0.3, high=0.5)
    assert (table.notes, table.data) == (("thin", "linear: not run"), "voc:x")


def test_a_protocol_has_one_main_figure() -> None:
    figure = {"value": 0.4, "low": 0.3, "high": 0.5}
    reported = {
        "knn": ["mAP", "mAP/area", "mAP/11point", "mAP/batches of 128", "AP/cat"],
        "linear": ["top1", "top5", "accuracy/cat"],
        "svm-lowshot": ["mAP/k=1", "mAP/area/k=1", "mAP/k=16", "mAP/area/k=16"],
        "semi": ["1%/mAP", "1%/mAP/area", "10%/mAP", "10%/mAP/area"],
        "retrieve": ["recall@1", "recall@5", "mAP"],
        "detect": ["AP", "AP50", "APs", "AP/cat", "AP50/voc", "AP50/11point"],
        "segment-instances": ["AP", "AP50", "AP/cat", "mask/AP", "mask/AP50", "mask/AP/cat"],
    }
    protocols = {protocol: dict.fromkeys(metrics, figure) for protocol, metrics in reported.items()}
    table = ComparisonTable.from_results([{"subject": "a", "data": "voc:x", "protocols": protocols}])
    assert dict(table.main().columns) == {
        "knn": "mAP",
        "linear": "top1",
        "svm-lowshot": "mAP/k=16",
        "semi": "10%/mAP",
        "retrieve": "recall@1",
        "detect": "AP",
        "segment-instances": "mask/AP",
    }
    whole, rest = table.whole().columns, table.classes().columns
    assert not set(whole) & set(rest)
    assert {metric for protocol, metric in rest if protocol == "semi"} == {"1%/mAP/area", "10%/mAP/area"}
    assert {metric for protocol, metric in rest if protocol == "detect"} == {"AP/cat", "AP50/voc", "AP50/11point"}
    assert [metric for protocol, metric in whole if protocol in ("knn", "segment-instances")] == [
        "mAP", "AP", "AP50", "mask/AP", "mask/AP50",
    ]  # fmt: skip
    assert len(whole) + len(rest) == len(table.columns)
