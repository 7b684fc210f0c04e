"""A proposal file: its bytes depend on the images and the settings alone, and what is done is never lost."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from scenewise import keys
from scenewise.engine import proposing
from scenewise.engine.display import Quiet
from scenewise.engine.proposed import LABELLED
from scenewise.engine.proposing import Made, propose
from scenewise.engine.proposing_files import partial_file, skipped_file
from scenewise.errors import Interrupted, UserError
from scenewise.proposals.base import Generator, Proposals
from scenewise.proposals.generators import make_generator
from scenewise.proposals.partial import Partial
from scenewise.proposals.store import Store
from scenewise.sources import Source, open_source

COUNT = 40  # of the photos of conftest.py
FORK = multiprocessing.get_context("fork")


class Fake:
    """Boxes that depend on the pixels and on chance; `event` happens before the image of that colour sum is done."""

    name = "fake"

    def __init__(self, event: Callable[[int], None] = lambda number: None, **settings: Any) -> None:
        self.settings: Mapping[str, object] = {"library": "1.0", **settings}
        self.event, self.calls = event, 0

    def __call__(self, pixels: np.ndarray, chance: np.random.Generator) -> Proposals:
        self.calls += 1
        self.event(self.calls)
        height, width = pixels.shape[:2]
        mean = int(pixels.mean()) % (min(height, width) // 2)
        corner = chance.integers(0, 5)
        boxes = np.array([[0, 0, width, height], [corner, 1, mean + 10, height]], np.int32)
        return Proposals(boxes, chance.random(2, dtype=np.float32))


class Told(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def say(self, text: str) -> None:
        self.words += text + "\n"


Make = Callable[..., Made]


@pytest.fixture(scope="module")
def source(photos: Path) -> Source:
    return open_source(str(photos))


@pytest.fixture(scope="module")
def make(source: Source) -> Make:
    """Return a function that makes proposals: `make(out, Fake(), resume=True)`."""

    def propose_all(out: Path, generator: Generator | None = None, **options: Any) -> Made:
        given = {"display": Told(), "source": source, "generator": Fake() if generator is None else generator}
        return propose(out=out, **{**given, **options})

    return propose_all


@pytest.fixture(scope="module")
def reference(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("reference") / "p.arrow").file


def kill_at(number: int, which: int) -> Callable[[int], None]:
    """Return an event that sends this process a signal at the `number`-th image."""
    return lambda call: os.kill(os.getpid(), which) if call == number else None


def test_every_image_has_the_boxes_of_its_pixels_and_its_key(make: Make, source: Source, tmp_path: Path) -> None:
    made = make(tmp_path / "p.arrow", seed=3)
    store = Store(made.file)
    for index in (0, 17, COUNT - 1):
        data = source[index].read()
        assert isinstance(data, bytes)
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        expected = Fake()(stored[:, :, ::-1], keys.generator(3, "proposals", index))
        row = store[index]
        assert (row.key, row.size) == (source[index].key, source[index].size)
        assert np.array_equal(row.boxes, expected.boxes)
        assert np.array_equal(np.asarray(row.scores), np.asarray(expected.scores))
    origin = made.header.origin
    assert (origin.generator, origin.settings, origin.seed, origin.images) == ("fake", {"library": "1.0"}, 3, COUNT)
    assert (origin.source, origin.fingerprint) == (source.spec, source.fingerprint)
    assert {path.name for path in tmp_path.iterdir()} == {"p.arrow"}


def test_a_rotated_photo_is_seen_upright(make: Make, tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "pool" / "turned.jpg", exif=exif)
    made = make(tmp_path / "p.arrow", source=open_source(str(tmp_path / "pool")))
    row = Store(made.file)[0]
    assert row.size == (60, 40)
    assert row.boxes[0].tolist() == [0, 0, 40, 60]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_any_number_of_processes_gives_the_same_bytes(make: Make, reference: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        out = tmp_path / f"{workers}.arrow"
        make(out, workers=workers)
        assert out.read_bytes() == reference.read_bytes()
    assert make(tmp_path / "other.arrow", seed=1).file.read_bytes() != reference.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_making_loses_nothing_and_goes_on(
    make: Make, reference: Path, tmp_path: Path, number: int, workers: int
) -> None:
    out, before = tmp_path / "p.arrow", signal.getsignal(number)
    calls = iter(range(100))

    def alive() -> None:
        if next(calls) == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(Interrupted) as caught:
        make(out, workers=workers, alive=alive)
    assert caught.value.signal == number
    assert signal.getsignal(number) == before
    assert not out.exists()
    partial = Partial(partial_file(out))
    assert len(partial) == 7
    partial.close()
    display = Told()
    made = make(out, resume=True, display=display)
    assert "going on after 7 of 40 images" in display.words
    assert made.made == COUNT - 7
    assert out.read_bytes() == reference.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["p.arrow"]


def test_a_signal_at_the_last_image_is_told(make: Make, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.arrow"
    with pytest.raises(Interrupted):
        make(out, Fake(kill_at(COUNT, signal.SIGTERM)))
    assert not out.exists()
    assert make(out, resume=True).made == 0
    assert out.read_bytes() == reference.read_bytes()


def test_killed_again_and_again_the_file_is_that_of_one_run(
    make: Make, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposing, "BLOCK", 3)
    out, chance, length = tmp_path / "p.arrow", np.random.default_rng(), 0
    for _ in range(3):
        goal = length + int(chance.integers(1, 4000))  # bytes: anywhere in the file that grows
        options = {"resume": True, "workers": 2}
        process = FORK.Process(target=make, args=(out, Fake(lambda call: time.sleep(0.005))), kwargs=options)
        process.start()
        while process.is_alive() and length < goal:
            length = partial_file(out).stat().st_size if partial_file(out).exists() else length
            time.sleep(0.0005)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
    assert make(out, resume=True).made < COUNT
    assert out.read_bytes() == reference.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["p.arrow"]


def test_a_kill_between_the_last_two_steps_is_mended(make: Make, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.arrow"
    with pytest.raises(Interrupted):
        make(out, Fake(kill_at(5, signal.SIGTERM)))
    shutil.copy(reference, out)  # as if the partial file had been the whole
    display = Told()
    assert make(out, resume=True, display=display).made == 0
    assert "is complete" in display.words
    assert [path.name for path in tmp_path.iterdir()] == ["p.arrow"]


def test_a_complete_file_is_left_as_it_is(make: Make, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.arrow"
    shutil.copy(reference, out)
    before = out.stat().st_mtime_ns
    generator = Fake()
    made = make(out, generator, resume=True)
    assert (generator.calls, made.made, made.header.origin.images) == (0, 0, COUNT)
    assert out.stat().st_mtime_ns == before


def test_what_was_made_otherwise_is_not_gone_on_with(make: Make, reference: Path, tmp_path: Path) -> None:
    finished, begun = tmp_path / "finished.arrow", tmp_path / "begun.arrow"
    shutil.copy(reference, finished)
    with pytest.raises(Interrupted):
        make(begun, Fake(kill_at(5, signal.SIGTERM)))
    other = open_source("synthetic:40")
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"generator": Fake(library="2.0")}, ("settings.library is '1.0' there and '2.0' now",)),
        ({"generator": Fake(side=320)}, ("settings.side is None there and 320 now",)),
        ({"limit": 50, "seed": 4}, ("keep is 1000 there and 50 now", "seed is 0 there and 4 now")),
        ({"source": other}, ("fingerprint is", "source is")),
    ]
    for out in (finished, begun):
        for changes, messages in cases:
            with pytest.raises(UserError) as caught:
                make(out, resume=True, **changes)
            told = str(caught.value)
            assert all(message in told for message in messages)
            assert "--overwrite" in told
            assert len(told.splitlines()) == 2
    assert finished.read_bytes() == reference.read_bytes()
    made = make(begun, resume=True, overwrite=True, limit=1)  # what does not fit is replaced
    assert (made.made, made.header.origin.keep) == (COUNT, 1)
    for path in (finished, partial_file(finished)):
        finished.unlink()
        path.write_bytes(b"damaged")
        with pytest.raises(UserError):
            make(finished, resume=True)
        make(finished, resume=True, overwrite=True)
        assert finished.read_bytes() == reference.read_bytes()


def test_what_is_there_is_replaced_only_when_asked(make: Make, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.arrow"
    for path in (out, partial_file(out), skipped_file(out)):
        path.write_text("mine")
        with pytest.raises(UserError, match=rf"--out: '.*{path.name}' exists"):
            make(out)
        assert path.read_text() == "mine"
        path.unlink()
    out.write_text("mine")
    with pytest.raises(Interrupted):
        make(out, Fake(kill_at(5, signal.SIGTERM)), overwrite=True)
    assert out.read_text() == "mine"  # until the new one is whole
    made = make(out, resume=True, overwrite=True)  # the same command and --resume
    assert made.made == COUNT - 5
    assert out.read_bytes() == reference.read_bytes()


def test_a_place_that_cannot_be_written_is_told_first(make: Make, tmp_path: Path) -> None:
    generator = Fake()
    with pytest.raises(UserError, match="is a folder"):
        make(tmp_path, generator)
    with pytest.raises(UserError, match=r"the folder '.*none' does not exist"):
        make(tmp_path / "none" / "p.arrow", generator)
    assert generator.calls == 0


def test_with_nothing_to_resume_it_starts_and_says_so(make: Make, reference: Path, tmp_path: Path) -> None:
    display = Told()
    make(tmp_path / "p.arrow", resume=True, display=display)
    assert "nothing to resume" in display.words
    assert "40 images, 2.0 boxes an image" in display.words
    assert "s an image" in display.words
    assert (tmp_path / "p.arrow").read_bytes() == reference.read_bytes()


def test_unreadable_images_have_no_boxes_and_are_named(
    make: Make, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(photos, pool)
    for name in ("02.jpg", "deeper/01.jpg"):
        path = pool / name
        path.write_bytes(path.read_bytes()[:-300])  # the header is whole, the pixels are cut off
    (pool / "no.jpg").write_bytes(b"no image at all")
    source = open_source(str(pool))
    display = Told()
    made = make(tmp_path / "p.arrow", source=source, display=display)
    store = Store(made.file)
    assert [row.key for row in map(store.__getitem__, range(COUNT)) if not len(row.boxes)] == [
        "02.jpg",
        "deeper/01.jpg",
    ]
    assert (made.header.images_without_boxes, made.header.unreadable) == (2, 2)  # of the file, which has 40 rows
    figures = made.to_json()  # of the folder, which has 41 images
    assert [figures[name] for name in ("images", "unreadable", "images_without_boxes", "boxes")] == [41, 3, 3, 76]
    assert figures["boxes_per_image"] == 76 / 38
    assert "41 images, 38 of them read, 2.0 boxes an image read" in display.words
    assert "3 of 41 images cannot be read" in display.warnings[0]
    assert "nothing was found" not in display.words  # beside those that cannot be read
    with (tmp_path / "p.skipped.csv").open() as file:
        named = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert named.keys() == {"02.jpg", "deeper/01.jpg", "no.jpg"}
    assert "truncated" in named["02.jpg"]
    # interrupted after them, the reasons are still known
    monkeypatch.setattr(proposing, "BLOCK", 2)
    out = tmp_path / "again.arrow"
    with pytest.raises(Interrupted):
        make(out, Fake(kill_at(30, signal.SIGTERM)), source=source)
    make(out, source=source, resume=True)
    assert make(out, source=source, resume=True).unreadable == 3  # complete
    assert out.read_bytes() == made.file.read_bytes()
    assert skipped_file(out).read_bytes() == (tmp_path / "p.skipped.csv").read_bytes()
    shutil.copy(photos / "02.jpg", pool / "02.jpg")
    shutil.copy(photos / "deeper/01.jpg", pool / "deeper/01.jpg")
    (pool / "no.jpg").unlink()
    make(out, source=open_source(str(pool), reindex=True), overwrite=True)
    assert not skipped_file(out).exists()


def test_images_without_boxes_are_counted_among_all(make: Make, photos: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(photos, pool)
    (pool / "no.jpg").write_bytes(b"no image at all")
    (pool / "02.jpg").write_bytes((pool / "02.jpg").read_bytes()[:-300])
    Image.new("RGB", (40, 30)).save(pool / "black.png")
    display = Told()

    class Blind(Fake):
        def __call__(self, pixels: np.ndarray, chance: np.random.Generator) -> Proposals:
            return super().__call__(pixels, chance) if pixels.any() else Proposals(np.empty((0, 4), np.int32), None)

    made = make(tmp_path / "p.arrow", Blind(), source=open_source(str(pool)), display=display)
    assert "42 images, 40 of them read" in display.words
    assert "note: nothing was found in 1 of 42 images" in display.words
    assert "2 of 42 images cannot be read" in display.warnings[0]
    assert (made.to_json()["images_without_boxes"], made.to_json()["unreadable"]) == (3, 2)


def test_what_overwrite_keeps_and_what_it_replaces_is_said(make: Make, reference: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.arrow"
    shutil.copy(reference, out)
    display = Told()
    assert make(out, resume=True, overwrite=True, display=display).made == 0
    assert f"{out} is complete and of the same making: it is kept" in display.words
    make(out, resume=True, overwrite=True, seed=7, display=display)
    assert f"replaced (--overwrite): {out} was begun otherwise: seed is 0 there and 7 now" in display.words
    out.write_bytes(b"damaged")
    make(out, resume=True, overwrite=True, display=display)
    assert f"replaced (--overwrite): {out} is not a file of `scenewise propose`" in display.words
    # what is whole and fits is kept, whatever an interrupted making beside it was for
    with pytest.raises(Interrupted):
        make(out, Fake(kill_at(5, signal.SIGTERM)), seed=9, overwrite=True)
    display = Told()
    assert make(out, resume=True, overwrite=True, display=display).made == 0
    assert "it is kept" in display.words
    assert f"left as it is: {partial_file(out)} was begun otherwise: seed is 9 there and 0 now" in display.words
    assert partial_file(out).exists()
    assert out.read_bytes() == reference.read_bytes()


def test_labelled_boxes_are_named_for_what_they_are(make: Make, source: Source, tmp_path: Path) -> None:
    scenes = open_source("synthetic:6")
    made = propose(scenes, tmp_path / "p.arrow", None, display=Told())
    assert made.header.origin.generator == LABELLED
    assert "ablations only" in LABELLED
    store = Store(made.file)
    for index in range(6):
        labelled = scenes.boxes(index)[0]  # type: ignore[attr-defined]
        assert {tuple(box) for box in store[index].boxes.tolist()} <= {tuple(box) for box in labelled.tolist()}
        assert len(store[index].boxes)
    with pytest.raises(UserError, match="has no labelled boxes"):
        propose(source, tmp_path / "q.arrow", None, display=Told())


def test_a_process_that_dies_is_told_and_what_is_done_is_kept(make: Make, reference: Path, tmp_path: Path) -> None:
    def die(call: int) -> None:
        if call == 9:
            os._exit(3)

    out = tmp_path / "p.arrow"
    with pytest.raises(UserError, match=r"(?s)--workers: a process died.*go on with --resume"):
        make(out, Fake(die), workers=2)
    assert 0 < make(out, resume=True).made < COUNT
    assert out.read_bytes() == reference.read_bytes()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_users_error_in_a_process_comes_through_as_it_is(make: Make, tmp_path: Path, workers: int) -> None:
    def refuse(call: int) -> None:
        raise UserError("model: gone")

    with pytest.raises(UserError) as caught:
        make(tmp_path / "p.arrow", Fake(refuse), workers=workers)
    assert caught.value.problems == ("model: gone",)


def test_a_fault_of_a_generator_keeps_what_is_done(make: Make, reference: Path, tmp_path: Path) -> None:
    def fail(call: int) -> None:
        if call == 9:
            raise ZeroDivisionError("ours")

    out = tmp_path / "p.arrow"
    with pytest.raises(ZeroDivisionError):
        make(out, Fake(fail))
    assert make(out, resume=True).made == COUNT - 8
    assert out.read_bytes() == reference.read_bytes()


def test_a_disk_that_is_full_is_told_and_nothing_is_lost(
    make: Make, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposing, "BLOCK", 4)
    real, out = Partial.append, tmp_path / "p.arrow"

    def fill_up(self: Partial, rows: list[Any]) -> None:
        if len(self) == 8:
            raise OSError(28, "No space left on device", str(self.path))
        real(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Partial, "append", fill_up)
        with pytest.raises(UserError, match=r"cannot write .*p.arrow.partial: No space left"):
            make(out)
    assert make(out, resume=True).made == COUNT - 8
    assert out.read_bytes() == reference.read_bytes()


def test_the_figures_have_stable_names(make: Make, source: Source, tmp_path: Path) -> None:
    figures = json.loads(json.dumps(make(tmp_path / "p.arrow").to_json()))
    assert figures.pop("seconds_per_image") > 0
    assert 0 < figures.pop("mean_area") <= 1
    assert figures == {
        "file": str(tmp_path / "p.arrow"),
        "data": source.spec,
        "generator": "fake",
        "images": COUNT,
        "images_without_boxes": 0,
        "unreadable": 0,
        "boxes": 2 * COUNT,
        "boxes_per_image": 2.0,
    }


@pytest.mark.parametrize("name", ["selective-search", "grid", "random"])
def test_the_generators_pass_through(make: Make, source: Source, tmp_path: Path, name: str) -> None:
    made = make(tmp_path / "1.arrow", make_generator(name), limit=20)
    again = make(tmp_path / "2.arrow", make_generator(name), limit=20, workers=2)
    assert made.file.read_bytes() == again.file.read_bytes()
    store = Store(made.file)
    store.check()
    assert all(0 < len(store[index].boxes) <= 20 for index in range(COUNT))
    assert made.header.origin.settings == json.loads(json.dumps(dict(make_generator(name).settings)))
