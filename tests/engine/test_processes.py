"""Two processes under torchrun: one voice, one set of files, and the figures of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scenewise.engine.config import to_yaml
from scenewise.engine.processes import anywhere, gather_objects, share_statistics, together
from scenewise.engine.run import Run
from scenewise.errors import UserError

TOLERANCE = 1e-3  # of the largest weight of each tensor after 10 steps: sums in another order, and they grow
LEAST = 1e-5  # for biases that have hardly left 0


def torchrun(config: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "scenewise",
    ]
    return subprocess.run(
        [*command, "pretrain", "--config", str(config), "--out", str(out), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


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
    first, second = load_file(one.backbone), load_file(tmp_path / "two" / "backbone.safetensors")
    for name, value in first.items():
        scale = float(value.abs().max().max())
        torch.testing.assert_close(second[name], value, atol=max(LEAST, TOLERANCE * scale), rtol=0.0)
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one.folder, tmp_path / "two")
    ]
    assert [line["step"] for line in lines[1]] == [line["step"] for line in lines[0]]
    assert [line["loss"] for line in lines[1]] == pytest.approx([line["loss"] for line in lines[0]], rel=1e-3)
    assert (tmp_path / "two" / "skipped.csv").read_text() == (one.folder / "skipped.csv").read_text()
    again = torchrun(config, tmp_path / "two")
    assert again.returncode != 0
    assert again.stderr.count("exists and is not empty") == 1
    assert "Error" not in again.stderr.partition("exists and is not empty")[0]


def test_alone_there_is_nothing_to_agree_on() -> None:
    assert gather_objects(3) == [3]
    assert not anywhere(False, torch.device("cpu"))
    assert together(lambda: 5) == 5
    with pytest.raises(UserError, match="wrong"):
        together(_wrong)
    layer = nn.BatchNorm1d(3)
    layer.running_mean = torch.ones(3)
    share_statistics(layer)
    assert torch.equal(layer.running_mean, torch.ones(3))


def _wrong() -> None:
    raise UserError("wrong")
