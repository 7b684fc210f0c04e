"""A proposal file beside the images of a run: those of each image, or an error that says what does not fit."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
import yaml
from PIL import Image

from scenewise.engine import processes
from scenewise.engine import run as run_module
from scenewise.engine.config import build, to_yaml
from scenewise.engine.display import Quiet
from scenewise.engine.folder import OWN_FILES, PROPOSALS
from scenewise.engine.loop import Loop
from scenewise.engine.plan import unused_objects
from scenewise.engine.processes import gather_objects, while_others_wait
from scenewise.engine.proposed import (
    LABELLED,
    LabelledBoxes,
    StoredProposals,
    check_proposals,
    open_proposals,
    open_proposed,
)
from scenewise.engine.proposing import propose
from scenewise.engine.proposing_files import partial_file, skipped_file
from scenewise.engine.run import Run, pretrain_run
from scenewise.errors import Interrupted, UserError
from scenewise.methods import method_class
from scenewise.proposals.base import Generator, Proposals
from scenewise.proposals.store import Store
from scenewise.sources import Source, open_source
from scenewise.views.objects import Object
from scenewise.views.overlap import Overlap
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot

Train = Callable[..., Run]


class Told(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def say(self, text: str) -> None:
        self.words += text + "\n"


CROPS = {"crops": {"name": "object"}}


class Fake:
    """Two boxes an image, and none where all is black; counts the images."""

    name = "fake"

    def __init__(self) -> None:
        self.settings: dict[str, object] = {}
        self.calls = 0

    def __call__(self, pixels: np.ndarray, chance: np.random.Generator) -> Proposals:
        self.calls += 1
        if pixels.max() < 20:
            return Proposals(np.empty((0, 4), np.int32), None)
        height, width = pixels.shape[:2]
        left, top = (int(chance.integers(1, side // 4)) for side in (width, height))
        boxes = np.array([[left, top, width - 1, height - 1], [0, 0, width // 2, height // 2]], np.int32)
        return Proposals(boxes, np.array([0.75, 0.25], np.float32))


def make(source: Source, out: Path) -> Path:
    return propose(source, out, Fake(), display=Quiet()).file


@pytest.fixture
def pool(photos: Path, tmp_path: Path) -> Path:
    """Return a copy of the photos; in one of them no box is found."""
    shutil.copytree(photos, tmp_path / "pool")
    Image.new("RGB", (48, 40)).save(tmp_path / "pool" / "00.jpg")
    return tmp_path / "pool"


def opened(file: Path, source: Source) -> StoredProposals:
    """Return the proposals as a loader process has them."""
    found = pickle.loads(pickle.dumps(open_proposals(file, source)))
    assert isinstance(found, StoredProposals)
    return found


def test_each_image_has_its_boxes(pool: Path, tmp_path: Path) -> None:
    source = open_source(str(pool))
    file = make(source, tmp_path / "p.arrow")
    proposed, store = opened(file, source), Store(file)
    for index in range(len(source)):
        boxes = proposed(index)
        assert (boxes is None) == (source[index].key == "00.jpg")
        if boxes is not None:
            assert boxes.dtype == np.float32
            assert boxes.tolist() == store[index].boxes.tolist()
            assert np.asarray(proposed.scores(index)).tolist() == [0.75, 0.25]
    assert proposed.mean_area == proposed.header.mean_area
    assert len(pickle.dumps(proposed)) - len(pickle.dumps(source)) < 1000


def test_a_file_of_more_images_in_another_order_serves_a_part_of_them(pool: Path, tmp_path: Path) -> None:
    whole = open_source(str(pool))
    file = make(whole, tmp_path / "p.arrow")
    rows = {whole[index].key: Store(file)[index] for index in range(len(whole))}
    (pool / "04.jpg").unlink()
    (pool / "deeper" / "07.jpg").unlink()
    part = open_source(str(pool), reindex=True)
    assert len(part) == len(whole) - 2
    proposed = opened(file, part)
    for index in range(len(part)):
        boxes = proposed(index)
        assert (np.empty((0, 4)) if boxes is None else boxes).tolist() == rows[part[index].key].boxes.tolist()


def test_a_copied_folder_is_the_same_images(pool: Path, tmp_path: Path) -> None:
    file = make(open_source(str(pool)), tmp_path / "p.arrow")
    shutil.copytree(pool, tmp_path / "copy")
    copied = open_source(str(tmp_path / "copy"))
    assert opened(file, copied)(5) is not None
    told = [open_proposed(str(file), source, folder=None)[1] for source in (open_source(str(pool)), copied)]
    assert ["by name and size" in " ".join(notes) for notes in told] == [False, True]


def test_the_proposals_of_another_folder_are_refused(pool: Path, photos: Path, tmp_path: Path) -> None:
    file = make(open_source("synthetic:4"), tmp_path / "p.arrow")
    source = open_source(str(pool))
    with pytest.raises(UserError) as caught:
        open_proposals(file, source)
    told = str(caught.value)
    assert f"{file} has none for 40 of 40 images, the first {source[0].key!r}" in told
    assert "made for 4 images of synthetic:4" in told
    assert f"scenewise propose {source.spec} --out" in told
    assert len(told.splitlines()) == 2
    file = make(source, tmp_path / "q.arrow")
    shutil.copy(photos / "04.jpg", pool / "added.jpg")
    with pytest.raises(UserError, match=r"has none for 1 of 41 images, the first 'added.jpg'"):
        open_proposals(file, open_source(str(pool), reindex=True))


def test_an_image_that_was_replaced_is_told_with_what_to_do(pool: Path, tmp_path: Path) -> None:
    file = make(open_source(str(pool)), tmp_path / "p.arrow")
    Image.new("RGB", (30, 20)).save(pool / "06.jpg")
    with pytest.raises(UserError) as caught:
        open_proposals(file, open_source(str(pool), reindex=True))
    told = str(caught.value)
    assert "1 image has another size" in told
    assert "06.jpg has 30 x 20 pixels, proposals for 56 x 48" in told
    assert f"--out {file} --overwrite`" in told


class Shifted(Source):
    """A source that says of itself that it is another one."""

    def __init__(self, source: Source, *, key: str | None = None, size: tuple[int, int] | None = None) -> None:
        self.source, self.key, self.size = source, key, size
        self.spec, self.fingerprint = source.spec, source.fingerprint

    @property
    def unreadable(self) -> tuple[Any, ...]:
        return ()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        record = self.source[index]
        return dataclasses.replace(record, key=self.key or record.key, size=self.size or record.size)

    def labels(self) -> None:
        return None


def test_every_look_up_makes_sure_of_the_image(pool: Path, tmp_path: Path) -> None:
    source = open_source(str(pool))
    file = make(source, tmp_path / "p.arrow")
    with pytest.raises(UserError, match="another size than in"):
        open_proposals(file, Shifted(source, size=(7, 9)))(3)
    with pytest.raises(UserError, match=r"where other.jpg is expected"):
        open_proposals(file, Shifted(source, key="other.jpg"))(3)


def test_a_damaged_file_is_refused(pool: Path, tmp_path: Path) -> None:
    source = open_source(str(pool))
    file = make(source, tmp_path / "p.arrow")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    for look in (lambda: open_proposals(file, source), lambda: check_proposals(str(file))):
        with pytest.raises(UserError, match="cut off or damaged"):
            look()


def test_what_is_said_of_a_file(pool: Path, tmp_path: Path) -> None:
    source = open_source(str(pool))
    file = make(source, tmp_path / "p.arrow")
    _, notes = open_proposed(str(file), source, folder=None)
    assert "fake, 2 boxes an image" in notes[0]
    assert notes[1] == f"1 of the 40 images of {file} have no proposals"
    scenes = open_source("synthetic:4")
    labelled = propose(scenes, tmp_path / "l.arrow", None, display=Quiet()).file
    _, notes = open_proposed(str(labelled), scenes, folder=None)
    assert LABELLED in notes[0]
    assert "LABELLED ones: an ablation" in notes[-1]
    with pytest.raises(UserError, match="'auto' makes them in a run's folder"):
        open_proposed("auto", source, folder=None)


def test_a_run_is_cut_by_a_file_and_records_where_it_lies(
    train: Train, pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(open_source(str(pool)), tmp_path / "p.arrow")
    monkeypatch.chdir(tmp_path)
    sections = {**CROPS, "data": {"source": str(pool), "proposals": "p.arrow"}, "engine": {"epochs": 1}}
    run = train(tmp_path / "run", **sections)
    recorded = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert recorded["data"]["proposals"] == str(tmp_path / "p.arrow")
    other = train(tmp_path / "workers", **{**sections, "engine": {"epochs": 1, "workers": 2}})
    assert other.backbone.read_bytes() == run.backbone.read_bytes()
    train(tmp_path / "run", resume=True, **sections)  # the same file by its relative name
    scene = train(tmp_path / "scene", data={"source": str(pool)}, engine={"epochs": 1})
    assert scene.backbone.read_bytes() != run.backbone.read_bytes()


def test_a_wrong_file_is_told_before_the_data_are_read(train: Train, tmp_path: Path) -> None:
    sections = {**CROPS, "data": {"source": "nowhere", "proposals": str(tmp_path / "no.arrow")}}
    with pytest.raises(UserError, match=r"data\.proposals: no such file: '.*no.arrow'") as caught:
        train(tmp_path / "run", **sections)
    assert "nowhere" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """Return the generators that `--proposals auto` makes, in the place of selective search."""
    found: list[Fake] = []

    def make_fake(name: str) -> Generator:
        assert name == "selective-search"
        found.append(Fake())
        return found[-1]

    monkeypatch.setattr(run_module, "make_generator", make_fake)
    return found


def auto(pool: Path, **sections: Any) -> dict[str, Any]:
    return {**CROPS, "data": {"source": str(pool), "proposals": "auto"}, "engine": {"epochs": 1}, **sections}


def test_auto_makes_proposals_in_the_runs_folder_once(
    train: Train, pool: Path, tmp_path: Path, made: list[Fake]
) -> None:
    out = tmp_path / "run"
    run = train(out, **auto(pool))
    assert [fake.calls for fake in made] == [40]
    assert (out / PROPOSALS).exists()
    assert yaml.safe_load((out / "config.yaml").read_text())["data"]["proposals"] == "auto"
    file = make(open_source(str(pool)), tmp_path / "p.arrow")
    assert file.read_bytes() == (out / PROPOSALS).read_bytes()
    named = train(tmp_path / "named", **auto(pool, data={"source": str(pool), "proposals": str(file)}))
    assert named.backbone.read_bytes() == run.backbone.read_bytes()
    before = run.backbone.read_bytes()
    train(out, resume=True, **auto(pool))
    assert len(made) == 1  # a resumed run keeps its own
    display = Told()
    train(out, overwrite=True, display=display, **auto(pool))
    assert [fake.calls for fake in made] == [40, 0]  # what fits is not made again
    assert f"{out / PROPOSALS} is complete and of the same making: it is kept" in display.words
    assert run.backbone.read_bytes() == before
    train(out, overwrite=True, display=display, **auto(pool, seed=1, engine={"epochs": 0}))
    assert [fake.calls for fake in made] == [40, 0, 40]
    assert f"replaced (--overwrite): {out / PROPOSALS} was begun otherwise: seed is 0 there and 1 now" in display.words
    by_name = {"source": str(pool), "proposals": str(out / PROPOSALS)}
    train(out, overwrite=True, **auto(pool, data=by_name, engine={"epochs": 0}))
    assert (out / PROPOSALS).exists()  # what the run itself is cut by
    train(out, overwrite=True, display=display, data={"source": str(pool)}, engine={"epochs": 0})
    assert not (out / PROPOSALS).exists()
    assert f"{out / PROPOSALS} of the former run is removed" in display.words


def test_auto_stopped_while_it_proposes_goes_on_there(
    train: Train, pool: Path, tmp_path: Path, made: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = train(tmp_path / "whole", **auto(pool))
    real = Fake.__call__

    def stop(self: Fake, pixels: np.ndarray, chance: np.random.Generator) -> Proposals:
        if self.calls == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, pixels, chance)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Fake, "__call__", stop)
        with pytest.raises(Interrupted):
            train(out, **auto(pool))
    assert [path.name for path in out.iterdir()] == [f"{PROPOSALS}.partial"]
    run = train(out, resume=True, **auto(pool))
    assert made[-1].calls == 30
    assert run.backbone.read_bytes() == reference.backbone.read_bytes()
    assert (out / PROPOSALS).read_bytes() == (tmp_path / "whole" / PROPOSALS).read_bytes()


def test_auto_spends_no_time_on_data_that_cannot_be_trained_on(
    train: Train, pool: Path, tmp_path: Path, made: list[Fake]
) -> None:
    with pytest.raises(UserError, match="larger than the data set of 40"):
        train(tmp_path / "run", **auto(pool, engine={"batch_size": 64}))
    assert made == []
    assert not (tmp_path / "run").exists()


def test_an_image_replaced_while_a_run_was_stopped_ends_it_in_words(
    train: Train, pool: Path, tmp_path: Path, made: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(self: Loop, probe: object, signals: object) -> None:
        self.save()
        raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", stop)
        with pytest.raises(Interrupted):
            train(tmp_path / "run", **auto(pool))
    Image.new("RGB", (30, 20)).save(pool / "new.jpg")
    (pool / "new.jpg").replace(pool / "06.jpg")
    with pytest.raises(UserError, match="1 image has another size"):
        train(tmp_path / "run", resume=True, **auto(pool))
    assert len(made) == 1


def test_the_runs_own_files_are_those_that_are_made() -> None:
    own = Path(PROPOSALS)
    assert {own.name, partial_file(own).name, skipped_file(own).name} <= set(OWN_FILES)


def _wait_in_two(rank: int, folder: Path, ending: Exception | None) -> None:
    """Let the first of two processes work and end like that; write down what both of them saw."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    processes.STILL_BUSY = -1.0  # a word to the others each time
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    calls = 0

    def work(go_on: Callable[[], None]) -> None:
        nonlocal calls
        for _ in range(5):
            go_on()
            calls += 1
        if ending is not None:
            raise ending

    seen = ""
    try:
        while_others_wait(work)
    except (UserError, Interrupted) as error:
        seen = f"{type(error).__name__} {error}"
    assert gather_objects(rank) == [0, 1]  # still in step with one another
    (folder / str(rank)).write_text(f"{calls} {seen}")
    dist.destroy_process_group()


