from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.sources import open_source

from .conftest import SaveImage

WNIDS = ("n02124075", "n01443537", "n03126707", "n02012849")
WORDS = (
    "n01443537\tgoldfish, Carassius auratus\nn02012849\tcrane\nn02124075\tEgyptian cat\n"
    "n03126707\tcrane\nn00000001\tnothing here\n"
)
CLASSES = ("Egyptian cat", "goldfish", "crane (n03126707)", "crane (n02012849)")
VALIDATION = {"val_1.JPEG": 3, "val_0.JPEG": 1, "val_2.JPEG": 0}


def _tree(root: Path, save: SaveImage) -> Path:
    folder = root / "tiny-imagenet-200"
    for place, wnid in enumerate(WNIDS):
        for number in range(place + 1):
            picture = save(folder / "train" / wnid / "images" / f"{wnid}_{number}.jpeg", (64, 64))
            picture.rename(picture.with_suffix(".JPEG"))
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("x\t0\t0\t63\t63\n")
    for part, names in (("val", VALIDATION), ("test", ("test_1.JPEG", "test_0.JPEG"))):
        for name in names:
            picture = save(folder / part / "images" / name.replace("JPEG", "jpeg"), (64, 64))
            picture.rename(picture.with_suffix(".JPEG"))
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    (folder / "words.txt").write_text(WORDS)
    lines = [f"{name}\t{WNIDS[number]}\t0\t32\t44\t62\n" for name, number in VALIDATION.items()]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_train_in_the_order_of_the_classes(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save)
    for named, prefix in ((tmp_path, "tiny-imagenet-200/"), (folder, "")):
        source = open_source(f"tinyimagenet:{named}")
        assert source.classes == CLASSES and source.splits == ("train", "val") and not source.multi_label
        assert source.spec == f"tinyimagenet:{named}?split=train" and source.notes == ()
        expected = [(wnid, place, number) for place, wnid in enumerate(WNIDS) for number in range(place + 1)]
        labels = np.asarray(source.labels())
        assert labels.dtype == np.int64 and labels.tolist() == [place for _, place, _ in expected]
        for opened in (source, open_source(source.spec), pickle.loads(pickle.dumps(source))):
            for index, (wnid, place, number) in enumerate(expected):
                record = opened[index]
                assert record.key == f"{prefix}train/{wnid}/images/{wnid}_{number}.JPEG"
                assert record.labels == place and record.size == (64, 64)
                assert record.read() == (named / record.key).read_bytes()
        assert len(pickle.dumps(source)) < 3000


def test_val_in_the_order_of_its_list_and_test_without_labels(tmp_path: Path, save: SaveImage) -> None:
    _tree(tmp_path, save)
    val = open_source(f"tinyimagenet:{tmp_path}", split="val")
    assert val.classes == CLASSES and np.asarray(val.labels()).tolist() == list(VALIDATION.values())
    assert [val[index].key.split("/")[-1] for index in range(3)] == list(VALIDATION)
    test = open_source(f"tinyimagenet:{tmp_path}?split=test", split="val")
    assert test.labels() is None and test.classes == () and test[0].labels is None
    assert [test[index].key.split("/")[-1] for index in range(2)] == ["test_0.JPEG", "test_1.JPEG"]
    with pytest.raises(UserError, match=r"'valid'.*Did you mean 'val'"):
        open_source(f"tinyimagenet:{tmp_path}?split=valid")


def test_an_unreadable_image_takes_its_label_along(tmp_path: Path, save: SaveImage) -> None:
    folder = _tree(tmp_path, save)
    (folder / "val/images/val_1.JPEG").write_bytes(b"")
    source = open_source(f"tinyimagenet:{tmp_path}?split=val")
    assert np.asarray(source.labels()).tolist() == [1, 0] and source[0].labels == 1
    assert [skip.reason for skip in source.unreadable] == ["empty file"]
    assert source.notes[0].startswith("1 of 3 images cannot be used and were left out, e.g. ")


def test_what_is_missing_from_the_layout_is_named(tmp_path: Path, save: SaveImage) -> None:
    with pytest.raises(UserError, match=r"no tiny-imagenet-200/wnids\.txt.*train/<wnid>/images"):
        open_source(f"tinyimagenet:{tmp_path}")
    folder = _tree(tmp_path, save)
    (folder / "train" / WNIDS[1] / "images").rename(folder / "elsewhere")
    with pytest.raises(UserError, match=f"no JPEG in train/{WNIDS[1]}/images"):
        open_source(f"tinyimagenet:{tmp_path}")
    (folder / "words.txt").write_text("n01443537\tgoldfish\n")
    with pytest.raises(UserError, match=rf"words\.txt has no line for {WNIDS[0]}, {WNIDS[2]}"):
        open_source(f"tinyimagenet:{tmp_path}?split=val")
    (folder / "words.txt").unlink()
    with pytest.raises(UserError, match=r"tiny-imagenet-200 has no words\.txt"):
        open_source(f"tinyimagenet:{tmp_path}?split=val")
    (folder / "val/val_annotations.txt").write_text("val_0.JPEG\tn9\nval_1.JPEG\tn01443537\nval_9.JPEG\tn01443537\n")
    with pytest.raises(UserError) as caught:
        open_source(f"tinyimagenet:{tmp_path}?split=val")
    first, second = caught.value.problems
    assert "val_annotations.txt, line 1" in first and "'n9'" in first
    assert "line 3: no such image: val/images/val_9.JPEG" in second
    (folder / "val/val_annotations.txt").unlink()
    with pytest.raises(UserError, match=r"val has no val_annotations\.txt"):
        open_source(f"tinyimagenet:{tmp_path}?split=val")
    (folder / "wnids.txt").write_text(f"{WNIDS[0]}\n{WNIDS[0]}\n")
    with pytest.raises(UserError, match=r"wnids\.txt must name each class once"):
        open_source(f"tinyimagenet:{tmp_path}")
