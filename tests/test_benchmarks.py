"""The benchmarks' table: its arithmetic, and that all that are named hand over rows. No time is asserted here."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
TURNS = st.lists(st.tuples(*[st.floats(1e-6, 1e6)] * 2), min_size=1, max_size=9)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    spec.loader.exec_module(module)
    return module


rows = load("rows")


@given(TURNS)
def test_ratios_are_taken_turn_by_turn(turns: list[tuple[float, float]]) -> None:
    ours, theirs = (np.array(column) for column in zip(*turns, strict=True))
    base, beside = rows.compare("g", {"theirs": theirs.tolist(), "ours": ours.tolist()}, against="theirs", unit="s")
    assert (base.ratio, base.compared) == (None, "")
    assert (beside.name, beside.compared, beside.unit) == ("ours", "theirs", "s")
    figures = (beside.figure, beside.low, beside.high)
    assert figures == pytest.approx((np.median(ours), ours.min(), ours.max()))
    ratios = ours / theirs
    found = (beside.ratio, beside.ratio_low, beside.ratio_high)
    assert found == pytest.approx((np.median(ratios), ratios.min(), ratios.max()))


def test_everybody_takes_as_many_turns_and_the_first_is_not_counted() -> None:
    order: list[str] = []
    clock = iter(range(100))
    work = {name: lambda name=name: order.append(name) for name in ("first", "second")}
    seconds = rows.take_turns(work, rounds=2, clock=lambda: float(next(clock)))
    assert order == ["first", "second"] * 3
    assert seconds == {"first": [1.0, 1.0], "second": [1.0, 1.0]}


def test_the_table_and_the_file_hold_every_row(tmp_path: Path) -> None:
    found = rows.compare("a group", {"slow": [2.0, 4.0, 3.0], "fast": [1.0, 1.0, 1.0]}, against="slow", unit="s")
    text = rows.table(found)
    assert text.count("a group") == 1 and "0.333 x" in text and "0.25 to 0.5" in text
    rows.write(tmp_path / "rows.json", found, quick=True)
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["quick"] is True and [row["name"] for row in content["rows"]] == ["slow", "fast"]
    assert content["rows"][1]["ratio"] == pytest.approx(1 / 3)


def test_every_benchmark_that_is_named_hands_over_rows() -> None:
    tree = ast.parse((FOLDER / "run.py").read_text())
    (names,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAMES"
    )
    assert names
    for name in names:
        body = ast.parse((FOLDER / f"{name}.py").read_text()).body
        functions = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "rows"]
        assert len(functions) == 1, name
        assert "quick" in [argument.arg for argument in functions[0].args.kwonlyargs], name
    readme = (FOLDER / "README.md").read_text()
    assert all(f"`{name}.py`" in readme for name in names)


def test_the_benchmark_for_gpus_runs_on_tiny_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu = load("gpu")
    groups = [*gpu.step_rows("cpu", gpu.TINY), *gpu.run_rows("cpu", gpu.TINY)]
    peak, *steps, run = groups
    assert peak[0].figure > 0
    expected = [f"{method} on cpu: test_resnet, 32 px, {images} images" for method in gpu.METHODS for images in (8, 16)]
    assert [rows[0].group for rows in steps] == expected
    for images, passes, _ in steps:
        assert images.figure > 0 and passes.compared == gpu.PEAK
        assert passes.ratio == pytest.approx(passes.figure / peak[0].figure)
    speed, waiting = run[:2]
    assert speed.figure > 0 and 0 <= waiting.figure <= 1


def test_what_fits_is_the_largest_doubling_before_the_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu, asked = load("gpu"), list[int]()

    def measure(images: int) -> str:
        asked.append(images)
        if images > 1024:
            raise gpu.torch.OutOfMemoryError
        return f"{images} images"

    assert list(gpu.fitting(measure, 256, 4096)) == [(256, "256 images"), (1024, "1024 images")]
    assert asked == [256, 512, 1024, 2048]
    assert [images for images, _ in gpu.fitting(measure, 256, 512)] == [256, 512]
    assert [images for images, _ in gpu.fitting(measure, 256, 256)] == [256]


@pytest.mark.parametrize(("backbone", "expected"), [("resnet50", 8.2e9), ("vit_small_patch16_224", 9.2e9)])
def test_the_operations_of_a_view_are_the_published_ones(
    backbone: str, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    # 4.1 and 4.6 thousand million multiplications and sums: He et al. 2016 (torchvision's table), Touvron et al. 2021
    assert load("gpu").operations(backbone, 224) == pytest.approx(expected, rel=0.01)
