"""`scenewise pack`: shards whose bytes depend on the images and the settings alone, and that lose nothing."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenewise import api, cli
from scenewise.engine.display import Quiet
from scenewise.errors import Interrupted, UserError
from scenewise.sources import open_source
from scenewise.tools import pack_images, pack_tar, pack_writing
from scenewise.tools.pack import Packed
from scenewise.tools.pack_journal import Journal

FORK = multiprocessing.get_context("fork")
COUNT = 18
TINY = {"short_side": 32, "shard_images": 5, "workers": 0}


class Told(Quiet):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ""

    def say(self, text: str) -> None:
        self.words += text + "\n"


def pack(data: Path | str, out: Path, **options: Any) -> Packed:
    return api.pack(str(data), out=out, **{**TINY, **options})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small and larger photos of several kinds, one of them rotated."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    (folder / "deeper").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        height, width = (32, 40) if number % 3 else (50 + number, 45 + 2 * number)
        image = Image.fromarray(generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)).resize((width, height))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 7 else 1
        ending = "png" if number % 5 == 4 else "jpg"
        where = folder / ("deeper" if number % 2 else ".") / f"a photo.{number:02}.{ending}"
        image.save(where, exif=exif)
    return folder


@pytest.fixture(scope="module")
def reference(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(photos, tmp_path_factory.mktemp("reference") / "s").folder


def test_a_shard_is_a_plain_tar_file_with_a_sidecar_for_each_image(photos: Path, reference: Path) -> None:
    source = open_source(str(photos))
    names = ["images-00000.tar", "images-00001.tar", "images-00002.tar", "images-00003.tar"]
    beside = ["index.arrow", "shards.json", *(f"{name}.sha256" for name in names)]
    assert sorted(content(reference)) == sorted([*names, *beside])
    seen = 0
    for name in names:
        digest = hashlib.sha256((reference / name).read_bytes()).hexdigest()
        assert (reference / f"{name}.sha256").read_text() == f"{digest}  {name}\n"
        with tarfile.open(reference / name) as shard:
            members = shard.getmembers()
            assert all(member.isreg() and member.mtime == 0 and member.uid == 0 for member in members)
            for image, sidecar in zip(members[::2], members[1::2], strict=True):
                assert (image.name, sidecar.name) == (f"{seen:09}.jpg", f"{seen:09}.json")
                said = json.load(shard.extractfile(sidecar) or pytest.fail("no file"))
                with Image.open(shard.extractfile(image) or pytest.fail("no file")) as picture:
                    assert picture.format == "JPEG"
                    assert picture.size == (said["width"], said["height"])
                assert said["key"] == source[seen].key
                assert min(picture.size) <= 32
                seen += 1
    assert seen == len(source) == COUNT


def test_any_number_of_processes_gives_the_same_bytes(photos: Path, reference: Path, tmp_path: Path) -> None:
    pack(photos, tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(reference)
    pack(photos, tmp_path / "other", quality=50)
    assert content(tmp_path / "other") != content(reference)


@pytest.mark.parametrize("stop", [0, 4, 5, 9, COUNT - 2, COUNT - 1])
def test_an_interrupted_packing_loses_nothing_and_goes_on(
    photos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    scale, calls = pack_images.scale_image, iter(range(100))

    def interrupt(*given: Any, **options: Any) -> Any:
        if next(calls) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return scale(*given, **options)

    monkeypatch.setattr(pack_images, "scale_image", interrupt)
    out = tmp_path / "s"
    with pytest.raises(Interrupted):
        pack(photos, out)
    with pytest.raises(UserError, match=r"not packed to its end; go on with .* --resume"):
        open_source(f"shards:{out}")
    with pytest.raises(UserError, match="exists; name another folder"):
        pack(photos, out)
    display = Told()
    assert pack(photos, out, resume=True, display=display).made == COUNT - stop - 1
    assert f"going on after {stop + 1} of {COUNT} images" in display.words
    assert content(out) == content(reference)


def test_killed_again_and_again_the_shards_are_those_of_one_run(
    photos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack_writing, "BLOCK", 2)
    scale = pack_images.scale_image

    def slowly(*given: Any, **options: Any) -> Any:
        time.sleep(0.01)
        return scale(*given, **options)

    monkeypatch.setattr(pack_images, "scale_image", slowly)
    out, chance, length = tmp_path / "s", np.random.default_rng(), 0
    for _ in range(3):
        goal = length + int(chance.integers(1, 12_000))  # bytes of the shards: anywhere while they grow
        process = FORK.Process(target=pack, args=(photos, out), kwargs={"resume": True, "workers": 1})
        process.start()
        while process.is_alive() and length < goal:
            length = sum(path.stat().st_size for path in out.glob("*.tar")) if out.exists() else 0
            time.sleep(0.0005)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
    pack(photos, out, resume=True)
    assert content(out) == content(reference)


def test_what_a_kill_can_leave_behind_is_mended(photos: Path, reference: Path, tmp_path: Path) -> None:
    whole = content(reference)
    out = tmp_path / "s"
    with pytest.MonkeyPatch.context() as patch:  # everything is in the shards, nothing stands beside them yet
        patch.setattr("scenewise.tools.pack.finish", lambda *given, **options: _stop())
        with pytest.raises(Interrupted):
            pack(photos, out)
    journal = (out / "packing.jsonl").read_bytes()
    lines = journal.splitlines(keepends=True)
    for mend in (
        {"packing.jsonl": journal},  # killed at the very end: before the journal was removed
        {"packing.jsonl": journal, "shards.json": b"", ".index.arrow.tmp": b"half"},
        {"packing.jsonl": b"".join(lines[:8]) + lines[8][:20]},  # a torn line
        {"packing.jsonl": b"".join(lines[:8]) + bytes(len(lines[8]))},  # a length without its content
        {"packing.jsonl": b"".join(lines[:8]), "images-00001.tar": whole["images-00001.tar"][:9000] + b"torn"},
        {"packing.jsonl": b"".join(lines[:8]), "images-00001.tar": whole["images-00001.tar"] + b"more"},
        {"packing.jsonl": lines[0], "images-00007.tar": b"of a former packing", "objects.arrow": b"too"},
    ):
        shutil.rmtree(out)
        shutil.copytree(reference, out)
        for name, there in mend.items():
            (out / name).write_bytes(there)
        pack(photos, out, resume=True)
        assert content(out) == whole
    (out / "packing.jsonl").write_bytes(journal)
    (out / "images-00003.tar").write_bytes(b"lost")
    with pytest.raises(UserError, match=r"has lost images .* --overwrite"):
        pack(photos, out, resume=True)
    pack(photos, out, overwrite=True)
    assert content(out) == whole


def _stop() -> None:
    raise Interrupted(15)


def test_a_complete_folder_is_left_as_it_is_and_replaced_only_when_asked(
    photos: Path, reference: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    shutil.copytree(reference, out)
    display = Told()
    times = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    made = pack(photos, out, resume=True, display=display)
    assert "is complete" in display.words
    assert (made.made, made.to_json()["seconds_per_image"], made.manifest.images) == (0, None, COUNT)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == times
    with pytest.raises(UserError, match="--overwrite"):
        pack(photos, out)
    with pytest.raises(UserError, match=r"settings.quality is 95 there and 60 now.*\n.*--overwrite"):
        pack(photos, out, resume=True, quality=60)
    assert pack(photos, out, overwrite=True, quality=60, shard_images=50).manifest.origin.settings["quality"] == 60
    assert len(list(out.glob("*.tar"))) == 1
    (out / "mine.txt").write_text("a diary")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match=r"holds other files \(mine.txt\)"):
            pack(photos, out, **options)
    assert (out / "mine.txt").read_text() == "a diary"


def test_unreadable_images_are_left_out_and_named(photos: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    shutil.copytree(photos, pool)
    truncated = pool / "a photo.00.jpg"
    truncated.write_bytes(truncated.read_bytes()[:-300])
    (pool / "no.jpg").write_bytes(b"no image at all")
    display, out = Told(), tmp_path / "s"
    made = pack(pool, out, display=display)
    assert (made.unreadable, made.manifest.images) == (2, COUNT - 1)
    assert "2 images cannot be read; named in" in display.warnings[0]
    with (out / "skipped.csv").open() as file:
        named = {row["path"]: (row["reason"], row["index"]) for row in csv.DictReader(file)}
    assert named.keys() == {"a photo.00.jpg", "no.jpg"}
    assert "truncated" in named["a photo.00.jpg"][0]
    assert (named["a photo.00.jpg"][1], named["no.jpg"][1]) == ("0", "")
    source = open_source(f"shards:{out}")
    assert source.unreadable == ()
    assert any("Left out when packed: 1 image that could not be read" in note for note in source.notes)
    assert [record.key for record in source] == [r.key for r in open_source(str(pool)) if r.key != "a photo.00.jpg"]
    for path in pool.rglob("*.*"):
        path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r"can be read, e.g. "):
        pack(f"folder:{pool}", tmp_path / "none", reindex=True)


def test_a_full_disk_is_told_and_what_is_done_goes_on(
    photos: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, calls, write = tmp_path / "s", iter(range(1000)), os.pwrite

    def refuse(*given: Any) -> int:
        if next(calls) == 9:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(*given)

    monkeypatch.setattr(pack_tar.os, "pwrite", refuse)
    with pytest.raises(UserError, match=r"cannot write .*: No space left on device"):
        pack(photos, out)
    journal = Journal(out / "packing.jsonl")
    assert journal.images == 8  # the ninth write was the first shard's end
    journal.close()
    pack(photos, out, resume=True)
    assert content(out) == content(reference)


def test_two_processes_do_not_write_to_one_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scenewise.tools.pack.finish", lambda *given, **options: _stop())
        with pytest.raises(Interrupted):
            pack(photos, out)
    journal = Journal(out / "packing.jsonl")
    for options in ({"resume": True}, {"overwrite": True}):
        process = FORK.Process(target=_refused, args=(photos, out), kwargs=options)
        process.start()
        process.join()
        assert process.exitcode == 7
    journal.close()


def _refused(photos: Path, out: Path, **options: Any) -> None:
    try:
        pack(photos, out, **options)
    except UserError as error:
        os._exit(7 if "another process" in str(error) else 1)
    os._exit(0)


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that gives what a command that exits with 2 says on stderr, which is short."""

    def run(*arguments: str | Path) -> str:
        status = cli.run(["pack", *map(str, arguments)])
        captured = capsys.readouterr()
        assert status == 2, captured.err
        assert "Traceback" not in captured.err
        assert len(captured.err.splitlines()) <= 3
        return captured.err

    return run


