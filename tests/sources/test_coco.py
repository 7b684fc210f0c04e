from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.sources import HasBoxes, coco, open_source
from scenewise.sources.coco import CocoSource

from .conftest import SaveImage

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 17, "name": "cat"}, {"id": 90, "name": "toothbrush"}]


def _image(identity: int, *, year: int = 2017) -> dict[str, Any]:
    prefix = "COCO_train2014_" if year == 2014 else ""
    return {"id": identity, "file_name": f"{prefix}{identity:012d}.jpg", "height": 60, "width": 90, "license": 1}


def _object(identity: int, image: int, category: int, box: list[float], *, crowd: int = 0) -> dict[str, Any]:
    polygon: Any = {"counts": [3, 4], "size": [60, 90]} if crowd else [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]
    rest = {"segmentation": polygon, "area": 4.5, "iscrowd": crowd}
    return {"id": identity, "image_id": image, "category_id": category, "bbox": box, **rest}


CONTENT: dict[str, Any] = {
    "info": {"year": 2017},
    "licenses": [{"id": 1, "name": "a licence"}],
    "images": [_image(9), _image(3), _image(25), _image(4)],
    "annotations": [
        _object(101, 3, 90, [10, 20, 30, 5.5]),
        _object(102, 9, 17, [0, 0, 90, 60]),
        _object(103, 3, 1, [1.25, 2.5, 3, 4]),
        _object(104, 25, 1, [0, 0, 50, 60], crowd=1),
        _object(105, 3, 1, [5, 6, 7, 8], crowd=1),
        _object(106, 9, 17, [40, 30, 10, 10]),
    ],
    "categories": CATEGORIES,
}


def _tree(
    root: Path, save: SaveImage, content: dict[str, Any] | None = None, *, split: str = "train", year: int = 2017
) -> Path:
    content = content or CONTENT
    for image in content["images"]:
        save(root / f"{split}{year}" / image["file_name"], (image["height"], image["width"]))
    file = root / "annotations" / f"instances_{split}{year}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def _changed(**changes: Any) -> dict[str, Any]:
    """Return the content with entries of lists replaced: images=(1, {...}) replaces images[1], -1 appends."""
    content = copy.deepcopy(CONTENT)
    for name, (place, entry) in changes.items():
        content[name][place : place + 1 if place >= 0 else None] = [entry] if place >= 0 else [content[name][-1], entry]
    return content


def _coco(text: str, **options: Any) -> CocoSource:
    source = open_source(text, **options)
    assert isinstance(source, CocoSource) and isinstance(source, HasBoxes)
    return source


