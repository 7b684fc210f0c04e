from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.sources import HasBoxes, open_source
from scenewise.sources.voc import VocSource
from scenewise.sources.voc_layout import CLASSES

from .conftest import SaveImage

Objects = Sequence[tuple[str, int, tuple[float, float, float, float]]]  # class, difficult, VOC's own 1-based box


def _tree(root: Path, save: SaveImage, images: dict[str, Objects], *, split: str = "trainval") -> Path:
    folder = root / "VOCdevkit" / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name, objects in images.items():
        save(folder / "JPEGImages" / f"{name}.jpg", (60, 90))
        parts = "".join(
            f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox>"
            f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
            "<part><name>head</name><bndbox><xmin>0</xmin></bndbox></part></object>"
            for kind, difficult, box in objects
        )
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{parts}</annotation>")
    (folder / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in images))
    return folder


def _voc(text: str) -> VocSource:
    source = open_source(text)
    assert isinstance(source, VocSource) and isinstance(source, HasBoxes)
    return source


IMAGES: dict[str, Objects] = {
    "000002": [("cat", 0, (1, 1, 90, 60)), ("dog", 1, (11, 21, 30, 40))],
    "000001": [
        ("cat", 1, (5.5, 6, 7, 8)),
        ("cat", 0, (5, 6, 7, 8)),
        ("dog", 1, (1, 1, 2, 2)),
        ("dog", 1, (2, 2, 3, 3)),
    ],
    "000003": [],
}


