from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.sources import HasBoxes, open_source, openimages
from scenewise.sources.openimages import OpenImagesSource

from .conftest import SaveImage

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
CLASSES = "/m/011k07,Tortoise\n/m/01yrx,Cat\n/m/0bt9lr,Dog\n"
IDS = ("00000a", "00000b", "00000c", "00000d")  # c is not named in the table of boxes
ROWS = [
    "00000b,xclick,/m/0bt9lr,1,0.25,0.5,0.1,0.9,0,0,0,0,0",
    "ffff00,xclick,/m/01yrx,1,0.0,1.0,0.0,1.0,0,0,0,0,0",
    "00000a,xclick,/m/01yrx,1,0.0,1.0,0.0,1.0,0,0,1,0,0",
    "00000b,activemil,/m/01yrx,1,0.5,0.75,0.0,0.5,0,0,0,1,0",
    "ffff01,xclick,/m/01yrx,1,0.0,3.0,0.0,1.0,0,0,0,0,0",
    "00000b,xclick,/m/0bt9lr,1,0.0,0.1,0.2,0.3,-1,-1,-1,-1,-1",
    "00000d,xclick,/m/011k07,1,0.0,1.0,0.5,1.0,0,0,0,0,0",
]


def _tree(root: Path, save: SaveImage, rows: list[str] | None = None, *, split: str = "train") -> Path:
    for name in IDS:
        save(root / split / f"{name}.jpg", (60, 80))
    (root / "class-descriptions-boxable.csv").write_text(CLASSES)
    file = root / f"{split}-annotations-bbox.csv"
    file.write_text("\n".join([HEADER, *(ROWS if rows is None else rows)]) + "\n")
    return file


def _open(text: str, **options: Any) -> OpenImagesSource:
    source = open_source(text, **options)
    assert isinstance(source, OpenImagesSource) and isinstance(source, HasBoxes)
    return source


