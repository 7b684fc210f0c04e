from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenewise.errors import ImageError, UserError
from scenewise.sources import arrow_files, cache_folder, open_source, walk

from .conftest import SaveImage


def _keys(source: Any) -> list[str]:
    return [source[index].key for index in range(len(source))]


def _count_listings(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    listed: list[bytes] = []
    scandir = os.scandir

    def counted(path: Any) -> Any:
        listed.append(path)
        return scandir(path)

    monkeypatch.setattr(walk.os, "scandir", counted)
    return listed


def test_reads_every_level_and_ending_in_byte_order(tmp_path: Path, save: SaveImage) -> None:
    root = tmp_path / "photos"
    names = [
        *(
            "top.jpg",
            "a/one.JPG",
            "a/b/two.PnG",
            "a/b/c/three.webp",
            "a.jpeg",
            "a-b/x.bmp",
            "ä/ü ö.tif",
            "日本/写真.TIFF",
        ),
        *("Z/z.jpe", "a/b.jpg", "a/b0.jpg"),
    ]
    for name in names:
        save(root / name if not name.endswith(".jpe") else root / "Z/z.jpg")
    (root / "Z/z.jpg").rename(root / "Z/z.jpe")
    source = open_source(str(root))
    assert _keys(source) == sorted(names, key=str.encode)
    assert source.labels() is None and source.classes == () and source.splits is None
    record = source[0]
    assert record.index == 0 and record.size == (6, 9) and record.labels is None
    assert record.read() == (root / record.key).read_bytes()
    with pytest.raises(IndexError):
        source[len(names)]
    with pytest.raises(IndexError):
        source[-1]
    assert len(list(source)) == len(names)  # type: ignore[call-overload]


def test_a_name_that_is_not_utf8_is_read_and_printable(tmp_path: Path, save: SaveImage) -> None:
    root = os.fsencode(tmp_path / "photos")
    plain = save(tmp_path / "photos" / "plain.jpg")
    try:
        os.rename(plain, root + b"/odd\xff.jpg")  # noqa: PTH104 - bytes
    except OSError:
        pytest.skip("this file system allows only UTF-8 names")
    source = open_source(str(tmp_path / "photos"))
    assert _keys(source) == ["odd\\xff.jpg"]
    source[0].key.encode("utf-8")
    assert isinstance(source[0].read(), bytes)


def test_hidden_and_other_files_are_left_out_and_counted(tmp_path: Path, save: SaveImage) -> None:
    root = tmp_path / "photos"
    for name in ("a.jpg", ".hidden.jpg", ".thumbs/b.jpg"):
        save(root / name)
    (root / "notes.TXT").write_text("x")
    (root / "README").write_text("x")
    source = open_source(str(root))
    assert _keys(source) == ["a.jpg"]
    notes = " ".join(source.notes)
    assert "2 files with other endings" in notes and ".txt (1)" in notes and "(none) (1)" in notes
    assert "2 hidden" in notes


def test_links_are_followed_and_loops_end(tmp_path: Path, save: SaveImage) -> None:
    root = tmp_path / "photos"
    save(root / "a" / "one.jpg")
    save(tmp_path / "outside" / "two.jpg")
    (root / "first.jpg").symlink_to("a/one.jpg")
    (root / "second.jpg").symlink_to("a/one.jpg")
    (root / "away").symlink_to(tmp_path / "outside")
    (root / "again").symlink_to(tmp_path / "outside")
    (root / "a" / "up").symlink_to("..")
    (root / "self").symlink_to(".")
    (tmp_path / "outside" / "back").symlink_to(root / "a")
    source = open_source(str(root))
    assert _keys(source) == [
        *("a/one.jpg", "again/back/one.jpg", "again/two.jpg", "away/back/one.jpg", "away/two.jpg"),
        *("first.jpg", "second.jpg"),
    ]
    assert any("links to folders were not followed" in note for note in source.notes)


def test_folders_that_all_link_to_one_another_end(tmp_path: Path, save: SaveImage) -> None:
    root = tmp_path / "photos"
    count = 9
    for here in range(count):
        save(root / f"{here}" / "x.jpg")
        for there in range(count):
            (root / f"{here}" / f"to{there}").symlink_to(f"../{there}")
    assert count <= len(open_source(str(root))) <= count * 9


def test_unreadable_images_are_not_in_the_source_but_named(tmp_path: Path, save: SaveImage) -> None:
    root = tmp_path / "photos"
    for index in range(5):
        save(root / f"{index}.jpg", (6 + index, 9))
    for name, content in (("0a.jpg", b""), ("2a.jpg", b"words"), ("9.png", b"\x89PNG\r\n")):
        (root / name).write_bytes(content)
    save(root / "3a.png", (1, 1))
    (root / "broken.jpg").symlink_to("nowhere")
    source = open_source(str(root))
    assert _keys(source) == [f"{index}.jpg" for index in range(5)]
    assert [source[index].size for index in range(5)] == [(6 + index, 9) for index in range(5)]
    skipped = {skip.key: skip.reason for skip in source.unreadable}
    assert set(skipped) == {"0a.jpg", "2a.jpg", "3a.png", "9.png", "broken.jpg"}
    assert {skip.index for skip in source.unreadable} == {-1}
    assert skipped["0a.jpg"] == "empty file" and "1-pixel" in skipped["3a.png"]
    assert any("5 of 10 images cannot be used and were left out, e.g. " in note for note in source.notes)


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    save(root / "a.jpg")
    save(root / "locked" / "b.jpg")
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if b"locked" in os.fsencode(path):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(walk.os, "scandir", refuse)
    source = open_source(str(root))
    assert [(skip.key, skip.reason) for skip in source.unreadable] == [
        ("locked/", "the folder cannot be listed: permission denied")
    ]
    monkeypatch.setattr(walk.os, "scandir", scandir)
    assert len(open_source(str(root), reindex=True)) == 2


def _empty(folder: Path) -> None:
    folder.mkdir()


def _text_only(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    (folder / "b.TXT").write_text("x")
    (folder / "film.mp4").write_text("x")


def _broken_only(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.jpg").write_text("x")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, ["no such folder"]),
        (lambda folder: folder.write_text("x"), ["is a file"]),
        (_empty, ["is empty"]),
        (_text_only, ["no image in", ".txt (2)", ".mp4 (1)", ".jpg"]),
        (_broken_only, ["none of the 1 images", "a.jpg"]),
    ],
)
def test_a_folder_without_images_is_refused(tmp_path: Path, make: Callable[[Path], object], words: list[str]) -> None:
    make(tmp_path / "photos")
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path / "photos"))
    for word in words:
        assert word in str(caught.value)


