"""The subset's rules against sets and loops; the list is reproducible, hashed, and what `csv:` reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.tools.openimages_subset import hard_images, write_subset

CLASSES = "/m/011k07,Tortoise\n/m/01yrx,Cat\n/m/0bt9lr,Dog\n/m/0c9ph5,Flower\n"
HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
# cats and dogs in a, b and d; a tortoise alone in c; one flower, in a; the same dog twice in b
BOXES = [
    ("d", "/m/0bt9lr"), ("d", "/m/01yrx"), ("c", "/m/011k07"), ("b", "/m/01yrx"), ("b", "/m/0bt9lr"),
    ("b", "/m/0bt9lr"), ("a", "/m/0c9ph5"), ("a", "/m/01yrx"), ("a", "/m/0bt9lr"),
]  # fmt: skip


def tables(folder: Path, boxes: list[tuple[str, str]] = BOXES) -> tuple[Path, Path]:
    """Write Open Images' two tables and return their paths."""
    classes, file = folder / "classes.csv", folder / "boxes.csv"
    classes.write_text(CLASSES)
    file.write_text(
        "\n".join([HEADER, *(f"{image},xclick,{code},1,0,1,0,1,0,0,0,0,0" for image, code in boxes)]) + "\n"
    )
    return file, classes


def slow(pairs: set[tuple[int, int]], class_images: int, image_classes: int) -> set[tuple[int, int]]:
    """Drop one class or one image at a time, whichever breaks a rule, until none does."""
    while True:
        classes = [c for _, c in pairs if sum(other == c for _, other in pairs) < class_images]
        images = [i for i, _ in pairs if sum(other == i for other, _ in pairs) < image_classes]
        if not classes and not images:
            return pairs
        pairs = (
            {(i, c) for i, c in pairs if c != classes[0]} if classes else {(i, c) for i, c in pairs if i != images[0]}
        )


PAIRS = st.sets(st.tuples(st.integers(0, 12), st.integers(0, 5)), max_size=50)


def columns(pairs: set[tuple[int, int]]) -> np.ndarray:
    return np.array(sorted(pairs), np.int64).reshape(-1, 2).T


@settings(max_examples=60)
@given(pairs=PAIRS, class_images=st.integers(1, 6), image_classes=st.integers(1, 4))
def test_what_stays_keeps_the_rules_and_nothing_else_could(
    pairs: set[tuple[int, int]], class_images: int, image_classes: int
) -> None:
    images, classes = columns(pairs)
    kept = hard_images(images, classes, class_images=class_images, image_classes=image_classes, limit=100)
    assert set(zip(images[kept].tolist(), classes[kept].tolist(), strict=True)) == slow(
        pairs, class_images, image_classes
    )


@settings(max_examples=40)
@given(pairs=PAIRS, limit=st.integers(1, 12), seed=st.integers(0, 3))
def test_a_draw_keeps_the_rules_too(pairs: set[tuple[int, int]], limit: int, seed: int) -> None:
    images, classes = columns(pairs)
    chosen = {"class_images": 2, "image_classes": 2, "limit": limit, "seed": seed}
    kept = hard_images(images, classes, **chosen)
    left = set(zip(images[kept].tolist(), classes[kept].tolist(), strict=True))
    assert len({image for image, _ in left}) <= limit
    assert left == slow(left, 2, 2) and left <= slow(pairs, 2, 2)
    assert np.array_equal(hard_images(images, classes, **chosen), kept)