def test_labels_and_boxes_from_the_table(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    source = _open(f"openimages:{tmp_path}")
    assert source.spec == f"openimages:{tmp_path}?split=train" and source.splits == ("train", "validation")
    assert source.classes == ("Tortoise", "Cat", "Dog") and source.multi_label and source.unreadable == ()
    for opened in (source, _open(source.spec), pickle.loads(pickle.dumps(source))):
        labels = np.asarray(opened.labels())
        assert labels.dtype == np.int8 and labels.tolist() == [[0, 1, 0], [0, 1, 1], [-1, -1, -1], [1, 0, 0]]
        assert [opened[index].key for index in range(4)] == [f"train/{name}.jpg" for name in IDS]
        assert all(np.array_equal(np.asarray(opened[index].labels), labels[index]) for index in range(4))
        boxes, kinds = opened.boxes(1)
        assert np.allclose(boxes, [[20, 6, 40, 54], [40, 0, 60, 30], [0, 12, 8, 18]])
        assert boxes.dtype == np.float32 and kinds.tolist() == [2, 1, 2] and kinds.dtype == np.int64
        assert opened.boxes(2)[0].shape == (0, 4)
        assert opened[3].read() == (tmp_path / "train/00000d.jpg").read_bytes()
    assert len(pickle.dumps(source)) < 3000
    assert source.notes == (
        "1 of 4 images are not in the table of boxes: no class of theirs is judged.",
        "2 images in the table of boxes are not on the disk.",
    )


def test_other_names_places_and_a_header_for_the_classes(tmp_path: Path, save: SaveImage) -> None:
    file = _tree(tmp_path, save)
    (tmp_path / "annotations").mkdir()
    clicks = ",XClick1X,XClick2X"
    lines = [HEADER + clicks, *(row + ",0.5,0.5" for row in ROWS)]
    (tmp_path / "annotations" / "oidv6-train-annotations-bbox.csv").write_text("\n".join(lines))
    file.unlink()
    (tmp_path / "class-descriptions-boxable.csv").unlink()
    (tmp_path / "oidv7-class-descriptions-boxable.csv").write_text("LabelName,DisplayName\n" + CLASSES)
    source = _open(f"openimages:{tmp_path}")
    assert source.classes == ("Tortoise", "Cat", "Dog") and len(source.boxes(1)[0]) == 3


@pytest.mark.parametrize("text", ["Dog,Tortoise", "/m/011k07,Dog"])
def test_classes_are_restricted_by_name_or_id(tmp_path: Path, save: SaveImage, text: str) -> None:
    _tree(tmp_path, save)
    source = _open(f"openimages:{tmp_path}?classes={text}")
    assert source.classes == ("Tortoise", "Dog")
    assert np.asarray(source.labels()).tolist() == [[0, 0], [0, 1], [-1, -1], [1, 0]]
    assert source.boxes(1)[1].tolist() == [1, 1] and _open(source.spec).classes == source.classes
    with pytest.raises(UserError, match=r"'Dogg'.*Did you mean 'Dog'"):
        open_source(f"openimages:{tmp_path}?classes=Dogg")


def test_boxes_count_pixels_of_the_upright_image(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    save(tmp_path / "train/00000a.jpg", (60, 80), orientation=6)
    source = _open(f"openimages:{tmp_path}")
    assert (source[0].size, source[0].orientation) == ((80, 60), 6)
    assert source.boxes(0)[0].tolist() == [[0, 0, 60, 80]]


def test_splits(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    _tree(tmp_path, save, ROWS[:1], split="validation")
    source = _open(f"openimages:{tmp_path}", split="validation")
    assert source[1].key == "validation/00000b.jpg" and np.asarray(source.labels()).max(axis=1).tolist() == [
        -1,
        1,
        -1,
        -1,
    ]
    assert _open(f"openimages:{tmp_path}?split=train", split="validation").spec.endswith("?split=train")
    with pytest.raises(UserError, match="no test/; an Open Images folder holds"):
        open_source(f"openimages:{tmp_path}?split=test")
    with pytest.raises(UserError, match=r"'val'.*Did you mean 'validation'"):
        open_source(f"openimages:{tmp_path}?split=val")


def test_boxes_just_outside_are_clipped_and_empty_ones_dropped(tmp_path: Path, save: SaveImage) -> None:
    rows = [
        "00000a,xclick,/m/0bt9lr,1,-0.0125,1.0125,0,1,0,0,0,0,0",
        "00000a,xclick,/m/01yrx,1,0.5,0.5,0,1,0,0,0,0,0",
        "00000b,xclick,/m/01yrx,1,0.5,0.4,0,1,0,0,0,0,0",
    ]
    _tree(tmp_path, save, rows)
    source = _open(f"openimages:{tmp_path}")
    assert source.boxes(0)[0].tolist() == [[0, 0, 80, 60]] and source.boxes(1)[0].shape == (0, 4)
    assert np.asarray(source.labels())[:2].tolist() == [[0, 0, 1], [0, 0, 0]]
    assert source.notes[1:] == (
        "1 labelled boxes reached up to 1 px outside their image and were clipped.",
        "2 empty labelled boxes were dropped.",
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("00000a,xclick,/m/01yrx,1,0,1.02,0,1,0,0,0,0,0", ["line 9", "more than 1 px outside", "00000a of 80 x 60"]),
        ("00000a,xclick,/m/01yrx,1,0,inf,0,1,0,0,0,0,0", ["line 9", "more than 1 px outside"]),
        ("00000a,xclick,/m/99,1,0,1,0,1,0,0,0,0,0", ["line 9", "'/m/99' is not among the 3 classes"]),
        ("00000a,xclick,/m/01yrx,1,0,,0,1,0,0,0,0,0", ["line 9", "XMax is empty"]),
        ("00000a,xclick,/m/01yrx,1,0,x,0,1,0,0,0,0,0", ["Row #9", "'x'", HEADER[:20]]),
        ("00000a,xclick,/m/01yrx,1,0,1", ["Row #9", "Expected 13 columns"]),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path: Path, save: SaveImage, row: str, words: list[str]) -> None:
    file = _tree(tmp_path, save, [*ROWS, row])
    with pytest.raises(UserError) as caught:
        open_source(f"openimages:{tmp_path}")
    for word in [str(file), *words]:
        assert word in str(caught.value)


def test_what_is_missing_from_the_layout_is_named(tmp_path: Path, save: SaveImage) -> None:
    with pytest.raises(UserError, match="no train/; an Open Images folder holds"):
        open_source(f"openimages:{tmp_path}")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"no class-descriptions-boxable\.csv or oidv7"):
        open_source(f"openimages:{tmp_path}")
    (tmp_path / "class-descriptions-boxable.csv").write_text(CLASSES)
    with pytest.raises(UserError, match=r"no train-annotations-bbox\.csv or oidv6-train-annotations-bbox\.csv"):
        open_source(f"openimages:{tmp_path}")
    file = tmp_path / "train-annotations-bbox.csv"
    file.write_text("ImageID,LabelName\n")
    with pytest.raises(UserError, match=r"no image of .*/train is there"):
        open_source(f"openimages:{tmp_path}")
    save(tmp_path / "train" / "00000a.jpg", (60, 80))
    with pytest.raises(UserError, match=r"train-annotations-bbox\.csv.*XMin.*begins with the line ImageID,Source"):
        open_source(f"openimages:{tmp_path}")
    file.write_text(HEADER + "\n")
    with pytest.raises(UserError, match="names none of the 1 images"):
        open_source(f"openimages:{tmp_path}")
    file.write_text(HEADER + "\n" + ROWS[1] + "\n")
    with pytest.raises(UserError, match="names none of the 1 images"):
        open_source(f"openimages:{tmp_path}")
    (tmp_path / "class-descriptions-boxable.csv").write_text(CLASSES + "/m/01yrx,Kitten\nTiger\n")
    with pytest.raises(UserError) as caught:
        open_source(f"openimages:{tmp_path}")
    assert [word in problem for word, problem in zip(("class 4", "class 5"), caught.value.problems, strict=True)]


def test_two_images_of_one_id_are_refused(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    save(tmp_path / "train" / "train_0" / "00000b.jpg")
    with pytest.raises(UserError, match="two images called 00000b"):
        open_source(f"openimages:{tmp_path}")


def test_an_unreadable_image_takes_its_labels_along(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    (tmp_path / "train" / "00000a.jpg").write_bytes(b"words")
    source = _open(f"openimages:{tmp_path}")
    assert [skip.key for skip in source.unreadable] == ["train/00000a.jpg"]
    assert np.asarray(source.labels()).tolist() == [[0, 1, 1], [-1, -1, -1], [1, 0, 0]]
    assert source[0].key == "train/00000b.jpg" and len(source.boxes(0)[0]) == 3


def test_the_table_is_read_again_when_images_or_tables_change(
    tmp_path: Path, save: SaveImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tree(tmp_path, save)
    first = _open(f"openimages:{tmp_path}")
    save(tmp_path / "train" / "ffff00.jpg", (60, 80))
    assert np.asarray(_open(f"openimages:{tmp_path}").labels())[-1].tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="remade by another process"):
        pickle.loads(pickle.dumps(first))
    monkeypatch.setattr(openimages, "read_boxes", None)
    assert len(_open(f"openimages:{tmp_path}")) == 5
