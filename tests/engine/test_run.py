"""What a run promises: the same bytes again, also when it was stopped and went on, and a folder that tells it all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from scenewise.backbones import create_backbone, load_backbone
from scenewise.engine import loop
from scenewise.engine import run as engine_run
from scenewise.engine.checkpoints import Checkpoint, load_checkpoint
from scenewise.engine.config import build
from scenewise.engine.config_tree import read_yaml
from scenewise.engine.display import Bar, Quiet
from scenewise.engine.loop import Loop
from scenewise.engine.plan import make_plan
from scenewise.engine.processes import make_fabric
from scenewise.engine.run import Run, pretrain_run
from scenewise.engine.step import Stepper
from scenewise.errors import Interrupted, UserError
from scenewise.report.health import HealthWindow
from scenewise.sources import open_source
from scenewise.types import Batch, Progress

Train = Callable[..., Run]
TIMING = ("images_per_second", "data_wait", "loading/")  # what figures of the clock begin with


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return metrics.jsonl without what the clock says."""
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if not name.startswith(TIMING)} for line in read]


def assert_same(first: Run, second: Run) -> None:
    assert first.backbone.read_bytes() == second.backbone.read_bytes()
    assert lines(first.folder) == lines(second.folder)
    states = [load_checkpoint(run.folder / "checkpoints" / "last.ckpt") for run in (first, second)]
    assert states[0].model.keys() == states[1].model.keys()
    assert all(torch.equal(value, states[1].model[name]) for name, value in states[0].model.items())


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int, act: Callable[[], None]) -> None:
    """Do something once `step` steps are done."""
    real = Loop._step

    def watched(self: Loop, *arguments: Any, **options: Any) -> dict[str, float]:
        figures = real(self, *arguments, **options)
        if self.state.step + 1 == step:
            act()
        return figures

    monkeypatch.setattr(Loop, "_step", watched)


def test_the_same_seed_gives_the_same_bytes_with_workers_and_from_its_own_config(
    train: Train, reference: Run, tmp_path: Path
) -> None:
    torch.manual_seed(12345)  # the state of the libraries has no part in it
    with_workers = train(tmp_path / "workers", engine={"workers": 2})
    assert_same(reference, with_workers)
    again = pretrain_run(build(read_yaml(reference.folder / "config.yaml")), tmp_path / "again")
    assert_same(reference, again)
    assert (tmp_path / "again" / "config.yaml").read_bytes() == (reference.folder / "config.yaml").read_bytes()