@pytest.mark.parametrize("ending", [None, UserError("first", "second"), Interrupted(15)])
def test_the_others_wait_however_long_it_takes_and_end_alike(tmp_path: Path, ending: Exception | None) -> None:
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_wait_in_two, args=(rank, tmp_path, ending)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    seen = "" if ending is None else f"{type(ending).__name__} {ending}"
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == [f"5 {seen}", f"0 {seen}"]


@pytest.mark.slow
def test_auto_in_two_processes_is_auto_in_one(
    settings: Callable[..., Any], train: Train, pool: Path, tmp_path: Path
) -> None:
    one, two, config = tmp_path / "one", tmp_path / "two", tmp_path / "asked.yaml"
    train(one, **auto(pool))
    config.write_text(to_yaml(settings(**auto(pool))))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "scenewise"]
    arguments = [*launch, "pretrain", "--config", str(config), "--out", str(two)]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("boxes an image") == 2  # said once as made, once as used
    assert (two / PROPOSALS).read_bytes() == (one / PROPOSALS).read_bytes()


def test_what_is_asked_for_and_comes_to_nothing_is_told() -> None:
    two = {"query": Slot(augmentation="moco"), "key": Slot(augmentation="moco")}
    objects = {**two, "instances": Slot(augmentation="moco", count=4, instance=True)}
    mocov2 = method_class("mocov2")
    shared, dual = mocov2.Config(), mocov2.Config(heads="dual")
    assert unused_objects(Scene(), None, two, shared) == unused_objects(Object(), "a.arrow", objects, dual) == []
    assert "has no effect" in unused_objects(Scene(), "a.arrow", two, shared)[0]
    assert unused_objects(Scene(), "a.arrow", objects, shared) == []
    assert "random boxes" in unused_objects(Scene(), None, objects, shared)[0]
    assert "learns nothing" in unused_objects(Overlap(), "a.arrow", two, dual)[0]
    assert unused_objects(Overlap(instances=4), "a.arrow", objects, shared) == []
    assert "crops.instances has no effect" in unused_objects(Overlap(instances=2), "a.arrow", objects, shared)[0]