def test_a_second_opening_walks_no_folder_and_reads_no_header(
    tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    for name in ("a.jpg", "b/c.jpg", "b/d/e.jpg"):
        save(root / name)
    first = open_source(str(root))
    listed = _count_listings(monkeypatch)
    monkeypatch.setattr(arrow_files, "read_header", None)
    again = open_source(str(root))
    assert listed == [] and _keys(again) == _keys(first) and again.fingerprint == first.fingerprint
    assert again.notes == first.notes and again.spec == first.spec == f"folder:{root}"


def test_a_new_file_anywhere_is_seen(tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "photos"
    for name in ("a.jpg", "b/c.jpg", "b/d/e.jpg"):
        save(root / name)
    first = open_source(str(root))
    save(root / "b/d/f.jpg")
    second = open_source(str(root))
    assert len(second) == 4 and second.fingerprint != first.fingerprint
    (root / "b/d/f.jpg").unlink()
    third = open_source(str(root))
    assert _keys(third) == _keys(first) and third.fingerprint == first.fingerprint
    assert len(list((cache_folder() / "index").glob("*.arrow"))) == 2  # an index that is replaced is removed


@pytest.mark.parametrize("reindex", [False, True])
def test_a_changed_file_is_refused_until_it_is_indexed_again(
    tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch, reindex: bool
) -> None:
    root = tmp_path / "photos"
    save(root / "a.png")
    save(root / "b.png")
    save(root / "c.png")
    open_source(str(root))
    times = root.stat()
    save(root / "b.png", (20, 30))
    os.utime(root, ns=(times.st_atime_ns, times.st_mtime_ns))
    with monkeypatch.context() as patch:
        patch.setattr("scenewise.sources.index.LOOKED_AT", 2)  # the first and the last
        stale = open_source(str(root))
    assert stale[1].size == (6, 9)
    with pytest.raises(ImageError, match="--reindex"):
        stale[1].read()
    fresh = open_source(str(root), reindex=reindex)
    assert fresh[1].size == (20, 30) and fresh.fingerprint != stale.fingerprint
    assert fresh[1].read() == (root / "b.png").read_bytes()


@pytest.mark.parametrize("gone", [False, True])
def test_files_with_other_times_are_indexed_anew_at_the_next_opening(
    tmp_path: Path, save: SaveImage, gone: bool
) -> None:
    """As after a copy or another mount: the folders' own times may be what they were."""
    root = tmp_path / "photos"
    names = [f"{number // 10}/{number:03}.png" for number in range(60)]
    for number, name in enumerate(names):
        save(root / name, (6 + number, 9))
    first = open_source(str(root))
    times = {folder: folder.stat() for folder in (root, *root.iterdir())}
    for name in names:
        os.utime(root / name, ns=(1, 10**18))
    if gone:
        (root / names.pop()).unlink()
    for folder, before in times.items():
        os.utime(folder, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = open_source(str(root))
    assert _keys(again) == names
    assert [again[place].size for place in range(len(names))] == [first[place].size for place in range(len(names))]
    assert all(again[place].read() for place in range(len(names)))
    assert again.unreadable == ()


@pytest.mark.parametrize("damage", [b"", b"ARROW1\0\0 nonsense", None])
def test_a_damaged_index_is_made_again(tmp_path: Path, save: SaveImage, damage: bytes | None) -> None:
    root = tmp_path / "photos"
    save(root / "a.jpg")
    open_source(str(root))
    for file in (cache_folder() / "index").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    assert _keys(open_source(str(root))) == ["a.jpg"]


def test_nothing_is_written_beside_the_data(tmp_path: Path, save: SaveImage) -> None:
    root = tmp_path / "photos"
    save(root / "a.jpg")
    before = sorted(root.rglob("*")), root.stat().st_mtime_ns
    open_source(str(root))
    open_source(str(root), reindex=True)
    assert (sorted(root.rglob("*")), root.stat().st_mtime_ns) == before
    assert not list(cache_folder().rglob("*.tmp"))


def test_rows_beyond_one_batch_are_found(tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow_files, "ROWS", 4)
    root = tmp_path / "photos"
    for index in range(19):
        save(root / f"{index:02d}.png", (5 + index, 7))
    for index in (0, 3, 4, 11, 18):
        (root / f"{index:02d}.png").write_bytes(b"")
    told: list[tuple[str, int, int | None]] = []
    source = open_source(str(root), progress=lambda *state: told.append(state))
    left = [index for index in range(19) if index not in (0, 3, 4, 11, 18)]
    assert [(record.index, record.key, record.size[0]) for record in map(source.__getitem__, range(len(source)))] == [
        (place, f"{index:02d}.png", 5 + index) for place, index in enumerate(left)
    ]
    assert [skip.key for skip in source.unreadable] == ["00.png", "03.png", "04.png", "11.png", "18.png"]
    assert [done for _, done, _ in told] == sorted({done for _, done, _ in told}) and told[-1][1] == 19


def _read_in_worker(source: Any, index: int) -> tuple[str, bytes]:
    record = source[index]
    return record.key, record.read()


@pytest.mark.parametrize("method", ["pickle", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_source_pickles_without_its_index(tmp_path: Path, save: SaveImage, method: str) -> None:
    root = tmp_path / "photos"
    for index in range(200):
        save(root / f"a_photo_with_a_rather_long_name_{index:05d}.png", (2, 2))
    source = open_source(str(root))
    packed = pickle.dumps(source)
    assert len(packed) < 2000
    expected = (source[123].key, (root / source[123].key).read_bytes())
    if method == "pickle":
        assert _read_in_worker(pickle.loads(packed), 123) == expected
        assert pickle.loads(pickle.dumps(source[123])).read() == expected[1]
    elif sys.platform != "win32":
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(_read_in_worker, (source, 123)) == expected
            pool.close()
            pool.join()


def test_a_source_whose_index_was_remade_elsewhere_says_so(tmp_path: Path, save: SaveImage) -> None:
    save(tmp_path / "photos" / "a.jpg")
    packed = pickle.dumps(open_source(str(tmp_path / "photos")))
    open_source(str(tmp_path / "photos"), reindex=True)
    with pytest.raises(UserError, match="remade by another process"):
        pickle.loads(packed)


def test_the_order_does_not_depend_on_the_file_system(
    tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    for name in ("b.jpg", "a/x.jpg", "a/b/y.jpg", "c/z.jpg", "a.jpg"):
        save(root / name)
    straight = _keys(open_source(str(root)))
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: Any) -> None:
            self._entries = scandir(path)

        def __enter__(self) -> Any:
            return iter(list(self._entries)[::-1])

        def __exit__(self, *_: object) -> None:
            self._entries.close()

    monkeypatch.setattr(walk.os, "scandir", Reversed)
    assert _keys(open_source(str(root), reindex=True)) == straight


def test_imagefolder_takes_classes_from_the_top_folders(tmp_path: Path, save: SaveImage) -> None:
    root = tmp_path / "photos"
    names = ["cat/1.jpg", "cat/deep/er/2.jpg", "cat-like/3.jpg", "dog/4.jpg", "cat0/5.jpg", "loose.jpg"]
    for name in names:
        save(root / name)
    (root / "empty").mkdir()
    source = open_source(f"imagefolder:{root}")
    assert source.classes == ("cat", "cat-like", "cat0", "dog", "empty") and not source.multi_label
    found = {source[index].key: source.classes[int(source[index].labels)] for index in range(len(source))}  # type: ignore[arg-type]
    assert found == {name: name.split("/")[0] for name in names[:-1]}
    labels = source.labels()
    assert labels is not None and labels.dtype == np.int64
    assert labels.tolist() == [source[index].labels for index in range(len(source))]
    assert any("1 images in no class's folder" in note for note in source.notes)
    assert any("empty" in note for note in source.notes)
    assert [record.index for record in pickle.loads(pickle.dumps(source))] == list(range(5))


def test_imagefolder_without_classes_is_refused(tmp_path: Path, save: SaveImage) -> None:
    save(tmp_path / "photos" / "a.jpg")
    with pytest.raises(UserError, match="one folder per class"):
        open_source(f"imagefolder:{tmp_path / 'photos'}")
    (tmp_path / "photos" / "x").mkdir()
    with pytest.raises(UserError, match="none of them in the folder of a class"):
        open_source(f"imagefolder:{tmp_path / 'photos'}")


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "photos" / "a.jpg")
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("SCENEWISE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="SCENEWISE_CACHE"):
        open_source(str(tmp_path / "photos"))