@pytest.mark.timeout(120)
def test_opencvs_own_threads_do_not_hang_the_workers(train: Train, reference: Run, tmp_path: Path) -> None:
    """They do not survive a fork, and a forked process that ends them waits for ever."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (0, 0), 5)  # now they exist
    try:
        assert_same(reference, train(tmp_path / "run", engine={"workers": 2}))
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)


def test_views_finished_on_the_device_make_nearly_the_same_run(train: Train, reference: Run, tmp_path: Path) -> None:
    """A level here and there: the losses begin the same to a fiftieth. Exact as ever with any number of workers."""
    engine = {"photometrics": "device"}
    run = train(tmp_path / "run", engine=engine)
    loss, theirs = (lines(each.folder)[2]["loss"] for each in (run, reference))  # the third: the dictionary is filled
    assert loss == pytest.approx(theirs, rel=2e-2) and loss != theirs
    assert_same(run, train(tmp_path / "again", engine=engine | {"workers": 2}))


def test_another_seed_gives_other_weights(train: Train, reference: Run, tmp_path: Path) -> None:
    other = train(tmp_path / "run", seed=1)
    assert other.backbone.read_bytes() != reference.backbone.read_bytes()


def test_the_callers_random_numbers_are_left_alone(train: Train, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    train(tmp_path / "run", engine={"epochs": 1})
    assert torch.equal(torch.rand(3), expected)


def test_the_folder_tells_the_run(reference: Run) -> None:
    folder = reference.folder
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "backbone.safetensors",
        "checkpoints",
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
    ]
    written = lines(folder)
    assert [line["step"] for line in written] == list(range(1, 11))
    assert [line["epoch"] for line in written] == [1] * 5 + [2] * 5
    assert all({"loss", "lr", "loss/contrast", "loss/multilabel", "queue/fill"} <= line.keys() for line in written)
    for line in (written[4], written[9]):
        assert {"health/effective_rank", "health/alignment", "grad/contrast", "grad/multilabel"} <= line.keys()
    assert "health/alignment" not in written[3]
    assert written[0]["lr"] == pytest.approx(0.1 * 8 / 256)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["method"]["dictionary_size"] == 16
    assert settings["optimiser"]["name"] == "sgd"
    assert settings["backbone"]["batchnorm_group"] == 4
    assert "out" not in settings
    environment = json.loads((folder / "environment.json").read_text())
    assert {"versions", "commit", "machine", "command", "notes"} <= environment.keys()
    with safe_open(reference.backbone, "pt") as opened:
        assert opened.metadata()["name"] == "test_resnet"
        assert opened.metadata()["method"] == "mls"
    assert not load_backbone(folder).training


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_resumed_run_equals_the_uninterrupted_one(
    train: Train, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        stop_after(patch, 7 if number == signal.SIGINT else 5, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Interrupted) as caught:
            train(tmp_path / "run")
    assert caught.value.signal == number
    assert signal.getsignal(number) == before
    assert not (tmp_path / "run" / "backbone.safetensors").exists()
    workers = {"workers": 2} if number == signal.SIGINT else {}
    assert_same(reference, train(tmp_path / "run", resume=True, engine=workers))


@pytest.mark.parametrize(
    ("when", "number"),
    [("the last step", signal.SIGINT), ("the backbone", signal.SIGTERM), ("the page", signal.SIGINT)],
)
def test_a_signal_at_the_very_end_leaves_a_complete_run_and_is_told(
    train: Train,
    settings: Callable[..., Any],
    reference: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
    number: signal.Signals,
) -> None:
    def stop() -> None:
        os.kill(os.getpid(), number)

    def page(folder: Path) -> None:
        if when == "the page":
            stop()
        (folder / "report.html").write_text("page")

    real = engine_run.save_backbone

    def save(*given: Any, **named: Any) -> None:
        if when == "the backbone":
            stop()
        real(*given, **named)

    before, out = signal.getsignal(number), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(engine_run, "save_backbone", save)
        if when == "the last step":
            stop_after(patch, 10, stop)
        with pytest.raises(Interrupted) as caught:
            pretrain_run(settings(), out, report=page)
    assert caught.value.signal == number
    assert signal.getsignal(number) == before
    assert (out / "report.html").read_text() == "page"
    assert_same(reference, train(out, resume=True))


def test_a_run_goes_on_though_the_times_of_its_photos_have_changed(
    train: Train, photos: Path, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, run = tmp_path / "pool", tmp_path / "run"
    shutil.copytree(photos, pool)
    with monkeypatch.context() as patch:
        stop_after(patch, 5, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(run, data={"source": str(pool)})
    for path in pool.rglob("*.jpg"):  # the folders keep theirs, so that they tell nothing
        os.utime(path, ns=(1, 10**18))
    resumed = train(run, data={"source": str(pool)}, resume=True)
    assert resumed.backbone.read_bytes() == reference.backbone.read_bytes()
    assert not (run / "skipped.csv").exists()


def test_a_second_signal_stops_at_once(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)  # in this thread: of two on their way to any, the second may be lost
        signal.raise_signal(signal.SIGINT)

    stop_after(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run")


def test_a_step_that_was_done_is_told_though_the_next_one_failed(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("a fault")

    stop_after(monkeypatch, 4, fail)
    with pytest.raises(RuntimeError, match="a fault"):
        train(tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]


def test_a_run_that_died_between_checkpoints_goes_back_to_the_last(
    train: Train, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut() -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        stop_after(patch, 8, cut)
        with pytest.raises(PowerCut):
            train(tmp_path / "run", engine={"checkpoint_steps": 3})
    assert load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt").step == 6
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "epo')  # cut off while writing
    resumed = train(tmp_path / "run", resume=True, engine={"checkpoint_steps": 3})
    assert resumed.backbone.read_bytes() == reference.backbone.read_bytes()
    assert lines(resumed.folder) == lines(reference.folder)


def test_resume_of_a_finished_run_changes_nothing_and_says_so(
    settings: Callable[..., Any], reference: Run, tmp_path: Path
) -> None:
    class Titled(Quiet):
        title = ""

        def bar(self, task: str, total: int | None) -> AbstractContextManager[Bar]:
            self.title = task
            return super().bar(task, total)

    display = Titled()
    shutil.copytree(reference.folder, tmp_path / "run")
    assert_same(reference, pretrain_run(settings(), tmp_path / "run", resume=True, display=display))
    assert display.title.endswith("all steps are done already")


def test_resume_with_nothing_to_resume_starts_and_says_so(
    settings: Callable[..., Any], reference: Run, tmp_path: Path
) -> None:
    class Told(Quiet):
        words = ""

        def say(self, text: str) -> None:
            self.words += text + "\n"

    display = Told()
    run = pretrain_run(settings(), tmp_path / "new", resume=True, display=display)
    assert "nothing to resume" in display.words
    assert_same(reference, run)


def test_resume_refuses_what_would_be_another_run(train: Train, reference: Run) -> None:
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"method": {"name": "mocov2"}}, ("method: the checkpoint is of 'mls', not of 'mocov2'",)),
        ({"method": {"k": 5}, "optimiser": {"lr": 0.2}}, ("method.k: 5 was asked for", "optimiser.lr: 0.2 was asked")),
        ({"seed": 3}, ("seed: 3 was asked for, the run has 0",)),
        ({"data": {"source": "synthetic:40"}}, ("data.source: 'synthetic:40' was asked for",)),
        ({"engine": {"threads": 2}}, ("engine.threads: 2",)),
    ]
    for changed, expected in cases:
        with pytest.raises(UserError) as caught:
            train(reference.folder, resume=True, **changed)
        assert len(caught.value.problems) == len(expected)
        for problem, start in zip(sorted(caught.value.problems), sorted(expected), strict=True):
            assert problem.startswith(start)


def test_a_used_folder_is_refused_and_overwriting_replaces_only_a_runs_files(
    train: Train, reference: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference.folder, folder)
    (folder / "notes.txt").write_text("mine")
    (folder / "skipped.csv").write_text("of the former run")
    with pytest.raises(UserError, match="exists and is not empty"):
        train(folder)
    run = train(folder, overwrite=True)
    assert_same(reference, run)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "skipped.csv").exists()
    (folder / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"holds other files \(notes.txt\)"):
        train(folder, resume=True)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match="is a file"):
        train(file)


def test_no_epochs_write_the_initial_backbone(train: Train, tmp_path: Path) -> None:
    run = train(tmp_path / "run", engine={"epochs": 0})
    initial = create_backbone("test_resnet", seed=0, size=32).model.state_dict()
    written = load_file(run.backbone)
    assert written.keys() == initial.keys()
    assert all(torch.equal(value, initial[name]) for name, value in written.items())
    assert lines(run.folder) == []
    assert train(tmp_path / "run", engine={"epochs": 0}, resume=True).backbone.exists()


def test_a_run_starts_from_anothers_weights_and_takes_its_architecture(
    train: Train, reference: Run, tmp_path: Path
) -> None:
    start = {"name": None, "init": str(reference.folder)}
    run = train(tmp_path / "run", backbone=start, engine={"epochs": 0})
    first, second = load_file(reference.backbone), load_file(run.backbone)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any("starts from" in note for note in run.notes)
    assert run.config.backbone.name == "test_resnet"
    assert run.config.backbone.init == str(reference.folder)
    with pytest.raises(UserError, match=r"backbone.name: 'resnet18' was asked for, but .* is 'test_resnet'"):
        train(tmp_path / "other", backbone={**start, "name": "resnet18"})
    with pytest.raises(UserError, match="no file or folder here"):
        train(tmp_path / "other", backbone={"init": str(tmp_path / "nothing")})
    assert not (tmp_path / "other").exists()


def test_a_resumed_run_needs_the_weights_it_started_from_no_more(
    train: Train, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reference.folder, tmp_path / "start")
    start = {"name": None, "init": str(tmp_path / "start")}
    whole = train(tmp_path / "whole", backbone=start)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Interrupted):
            train(tmp_path / "run", backbone=start)
    shutil.rmtree(tmp_path / "start")
    assert_same(whole, train(tmp_path / "run", backbone=start, resume=True))


def test_mls_without_its_term_is_moco_v2(train: Train, tmp_path: Path) -> None:
    shared = {"width": 16, "momentum": 0.99, "temperature": 0.2, "dictionary_size": 16}
    mls = train(tmp_path / "mls", method={"name": "mls", "weight": 0.0, **shared})
    other = train(tmp_path / "mocov2", method={"name": "mocov2", **shared})
    first, second = load_file(mls.backbone), load_file(other.backbone)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert [line["loss"] for line in lines(mls.folder)] == [line["loss"] for line in lines(other.folder)]


def test_accumulated_parts_are_one_step(train: Train, reference: Run, tmp_path: Path) -> None:
    run = train(tmp_path / "run", engine={"accumulate": 2}, backbone={"batchnorm_group": 4})
    assert [line["step"] for line in lines(run.folder)] == list(range(1, 11))
    assert [line["lr"] for line in lines(run.folder)] == [line["lr"] for line in lines(reference.folder)]
    weight = run.config.method_config.weight
    for line in lines(run.folder):  # of all parts, not of the last one
        assert line["loss"] == pytest.approx(line["loss/contrast"] + weight * line["loss/multilabel"], rel=1e-5)
    assert_same(run, train(tmp_path / "again", engine={"accumulate": 2, "workers": 2}, backbone={"batchnorm_group": 4}))


def test_a_step_of_two_equal_parts_is_the_step_of_one() -> None:
    """The gradient of a step is the mean over its parts, not their sum."""

    def moved(accumulate: int) -> list[torch.Tensor]:
        tree = {
            "data": {"source": "synthetic:64", "size": 32},
            "method": {"name": "simclr"},
            "backbone": {"name": "resnet18", "norm": "group"},
            "optimiser": {"name": "sgd", "lr": 0.1, "scaling": "none", "momentum": 0.0, "warmup_epochs": 0.0},
            "engine": {"batch_size": 8 * accumulate, "accumulate": accumulate, "device": "cpu", "precision": "32"},
        }
        plan = make_plan(build(tree), open_source("synthetic:64"))
        stepper = Stepper(plan, make_fabric("cpu", "32"))
        generator = torch.Generator().manual_seed(0)
        views = torch.randint(256, (2, 1, 8, 3, 32, 32), generator=generator, dtype=torch.uint8)
        batch = Batch(
            index=torch.arange(8),
            views=dict(zip(plan.slots, views, strict=True)),
            boxes={name: torch.zeros(1, 8, 4) for name in plan.slots},
        )
        stepper.take(lambda: batch, Progress(0, 10, 10, 0), HealthWindow(), last_of_epoch=False)
        return [parameter.detach() for parameter in plan.backbone.parameters()]

    for one, two in zip(moved(1), moved(2), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)


def test_the_probe_watches_and_keeps_the_best(train: Train, tmp_path: Path) -> None:
    run = train(tmp_path / "run", probe={"data": "synthetic:60", "limit": 30})
    watched = [line["probe/knn_mAP"] for line in lines(run.folder) if "probe/knn_mAP" in line]
    assert len(watched) == 2
    assert all(0 <= value <= 1 for value in watched)
    best = load_checkpoint(run.folder / "checkpoints" / "best.ckpt")
    assert best.extra["best"] == max(watched)
    assert best.step == 5 * (1 + watched.index(max(watched)))
    assert (run.folder / "checkpoints" / "best.ckpt.sha256").exists()
    plain = train(tmp_path / "plain")
    assert plain.backbone.read_bytes() == run.backbone.read_bytes()  # watching changes nothing


def test_a_probe_without_labels_or_images_is_refused(train: Train, photos: Path, tmp_path: Path) -> None:
    for data, message in ((str(photos), "has no labels"), ("synthetic:12", "needs at least 20"), ("vox:x", "vox")):
        with pytest.raises(UserError, match=message):
            train(tmp_path / "run", probe={"data": data})
    assert not (tmp_path / "run").exists()


def test_nothing_needs_a_network(train: Train, reference: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert_same(reference, train(tmp_path / "run"))


def test_tensorboard_lies_beside_the_metrics(train: Train, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = train(tmp_path / "run", engine={"epochs": 1, "tensorboard": True})
    assert list((run.folder / "tensorboard").glob("events.*"))


def test_skipped_images_are_in_the_table(train: Train, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(photos, tmp_path / "pool")
    (tmp_path / "pool" / "02.jpg").write_bytes((photos / "02.jpg").read_bytes()[:-300])  # the pixels are cut off
    source = {"source": str(tmp_path / "pool")}
    run = train(tmp_path / "run", data=source)
    with (run.folder / "skipped.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["02.jpg"]
    assert rows[0]["reason"]
    assert_same(run, train(tmp_path / "workers", data=source, engine={"workers": 2}))


@pytest.mark.parametrize(("share", "expected"), [(0.0, [1, 2, 3]), (1e9, [1, 3])])
def test_saving_takes_a_small_part_of_the_time(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, expected: list[int]
) -> None:
    """The first and the last epoch's end is always saved, those between once as much time has passed again."""
    saved = []
    keep = loop.save_checkpoint

    def noted(folder: Path, name: str, checkpoint: Checkpoint) -> Path:
        saved.append(checkpoint.step)
        return keep(folder, name, checkpoint)

    monkeypatch.setattr(loop, "save_checkpoint", noted)
    monkeypatch.setattr(loop, "SAVING", share)
    run = train(tmp_path / "run", engine={"epochs": 3})
    per_epoch = len(lines(run.folder)) // 3
    assert saved == [epoch * per_epoch for epoch in expected]