def test_labels_and_boxes_from_the_annotations(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save, IMAGES)
    source = _voc(f"voc:{tmp_path}")
    assert source.spec == f"voc:{tmp_path}?split=trainval&year=2007"
    assert source.splits == ("trainval", "test") and source.multi_label and source.classes == CLASSES
    keys = [source[index].key for index in range(3)]
    assert keys == [f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg" for name in IMAGES]
    labels = source.labels()
    assert labels is not None and labels.dtype == np.int8 and labels.shape == (3, 20)
    cat, dog = CLASSES.index("cat"), CLASSES.index("dog")
    assert labels[:, cat].tolist() == [1, 1, 0] and labels[:, dog].tolist() == [-1, -1, 0]
    assert np.abs(labels).sum() == 4
    assert np.array_equal(np.asarray(source[1].labels), labels[1])
    boxes, kinds = source.boxes(0)
    assert boxes.tolist() == [[0, 0, 90, 60], [10, 20, 30, 40]] and kinds.tolist() == [cat, dog]
    assert source.boxes(2)[0].shape == (0, 4)
    assert source.notes == ()
    copy = pickle.loads(pickle.dumps(source))
    assert np.array_equal(copy.boxes(1)[0], source.boxes(1)[0]) and copy[1].read() == source[1].read()


def test_class_files_decide_where_they_exist(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save, IMAGES)
    (folder / "ImageSets/Main/cat_trainval.txt").write_text("000001  0\n000002 -1\n000003  1\n")
    labels = np.asarray(_voc(f"voc:{tmp_path}").labels())
    assert labels[:, CLASSES.index("cat")].tolist() == [0, -1, 1]
    assert labels[:, CLASSES.index("dog")].tolist() == [-1, -1, 0]


def test_classes_are_restricted_in_the_order_of_voc(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save, IMAGES)
    source = _voc(f"voc:{tmp_path}?classes=dog,cat")
    assert source.classes == ("cat", "dog") and np.asarray(source.labels()).tolist() == [[1, -1], [1, -1], [0, 0]]
    assert source.boxes(0)[1].tolist() == [0, 1]
    only = _voc(f"voc:{tmp_path}?classes=dog")
    assert len(only) == 3 and only.boxes(0)[0].tolist() == [[10, 20, 30, 40]]
    with pytest.raises(UserError, match="'dog'"):
        open_source(f"voc:{tmp_path}?classes=dogg")


def test_boxes_just_outside_are_clipped_and_empty_ones_dropped(tmp_path: Path, save: SaveImage) -> None:
    objects: Objects = [
        ("cat", 0, (0, 0, 91, 61)),
        ("dog", 0, (20, 20, 19, 30)),
        ("bird", 0, (20, 20, 20, 20)),
        ("cow", 0, (91, 5, 91, 9)),
    ]
    _tree(tmp_path, save, {"a": objects})
    source = _voc(f"voc:{tmp_path}")
    boxes, kinds = source.boxes(0)
    assert boxes.tolist() == [[0, 0, 90, 60], [19, 19, 20, 20]]
    assert kinds.tolist() == [CLASSES.index("cat"), CLASSES.index("bird")]
    assert np.asarray(source.labels())[0, CLASSES.index("dog")] == 0
    assert any(note.startswith("1 labelled boxes") and "clipped" in note for note in source.notes)
    assert any(note.startswith("2 empty") for note in source.notes)


@pytest.mark.parametrize(
    "box", [(-1, 1, 5, 5), (1, -0.5, 5, 5), (1, 1, 91.5, 5), (1, 1, 5, 62), ("nan", 1, 5, 5), ("", 1, 5, 5)]
)
def test_a_box_further_outside_or_unreadable_is_an_error(
    tmp_path: Path, save: SaveImage, box: tuple[float, ...]
) -> None:
    _tree(tmp_path, save, {"a": [("cat", 0, (1, 1, 5, 5)), ("cat", 0, box)], "b": []})  # type: ignore[list-item]
    with pytest.raises(UserError, match=r"a\.xml.*object 2"):
        open_source(f"voc:{tmp_path}")


def test_other_faults_are_named_by_file_and_record(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save, {"a": [("catt", 0, (1, 1, 5, 5))], "b": [], "c": []})
    (folder / "Annotations" / "b.xml").write_text("<annotation><object>")
    (folder / "Annotations" / "c.xml").unlink()
    with pytest.raises(UserError) as caught:
        open_source(f"voc:{tmp_path}")
    first, second, third = caught.value.problems
    assert "a.xml" in first and "object 1" in first and "'cat'" in first
    assert "b.xml" in second and "c.xml" in third and "no such file" in third

    (folder / "ImageSets/Main/trainval.txt").write_text("a\ngone\na\n")
    with pytest.raises(
        UserError, match=r"trainval\.txt, line 2: no such image.*gone(.|\n)*line 3: a is already in line 1"
    ):
        open_source(f"voc:{tmp_path}")
    (folder / "ImageSets/Main/trainval.txt").write_text("\n")
    with pytest.raises(UserError, match="names no image"):
        open_source(f"voc:{tmp_path}")


def test_faulty_class_files_are_named(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save, IMAGES)
    (folder / "ImageSets/Main/cat_trainval.txt").write_text("000001 2\n000002 1\n")
    with pytest.raises(UserError) as caught:
        open_source(f"voc:{tmp_path}")
    assert "cat_trainval.txt, line 1" in str(caught.value) and "nothing of image 000003" in str(caught.value)


def test_what_is_missing_from_the_layout_is_named(tmp_path: Path, save: SaveImage) -> None:
    with pytest.raises(UserError, match="VOCdevkit"):
        open_source(f"voc:{tmp_path}")
    folder = _tree(tmp_path, save, IMAGES)
    with pytest.raises(UserError, match=f"did you mean voc:{tmp_path}"):
        open_source(f"voc:{tmp_path}/VOCdevkit")
    with pytest.raises(UserError, match="2007"):
        open_source(f"voc:{tmp_path}?year=2010")
    (folder / "ImageSets/Main/cat_trainval.txt").write_text("x 1\n")
    with pytest.raises(UserError) as caught:
        open_source(f"voc:{tmp_path}?split=trainvall")
    assert "Did you mean 'trainval'" in str(caught.value) and "cat_" not in str(caught.value)
    with pytest.raises(UserError, match="'test'"):
        open_source(f"voc:{tmp_path}", split="test")


def test_without_annotations_there_are_no_labels(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save, IMAGES)
    for file in (folder / "Annotations").iterdir():
        file.unlink()
    source = _voc(f"voc:{tmp_path}")
    assert source.labels() is None and source.classes == () and source[0].labels is None
    assert any("no boxes" in note for note in source.notes)
    with pytest.raises(UserError, match="no boxes"):
        source.boxes(0)


def test_the_split_of_the_caller_counts_unless_the_text_names_one(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save, {"a": []})
    _tree(tmp_path, save, {"b": [], "c": []}, split="test")
    assert len(open_source(f"voc:{tmp_path}", split="test")) == 2
    assert len(open_source(f"voc:{tmp_path}?split=trainval", split="test")) == 1


def test_an_image_that_cannot_be_read_takes_its_labels_along(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save, IMAGES)
    (folder / "JPEGImages" / "000002.jpg").write_bytes(b"")
    source = _voc(f"voc:{tmp_path}")
    assert len(source) == 2 and [skip.reason for skip in source.unreadable] == ["empty file"]
    assert source.boxes(0)[0].shape == (4, 4) and source.boxes(1)[0].shape == (0, 4)
    assert np.asarray(source.labels())[0, CLASSES.index("cat")] == 1


def test_a_rotation_is_not_applied_to_photos_with_boxes(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save, {"a": [("cat", 0, (1, 1, 90, 60))]})
    save(folder / "JPEGImages" / "a.jpg", (60, 90), orientation=6)
    source = _voc(f"voc:{tmp_path}")
    assert (source[0].size, source[0].orientation) == ((60, 90), 1)
    assert any("EXIF" in note for note in source.notes)


def test_real_photos_have_the_known_counts(data_root: Path) -> None:
    """Images, boxes, positives and masks of trainval and test, as the data's own table gives them."""
    expected = {"trainval": (3115, 7307, 881, 692, 169), "test": (1198, 2650, 334, 255, 46)}
    for split, (images, boxes, cats, persons, masked) in expected.items():
        source = _voc(f"voc:{data_root / 'voc'}?split={split}")
        labels = np.asarray(source.labels())
        assert len(source) == images == len(labels)
        assert sum(len(source.boxes(index)[0]) for index in range(images)) == boxes
        positives = (labels == 1).sum(axis=0)
        assert source.with_masks().sum() == masked
        assert (positives[CLASSES.index("cat")], positives[CLASSES.index("person")]) == (cats, persons)
    record = source[0]
    file = data_root / "voc" / record.key
    size = ElementTree.parse(str(file).replace("JPEGImages", "Annotations").replace(".jpg", ".xml")).find("size")
    assert size is not None
    assert record.size == (int(size.findtext("height", "")), int(size.findtext("width", "")))