def test_labels_and_boxes_from_the_instances(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    source = _coco(f"coco:{tmp_path}")
    assert source.spec == f"coco:{tmp_path}?split=train&year=2017"
    assert source.classes == ("person", "cat", "toothbrush") and source.multi_label
    assert source.splits == ("train", "val")
    for opened in (source, _coco(source.spec), pickle.loads(pickle.dumps(source))):
        labels = np.asarray(opened.labels())
        assert labels.dtype == np.int8 and labels.tolist() == [[0, 1, 0], [1, 0, 1], [-1, 0, 0], [0, 0, 0]]
        keys = [opened[index].key for index in range(4)]
        assert keys == [f"train2017/{image['file_name']}" for image in CONTENT["images"]]
        assert all(np.array_equal(np.asarray(opened[index].labels), labels[index]) for index in range(4))
        boxes, kinds = opened.boxes(0)
        assert boxes.tolist() == [[0, 0, 90, 60], [40, 30, 50, 40]] and kinds.tolist() == [1, 1]
        boxes, kinds = opened.boxes(1)
        assert boxes.tolist() == [[10, 20, 40, 25.5], [1.25, 2.5, 4.25, 6.5]] and kinds.tolist() == [2, 0]
        assert boxes.dtype == np.float32 and kinds.dtype == np.int64
        assert opened.boxes(2)[0].shape == (0, 4) and opened.boxes(3)[0].shape == (0, 4)
        assert opened[0].read() == (tmp_path / keys[0]).read_bytes()
    assert len(pickle.dumps(source)) < 4000
    assert source.notes == ("2 crowd regions are no boxes; alone they leave their class not judged.",)
    with pytest.raises(IndexError):
        source.boxes(4)


def test_classes_are_restricted_in_the_order_of_the_file(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    source = _coco(f"coco:{tmp_path}?classes=toothbrush, person")
    assert source.classes == ("person", "toothbrush")
    assert np.asarray(source.labels()).tolist() == [[0, 0], [1, 1], [-1, 0], [0, 0]]
    copied = pickle.loads(pickle.dumps(source))
    assert copied.boxes(1)[1].tolist() == [1, 0] and copied.boxes(0)[0].shape == (0, 4)
    assert _coco(source.spec).classes == source.classes
    with pytest.raises(UserError, match=r"'tootbrush'.*Did you mean 'toothbrush'"):
        open_source(f"coco:{tmp_path}?classes=tootbrush")


def test_splits_and_years(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    _tree(tmp_path, save, CONTENT | {"images": [_image(77)], "annotations": []}, split="val")
    older = CONTENT | {"images": [_image(9, year=2014)], "annotations": []}
    _tree(tmp_path, save, older, year=2014)
    save(tmp_path / "unlabeled2017" / "5.jpg")
    assert len(_coco(f"coco:{tmp_path}", split="val")) == 1 and len(_coco(f"coco:{tmp_path}?split=train")) == 4
    assert len(_coco(f"coco:{tmp_path}?split=train", split="val")) == 4
    assert _coco(f"coco:{tmp_path}?year=2014")[0].key == "train2014/COCO_train2014_000000000009.jpg"
    unlabelled = _coco(f"coco:{tmp_path}?split=unlabeled")
    assert unlabelled.labels() is None and unlabelled[0].key == "unlabeled2017/5.jpg" and not unlabelled.multi_label
    with pytest.raises(UserError, match=r"option split of coco:.*'vall'.*'val'"):
        open_source(f"coco:{tmp_path}?split=vall")
    with pytest.raises(UserError, match=r"option year of coco:.*'2018'"):
        open_source(f"coco:{tmp_path}?year=2018")
    with pytest.raises(UserError, match="no val2014/"):
        open_source(f"coco:{tmp_path}?year=2014&split=val")


def test_a_folder_without_annotations_is_read_for_pretraining(tmp_path: Path, save: SaveImage) -> None:
    file = _tree(tmp_path, save)
    (tmp_path / "train2017" / "notes.txt").write_text("not an image")
    file.unlink()
    source = _coco(f"coco:{tmp_path}")
    assert source.labels() is None and source.classes == () and source[0].labels is None
    assert [source[index].key[-7:] for index in range(4)] == ["003.jpg", "004.jpg", "009.jpg", "025.jpg"]
    assert source.notes == ("There is no instances file for these images: no labels, no boxes.",)
    assert len(pickle.loads(pickle.dumps(source))) == 4
    with pytest.raises(UserError, match="no boxes"):
        source.boxes(0)
    with pytest.raises(UserError, match=r"needs annotations/instances_train2017\.json"):
        open_source(f"coco:{tmp_path}?classes=cat")


def test_what_is_missing_from_the_layout_is_named(tmp_path: Path, save: SaveImage) -> None:
    with pytest.raises(UserError, match=r"no train2017/; a COCO folder holds train2017/, val2017/ and annotations"):
        open_source(f"coco:{tmp_path}")
    file = _tree(tmp_path, save)
    with pytest.raises(UserError, match=f"did you mean coco:{tmp_path}"):
        open_source(f"coco:{tmp_path}/train2017")
    file.rename(file.with_name("instances_val2017.json"))
    with pytest.raises(UserError, match=r"no instances_train2017\.json, only instances_val2017\.json"):
        open_source(f"coco:{tmp_path}")
    file.parent.joinpath("instances_val2017.json").unlink()
    for image in (tmp_path / "train2017").iterdir():
        image.unlink()
    with pytest.raises(UserError, match="no image in"):
        open_source(f"coco:{tmp_path}")


def test_boxes_just_outside_are_clipped_and_empty_ones_dropped(tmp_path: Path, save: SaveImage) -> None:
    content = copy.deepcopy(CONTENT)
    content["annotations"] = [
        _object(1, 9, 1, [-1, -0.5, 92, 61]),
        _object(2, 9, 17, [10, 10, 0, 5]),
        _object(3, 9, 17, [90, 10, 0.7, 5]),
        _object(4, 9, 90, [0.1, 0.2, 0.2, 59.8]),  # 0.1 + 0.2 and 0.2 + 59.8 are not moved
        _object(5, 25, 1, [-50, 0, 500, 60], crowd=1),
    ]
    _tree(tmp_path, save, content)
    source = _coco(f"coco:{tmp_path}")
    boxes, kinds = source.boxes(0)
    assert np.allclose(boxes, [[0, 0, 90, 60], [0.1, 0.2, 0.3, 60]]) and kinds.tolist() == [0, 2]
    assert np.asarray(source.labels())[0].tolist() == [1, 0, 1]
    assert source.notes[:2] == (
        "1 labelled boxes reached up to 1 px outside their image and were clipped.",
        "2 empty labelled boxes were dropped.",
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"annotations": (1, _object(7, 9, 17, [-1.01, 0, 5, 5]))},
            ["annotations[1] (id 7)", "more than 1 px outside"],
        ),
        ({"annotations": (1, _object(7, 9, 17, [0, 0, 90, 61.5]))}, ["(id 7)", "000000000009.jpg of 90 x 60 pixels"]),
        ({"annotations": (0, _object(7, 9, 17, [0, 0, float("nan"), 1]))}, ["annotations[0]", "nan"]),
        ({"annotations": (0, _object(7, 9, 17, [0, 0, 1]))}, ["annotations[0] (id 7)", "left, top, width and height"]),
        ({"annotations": (0, _object(7, 9, 17, ["a", 0, 1, 1]))}, ["annotations[0]", "left, top, width and height"]),  # type: ignore[list-item]
        ({"annotations": (2, {"id": 5})}, ["annotations[2] (id 5)", "needs image_id"]),
        ({"annotations": (2, "words")}, ["annotations[2]", "needs image_id"]),
        ({"annotations": (3, _object(7, 9, 91, [0, 0, 1, 1]))}, ["annotations[3] (id 7)", "category_id 91 is unknown"]),
        ({"annotations": (3, _object(7, 10, 17, [0, 0, 1, 1]))}, ["annotations[3] (id 7)", "image_id 10 is not"]),
        ({"annotations": (3, _object(7, 9, 17, [0, 0, 1, 1], crowd=2))}, ["annotations[3] (id 7)", "iscrowd is 2"]),
        ({"images": (3, _image(9))}, ["images[3]: id 9 is already that of images[0]"]),
        ({"images": (3, _image(9) | {"id": 4})}, ["images[3]: 000000000009.jpg is already in images[0]"]),
        ({"images": (3, {"id": 4, "file_name": "x.jpg"})}, ["images[3]: needs id, file_name"]),
        ({"images": (3, _image(4) | {"file_name": "../x.jpg"})}, ["images[3]", "'../x.jpg' leads out"]),
        ({"categories": (1, {"id": 1, "name": "cat"})}, ["categories[1]", "there already"]),
        ({"categories": (1, {"id": 17})}, ["categories[1]: needs id and name"]),
    ],
)
def test_a_mistake_is_named_by_file_and_record(
    tmp_path: Path, save: SaveImage, changes: dict[str, Any], words: list[str]
) -> None:
    file = _tree(tmp_path, save)
    file.write_text(json.dumps(_changed(**changes)))
    with pytest.raises(UserError) as caught:
        open_source(f"coco:{tmp_path}")
    for word in [str(file), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("\xff", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", "no list called images and annotations and categories"),
        ('{"images": [], "annotations": {}}', "no list called annotations and categories"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no image"),
    ],
)
def test_what_is_no_instances_file_is_refused(tmp_path: Path, save: SaveImage, text: str, words: str) -> None:
    file = _tree(tmp_path, save)
    file.write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=rf"instances_train2017\.json.*{words}"):
        open_source(f"coco:{tmp_path}")


