"""What every source with labelled objects keeps: instances, masks and the map of classes say the same."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycocotools

from scenewise.errors import UserError
from scenewise.sources import HasBoxes, Source, coco, open_source
from scenewise.sources.base import HasInstances

from .conftest import SaveImage
from .test_openimages import _tree as openimages_tree

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept")  # in pycocotools 2 to 6

CAT, DOG = 8, 12  # among the 20 classes of VOC, from 1, as its masks count


def _open(text: str) -> Any:
    source = open_source(text)
    assert isinstance(source, HasInstances) and isinstance(source, HasBoxes)
    return source


def _check(source: Any) -> int:
    """Check everything that must hold of any source; return how many images have masks."""
    assert isinstance(source, Source)
    with_boxes, with_masks = source.with_boxes(), source.with_masks()
    assert with_boxes.dtype == with_masks.dtype == bool
    assert with_boxes.shape == with_masks.shape == (len(source),)
    assert not (with_masks & ~with_boxes).any()
    labels = np.asarray(source.labels())
    for index in np.flatnonzero(with_boxes).tolist():
        found = source.instances(index)
        assert found.masks is None
        present = set(np.flatnonzero(labels[index] == 1).tolist())
        assert set(found.classes[~found.ignored].tolist()) <= present
        height, width = source[index].size
        assert (found.boxes >= 0).all() and (found.boxes <= [width, height, width, height]).all()
        known = {(*box, kind) for box, kind in zip(found.boxes.tolist(), found.classes.tolist(), strict=True)}
        assert {(*box, kind) for box, kind in zip(*(a.tolist() for a in source.boxes(index)), strict=True)} <= known
    for index in np.flatnonzero(with_masks).tolist():
        found, painted = source.instances(index, masks=True), source.class_map(index)
        assert found.masks.shape == (len(found.boxes), *source[index].size) and painted.shape == source[index].size
        judged = painted[painted != 255]
        assert judged.max(initial=0) <= len(source.classes)
        inside = (painted > 0) & (painted < 255)
        shown, kinds = found.masks[~found.ignored], found.classes[~found.ignored]
        assert (inside >= shown.any(axis=0)).all() and (inside <= found.masks.any(axis=0)).all()
        for mask, kind in zip(shown, kinds, strict=True):
            assert (painted[mask & ~shown[kinds != kind].any(axis=0)] == kind + 1).all()
    with pytest.raises(IndexError):
        source.instances(len(source))
    return int(with_masks.sum())


def _around(mask: np.ndarray) -> list[int]:
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def test_synthetic_scenes() -> None:
    source = _open("synthetic:6?seed=2")
    assert _check(source) == 6
    for index in range(6):
        found = source.instances(index, masks=True)
        assert found.boxes.tolist() == [_around(mask) for mask in found.masks]
        assert (found.masks.sum(axis=0) <= 1).all() and not found.ignored.any()


def test_openimages_groups_are_ignored_and_there_are_no_masks(tmp_path: Path, save: SaveImage) -> None:
    file = openimages_tree(tmp_path, save)
    source = _open(f"openimages:{tmp_path}")
    assert _check(source) == 0 and source.with_boxes().tolist() == [True, True, False, True]
    assert source.instances(0).ignored.tolist() == [True] and source.instances(1).ignored.tolist() == [False] * 3
    for ask in (lambda: source.instances(0, masks=True), lambda: source.class_map(0)):
        with pytest.raises(UserError, match="has no masks"):
            ask()
    rows = [line.split(",") for line in file.read_text().splitlines()]
    file.write_text("\n".join(",".join(row[:10] + row[11:]) for row in rows))  # as other tools write them
    assert not _open(f"openimages:{tmp_path}").instances(0).ignored.any()


def _voc(root: Path, save: SaveImage) -> Path:
    """Write one photo of 6 x 8: a cat, a difficult dog, an empty person, another cat; and one without masks."""
    folder = root / "VOCdevkit" / "VOC2007"
    boxes = [("cat", 0, (1, 1, 4, 3)), ("dog", 1, (5, 1, 8, 3)), ("person", 0, (3, 3, 2, 3)), ("cat", 0, (1, 4, 8, 6))]
    objects = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, difficult, box in boxes
    )
    for part in ("Annotations", "ImageSets/Main", "SegmentationObject", "SegmentationClass"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in "ab":
        save(folder / "JPEGImages" / f"{name}.jpg", (6, 8))
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    (folder / "ImageSets/Main/trainval.txt").write_text("a\nb\n")
    numbers, kinds = np.zeros((6, 8), np.uint8), np.zeros((6, 8), np.uint8)
    numbers[0:3, 0:4], numbers[0:3, 4:8], numbers[3:6, :] = 1, 2, 4
    kinds[0:3, 0:4], kinds[0:3, 4:8], kinds[3:6, :] = CAT, DOG, CAT
    numbers[2, :] = kinds[2, :] = 255
    _palette(folder / "SegmentationObject" / "a.png", numbers)
    _palette(folder / "SegmentationClass" / "a.png", kinds)
    return folder


def _palette(path: Path, numbers: np.ndarray) -> None:
    picture = Image.fromarray(numbers)
    picture.putpalette([(37 * value) % 256 for value in range(3 * 256)])  # colours that are not their numbers
    picture.save(path)


def test_voc_masks_are_numbered_as_the_xml_lists_the_objects(tmp_path: Path, save: SaveImage) -> None:
    folder = _voc(tmp_path, save)
    source = _open(f"voc:{tmp_path}")
    assert _check(source) == 1 and source.with_masks().tolist() == [True, False]
    found = pickle.loads(pickle.dumps(source)).instances(0, masks=True)
    assert found.classes.tolist() == [CAT - 1, DOG - 1, CAT - 1] and found.ignored.tolist() == [False, True, False]
    assert found.boxes.tolist() == [[0, 0, 4, 3], [4, 0, 8, 3], [0, 3, 8, 6]]  # the third object is empty
    assert found.masks.sum(axis=(1, 2)).tolist() == [8, 8, 24] and found.masks[2, 3:].all()
    painted = source.class_map(0)
    assert (painted[:2, :4] == CAT).all() and (painted[:2, 4:] == DOG).all() and (painted[2] == 255).all()
    only = _open(f"voc:{tmp_path}?classes=person,dog")
    assert only.instances(0, masks=True).classes.tolist() == [0]
    assert np.array_equal(only.class_map(0), np.where(painted == DOG, 1, np.where(painted == 255, 255, 0)))
    (folder / "SegmentationClass" / "a.png").unlink()
    assert not _open(f"voc:{tmp_path}").with_masks().any()


def test_a_voc_object_under_void_is_ignored_where_masks_are_asked_for(tmp_path: Path, save: SaveImage) -> None:
    folder = _voc(tmp_path, save)
    numbers = np.asarray(Image.open(folder / "SegmentationObject" / "a.png"))
    _palette(folder / "SegmentationObject" / "a.png", np.where(numbers == 4, 255, numbers).astype(np.uint8))
    source = _open(f"voc:{tmp_path}")
    assert source.instances(0).ignored.tolist() == [False, True, False]
    assert source.instances(0, masks=True).ignored.tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((6, 8), 5, np.uint8), r"SegmentationObject.a\.png has pixels of object 5, but .*a\.xml lists 4"),
        (np.zeros((6, 9), np.uint8), r"SegmentationObject.a\.png has 9 x 6 pixels, but its photo has 8 x 6"),
        (np.zeros((6, 8, 3), np.uint8), r"SegmentationObject.a\.png has colours \(RGB\)"),
        (None, r"SegmentationObject.a\.png cannot be read"),
    ],
)
def test_a_faulty_voc_mask_is_named(tmp_path: Path, save: SaveImage, picture: np.ndarray | None, words: str) -> None:
    folder = _voc(tmp_path, save)
    file = folder / "SegmentationObject" / "a.png"
    if picture is None:
        file.write_bytes(file.read_bytes()[:60])
    else:
        Image.fromarray(picture).save(file)
    with pytest.raises(UserError, match=words):
        _open(f"voc:{tmp_path}").instances(0, masks=True)


def test_a_number_that_is_no_voc_class_is_named(tmp_path: Path, save: SaveImage) -> None:
    folder = _voc(tmp_path, save)
    _palette(folder / "SegmentationClass" / "a.png", np.full((6, 8), 21, np.uint8))
    with pytest.raises(UserError, match=r"SegmentationClass.a\.png has pixels of number 21; there are 20 classes"):
        _open(f"voc:{tmp_path}").class_map(0)


def _coco_content() -> dict[str, Any]:
    """Return three images of 6 x 8: masks of all kinds; a box without mask; no object."""
    crowd = np.zeros((6, 8), np.uint8)
    crowd[:, 5:] = 1
    runs = pycocotools.encode(np.asfortranarray(crowd))
    inner = np.zeros((6, 8), np.uint8)
    inner[1:3, 1:3] = 1
    counts = [7, 2, 4, 2, 33]
    rectangle = [0, 0, 4, 0, 4, 5, 0, 5]
    annotations = [
        (1, 1, 1, [5, 0, 3, 6], 1, {"size": [6, 8], "counts": runs["counts"].decode()}),
        (2, 1, 2, [1, 1, 2, 2], 0, {"size": [6, 8], "counts": counts}),
        (3, 1, 1, [0, 0, 7, 5], 0, [rectangle, [5, 1, 7, 1, 7, 3, 5, 3]]),
        (4, 2, 1, [0, 0, 4, 5], 0, []),
        (5, 2, 2, [0, 0, 4, 5], 0, [rectangle]),
    ]
    names = ("id", "image_id", "category_id", "bbox", "iscrowd", "segmentation")
    assert np.array_equal(pycocotools.decode(pycocotools.frPyObjects(annotations[1][-1], 6, 8)), inner)
    return {
        "images": [{"id": k, "file_name": f"{k}.jpg", "height": 6, "width": 8} for k in (1, 2, 3)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [dict(zip(names, each, strict=True)) for each in annotations],
    }


def _coco(root: Path, save: SaveImage, content: dict[str, Any]) -> Path:
    for image in content["images"]:
        save(root / "train2017" / image["file_name"], (6, 8))
    file = root / "annotations" / "instances_train2017.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def test_coco_masks_of_polygons_and_run_lengths(tmp_path: Path, save: SaveImage) -> None:
    _coco(tmp_path, save, _coco_content())
    source = _open(f"coco:{tmp_path}")
    assert _check(source) == 2 and source.with_masks().tolist() == [True, False, True]
    found = pickle.loads(pickle.dumps(source)).instances(0, masks=True)
    assert found.classes.tolist() == [0, 1, 0] and found.ignored.tolist() == [True, False, False]
    assert found.boxes[0].tolist() == [5, 0, 8, 6] and source.boxes(0)[0].tolist() == found.boxes[1:].tolist()
    expected = np.zeros((6, 8), np.uint8)
    expected[:, 5:] = 255
    expected[0:5, 0:4] = expected[1:3, 5:7] = 1
    expected[1:3, 1:3] = 2
    assert np.array_equal(source.class_map(0), expected)
    assert not source.class_map(2).any() and source.instances(2, masks=True).masks.shape == (0, 6, 8)
    with pytest.raises(UserError, match=r"objects of train2017/2\.jpg without segmentation"):
        source.instances(1, masks=True)
    dogs = _open(f"coco:{tmp_path}?classes=dog")
    assert _check(dogs) == 3 and dogs.instances(1, masks=True).masks.sum() == 20
    assert np.array_equal(dogs.class_map(0), np.where(expected == 2, 1, 0))


def test_coco_segmentations_are_read_only_when_masks_are_asked_for(
    tmp_path: Path, save: SaveImage, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _coco(tmp_path, save, _coco_content())
    read, calls = coco.read_segmentations, []
    monkeypatch.setattr(coco, "read_segmentations", lambda path: calls.append(path) or read(path))
    source = _open(f"coco:{tmp_path}")
    assert len(source.instances(0).boxes) == 3 and source.with_boxes().all() and calls == []
    for _ in range(2):
        source.with_masks()
        source.class_map(0)
        source = _open(f"coco:{tmp_path}")
    assert len(calls) == 1
    content = _coco_content()
    content["annotations"][3]["segmentation"] = [[0, 0, 4, 0, 4, 5]]
    file.write_text(json.dumps(content))
    assert _open(f"coco:{tmp_path}").with_masks().all() and len(calls) == 2
    assert len(list((cache / "index").glob("*.objects.arrow"))) == 2


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ([[0, 0, 4, 0, 4]], r"annotations\[2\] \(id 3\): its segmentation is not a list of polygons"),
        ([[0, 0, 4, 0]], "its segmentation is not a list of polygons"),
        ([0, 0, 4, 0, 4, 4], "its segmentation is not a list of polygons"),
        ([[0, 0, 4, 0, 4, float("nan")]], "its segmentation is not a list of polygons"),
        ({"size": [6, 8]}, "or a size with counts"),
        ({"size": [6, 8], "counts": [1, 2.5]}, "or a size with counts"),
        ({"size": [8, 6], "counts": [48]}, r"annotations\[2\]: the segmentation does not fit: it is \[8, 6\]"),
        ({"size": [6, 8], "counts": [47]}, "its runs are 47 pixels long, the image has 8 x 6"),
        ({"size": [6, 8], "counts": "é"}, "is no sign of a compressed run length"),
    ],
)
def test_a_faulty_segmentation_is_named_by_file_and_record(
    tmp_path: Path, save: SaveImage, segmentation: Any, words: str
) -> None:
    content = _coco_content()
    content["annotations"][2]["segmentation"] = segmentation
    _coco(tmp_path, save, content)
    source = _open(f"coco:{tmp_path}")
    with pytest.raises(UserError, match=rf"instances_train2017\.json.*{words}"):
        source.instances(0, masks=True)


def test_a_coco_folder_without_annotations_has_no_instances(tmp_path: Path, save: SaveImage) -> None:
    _coco(tmp_path, save, _coco_content()).unlink()
    source = _open(f"coco:{tmp_path}")
    assert not source.with_boxes().any() and not source.with_masks().any()
    with pytest.raises(UserError, match="has no boxes"):
        source.instances(0)


def test_real_voc_masks_agree_with_classes_and_mostly_with_boxes(data_root: Path) -> None:
    source = _open(f"voc:{data_root / 'voc'}?split=test")
    assert source.with_boxes().all()
    excess = []
    for index in np.flatnonzero(source.with_masks()).tolist():
        found, painted = source.instances(index, masks=True), source.class_map(index)
        assert found.masks.any(axis=(1, 2)).all() and (found.masks.sum(axis=0) <= 1).all()
        assert (found.masks.any(axis=0) == ((painted > 0) & (painted < 255))).all()
        for mask, kind, box in zip(found.masks, found.classes, found.boxes, strict=True):
            assert (painted[mask] == kind + 1).all()
            excess.append(np.abs(np.array(_around(mask)) - box).max())
    assert np.median(excess) < 4  # drawn by other people than the boxes; some reach far out


def test_real_coco_masks_fill_their_boxes(data_root: Path) -> None:
    source = _open(f"coco:{data_root / 'coco_mini'}?split=val")
    rows = np.flatnonzero(source.with_masks())
    content = json.loads((data_root / "coco_mini/annotations/instances_val2017.json").read_text())
    own = {image["id"]: [] for image in content["images"]}
    for each in content["annotations"]:
        own[each["image_id"]].append(each)
    complete = [all(each["segmentation"] for each in own[image["id"]]) for image in content["images"]]
    assert source.with_masks().tolist() == complete and 0 < len(rows) < len(source)
    excess = []
    for index in rows.tolist()[:40]:
        image = content["images"][index]
        found = source.instances(index, masks=True)
        for mask, box, each in zip(found.masks, found.boxes, own[image["id"]], strict=True):
            runs = pycocotools.merge(pycocotools.frPyObjects(each["segmentation"], image["height"], image["width"]))
            assert np.array_equal(mask, pycocotools.decode(runs) == 1)
            if mask.any():
                excess.append(np.abs(np.array(_around(mask)) - box).max())
    assert len(excess) > 40 and np.median(excess) < 2