def test_bad_input_is_told_before_any_work(photos: Path, reference: Path, tmp_path: Path, refused: Refused) -> None:
    out = tmp_path / "s"
    assert "32" in refused(photos, "--out", out, "--short-side", "31")
    assert "--short-side: 31 must be at least 32" in _error(lambda: pack(photos, out, short_side=31, quality=101))
    assert "--quality: 101" in _error(lambda: pack(photos, out, short_side=31, quality=101))
    assert "--shard-images: 0" in _error(lambda: pack(photos, out, shard_images=0, workers=-1))
    assert "packed already" in refused(f"shards:{reference}", "--out", out)
    assert f"write shards:{reference}" in refused(reference, "--out", out)
    assert "no such folder" in refused(tmp_path / "nowhere", "--out", out)
    assert "no such file" in refused(photos, "--out", out, "--proposals", tmp_path / "none.arrow")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(photos, "--out", tmp_path / "file")
    assert "holds other files" in refused(photos, "--out", photos, "--overwrite")
    api.propose("synthetic:4", out=tmp_path / "p.arrow", generator="grid", workers=0)
    assert "has none for 18 of 18 images" in refused(photos, "--out", out, "--proposals", tmp_path / "p.arrow")
    assert not out.exists()


def _error(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_the_command_says_what_it_did(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, figures = tmp_path / "new" / "s", tmp_path / "figures.json"
    given = ["pack", str(photos), "--out", str(out), "--short-side", "32", "--workers", "0", "--json", str(figures)]
    assert cli.run(given) == 0
    said = capsys.readouterr().err
    assert "18 images in 1 shard, " in said
    assert f"done: shards:{out}" in said
    found = json.loads(figures.read_text())
    assert (found["images"], found["shards"], found["unreadable"], found["boxes"]) == (COUNT, 1, 0, False)
    assert found["bytes"] == (out / "images-00000.tar").stat().st_size
    assert api.pack(str(photos), out=out, short_side=32, resume=True).made == 0