def test_listed_images_that_are_not_there_are_named_at_once(tmp_path: Path, save: SaveImage) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"] += [_image(number) for number in range(100, 115)]
    file = _tree(tmp_path, save, content)
    for number in range(100, 115):
        (tmp_path / "train2017" / f"{number:012d}.jpg").unlink()
    with pytest.raises(UserError) as caught:
        open_source(f"coco:{tmp_path}")
    assert len(caught.value.problems) == 11 and "15 in all" in caught.value.problems[-1]
    assert f"{file}, images[4]: no such image: train2017/000000000100.jpg" in caught.value.problems[0]


def test_a_file_of_another_size_is_refused(tmp_path: Path, save: SaveImage) -> None:
    file = _tree(tmp_path, save)
    save(tmp_path / "train2017" / "000000000025.jpg", (61, 90))
    with pytest.raises(UserError) as caught:
        open_source(f"coco:{tmp_path}")
    expected = f"{file}, images[2]: 000000000025.jpg is said to have 90 x 60 pixels, but the file has 90 x 61"
    assert expected in str(caught.value)


def test_a_rotation_is_applied_only_where_the_boxes_know_of_it(tmp_path: Path, save: SaveImage) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"][1] |= {"height": 90, "width": 60}
    content["annotations"] = []
    _tree(tmp_path, save, content)
    for identity in (9, 3):  # both stored as 90 x 60; the file says so of 9, and the upright 60 x 90 of 3
        save(tmp_path / "train2017" / f"{identity:012d}.jpg", (60, 90), orientation=6)
    source = _coco(f"coco:{tmp_path}")
    assert (source[0].size, source[0].orientation) == ((60, 90), 1)
    assert (source[1].size, source[1].orientation) == ((90, 60), 6)
    assert any(note.startswith("1 images have an EXIF rotation") for note in source.notes)


