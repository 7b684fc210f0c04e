from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.sources.stl10 import Stl10Source

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
COUNTS = {"train": 4, "test": 3, "unlabeled": 6}
LABELS = {"train": [10, 1, 3, 3], "test": [2, 9, 4]}


def _picture(part: str, row: int) -> np.ndarray:
    """Return an upright (96, 96, 3) picture whose every pixel tells where it is."""
    y, x = np.mgrid[:96, :96]
    return np.stack([x, y, (x + 3 * y + 7 * row + len(part)) % 256], axis=2).astype(np.uint8)


def _write(root: Path) -> Path:
    folder = root / "stl10_binary"
    folder.mkdir()
    for part, count in COUNTS.items():
        with (folder / f"{part}_X.bin").open("wb") as file:
            for row in range(count):
                for channel in range(3):  # plane after plane, column after column
                    for x in range(96):
                        file.write(_picture(part, row)[:, x, channel].tobytes())
        if part in LABELS:
            (folder / f"{part}_y.bin").write_bytes(bytes(LABELS[part]))
    (folder / "class_names.txt").write_text("\n".join(CLASSES) + "\n")
    return folder


@pytest.mark.parametrize("named", [".", "stl10_binary"])
@pytest.mark.parametrize(
    ("split", "parts"),
    [
        ("train", ["train"]),
        ("test", ["test"]),
        ("unlabeled", ["unlabeled"]),
        ("train+unlabeled", ["train", "unlabeled"]),
    ],
)
def test_pictures_and_labels_of_every_split(tmp_path: Path, named: str, split: str, parts: list[str]) -> None:
    _write(tmp_path)
    source = open_source(f"stl10:{tmp_path / named}?split={split}")
    keys = [(part, row) for part in parts for row in range(COUNTS[part])]
    assert len(source) == len(keys) and source.splits == ("train", "test") and not source.multi_label
    assert source.spec == f"stl10:{tmp_path / named}?split={split}"
    for opened in (source, open_source(source.spec), pickle.loads(pickle.dumps(source))):
        for index, (part, row) in enumerate(keys):
            record = opened[index]
            assert (record.key, record.size, record.orientation) == (f"{part}/{row}", (96, 96), 1)
            assert np.array_equal(record.read(), _picture(part, row))  # type: ignore[arg-type]
            known = LABELS[part][row] - 1 if part in LABELS else (-1 if len(parts) > 1 else None)
            assert record.labels == known
            if known is not None:
                assert np.asarray(opened.labels())[index] == known
    assert source.classes == (() if split == "unlabeled" else CLASSES)
    assert (source.labels() is None) == (split == "unlabeled")
    assert open_source(source.spec).fingerprint == source.fingerprint
    with pytest.raises(IndexError):
        source[len(keys)]


def test_the_files_are_mapped_not_copied(tmp_path: Path) -> None:
    _write(tmp_path)
    source = open_source(f"stl10:{tmp_path}?split=train+unlabeled")
    assert isinstance(source, Stl10Source)
    assert all(isinstance(part, np.memmap) for part in source._pictures)
    assert len(pickle.dumps(source)) < 2000


def test_the_split_of_the_caller_counts_unless_the_text_names_one(tmp_path: Path) -> None:
    _write(tmp_path)
    assert len(open_source(f"stl10:{tmp_path}")) == COUNTS["train"]
    assert len(open_source(f"stl10:{tmp_path}", split="test")) == COUNTS["test"]
    assert len(open_source(f"stl10:{tmp_path}?split=unlabeled", split="test")) == COUNTS["unlabeled"]
    with pytest.raises(UserError, match=r"'unlabelled'.*Did you mean 'unlabeled'"):
        open_source(f"stl10:{tmp_path}?split=unlabelled")


def test_missing_and_faulty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no stl10_binary.*train_X|stl10_binary/ holds"):
        open_source(f"stl10:{tmp_path}")
    folder = _write(tmp_path)
    (folder / "unlabeled_X.bin").unlink()
    assert len(open_source(f"stl10:{tmp_path}")) == COUNTS["train"]
    with pytest.raises(UserError, match=r"stl10_binary has no unlabeled_X\.bin; stl10_binary/ holds"):
        open_source(f"stl10:{tmp_path}?split=train+unlabeled")
    (folder / "train_y.bin").write_bytes(bytes([1, 2, 11, 3]))
    with pytest.raises(UserError, match=r"train_y\.bin, record 2: label 11 is not one of 1\.\.10"):
        open_source(f"stl10:{tmp_path}")
    (folder / "train_y.bin").write_bytes(bytes([1, 2]))
    with pytest.raises(UserError, match=r"train_y\.bin has 2 labels, but train_X\.bin 4 pictures"):
        open_source(f"stl10:{tmp_path}")
    (folder / "train_y.bin").unlink()
    with pytest.raises(UserError, match=r"no train_y\.bin"):
        open_source(f"stl10:{tmp_path}")
    (folder / "train_X.bin").write_bytes(bytes(27647))
    with pytest.raises(UserError, match=r"train_X\.bin: 27647 bytes.*27648"):
        open_source(f"stl10:{tmp_path}")
    (folder / "class_names.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=r"class_names\.txt must name 10"):
        open_source(f"stl10:{tmp_path}")
