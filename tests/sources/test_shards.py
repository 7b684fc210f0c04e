"""`shards:` is the data it was packed from: same keys, order, labels, boxes and, where sizes match, the same views."""

from __future__ import annotations

import http.server
import json
import pickle
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise import api, cli
from scenewise.engine.config import build
from scenewise.engine.data import Parts, Schedule, make_loader
from scenewise.engine.display import Quiet
from scenewise.engine.plan import make_plan
from scenewise.errors import ImageError, UserError
from scenewise.methods import method_class
from scenewise.proposals.store import Store
from scenewise.sources import HasBoxes, Source, open_source, parse_spec, shards_http
from scenewise.sources.base import HasInstances, HasProposals
from scenewise.sources.headers import FileReader
from scenewise.views.scene import Scene
from scenewise.views.slots import scale_slots

COUNT = 12


def pack(data: Path | str, out: Path, **options: Any) -> Source:
    api.pack(str(data), out=out, **{"short_side": 64, "shard_images": 5, "workers": 0, **options})
    return open_source(f"shards:{out}")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCENEWISE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((64, 48 + number), Image.Resampling.BICUBIC)
        image.save(folder / ("b" if number % 2 else ".") / f"photo.{number:02}.jpg")
    return folder


def batches(source: Source, *, workers: int) -> list[torch.Tensor]:
    schedule = Schedule(images=len(source), batch_size=4, accumulate=1, epochs=2, seed=5)
    slots = scale_slots(method_class("mls").slots(method_class("mls").Config()), 32)
    parts = Parts(source, schedule, policy=Scene(), slots=slots)
    found = []
    for batch in make_loader(parts, first_step=1, workers=workers, pin_memory=False):
        assert not isinstance(batch, UserError)
        found += [batch.index, *batch.views.values(), *batch.boxes.values()]
    return found


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_views_are_those_of_the_folder_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    folder = open_source(str(photos))
    packed = pack(photos, tmp_path / "s")
    assert [record.key for record in packed] == [record.key for record in folder]
    for mine, theirs in zip(packed, folder, strict=True):
        assert (mine.index, mine.size, mine.orientation, mine.labels) == (theirs.index, theirs.size, 1, None)
        assert mine.read() == theirs.read()
    assert (packed.labels(), packed.classes, packed.splits, packed.unreadable) == (None, (), None, ())
    assert not isinstance(packed, HasBoxes)
    expected = batches(folder, workers=0)
    for workers in (0, 2):
        found = batches(packed, workers=workers)
        assert len(found) == len(expected)
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))