def test_an_image_that_cannot_be_read_takes_its_labels_along_and_others_are_left_out(
    tmp_path: Path, save: SaveImage
) -> None:
    _tree(tmp_path, save)
    (tmp_path / "train2017" / "000000000009.jpg").write_bytes(b"")
    save(tmp_path / "train2017" / "more.jpg")
    source = _coco(f"coco:{tmp_path}")
    assert len(source) == 3 and [skip.key for skip in source.unreadable] == ["train2017/000000000009.jpg"]
    assert np.asarray(source.labels()).tolist() == [[1, 0, 1], [-1, 0, 0], [0, 0, 0]]
    assert source.boxes(0)[0].shape == (2, 4) and source.boxes(1)[0].shape == (0, 4)
    assert np.asarray(source[1].labels).tolist() == [-1, 0, 0]
    assert any(note.startswith("1 of 4 images cannot be used and were left out, e.g. ") for note in source.notes)
    assert "1 images that the instances file does not list were left out." in source.notes


def test_the_file_is_parsed_once_and_again_when_it_changes(
    tmp_path: Path, save: SaveImage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _tree(tmp_path, save)
    parsed: list[Path] = []
    read = coco.read_instances

    def counted(path: Path) -> Any:
        parsed.append(path)
        return read(path)

    monkeypatch.setattr(coco, "read_instances", counted)
    for expected in (1, 1):
        _coco(f"coco:{tmp_path}")
        assert len(parsed) == expected
    _coco(f"coco:{tmp_path}", reindex=True)
    assert len(parsed) == 2
    file.write_text(json.dumps(CONTENT | {"annotations": CONTENT["annotations"][:1]}))
    os.utime(file, ns=(0, 10**18))
    assert np.abs(np.asarray(_coco(f"coco:{tmp_path}").labels())).sum() == 1 and len(parsed) == 3
    assert len(list((cache / "index").glob("*.objects.arrow"))) == 1
    next((cache / "index").glob("*.objects.arrow")).write_bytes(b"damaged")
    assert np.abs(np.asarray(_coco(f"coco:{tmp_path}").labels())).sum() == 1 and len(parsed) == 4


def test_real_photos_have_the_boxes_of_their_file(data_root: Path) -> None:
    for split, count in (("train", 929), ("val", 898)):
        source = _coco(f"coco:{data_root / 'coco_mini'}", split=split)
        content = json.loads((data_root / f"coco_mini/annotations/instances_{split}2017.json").read_text())
        names = {each["id"]: each["name"] for each in content["categories"]}
        assert source.classes == tuple(names.values()) and len(names) == 80 and len(source) == 128
        labels, total = np.asarray(source.labels()), 0
        for index, image in enumerate(content["images"]):
            own = [each for each in content["annotations"] if each["image_id"] == image["id"]]
            boxes, kinds = source.boxes(index)
            expected = [[x, y, x + w, y + h] for x, y, w, h in (each["bbox"] for each in own)]
            assert np.allclose(boxes, np.array(expected).reshape(-1, 4), atol=1.001)
            assert [source.classes[kind] for kind in kinds] == [names[each["category_id"]] for each in own]
            assert {source.classes[kind] for kind in np.flatnonzero(labels[index])} == {
                names[each["category_id"]] for each in own
            }
            assert source[index].size == (image["height"], image["width"])
            total += len(boxes)
        assert total == count == len(content["annotations"])