def test_images_whose_crops_fall_back_are_counted_in_the_metrics_and_told(pool: Path, tmp_path: Path) -> None:
    """One of 40 photos has no box: it is in some step of each epoch, and there the share is 1 in 8."""
    file = make(open_source(str(pool)), tmp_path / "p.arrow")
    tree = {
        "data": {"source": str(pool), "size": 32, "proposals": str(file)},
        "method": {"name": "simclr"},
        "backbone": {"name": "test_resnet"},
        "crops": {"name": "object", "min_side": 0.0, "max_aspect": 100.0},
        "engine": {"epochs": 2, "batch_size": 8, "workers": 0, "threads": 1, "device": "cpu", "precision": "32"},
    }
    run = pretrain_run(build(tree), tmp_path / "run")
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [sum(8 * line["crops/fallback"] for line in lines if line["epoch"] == epoch) for epoch in (1, 2)] == [1, 1]

    told: list[str] = []

    class Listening(Quiet):
        def warn(self, text: str) -> None:
            told.append(text)

    tree["crops"] = {"name": "object", "min_side": 10_000.0}  # no box is so large
    pretrain_run(build(tree), tmp_path / "other", display=Listening())
    found = [text for text in told if "cannot be cut of many images" in text]
    assert len(found) == 1
    assert found[0].startswith("epoch 1: ")


def test_labelled_boxes_are_measured_as_a_file_of_them_is(tmp_path: Path) -> None:
    source = open_source("synthetic:30")
    header = propose(source, tmp_path / "labels.arrow", None, display=Quiet()).header
    assert LabelledBoxes(source).mean_area == pytest.approx(header.mean_area, rel=1e-12)