def test_another_seed_draws_other_images() -> None:
    images, classes = np.arange(200) // 2, np.arange(200) % 2
    drawn = [images[hard_images(images, classes, class_images=1, limit=20, seed=seed)] for seed in (0, 0, 1)]
    assert len(np.unique(drawn[0])) == 20
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_the_list_is_hashed_sorted_and_read_by_csv(tmp_path: Path) -> None:
    file, classes = tables(tmp_path)
    made = write_subset(file, classes, out=tmp_path / "list.csv", class_images=2)
    text = (tmp_path / "list.csv").read_text()
    assert text == "image,labels\ntrain/a.jpg,Cat;Dog\ntrain/b.jpg,Cat;Dog\ntrain/d.jpg,Cat;Dog\n"
    assert (made.images, made.classes) == (3, ("Cat", "Dog"))
    assert made.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert (tmp_path / "list.csv.sha256").read_text() == f"{made.sha256}  list.csv\n"
    for name in "abd":
        (tmp_path / "photos/train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / f"photos/train/{name}.jpg")
    source = open_source(f"csv:{tmp_path / 'list.csv'}?root={tmp_path / 'photos'}")
    assert len(source) == 3 and source.classes == ("Cat", "Dog") and source.multi_label

    (tmp_path / "turned").mkdir()
    file, classes = tables(tmp_path / "turned", BOXES[::-1])
    turned = write_subset(file, classes, out=tmp_path / "turned/list.csv", class_images=2)
    assert turned.sha256 == made.sha256, "the order of the rows does not matter"


def test_mistakes_are_told(tmp_path: Path) -> None:
    file, classes = tables(tmp_path)
    with pytest.raises(UserError, match="no images of 2 or more classes with 900 or more images each"):
        write_subset(file, classes, out=tmp_path / "list.csv")
    assert not (tmp_path / "list.csv").exists()
    with pytest.raises(UserError, match=r"classes\.csv.*ImageID.*expected Open Images' table of boxes"):
        write_subset(classes, classes, out=tmp_path / "list.csv")
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        write_subset(tmp_path / "nowhere.csv", classes, out=tmp_path / "list.csv")
    file, classes = tables(tmp_path, [*BOXES, ("a", "/m/unknown")])
    with pytest.raises(UserError, match=r"LabelName '/m/unknown' is not among the 4 classes"):
        write_subset(file, classes, out=tmp_path / "list.csv")
    (tmp_path / "list.csv").write_text("mine")
    with pytest.raises(UserError, match=r"--out: .* exists; name another file or replace it with --overwrite"):
        write_subset(file, classes, out=tmp_path / "list.csv")
    assert (tmp_path / "list.csv").read_text() == "mine"
    file, classes = tables(tmp_path)
    write_subset(file, classes, out=tmp_path / "list.csv", class_images=2, overwrite=True)
    for out in (tmp_path, tmp_path / "none" / "list.csv"):
        with pytest.raises(UserError, match=r"--out: cannot write .*; name a file in a folder that exists"):
            write_subset(file, classes, out=out, class_images=2, overwrite=True)


def test_a_test_list_asks_for_the_classes_of_its_training_list(tmp_path: Path) -> None:
    file, classes = tables(tmp_path)
    write_subset(file, classes, out=tmp_path / "list.csv", class_images=2)
    (tmp_path / "test").mkdir()
    others = [
        ("x", "/m/01yrx"),
        ("x", "/m/0bt9lr"),
        ("x", "/m/0c9ph5"),
        ("y", "/m/0c9ph5"),
        ("y", "/m/01yrx"),
        ("z", "/m/0bt9lr"),
    ]
    boxes, _ = tables(tmp_path / "test", [*others])
    made = write_subset(boxes, classes, out=tmp_path / "test.csv", split="test", classes_of=tmp_path / "list.csv")
    assert (tmp_path / "test.csv").read_text() == "image,labels\ntest/x.jpg,Cat;Dog\n"
    assert made.classes == ("Cat", "Dog")
    boxes, _ = tables(tmp_path / "test", [("x", "/m/01yrx"), ("y", "/m/0bt9lr")])
    with pytest.raises(UserError, match="has no images of 2 or more classes with 1 or more images each"):
        write_subset(boxes, classes, out=tmp_path / "more.csv", classes_of=tmp_path / "list.csv")
    (tmp_path / "foreign.csv").write_text("image,labels\na.jpg,Unicorn;Cat\n")
    with pytest.raises(UserError, match="names 'Unicorn', which is not among the 4 classes"):
        write_subset(boxes, classes, out=tmp_path / "more.csv", classes_of=tmp_path / "foreign.csv")
    with pytest.raises(UserError, match=r"--classes-of: .*nowhere\.csv is no list"):
        write_subset(boxes, classes, out=tmp_path / "more.csv", classes_of=tmp_path / "nowhere.csv")
