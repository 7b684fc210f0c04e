"""YOLO's data sets: layouts, lines, masks; and every mistake in them named by file and line."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.sources import HasBoxes, open_source
from scenewise.sources.base import HasInstances
from scenewise.sources.masks import polygon_mask
from scenewise.sources.yolo import YoloSource

from .conftest import SaveImage
from .test_instances import _check

SIZE = (40, 80)  # height, width of every image
LABELS = {
    "a": "0 0.5 0.5 0.25 0.5\n2 0.1 0.1 0.2 0.2\n",
    "b": "1 0 0 0.5 0 0.5 0.5\n",
    "c": None,
    "d": "",
}


def _tree(root: Path, save: SaveImage, labels: dict[str, str | None] | None = None, *, split: str = "train") -> Path:
    for name, text in (LABELS if labels is None else labels).items():
        save(root / "images" / split / f"{name}.jpg", SIZE)
        file = root / "labels" / split / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            file.write_text(text)
    (root / "classes.txt").write_text("cat\ndog\nred bird\n")
    return root


def _yaml(root: Path, text: str) -> Path:
    (root / "classes.txt").unlink(missing_ok=True)
    (root / "data.yaml").write_text(text)
    return root / "data.yaml"


def _open(text: str, **options: Any) -> YoloSource:
    source = open_source(text, **options)
    assert isinstance(source, YoloSource) and isinstance(source, HasBoxes) and isinstance(source, HasInstances)
    return source


def test_labels_boxes_and_masks_of_a_folder(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    source = _open(f"yolo:{tmp_path}")
    assert source.spec == f"yolo:{tmp_path}?split=train" and source.splits == ("train", "val") and source.multi_label
    assert source.classes == ("cat", "dog", "red bird") and source.unreadable == ()
    assert source.notes == ("1 of 4 images have no label file: they count as images without objects.",)
    for opened in (source, _open(source.spec), pickle.loads(pickle.dumps(source))):
        assert [opened[index].key for index in range(4)] == [f"images/train/{name}.jpg" for name in "abcd"]
        assert np.asarray(opened.labels()).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
        assert all(np.array_equal(opened[index].labels, np.asarray(opened.labels())[index]) for index in range(4))
        boxes, kinds = opened.boxes(0)
        assert np.allclose(boxes, [[30, 10, 50, 30], [0, 0, 16, 8]]) and kinds.tolist() == [0, 2]
        assert opened.boxes(1)[0].tolist() == [[0, 0, 40, 20]]
        assert opened.with_boxes().all() and opened.with_masks().tolist() == [False, True, True, True]
        expected = polygon_mask(np.array([[0.0, 0], [40, 0], [40, 20]]), SIZE)
        assert np.array_equal(opened.instances(1, masks=True).masks[0], expected)
        assert np.array_equal(opened.class_map(1), np.where(expected, 2, 0))
        assert opened.instances(2, masks=True).masks.shape == (0, *SIZE)
    assert _check(source) == 3 and len(pickle.dumps(source)) < 3000
    with pytest.raises(UserError, match=r"a\.txt, line 1 is a box: the image has no masks"):
        source.instances(0, masks=True)


def test_boxes_alone_are_no_masks_even_of_images_without_objects(tmp_path: Path, save: SaveImage) -> None:
    source = _open(f"yolo:{_tree(tmp_path, save, {'a': '0 0.5 0.5 0.1 0.1', 'b': ''})}")
    assert not source.with_masks().any() and source.with_boxes().all()


def test_classes_are_restricted_in_the_order_of_the_names(tmp_path: Path, save: SaveImage) -> None:
    source = _open(f"yolo:{_tree(tmp_path, save)}?classes=red bird,dog")
    assert source.classes == ("dog", "red bird")
    assert np.asarray(source.labels()).tolist() == [[0, 1], [1, 0], [0, 0], [0, 0]]
    assert source.boxes(0)[1].tolist() == [1] and source.with_masks().tolist() == [False, True, True, True]
    with pytest.raises(UserError, match="Did you mean 'dog'"):
        open_source(f"yolo:{tmp_path}?classes=dogg")


@pytest.mark.parametrize("names", ["[cat, dog, bird]", "{0: cat, 1: dog, 2: bird}", "\n  1: dog\n  2: bird\n  0: cat"])
def test_a_dataset_yaml_names_splits_and_classes(tmp_path: Path, save: SaveImage, names: str) -> None:
    _tree(tmp_path, save)
    _tree(tmp_path, save, {"x": "0 .5 .5 1 1", "y": None}, split="held")
    file = _yaml(tmp_path, f"path: {tmp_path}\ntrain: images/train\nval: [images/held]\nnc: 3\nnames: {names}\n")
    for text in (f"yolo:{file}", f"yolo:{tmp_path}"):
        assert _open(text).classes == ("cat", "dog", "bird") and len(_open(text)) == 4
        assert [record.key for record in _open(text, split="val")] == ["images/held/x.jpg", "images/held/y.jpg"]
        assert len(_open(f"{text}?split=train", split="val")) == 4
    with pytest.raises(UserError, match=r"option split of yolo:.*'test'.*Known: train, val \(in .*data\.yaml"):
        open_source(f"yolo:{file}?split=test")


def test_where_a_yaml_leads(tmp_path: Path, save: SaveImage) -> None:
    root = _tree(tmp_path / "set", save)
    names = "names: [cat, dog, bird]\n"
    assert (
        len(_open(f"yolo:{_yaml(root, 'path: ../moved/away' + chr(10) + 'train: images/train' + chr(10) + names)}"))
        == 4
    )
    assert len(_open(f"yolo:{_yaml(root, 'train: ../images/train' + chr(10) + names)}")) == 4  # as Roboflow writes it
    elsewhere = tmp_path / "sets.yaml"
    elsewhere.write_text("path: set\ntrain: images/train\n" + names)
    assert _open(f"yolo:{elsewhere}")[0].key == "images/train/a.jpg"
    (root / "few.txt").write_text("images/train/b.jpg\n\n./images/train/a.jpg\n")
    source = _open(f"yolo:{_yaml(root, 'train: few.txt' + chr(10) + names)}")
    assert [record.key for record in source] == ["images/train/b.jpg", "images/train/a.jpg"]
    assert np.asarray(source.labels()).tolist() == [[0, 1, 0], [1, 0, 1]]
    (root / "few.txt").write_text("images/train/b.jpg\nimages/train/q.jpg\n")
    with pytest.raises(UserError, match=r"few\.txt, line 2: no such image: images/train/q\.jpg"):
        open_source(f"yolo:{root}")


def test_labels_beside_the_images_and_splits_above_them(tmp_path: Path, save: SaveImage) -> None:
    for name in "ab":
        save(tmp_path / "train" / f"{name}.png", SIZE)
    (tmp_path / "train" / "b.txt").write_text("1 .5 .5 .5 .5")
    (tmp_path / "train" / "notes.txt").write_text("of no image")
    _yaml(tmp_path, "train: train\nval: train\nnames: [cat, dog]")
    assert np.asarray(_open(f"yolo:{tmp_path}").labels()).tolist() == [[0, 0], [0, 1]]
    other = tmp_path / "other"
    save(other / "valid" / "images" / "a.png", SIZE)
    (other / "valid" / "labels").mkdir()
    (other / "valid" / "labels" / "a.txt").write_text("0 .5 .5 .5 .5")
    (other / "valid" / "labels" / "classes.txt").write_text("cat\n")
    (other / "classes.txt").write_text("cat\n")
    assert len(_open(f"yolo:{other}?split=valid").boxes(0)[0]) == 1


def test_repeated_empty_and_overhanging_labels_are_counted(tmp_path: Path, save: SaveImage) -> None:
    lines = [
        "0 .5 .5 .5 .5",
        "0 0.5 0.5 0.50 0.5",
        "1 .5 .5 .5 .5",
        "0 .5 .5 0 .2",
        "2 .5 .5 1.02 1",
        "",
        "0.0 .1 .1 .1 .1",
    ]
    source = _open(f"yolo:{_tree(tmp_path, save, {'a': chr(10).join(lines)})}")
    boxes, kinds = source.boxes(0)
    assert kinds.tolist() == [0, 1, 2, 0] and boxes[2].tolist() == [0, 0, 80, 40]
    assert source.notes == (
        "1 labels repeat another line of their file and were left out.",
        "1 labelled boxes reached up to 1 px outside their image and were clipped.",
        "1 empty labelled boxes were dropped.",
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3 .5 .5 .5 .5", r"class 3 has no name; there are 3, from 0 \(cat\)"),
        ("-1 .5 .5 .5 .5", "class -1 has no name"),
        ("0.5 .5 .5 .5 .5", "class 0.5 has no name"),
        ("0 .5 .5 .5", "4 numbers are not `class x y width height`"),
        ("0 .5 .5 .5 .5 .9", "6 numbers are not"),
        ("0 .1 .1 .2 .2 .3 .3 .4", "8 numbers are not"),
        ("cat .5 .5 .5 .5", "'cat .5 .5 .5 .5' is not `class x y width height`"),
        ("0_0 .5 .5 .5 .5", "'0_0 .5 .5 .5 .5' is not `class x y width height`"),
        ("0 .5 .5 .5 0.2_5", "'0 .5 .5 .5 0.2_5' is not"),
        ("0 nan .5 .5 .5", "not finite"),
        ("0 .5 .5 -.5 .5", "its box is -0.5 wide"),
        ("0 .5 .5 1.03 .5", r"reaches from \(-0.015, 0.25\).*more than 1 px out of its image of 80 x 40 pixels"),
        ("0 40 20 20 10", "numbers are shares of its sides"),
        ("0 0 0 1.02 0 1 1", "more than 1 px out"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, save: SaveImage, line: str, words: str) -> None:
    _tree(tmp_path, save, {"a": f"0 .5 .5 .5 .5\n{line}\n"})
    with pytest.raises(UserError, match=rf"labels/train/a\.txt, line 2: .*{words}"):
        open_source(f"yolo:{tmp_path}")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    for file in (tmp_path / "classes.txt", tmp_path / "labels/train/a.txt"):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    source = _open(f"yolo:{tmp_path}")
    assert source.classes == ("cat", "dog", "red bird") and source.boxes(0)[1].tolist() == [0, 2]
    file = _yaml(tmp_path, "names: [cat, dog, bird]\ntrain: images.txt\n")
    for path, text in ((file, file.read_text()), (tmp_path / "images.txt", "images/train/b.jpg\n")):
        path.write_text(text, encoding="utf-8-sig")
    assert [record.key for record in _open(f"yolo:{file}")] == ["images/train/b.jpg"]


def test_label_files_and_images_that_do_not_match(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    (tmp_path / "labels/train/e.txt").write_text("0 .5 .5 .5 .5")
    with pytest.raises(UserError, match=r"labels/train/e\.txt has no image in .*images/train"):
        open_source(f"yolo:{tmp_path}")
    for file in (tmp_path / "labels/train").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"none of the 4 images has a label file, e\.g\. .*labels/train/a\.txt"):
        open_source(f"yolo:{tmp_path}")


def test_what_is_missing_from_the_layout_is_named(tmp_path: Path, save: SaveImage) -> None:
    with pytest.raises(UserError, match="no such folder"):
        open_source(f"yolo:{tmp_path}/none")
    with pytest.raises(UserError, match="no such file"):
        open_source(f"yolo:{tmp_path}/none.yaml")
    with pytest.raises(UserError, match="no images/train and no YAML file; a YOLO data set is"):
        open_source(f"yolo:{tmp_path}")
    _tree(tmp_path, save)
    with pytest.raises(UserError, match=r"'vall'.*Known: train"):
        open_source(f"yolo:{tmp_path}?split=vall")
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(UserError, match="does not say what its classes are called"):
        open_source(f"yolo:{tmp_path}")
    for name in ("one.yaml", "two.yml"):
        (tmp_path / name).write_text("names: [a]")
    with pytest.raises(UserError, match=r"several YAML files \(one\.yaml, two\.yml\)"):
        open_source(f"yolo:{tmp_path}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: images/train", "has no names"),
        ("names: [a]\nval: images/train", "option split of yolo"),
        ("names: [a, b]\nnc: 3\ntrain: images/train", "nc is 3, but there are 2 names"),
        ("names: [a, b]\nnc: '2'\ntrain: images/train", "nc is '2' .str.; it must be a whole number: nc: 2"),
        ("names: [a, b]\nnc: 2.0\ntrain: images/train", "nc is 2.0 .float."),
        ("names: [a]\nnc: yes\ntrain: images/train", "nc is True .bool."),
        ("names: [a]\nnc:\ntrain: images/train", "nc is None .NoneType."),
        ("names: [yes, no]\ntrain: images/train", "class 0 is True .bool., no text; quote it"),
        ("names: [a, ]\ntrain: images/train\nval: [~]\nnc: [1]", "nc is .1. .list."),
        ("names: [a, ~]\ntrain: images/train", "class 1 is None .NoneType., no text; quote it"),
        ("names: {0: a, 1: 1.10}\ntrain: images/train", "class 1 is 1.1 .float., no text; quote it"),
        ("names: {no: a, yes: b}\ntrain: images/train", "must number the classes 0 to 1"),
        ("names: [2020-13-45]\ntrain: images/train", "cannot be read as YAML"),
        ("names: {1: a, 2: b}\ntrain: images/train", "must number the classes 0 to 1"),
        ("names: [a, a]\ntrain: images/train", "calls two classes 'a'"),
        ("names: []\ntrain: images/train", "names no class"),
        ("names: cat\ntrain: images/train", "must be a list"),
        ("names: [a]\ntrain: images/trian", r"train is 'images/trian', which is not in .*; correct path or train"),
        ("names: [a]\ntrain: 7", "train is 7; it must be a folder"),
        ("names: [a]\ntrain: classes.md", "which is no folder and no .txt list"),
        ("names: [a]\nkpt_shape: [17, 3]\ntrain: images/train", "labels of poses are not read"),
        ("names: [a]\npath: 3\ntrain: images/train", "path is 3"),
        ("names: [", "cannot be read as YAML"),
        ("!!python/object/apply:os.system ['true']", "cannot be read as YAML"),
    ],
)
def test_a_faulty_yaml_is_named(tmp_path: Path, save: SaveImage, text: str, words: str) -> None:
    _tree(tmp_path, save)
    (tmp_path / "classes.md").write_text("")
    with pytest.raises(UserError, match=words):
        open_source(f"yolo:{_yaml(tmp_path, text)}")


def test_a_rotated_photo_has_the_shares_of_its_upright_sides(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save, {"a": "0 .25 .5 .5 1"})
    save(tmp_path / "images/train/a.jpg", SIZE, orientation=6)
    source = _open(f"yolo:{tmp_path}")
    assert source[0].size == (80, 40) and source.boxes(0)[0].tolist() == [[0, 0, 20, 80]]


def test_changed_labels_are_read_again(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    older = _open(f"yolo:{tmp_path}")
    file = tmp_path / "labels/train/b.txt"
    file.write_text("")
    os.utime(file, ns=(0, 10**18))
    assert not np.asarray(_open(f"yolo:{tmp_path}").labels())[1].any()
    with pytest.raises(UserError, match=r"b\.txt has changed since it was read"):
        older.instances(1, masks=True)


def test_an_image_that_cannot_be_read_takes_its_labels_along(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    (tmp_path / "images/train/a.jpg").write_bytes(b"")
    source = _open(f"yolo:{tmp_path}")
    assert len(source) == 3 and source.boxes(0)[1].tolist() == [1]
    assert source.notes[0].startswith("1 of 4 images cannot be used and were left out, e.g. ")


CORNER = st.tuples(st.integers(0, 16), st.integers(0, 16))  # in sixteenths of the sides
OBJECT = st.tuples(st.integers(0, 2), st.lists(CORNER, min_size=2, max_size=6))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(OBJECT, min_size=1, max_size=5))
def test_written_labels_come_back(
    tmp_path: Path, save: SaveImage, objects: list[tuple[int, list[tuple[int, int]]]]
) -> None:
    """Two corners are written as a box, more as a polygon."""
    lines: dict[str, tuple[int, bool, list[float]]] = {}
    for kind, sixteenths in objects:
        corners = np.array(sixteenths) / 16
        low, high = corners.min(axis=0), corners.max(axis=0)
        numbers = [*(low + high) / 2, *(high - low)] if len(corners) == 2 else corners.reshape(-1).tolist()
        line = " ".join([str(kind), *(f"{number:.9f}" for number in numbers)])
        lines[line] = (kind, len(corners) > 2, [80 * low[0], 40 * low[1], 80 * high[0], 40 * high[1]])
    _tree(tmp_path, save, {"a": "\n".join(lines)})
    source = _open(f"yolo:{tmp_path}", reindex=True)
    expected = [each for each in lines.values() if each[2][0] < each[2][2] and each[2][1] < each[2][3]]
    boxes, kinds = source.boxes(0)
    assert kinds.tolist() == [kind for kind, _, _ in expected]
    assert np.allclose(boxes, np.array([box for _, _, box in expected]).reshape(-1, 4))
    assert source.with_masks()[0] == (bool(expected) and all(polygon for _, polygon, _ in expected))
