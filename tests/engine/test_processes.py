"""Two processes under torchrun: one voice, one set of files, and the figures of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scenewise.engine.checkpoints import load_checkpoint
from scenewise.engine.config import merge, to_yaml
from scenewise.engine.processes import anywhere, gather_objects, leave, share_statistics, together
from scenewise.engine.run import Run
from scenewise.errors import UserError

TOLERANCE = 1e-3  # of the largest value of each tensor after 10 steps: sums in another order, and they grow
LEAST = 1e-5  # for biases that have hardly left 0
TIMING = ("images_per_second", "data_wait")
SMALL = {"hidden": 16, "width": 8}
# a step that moves the weights far more than the tolerance, from the first step on
MOVING = {"lr": 1.0, "scaling": "none", "schedule": "constant", "warmup_epochs": 0.0}
BYOL = {
    "method": {"name": "byol", **SMALL},
    "backbone": {"norm": "batch"},
    "optimiser": {**MOVING, "name": "lars"},
}
S2R2 = {
    "method": {"name": "s2r2", "width": 8},
    "backbone": {"norm": "batch"},
    "optimiser": {**MOVING, "name": "sgd", "lr": 0.1},
    "engine": {"batch_size": 12},
}


def command(*arguments: str | Path) -> list[str]:
    """Return the command line of a run in two processes."""
    launcher = "-m torch.distributed.run --standalone --nproc_per_node 2 -m scenewise pretrain"
    return [sys.executable, *launcher.split(), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def torchrun(config: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("--config", config, "--out", out, *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )


def root_cause(said: str) -> int:
    """Return the exit status of the process that ended first, which torchrun reports last; its own is always 1."""
    return int(re.findall(r"exitcode\s*: (-?\d+)", said)[-1])


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without what the clock says."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMING} for line in read]


def state(folder: Path) -> dict[str, Tensor]:
    """Return everything that the method holds at the end: teachers, heads, queues and running statistics too."""
    return load_checkpoint(folder / "checkpoints" / "last.ckpt").model


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if not value.is_floating_point():
            assert torch.equal(found[name], value), name
            continue
        scale = float(value.abs().max()) if value.numel() else 0.0
        torch.testing.assert_close(
            found[name],
            value,
            atol=max(LEAST, TOLERANCE * scale),
            rtol=0.0,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def changes(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[float]:
    """Return how far each weight has moved, as a share of its largest value."""
    names = [name for name, value in before.items() if name.endswith("weight") and value.ndim > 1]
    return [float((after[name] - before[name]).abs().max() / before[name].abs().max()) for name in names]


@pytest.mark.slow
def test_two_processes_equal_one_on_a_backbone_without_batch_statistics(
    settings: Callable[..., Any], train: Callable[..., Run], photos: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for photo in photos.rglob("*.jpg"):
        content = photo.read_bytes()
        (pool / photo.name).write_bytes(content[:-300] if photo.name == "03.jpg" else content)
    sections = {"backbone": {"name": "resnet18", "norm": "group"}, "data": {"source": str(pool)}}
    one = train(tmp_path / "one", **sections)
    config = tmp_path / "asked.yaml"
    config.write_text(to_yaml(settings(**sections)))
    done = torchrun(config, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done: ") == 1
    assert done.stderr.count("left out 03.jpg") == 1
    assert_close(state(tmp_path / "two"), state(one.folder))
    lines = [metrics(folder) for folder in (one.folder, tmp_path / "two")]
    assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]
    assert [line["loss"] for line in lines[1]] == pytest.approx([line["loss"] for line in lines[0]], rel=1e-3)
    assert (tmp_path / "two" / "skipped.csv").read_text() == (one.folder / "skipped.csv").read_text()
    again = torchrun(config, tmp_path / "two")
    assert root_cause(again.stderr) == 2
    assert again.stderr.count("exists and is not empty") == 1
    assert "Error" not in again.stderr.partition("exists and is not empty")[0]


@pytest.mark.slow
@pytest.mark.parametrize("sections", [BYOL, S2R2], ids=["byol", "s2r2"])
def test_two_processes_equal_one_where_batch_statistics_belong_to_the_run(
    settings: Callable[..., Any], train: Callable[..., Run], tmp_path: Path, sections: dict[str, Any]
) -> None:
    """Also the images that fill no batch are left out alike, and counted by one voice."""
    one = train(tmp_path / "one", **sections)
    config = tmp_path / "asked.yaml"
    config.write_text(to_yaml(settings(**sections)))
    done = torchrun(config, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    start = state(train(tmp_path / "start", **merge(sections, {"engine": {"epochs": 0}})).folder)
    moved = changes(start, state(one.folder))
    assert sorted(moved)[len(moved) // 2] > 10 * TOLERANCE, "nothing to compare"
    assert_close(state(tmp_path / "two"), state(one.folder))
    lines = [metrics(folder) for folder in (one.folder, tmp_path / "two")]
    for first, second in zip(*lines, strict=True):
        assert second == pytest.approx(first, rel=1e-3, abs=1e-4)
    records = [json.loads((folder / "environment.json").read_text()) for folder in (one.folder, tmp_path / "two")]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["notes"] == records[1]["notes"]
    for note in one.notes:
        assert done.stderr.count(note) == 1
    dropped = 40 % one.config.engine.batch_size
    assert any(f"{dropped} of 40 images are left out" in note for note in one.notes) == bool(dropped)


@pytest.mark.slow
def test_a_batch_that_cannot_be_dealt_out_is_refused_by_one_voice_before_any_work(
    settings: Callable[..., Any], tmp_path: Path
) -> None:
    config = tmp_path / "asked.yaml"
    config.write_text(to_yaml(settings(engine={"batch_size": 9}, data={"source": "synthetic:100000"})))
    done = torchrun(config, tmp_path / "run")
    assert root_cause(done.stderr) == 2
    assert done.stderr.count("engine.batch_size: 9 cannot be divided by 2 processes") == 1
    assert "reading" not in done.stderr
    assert not (tmp_path / "run").exists()
