from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.sources.cifar_names import COARSE, FINE

COUNT = 5
FOLDERS = {"binary": "cifar-100-binary", "npz": ".", "pickles": "cifar-100-python"}


def _content(split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(["train", "test"].index(split))
    pixels = generator.integers(0, 256, (COUNT, 3, 32, 32), np.uint8)
    return pixels, generator.integers(20, 100, COUNT), generator.integers(0, 20, COUNT)


def _write(root: Path, layout: str) -> Path:
    folder = root / FOLDERS[layout]
    folder.mkdir(exist_ok=True)
    for split in ("train", "test"):
        pixels, fine, coarse = _content(split)
        if layout == "binary":
            rows = np.column_stack([coarse.astype(np.uint8), fine.astype(np.uint8), pixels.reshape(COUNT, -1)])
            (folder / f"{split}.bin").write_bytes(rows.tobytes())
        elif layout == "pickles":
            content = {b"data": pixels.reshape(COUNT, -1), b"fine_labels": fine.tolist(), b"filenames": [b"a.png"]}
            (folder / split).write_bytes(pickle.dumps(content | {b"coarse_labels": coarse.tolist()}, protocol=2))
        else:
            files = []
            for image in pixels.transpose(0, 2, 3, 1):
                Image.fromarray(np.ascontiguousarray(image)).save(stream := io.BytesIO(), "PNG")
                files.append(stream.getvalue())
            arrays: dict[str, Any] = {"label": fine, "coarse": coarse, "offset": np.cumsum([0, *map(len, files)])}
            np.savez(folder / f"{split}.npz", jpeg=np.frombuffer(b"".join(files), np.uint8), **arrays)
    return folder


@pytest.mark.parametrize("layout", FOLDERS)
@pytest.mark.parametrize("named", ["root", "folder"])
def test_every_layout_gives_the_same_pictures_and_both_kinds_of_labels(tmp_path: Path, layout: str, named: str) -> None:
    folder = _write(tmp_path, layout)
    spec = f"cifar100:{tmp_path if named == 'root' else folder}"
    for split in ("train", "test"):
        pixels, fine, coarse = _content(split)
        for labelling, expected, classes in (("fine", fine, FINE), ("coarse", coarse, COARSE)):
            source = open_source(f"{spec}?labels={labelling}", split=split)
            assert source.classes == classes and source.splits == ("train", "test") and not source.multi_label
            assert source.spec.endswith(f"?split={split}&labels={labelling}")
            assert np.array_equal(np.asarray(source.labels()), expected)
            for opened in (source, open_source(source.spec), pickle.loads(pickle.dumps(source))):
                record = opened[3]
                read = record.read()
                image = np.asarray(Image.open(io.BytesIO(read))) if isinstance(read, bytes) else read
                assert np.array_equal(image, pixels[3].transpose(1, 2, 0))
                assert (record.key, record.size, record.labels) == (f"{split}/3", (32, 32), expected[3])
    assert open_source(spec).spec.endswith("?split=train&labels=fine")
    assert len(pickle.dumps(open_source(spec))) < 4000


@pytest.mark.parametrize("layout", ["binary", "pickles"])
def test_the_names_are_those_of_the_archive(tmp_path: Path, layout: str) -> None:
    folder = _write(tmp_path, layout)
    names = [f"class_{number}" for number in range(100)]
    if layout == "binary":
        file = folder / "fine_label_names.txt"
        file.write_text("\n".join(names) + "\n")
    else:
        file = folder / "meta"
        meta = {b"fine_label_names": [name.encode() for name in names], b"coarse_label_names": []}
        file.write_bytes(pickle.dumps(meta, protocol=2))
    source = open_source(f"cifar100:{tmp_path}")
    assert source.classes == tuple(names) == pickle.loads(pickle.dumps(source)).classes
    if layout == "binary":
        file.write_text("\n".join(names[:99]))
    else:
        file.write_bytes(pickle.dumps({b"fine_label_names": [name.encode() for name in names[:99]]}, protocol=2))
    with pytest.raises(UserError, match=rf"{file.name}: lists 99 different names, but there are 100"):
        open_source(f"cifar100:{tmp_path}")


def test_meta_can_run_nothing_either(tmp_path: Path) -> None:
    folder = _write(tmp_path, "pickles")
    (folder / "meta").write_bytes(b"cos\nsystem\n(S'touch was-here'\ntR.")
    with pytest.raises(UserError, match=r"meta: asks for os\.system.*not loaded"):
        open_source(f"cifar100:{tmp_path}")


def test_missing_and_faulty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no train files of CIFAR-100.*expected train with \.bin.*cifar-100-binary"):
        open_source(f"cifar100:{tmp_path}")
    folder = _write(tmp_path, "binary")
    (folder / "test.bin").unlink()
    assert len(open_source(f"cifar100:{tmp_path}")) == COUNT
    with pytest.raises(UserError, match="no test files of CIFAR-100"):
        open_source(f"cifar100:{tmp_path}", split="test")
    (folder / "train.bin").write_bytes(bytes(3073))
    with pytest.raises(UserError, match=r"train\.bin: 3073 bytes.*3074 bytes \(2 labels"):
        open_source(f"cifar100:{tmp_path}")
    (folder / "train.bin").write_bytes(bytes(3074) + b"\x14" + bytes(3073))
    assert np.asarray(open_source(f"cifar100:{tmp_path}").labels()).tolist() == [0, 0]
    with pytest.raises(UserError, match=r"train\.bin, record 1: label 20 is not one of 0\.\.19"):
        open_source(f"cifar100:{tmp_path}?labels=coarse")
    with pytest.raises(UserError, match=r"'fien'.*Did you mean 'fine'"):
        open_source(f"cifar100:{tmp_path}?labels=fien")


def test_an_npz_part_without_coarse_labels_says_so(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"offset": np.array([0, 5]), "label": np.array([99])}
    np.savez(tmp_path / "train.npz", jpeg=np.zeros(5, np.uint8), **arrays)
    source = open_source(f"cifar100:{tmp_path}")
    assert source.classes[int(np.asarray(source.labels())[0])] == "worm"
    with pytest.raises(UserError, match=r"train\.npz: no array coarse"):
        open_source(f"cifar100:{tmp_path}?labels=coarse")
