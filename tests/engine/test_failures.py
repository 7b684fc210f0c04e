"""What goes wrong while a run trains: bad images, a full disk, numbers that explode, a kill."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from scenewise.engine import checkpoints
from scenewise.engine.checkpoints import load_checkpoint
from scenewise.engine.config import to_yaml
from scenewise.engine.data import fetch
from scenewise.engine.loop import Loop
from scenewise.engine.run import Run, pretrain_run
from scenewise.errors import UserError

Train = Callable[..., Run]


def test_a_killed_run_resumed_equals_the_uninterrupted_one(
    settings: Callable[..., Any], train: Train, tmp_path: Path
) -> None:
    sections = {"engine": {"epochs": 6, "checkpoint_steps": 3}}
    whole = train(tmp_path / "whole", **sections)
    config, run = tmp_path / "asked.yaml", tmp_path / "run"
    config.write_text(to_yaml(settings(**sections)))
    command = [sys.executable, "-m", "scenewise", "pretrain", "--config", str(config), "--out", str(run)]
    kill_at = random.Random(str(tmp_path)).randint(4, 20)  # another step in every session
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and _count(run / "metrics.jsonl") < kill_at:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    saved = load_checkpoint(run / "checkpoints" / "last.ckpt")
    assert saved.step % 3 == 0
    resumed = train(run, resume=True, **sections)
    assert resumed.backbone.read_bytes() == whole.backbone.read_bytes(), kill_at
    assert [_steps(folder) for folder in (resumed.folder, whole.folder)] == [list(range(1, 31))] * 2


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _steps(folder: Path) -> list[int]:
    return [yaml.safe_load(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_too_many_bad_images_stop_the_run_and_are_named(train: Train, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "pool")
    for number in (0, 2, 4):
        path = tmp_path / "pool" / f"{number:02}.jpg"
        path.write_bytes(path.read_bytes()[:-300])  # the header is whole, the pixels are cut off
    with pytest.raises(UserError, match=r"data.max_skipped: 2 of 40 images cannot be read"):
        train(tmp_path / "run", data={"source": str(tmp_path / "pool")})
    assert len((tmp_path / "run" / "skipped.csv").read_text().splitlines()) == 3  # the header and two
    run = train(tmp_path / "other", data={"source": str(tmp_path / "pool"), "max_skipped": 0.1})
    assert len((run.folder / "skipped.csv").read_text().splitlines()) == 4


def test_images_that_are_known_to_be_bad_count_before_the_first_step(
    train: Train, photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(photos, tmp_path / "pool")
    for number in (0, 2):
        (tmp_path / "pool" / f"{number:02}.jpg").write_bytes(b"no image at all")
    with pytest.raises(UserError, match=r"data.max_skipped: 2 of 40"):
        train(tmp_path / "run", data={"source": str(tmp_path / "pool")})
    assert not (tmp_path / "run").exists()
    auto = {"source": str(tmp_path / "pool"), "proposals": "auto"}
    with pytest.raises(UserError, match=r"data.max_skipped: 2 of 40.*\n`scenewise audit` names all"):
        train(tmp_path / "run", data=auto, crops={"name": "object"})
    assert not (tmp_path / "run").exists(), "no proposals are made for a run that is refused"


@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanish_stop_the_run_in_words(
    train: Train, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(photos, pool)
    real = Loop.run

    def vanish(self: Loop, probe: Any, signals: Any) -> None:
        shutil.rmtree(pool)
        real(self, probe, signals)

    monkeypatch.setattr(Loop, "run", vanish)
    sections = {"data": {"source": str(pool), "max_skipped": 1.0}, "engine": {"workers": workers}}
    with pytest.raises(UserError, match="no readable image") as caught:
        train(tmp_path / "run", **sections)
    assert "Traceback" not in str(caught.value)


def test_a_loss_that_is_not_finite_names_the_batch_and_keeps_the_last_checkpoint(train: Train, tmp_path: Path) -> None:
    sections = {"optimiser": {"lr": 1e30, "scaling": "none", "schedule": "constant"}, "engine": {"epochs": 3}}
    with pytest.raises(UserError) as caught:
        train(tmp_path / "run", **sections)
    told = str(caught.value)
    assert "at step" in told
    assert ".jpg" in told
    assert "optimiser.lr" in told
    assert len(told.splitlines()) == 2
    assert "no checkpoint was written yet" in told
    assert not (tmp_path / "run" / "backbone.safetensors").exists()


def test_weights_that_are_not_finite_are_never_saved(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Loop._step

    def poisoned(self: Loop, *arguments: Any, **options: Any) -> dict[str, float]:
        figures = real(self, *arguments, **options)
        if self.state.step == 3:
            with torch.no_grad():
                next(self.method.parameters()).fill_(float("nan"))
        return figures

    monkeypatch.setattr(Loop, "_step", poisoned)
    with pytest.raises(UserError, match=r"a weight is not finite.*the last good checkpoint is .*last.ckpt"):
        train(tmp_path / "run", engine={"checkpoint_steps": 1})
    saved = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved.step == 3
    assert all(bool(value.isfinite().all()) for value in saved.model.values())


def test_a_disk_that_fills_up_leaves_a_run_that_goes_on_once_there_is_space(
    train: Train, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = iter(range(100))
    real = torch.save

    def fills_up(content: object, file: Any) -> None:
        if next(saves) == 1:
            file.write(b"some of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(content, file)

    monkeypatch.setattr(checkpoints.torch, "save", fills_up)
    with pytest.raises(UserError, match="No space left on device; the last good checkpoint is intact"):
        train(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir()) == [
        "last.ckpt",
        "last.ckpt.sha256",
    ]
    resumed = train(tmp_path / "run", resume=True)
    assert resumed.backbone.read_bytes() == reference.backbone.read_bytes()


def test_a_disk_that_is_full_from_the_start(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(UserError, match=r"cannot write .*run.*No space left"):
        train(tmp_path / "run")


def test_a_folder_that_may_not_be_written(train: Train, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        train(tmp_path / "file" / "run")


def test_the_death_of_a_loader_process_is_told_and_other_faults_stay_faults() -> None:
    def raising(text: str) -> Iterator[Any]:
        raise RuntimeError(text)
        yield

    found = fetch(raising("DataLoader worker (pid 7) is killed by signal: Killed."))
    assert isinstance(found, UserError)
    assert "engine.workers" in found.problems[0]
    with pytest.raises(RuntimeError, match="Caught RuntimeError"):
        fetch(raising("Caught RuntimeError in DataLoader worker process 0."))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"engine": {"batch_size": 64}}, "engine.batch_size: 64 is larger than the data set of 40"),
        ({"engine": {"accumulate": 3}}, "engine.batch_size: 8 cannot be divided by 1 processes x 3"),
        (
            {"method": {"dictionary_size": 8}},
            "method.dictionary_size: 8 must be larger than the 8 keys that a step writes",
        ),
        ({"method": {"dictionary_size": 16, "k": 17}}, "method.k: 17"),
        ({"backbone": {"batchnorm_group": 3}}, "backbone.batchnorm_group: 3 does not divide the 8 images"),
        ({"backbone": {"name": "resnet51"}}, "Did you mean"),
        ({"backbone": {"stem": "cifer"}}, "Did you mean 'cifar'"),
        ({"backbone": {"name": "test_vit"}, "data": {"size": 50}}, "not divisible by the patch of 16 px"),
        ({"crops": {"name": "scenes"}}, "Did you mean 'scene'"),
        ({"optimiser": {"name": "adamw", "lr": None}}, "optimiser.lr: give one for adamw"),
        ({"data": {"source": "nowhere/at/all"}}, "no such folder"),
        ({"data": {"source": "vov:there"}}, "Did you mean 'voc'"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    train: Train, tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        train(tmp_path / "run", **sections)
    assert all(len(problem.splitlines()) <= 2 for problem in caught.value.problems)
    assert not (tmp_path / "run").exists()


def test_the_configuration_is_judged_before_the_data_and_all_at_once(
    settings: Callable[..., Any], tmp_path: Path
) -> None:
    config = settings(
        data={"source": "nowhere"},
        backbone={"name": "resnet51"},
        engine={"batch_size": 9, "accumulate": 2},
        method={"dictionary_size": 4},
    )
    with pytest.raises(UserError) as caught:
        pretrain_run(config, tmp_path / "run")
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    assert "nowhere" not in told


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("DataLoader worker (pid 7) is killed by signal: Killed.", "killed by signal"),
        ("DataLoader worker (pid 7) exited unexpectedly", "exited unexpectedly"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "--shm-size",
        ),
        (
            "unable to allocate shared memory(shm) for file </torch_1>: No space left (28)",
            "--shm-size",
        ),
    ],
)
def test_the_death_of_a_loaders_process_is_told_in_words(said: str, told: str) -> None:
    def batches() -> Iterator[Any]:
        raise RuntimeError(said)
        yield

    problem = fetch(batches())
    assert isinstance(problem, UserError) and told in str(problem)
