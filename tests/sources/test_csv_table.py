from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.sources import arrow_files, open_source

from .conftest import SaveImage


def _table(folder: Path, text: str, *, encoding: str = "utf-8") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "labels.csv"
    file.write_text(text, encoding=encoding)
    return file


def test_single_labels_in_the_order_of_the_rows(tmp_path: Path, save: SaveImage) -> None:
    for name in ("b.jpg", "sub/a.png", "c é.jpg"):
        save(tmp_path / name)
    file = _table(tmp_path, "image,labels\nb.jpg,dog\nsub/a.png,cat\nc é.jpg,dog\n", encoding="utf-8-sig")
    source = open_source(f"csv:{file}")
    assert [source[index].key for index in range(3)] == ["b.jpg", "sub/a.png", "c é.jpg"]
    assert source.classes == ("cat", "dog") and not source.multi_label
    labels = source.labels()
    assert labels is not None and labels.dtype == np.int64 and labels.tolist() == [1, 0, 1]
    assert [source[index].labels for index in range(3)] == [1, 0, 1]
    assert pickle.loads(pickle.dumps(source))[2].read() == (tmp_path / "c é.jpg").read_bytes()


def test_several_labels_in_one_row_make_all_rows_vectors(tmp_path: Path, save: SaveImage) -> None:
    for name in "abc":
        save(tmp_path / f"{name}.jpg")
    rows = 'other,labels,image\n1,"dog; cat",a.jpg\n2,bird,b.jpg\n3,,c.jpg\n'
    source = open_source(f"csv:{_table(tmp_path, rows)}")
    assert source.multi_label and source.classes == ("bird", "cat", "dog")
    labels = source.labels()
    assert labels is not None and labels.dtype == np.int8
    assert labels.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert np.array_equal(np.asarray(source[0].labels), labels[0])


def test_a_row_of_other_length_is_refused_where_images_may_have_no_label(tmp_path: Path, save: SaveImage) -> None:
    for name in "abcd":
        save(tmp_path / f"{name}.jpg")
    rows = 'image,labels\na.jpg,"x;y"\nb.jpg\nc.jpg,x,y\nd.jpg,x,\n'
    with pytest.raises(UserError) as caught:
        open_source(f"csv:{_table(tmp_path, rows)}")
    assert ["line 3: 1 cell," in caught.value.problems[0], "line 4: 3 cells," in caught.value.problems[1]] == [True] * 2
    assert len(caught.value.problems) == 2  # nothing is lost with an empty cell, which spreadsheets leave


def test_options_root_and_multi(tmp_path: Path, save: SaveImage) -> None:
    save(tmp_path / "photos" / "a.jpg")
    file = _table(tmp_path / "tables", "image,labels\na.jpg,cat\n")
    source = open_source(f"csv:{file}?root={tmp_path / 'photos'}&multi=1")
    assert source.multi_label and np.asarray(source.labels()).tolist() == [[1]]
    again = open_source(source.spec)
    assert again.fingerprint == source.fingerprint and again.spec == source.spec
    with pytest.raises(UserError, match="no such image"):
        open_source(f"csv:{file}")
    with pytest.raises(UserError, match="multi"):
        open_source(f"csv:{file}?multi=yes")


def test_an_unreadable_image_takes_its_label_along(tmp_path: Path, save: SaveImage) -> None:
    for name in "acd":
        save(tmp_path / f"{name}.jpg")
    (tmp_path / "b.jpg").write_text("words")
    rows = "image,labels\na.jpg,x\nb.jpg,y\nc.jpg,z\nd.jpg,x\n"
    source = open_source(f"csv:{_table(tmp_path, rows)}")
    assert [skip.key for skip in source.unreadable] == ["b.jpg"]
    assert [source.classes[int(label)] for label in np.asarray(source.labels())] == ["x", "z", "x"]
    assert any("1 of 4" in note for note in source.notes)


