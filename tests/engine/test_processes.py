"""Two processes under torchrun: one voice, one set of files, and the figures of one process."""

from __future__ import annotations

import json
import os
import re
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
from scenewise.engine.config import to_yaml
from scenewise.engine.config_tree import merge
from scenewise.engine.processes import gather_objects, highest, share_statistics, together
from scenewise.engine.run import Run
from scenewise.errors import UserError

TOLERANCE = 1e-3  # of the largest value of each tensor after 10 steps: sums in another order, and they grow
LEAST = 1e-5  # for biases that have hardly left 0
MOVEMENT = 0.1  # share of the way a tensor has gone in a few steps; batch norm multiplies rounding differences
ROUNDING = 1e-6  # share of a tensor's length, for those without a gradient (a bias before batch norm)
TIMING = ("images_per_second", "data_wait", "loading/")  # what figures of the clock begin with
SMALL = {"hidden": 16, "width": 8}
# LARS warms up from a rate of 0: with these the weights move from the first step on. At 0.1 a difference of rounding
# grows forty times a step
BYOL = {
    "method": {"name": "byol", **SMALL},
    "optimiser": {"lr": 0.03, "scaling": "none", "schedule": "constant", "warmup_epochs": 0.0},
    "engine": {"epochs": 1},
}
S2R2 = {
    "method": {"name": "s2r2", "width": 8},
    "optimiser": {"lr": 6e-4, "scaling": "none", "schedule": "constant"},
    "engine": {"epochs": 1, "batch_size": 16},
}


def command(*arguments: str | Path, program: tuple[str, ...] = ("-m", "scenewise")) -> list[str]:
    """Return the command line of a run in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return [sys.executable, *launcher, *program, "pretrain", *map(str, arguments)]


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
    return statuses(said)[-1]


def statuses(said: str) -> list[int]:
    """Return the exit statuses that torchrun reports."""
    return [int(status) for status in re.findall(r"exitcode\s*: (-?\d+)", said)]


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without what the clock says."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(TIMING)} for line in read]


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


def moved(start: Tensor, end: Tensor) -> float:
    return float((end - start).float().norm())


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
    """Without synchronised statistics the difference is more than the movement itself.

    The images that fill no batch are left out alike too, and one voice counts them.
    """
    one = train(tmp_path / "one", **sections)
    train(tmp_path / "start", **merge(sections, {"engine": {"epochs": 0}}))
    config = tmp_path / "asked.yaml"
    config.write_text(to_yaml(settings(**sections)))
    done = torchrun(config, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    start, first, second = (state(tmp_path / name) for name in ("start", "one", "two"))
    assert one.config.backbone.norm == "batch"
    assert start.keys() == first.keys() == second.keys()
    for name, value in first.items():
        noise = ROUNDING * (float(start[name].float().norm()) + value.numel() ** 0.5)
        assert moved(value, second[name]) <= MOVEMENT * moved(start[name], value) + noise, name
    lines = [metrics(folder) for folder in (one.folder, tmp_path / "two")]
    assert [line["loss"] for line in lines[1]] == pytest.approx([line["loss"] for line in lines[0]], rel=1e-4)
    records = [json.loads((folder / "environment.json").read_text()) for folder in (one.folder, tmp_path / "two")]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["notes"] == records[1]["notes"] == list(one.notes)
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


@pytest.fixture(scope="module")
def uninterrupted(settings: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of two processes; its configuration lies beside it."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "asked.yaml").write_text(to_yaml(settings(**merge(BYOL, {"engine": {"epochs": 5}}))))
    done = torchrun(folder / "asked.yaml", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds torchrun's processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_torchrun_or_to_one_process_saves_and_the_resumed_run_has_the_same_bytes(
    uninterrupted: Path, tmp_path: Path, number: signal.Signals
) -> None:
    config, run = uninterrupted.parent / "asked.yaml", tmp_path / "run"
    arguments = command("--config", config, "--out", run)
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        while process.poll() is None and _count(run / "metrics.jsonl") < 3:
            time.sleep(0.02)
        os.kill(process.pid if number == signal.SIGTERM else rank_of(process.pid, 1), number)
        _, said = process.communicate()
    assert process.returncode != 0
    assert said.count("stopped; the run is saved") == 1, said
    if number == signal.SIGINT:  # told directly, torchrun ends without a word about the others
        assert set(statuses(said)) == {130}, said
    step = load_checkpoint(run / "checkpoints" / "last.ckpt").step
    assert step == len(metrics(run)) < 25
    assert not (run / "backbone.safetensors").exists()
    resumed = torchrun(config, run, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stderr.count(f"resuming at step {step} of 25") == 1
    assert (run / "backbone.safetensors").read_bytes() == (uninterrupted / "backbone.safetensors").read_bytes()
    assert metrics(run) == metrics(uninterrupted)
    expected = state(uninterrupted)
    assert all(torch.equal(value, expected[name]) for name, value in state(run).items())


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def rank_of(launcher: int, rank: int) -> int:
    """Return the number of the process that torchrun has started as `rank`."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"\0LOCAL_RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise LookupError(rank)


# the command, but that each process says at Python's end which threads it has; the second stops itself where asked
COUNTING = """
import atexit, os, signal, sys
from pathlib import Path
from scenewise import cli
from scenewise.engine.loop import Loop

def count():
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    left = sum("gloo" in name for name in threads)
    sys.stderr.write(f"LEFT {left}\\n")  # in one piece: the other process writes too

def step(self, *arguments, real=Loop._step, **options):
    assert any("gloo" in path.read_text() for path in Path("/proc/self/task").glob("*/comm")), "nothing to count"
    if os.environ["RANK"] == "1" and os.environ["STOP"]:
        os.kill(os.getpid(), signal.SIGTERM)
    return real(self, *arguments, **options)

atexit.register(count)
Loop._step = step
cli.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
@pytest.mark.parametrize(("stop", "status"), [("", 0), ("yes", 143)], ids=["finished", "interrupted"])
def test_no_thread_of_the_process_group_is_left_when_python_ends(
    settings: Callable[..., Any], tmp_path: Path, stop: str, status: int
) -> None:
    """One that is left can abort the process now and then (status -6), whatever the run came to."""
    config, script = tmp_path / "asked.yaml", tmp_path / "script.py"
    config.write_text(to_yaml(settings(**BYOL)))
    script.write_text(COUNTING)
    done = subprocess.run(
        command("--config", config, "--out", tmp_path / "run", program=(str(script),)),
        capture_output=True,
        text=True,
        check=False,
        env=environment() | {"STOP": stop},
    )
    assert re.findall(r"LEFT (\d+)", done.stderr) == ["0", "0"], done.stderr
    assert (set(statuses(done.stderr)) or {0}) == {status}, done.stderr


def test_alone_there_is_nothing_to_agree_on() -> None:
    assert gather_objects(3) == [3]
    assert highest(7) == 7
    assert together(lambda: 5) == 5
    with pytest.raises(UserError, match="wrong"):
        together(_wrong)
    layer = nn.BatchNorm1d(3)
    layer.running_mean = torch.ones(3)
    share_statistics(layer)
    assert torch.equal(layer.running_mean, torch.ones(3))


def _wrong() -> None:
    raise UserError("wrong")