def test_it_pickles_small_opens_anywhere_and_ends(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(photos, tmp_path / "s")
    content = pickle.dumps(packed)
    assert len(content) < 4000
    again = pickle.loads(content)
    assert [record.read() for record in again] == [record.read() for record in packed]
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            packed[index]
    (tmp_path / "s").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    moved = open_source("shards:moved")
    assert moved.spec == f"shards:{tmp_path / 'moved'}"
    assert moved.fingerprint == packed.fingerprint
    assert moved[3].key == packed[3].key
    shutil.rmtree(tmp_path / "moved")
    assert pack(photos, tmp_path / "other", quality=50, short_side=40).fingerprint != packed.fingerprint


def test_splits_labels_and_boxes_come_along_scaled(tmp_path: Path) -> None:
    train = pack("synthetic:6?seed=2", tmp_path / "s", short_side=40)
    for split, packed in (("train", train), ("test", open_source(f"shards:{tmp_path / 's'}", split="test"))):
        scenes = open_source(f"synthetic:6?seed=2&split={split}")
        assert isinstance(packed, HasBoxes) and isinstance(packed, HasInstances) and isinstance(scenes, HasInstances)
        assert packed.spec == f"shards:{tmp_path / 's'}?split={split}"
        assert open_source(packed.spec).fingerprint == packed.fingerprint
        assert (packed.classes, packed.multi_label, packed.splits) == (scenes.classes, True, ("train", "test"))
        assert np.array_equal(np.asarray(packed.labels()), np.asarray(scenes.labels()))
        assert packed.with_boxes().tolist() == [True] * 6
        assert packed.with_masks().tolist() == [False] * 6
        for index, (mine, theirs) in enumerate(zip(packed, scenes, strict=True)):
            assert mine.key == theirs.key
            assert min(mine.size) == 40
            assert np.array_equal(np.asarray(mine.labels), np.asarray(theirs.labels))
            found, given = packed.instances(index), scenes.instances(index)
            ratio = np.array([mine.size[1] / theirs.size[1], mine.size[0] / theirs.size[0]] * 2)
            np.testing.assert_allclose(found.boxes, given.boxes * ratio, rtol=1e-6)
            assert np.array_equal(found.classes, given.classes)
            assert np.array_equal(packed.boxes(index)[0], found.boxes)
        with pytest.raises(UserError, match="has no masks: they are not packed"):
            packed.instances(0, masks=True)
        with pytest.raises(UserError, match="has no masks"):
            packed.class_map(0)
    assert train.fingerprint != packed.fingerprint
    with pytest.raises(UserError, match=r"unknown name 'tset'. Did you mean 'test'"):
        open_source(f"shards:{tmp_path / 's'}?split=tset")
    alone = pack("synthetic:6?seed=2&split=test", tmp_path / "alone", short_side=40)
    assert (alone.splits, alone[0].key) == (None, "test/0")
    assert json.loads((tmp_path / "alone" / "shards.json").read_text())["splits"][0]["name"] == "test"


def test_one_class_an_image_comes_along(photos: Path, tmp_path: Path) -> None:
    rows = "".join(
        f"{path.relative_to(tmp_path)},{'cat' if number % 3 else 'dog'}\n"
        for number, path in enumerate(sorted(photos.rglob("*.jpg")))
    )
    (tmp_path / "list.csv").write_text(f"image,labels\n{rows}")
    given = open_source(f"csv:{tmp_path / 'list.csv'}")
    packed = pack(given.spec, tmp_path / "s")
    assert (packed.classes, packed.multi_label) == (("cat", "dog"), False)
    assert np.array_equal(np.asarray(packed.labels()), np.asarray(given.labels()))
    assert [record.labels for record in packed] == [record.labels for record in given]
    with pytest.raises(UserError, match="have no splits, but 'test' is asked for"):
        open_source(f"shards:{tmp_path / 's'}", split="test")


def coco(root: Path) -> Path:
    """Write a folder in COCO's layout: a cat, a crowd of dogs in the first image, nothing in the second."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (root / f"{split}2017").mkdir()
        for number in (1, 2):
            Image.new("RGB", (80, 60)).save(root / f"{split}2017" / f"{number}.jpg")
        boxes = [([4, 6, 40, 30], 1, 0), ([10, 10, 20, 20], 2, 1)]
        content = {
            "images": [{"id": n, "file_name": f"{n}.jpg", "height": 60, "width": 80} for n in (1, 2)],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {"id": n, "image_id": 1, "bbox": box, "category_id": kind, "iscrowd": crowd, "area": 9}
                for n, (box, kind, crowd) in enumerate(boxes, 1)
            ],
        }
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_crowds_stay_what_they_are(tmp_path: Path) -> None:
    packed: Any = pack(f"coco:{coco(tmp_path / 'coco')}", tmp_path / "s", short_side=32)
    given: Any = open_source(f"coco:{tmp_path / 'coco'}")
    assert np.array_equal(packed.labels(), given.labels())
    assert packed.labels()[0].tolist() == [1, -1]
    assert packed[0].size == (32, 43)
    ratio = np.array([43 / 80, 32 / 60, 43 / 80, 32 / 60])
    for index, count in ((0, 1), (1, 0)):
        assert len(packed.boxes(index)[0]) == len(given.boxes(index)[0]) == count
        found, expected = packed.instances(index), given.instances(index)
        np.testing.assert_allclose(found.boxes, expected.boxes * ratio, rtol=1e-6)
        assert found.ignored.tolist() == expected.ignored.tolist()
    (tmp_path / "coco" / "val2017" / "1.jpg").unlink()
    with pytest.raises(UserError, match=r"to pack the other split alone, write coco:.*\?split=train"):
        pack(f"coco:{tmp_path / 'coco'}", tmp_path / "t")


def test_proposals_come_along_and_are_taken_where_crops_need_some(tmp_path: Path) -> None:
    file = tmp_path / "p.arrow"
    api.propose("synthetic:8", out=file, generator="grid", keep=7, workers=0)
    display = Quiet()
    packed = pack("synthetic:8", tmp_path / "s", short_side=40, proposals=file, display=display)
    assert isinstance(packed, HasProposals)
    own = packed.packed_proposals()
    assert own == tmp_path / "s" / "proposals-train.arrow"
    before, after = Store(file), Store(own)
    after.check()
    assert after.header.origin.generator == "grid"
    for index, record in enumerate(packed):
        old, new = before[index], after[index]
        assert (new.key, new.size, len(new.boxes)) == (record.key, record.size, len(old.boxes))
        ratio = np.array([new.size[1] / old.size[1], new.size[0] / old.size[0]] * 2)
        assert np.abs(new.boxes - old.boxes * ratio).max() <= 0.5 + 1e-9
    assert open_source(f"{packed.spec.split('?')[0]}?split=test").packed_proposals() is None  # type: ignore[attr-defined]
    base = {"method": {"name": "mls", "k": 2}, "backbone": {"name": "test_resnet"}, "engine": {"batch_size": 4}}

    def plan(crops: str, data: Source, **section: Any) -> Any:
        sections = base | {"data": {"source": data.spec, "size": 32, **section}, "crops": {"name": crops}}
        return make_plan(build(sections), data)

    taken = plan("object", packed)
    assert any("packed with the images" in note for note in taken.notes)
    assert any(str(own) in note for note in taken.notes)
    assert np.array_equal(taken.proposals(3), after[3].boxes)
    assert taken.config.data.proposals is None
    named = plan("object", packed, proposals=str(own))
    assert not any("packed with the images" in note or "not as" in note for note in named.notes)
    assert plan("scene", packed).proposals is None
    with pytest.raises(UserError, match="needs object proposals"):
        plan("object", open_source(f"shards:{tmp_path / 's'}?split=test"))


def test_damage_is_told(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    packed = pack(photos, out)
    shard, index = out / "images-00000.tar", out / "index.arrow"
    whole = {path: path.read_bytes() for path in (shard, index, out / "shards.json")}

    def broken(path: Path, content: bytes | None) -> str:
        path.unlink() if content is None else path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            open_source(f"shards:{out}")
        path.write_bytes(whole[path])
        return str(caught.value)

    assert "images-00000.tar is missing" in broken(shard, None)
    assert f"has {len(whole[shard]) - 1} bytes instead of {len(whole[shard])}" in broken(shard, whole[shard][:-1])
    assert "index.arrow is missing" in broken(index, None)
    assert "index.arrow has 5 bytes" in broken(index, b"short")
    assert "index.arrow is damaged" in broken(index, bytes(len(whole[index])))
    manifest = out / "shards.json"
    assert "has no shards.json; name a folder" in broken(manifest, None)
    assert "is damaged" in broken(manifest, b"{}")
    assert "of format 99" in broken(manifest, b'{"format": 99}')
    text = whole[manifest].decode()
    assert "is damaged" in broken(manifest, text.replace("images-00000.tar", "../images-00000.tar").encode())
    assert "is damaged" in broken(manifest, text.replace('"images": 5', '"images": 4', 1).encode())
    entry = json.loads(text)["files"]["index.arrow"]["sha256"]
    for forged in (
        text.replace(entry, str(tmp_path / "elsewhere")),  # it would name a file in the cache folder
        text.replace(entry, "a" * 400),
        text.replace(f'"images": {len(packed)}', '"images": -1'),
        "[" * 100_000,
        text.replace('"format": 1', '"format": true'),
        text.replace('"evaluation": null', '"evaluation": ["a", "b"]'),
    ):
        assert forged != text and "is damaged" in broken(manifest, forged.encode()).replace(
            "is of format", "is damaged"
        )
    record = packed[2]
    assert not isinstance(record.read, FileReader)
    at = whole[shard].index(record.read())
    shard.write_bytes(whole[shard][: at + 50] + b"\x00\x01" + whole[shard][at + 52 :])
    with pytest.raises(ImageError, match="checksum differs"):
        open_source(f"shards:{out}")[2].read()
    assert open_source(f"shards:{out}")[1].read() == open_source(str(photos))[1].read()
    shard.write_bytes(whole[shard] + b"more")
    with pytest.raises(UserError, match="bytes instead of"):
        record.read()
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        record.read()


def test_an_address_that_cannot_be_asked_is_refused_at_once() -> None:
    for address in ("http://", "https:///shards", "http://a b/c", "http://host/a b"):
        with pytest.raises(UserError, match="is no address"):
            open_source(f"shards:{address}")


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder. `mode` changes how it answers; `asked` is what it was asked for: (name, range)."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.mode, self.asked = folder, "ranges", list[tuple[str, str]]()
        self.failures, self.connections = 0, 0

    def process_request(self, *given: Any) -> None:
        self.connections += 1
        super().process_request(*given)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # connections are kept

    def log_message(self, *given: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        asked = self.headers.get("Range", "")
        self.server.asked.append((self.path, asked))
        file = self.server.folder / name
        if self.server.failures:
            self.server.failures -= 1
            self.send_error(503)
        elif self.server.mode == "moved" and not self.path.startswith("/there"):
            self.send_response(302)
            self.send_header("Location", f"/there{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif not file.is_file():
            self.send_error(404)
        else:
            self._send(file.read_bytes(), asked)

    def _send(self, content: bytes, asked: str) -> None:
        total, mode = len(content), self.server.mode
        if asked and mode != "whole":
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            if first >= total:
                self.send_error(416)
                return
            content = content[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:100] if mode == "cut" else content)
        self.close_connection = mode in ("cut", "closing")


@pytest.fixture
def server(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(shards_http, "WAITS", (0.0, 0.0, 0.0))
    pack(photos, tmp_path / "s")
    served = Server(tmp_path / "s")
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield served
    shards_http.hang_up()
    served.shutdown()
    thread.join()
    served.server_close()


def test_shards_are_read_from_an_address(server: Server, photos: Path, tmp_path: Path) -> None:
    folder, local = open_source(str(photos)), open_source(f"shards:{tmp_path / 's'}")
    for text in ("/any/where", "/any/where/", "/a/{}?key=1&name=x"):
        remote = open_source(f"shards:{server.address}{text}")
        assert remote.spec == f"shards:{server.address}{text}"
        assert remote.fingerprint == local.fingerprint
        assert [record.key for record in remote] == [record.key for record in folder]
        assert [record.read() for record in pickle.loads(pickle.dumps(remote))] == [r.read() for r in folder]
    wanted = [asked for name, asked in server.asked if "index.arrow" in name]
    assert wanted == [f"bytes=0-{(tmp_path / 's' / 'index.arrow').stat().st_size - 1}"]  # once, then from the cache
    assert any(name.startswith("/a/shards.json?key=1&name=x") for name, _ in server.asked)
    server.mode = "moved"
    server.failures = 2
    assert open_source(f"shards:{server.address}/x")[3].read() == folder[3].read()
    assert not list((tmp_path / "cache" / "shards").glob("*.tmp"))


@pytest.mark.parametrize("mode", ["ranges", "closing", "moved"])
def test_all_images_come_over_one_connection(server: Server, photos: Path, mode: str) -> None:
    """A server that closes it after each answer, or sends elsewhere, is asked anew each time."""
    remote, folder = open_source(f"shards:{server.address}/s"), open_source(str(photos))
    server.mode, before = mode, server.connections
    shards_http.hang_up()
    assert [record.read() for record in remote] == [record.read() for record in folder]
    made = server.connections - before
    assert made == 1 if mode == "ranges" else made >= len(remote)
    if mode == "ranges":
        server.mode = "closing"  # and a connection that broke meanwhile is made again
        assert [remote[0].read(), remote[0].read()] == [folder[0].read()] * 2


def test_what_is_wrong_at_an_address_is_told(server: Server, tmp_path: Path) -> None:
    where, shard = f"shards:{server.address}/s", tmp_path / "s" / "images-00001.tar"
    record, content = open_source(where)[7], shard.read_bytes()
    for mode, words in (("whole", "no range requests"), ("cut", "asked 4 times")):
        server.mode = mode
        with pytest.raises(UserError, match=words):
            record.read()
    server.mode = "ranges"
    for there, words in ((content + b"more", "bytes instead of"), (content[:9], "is shorter"), (None, "is missing")):
        shard.unlink() if there is None else shard.write_bytes(there)
        with pytest.raises(UserError, match=words):
            record.read()
    at = content.index(b"\xff\xd8")
    shard.write_bytes(content[: at + 60] + bytes([content[at + 60] ^ 1]) + content[at + 61 :])
    with pytest.raises(ImageError, match="checksum differs"):
        open_source(where)[5].read()
    server.failures = 99
    with pytest.raises(UserError, match="503"):
        record.read()
    server.failures = 0
    shutil.rmtree(tmp_path / "cache")
    index = tmp_path / "s" / "index.arrow"
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"is not the file that shards\.json names"):
        open_source(where)
    index.unlink()
    with pytest.raises(UserError, match="is missing"):
        open_source(where)
    with pytest.raises(UserError, match="cannot be read"):
        open_source("shards:http://127.0.0.1:9/s")
    with pytest.raises(UserError, match="expected http://, https:// or a folder"):
        open_source("shards:ftp://host/s")


def test_an_address_keeps_its_own_query_and_gives_up_our_option() -> None:
    for text, path, options in (
        ("https://h/s?split=val", "https://h/s", {"split": "val"}),
        ("https://h/{}?sig=a&split=val", "https://h/{}?sig=a", {"split": "val"}),
        ("https://h/{}?sig=a?split=val", "https://h/{}?sig=a", {"split": "val"}),
        ("https://h/s", "https://h/s", {}),
    ):
        spec = parse_spec(f"shards:{text}")
        assert (spec.path, dict(spec.options)) == (path, options)
        assert parse_spec(spec.canonical(**options)) == spec
    with pytest.raises(UserError, match="unknown name 'sig'"):
        parse_spec("shards:/folder?sig=a")


def test_the_commands_take_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack("synthetic:24", tmp_path / "s", short_side=40)
    shards, run = f"shards:{tmp_path / 's'}", str(tmp_path / "run")
    assert cli.run(["audit", shards, "--limit", "8", "--size", "32", "--json", str(tmp_path / "a.json")]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["images"]["read"] == 24
    assert found["objects_from"] == "labels"
    tiny = ["--backbone", "test_resnet", "--size", "32", "--epochs", "1", "--batch-size", "8", "--workers", "0"]
    tiny += ["--precision", "32", "--device", "cpu", "--set", "engine.threads=1", "--set", "engine.tensorboard=false"]
    tiny += ["--set", "method.width=16", "method.k=2"]
    assert cli.run(["pretrain", shards, "--method", "mls", "--out", run, *tiny]) == 0
    assert cli.run(["evaluate", run, "--data", shards, "--protocol", "knn", "--json", str(tmp_path / "e.json")]) == 0
    assert json.loads((tmp_path / "e.json").read_text())["data"]
    assert "pre-training pool" not in capsys.readouterr().out
    assert (
        cli.run(["pretrain", shards, "--out", str(tmp_path / "o"), *tiny, "--crops", "object", "--method", "mls"]) == 2
    )
    assert "needs object proposals" in capsys.readouterr().err