@pytest.mark.parametrize("option", ["", "?root={folder}"])
def test_paths_may_be_absolute(tmp_path: Path, save: SaveImage, option: str) -> None:
    photo, other = save(tmp_path / "elsewhere" / "a.jpg"), save(tmp_path / "tables" / "b.jpg")
    (tmp_path / "elsewhere" / "broken.jpg").write_text("words")
    rows = f"image,labels\n{photo},cat\nb.jpg,dog\n{tmp_path}/elsewhere/broken.jpg,cat\n"
    spec = f"csv:{_table(tmp_path / 'tables', rows)}" + option.format(folder=tmp_path / "tables")
    source = open_source(spec)
    assert [source[index].key for index in range(2)] == [str(photo), "b.jpg"] and len(source) == 2
    assert [source[index].read() for index in range(2)] == [photo.read_bytes(), other.read_bytes()]
    assert [source[index].size for index in range(2)] == [(6, 9), (6, 9)]
    assert [skip.key for skip in source.unreadable] == [f"{tmp_path}/elsewhere/broken.jpg"]
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.arrow")}
    assert open_source(spec).fingerprint == source.fingerprint
    assert files == {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.arrow")}  # kept
    save(photo, (8, 8))
    os.utime(photo, ns=(1, 1))
    assert open_source(spec)[0].size == (8, 8)  # and looked at


def test_an_absolute_path_to_nothing_is_told_without_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"line 2: no such image: {tmp_path}/gone\.jpg$"):
        open_source(f"csv:{_table(tmp_path / 'tables', f'image,labels{chr(10)}{tmp_path}/gone.jpg,cat')}")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("image,label\na.jpg,cat\n", ["labels.csv", "no column labels", "image,labels"]),
        ("a.jpg,cat\n", ["no column image and labels"]),
        ("", ["no column"]),
        ("image,labels\n", ["no row"]),
        ("image,labels\na.jpg,\n", ["line 2", "no label", "multi=1"]),
        ("image,labels\na.jpg,cat\n./a.jpg,dog\n", ["labels.csv", "line 3", "a.jpg", "already in line 2"]),
        ("image,labels\na.jpg,cat\ngone.jpg,dog\n", ["labels.csv", "line 3", "no such image: gone.jpg"]),
        ("image,labels\n,cat\n", ["line 2", "no image named"]),
        (
            "image,labels\na.jpg,cat,dog\n",
            ["labels.csv", "line 2", "3 cells", "2 columns", "labels are separated by ;"],
        ),
        ("image,labels\na.jpg\n", ["labels.csv", "line 2", "1 cell,", "2 columns"]),
    ],
)
def test_a_faulty_table_is_refused_by_file_and_record(
    tmp_path: Path, save: SaveImage, rows: str, words: list[str]
) -> None:
    save(tmp_path / "a.jpg")
    file = _table(tmp_path, rows)
    with pytest.raises(UserError) as caught:
        open_source(f"csv:{file}")
    for word in words:
        assert word in str(caught.value)


def test_all_problems_come_at_once_up_to_ten_and_before_any_work(
    tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.jpg")
    monkeypatch.setattr(arrow_files, "read_header", None)
    rows = "image,labels\na.jpg,x\na.jpg,y\n" + "".join(f"gone{index}.jpg,x\n" for index in range(20))
    with pytest.raises(UserError) as caught:
        open_source(f"csv:{_table(tmp_path, rows)}")
    assert len(caught.value.problems) == 11
    assert "line 3" in caught.value.problems[0] and "line 4" in caught.value.problems[1]
    assert "21 in all" in caught.value.problems[-1]


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(b"image,labels\n\xff\xfe,cat\n")
    with pytest.raises(UserError, match="UTF-8"):
        open_source(f"csv:{file}")


def test_the_index_follows_the_table(tmp_path: Path, save: SaveImage) -> None:
    for name in "abc":
        save(tmp_path / "photos" / f"{name}.jpg")
    file = _table(tmp_path / "tables", "image,labels\na.jpg,x\nb.jpg,x\n")
    spec = f"csv:{file}?root={tmp_path / 'photos'}"
    state = file.stat()
    assert len(open_source(spec)) == 2
    file.write_text("image,labels\nc.jpg,x\na.jpg,x\n")
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    again = open_source(spec)
    assert [again[index].key for index in range(2)] == ["c.jpg", "a.jpg"]
