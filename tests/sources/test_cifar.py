from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.sources.cifar_names import CIFAR10 as CLASSES

PARTS = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
COUNT = 4


def _content(part: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(PARTS.index(part))
    return generator.integers(0, 256, (COUNT, 3, 32, 32), np.uint8), generator.integers(0, 10, COUNT)


def _write_binary(root: Path) -> None:
    for part in PARTS:
        pixels, labels = _content(part)
        rows = np.concatenate([labels.astype(np.uint8)[:, None], pixels.reshape(COUNT, -1)], axis=1)
        (root / f"{part}.bin").write_bytes(rows.tobytes())


def _write_npz(root: Path) -> None:
    for part in PARTS:
        pixels, labels = _content(part)
        files = []
        for image in pixels.transpose(0, 2, 3, 1):
            stream = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(image)).save(stream, "PNG")  # lossless, to compare exactly
            files.append(stream.getvalue())
        offset = np.cumsum([0, *map(len, files)])
        np.savez(root / f"{part}.npz", jpeg=np.frombuffer(b"".join(files), np.uint8), offset=offset, label=labels)


def _write_pickles(root: Path) -> None:
    for part in PARTS:
        pixels, labels = _content(part)
        content = {b"data": pixels.reshape(COUNT, -1), b"labels": labels.tolist(), b"batch_label": b"a part"}
        (root / part).write_bytes(pickle.dumps(content, protocol=2))


WRITERS = {"binary": _write_binary, "npz": _write_npz, "pickles": _write_pickles}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("usual", [False, True])
def test_every_layout_gives_the_same_pictures(tmp_path: Path, layout: str, usual: bool) -> None:
    folder = tmp_path
    if usual and layout != "npz":
        folder = tmp_path / {"binary": "cifar-10-batches-bin", "pickles": "cifar-10-batches-py"}[layout]
        folder.mkdir()
    WRITERS[layout](folder)
    for split, parts in (("train", PARTS[:5]), ("test", PARTS[5:])):
        source = open_source(f"cifar10:{tmp_path}", split=split)
        assert source.classes == CLASSES and source.splits == ("train", "test") and not source.multi_label
        assert len(source) == COUNT * len(parts)
        copy = pickle.loads(pickle.dumps(source))
        for index in range(len(source)):
            pixels, labels = _content(parts[index // COUNT])
            for record in (source[index], copy[index]):
                read = record.read()
                image = np.asarray(Image.open(io.BytesIO(read))) if isinstance(read, bytes) else read
                assert np.array_equal(image, pixels[index % COUNT].transpose(1, 2, 0))
                assert record.size == (32, 32) and record.labels == labels[index % COUNT]
                assert record.key == f"{parts[index // COUNT]}/{index % COUNT}"
        expected = np.concatenate([_content(part)[1] for part in parts])
        assert np.array_equal(np.asarray(source.labels()), expected)


def test_binary_files_are_mapped_not_copied(tmp_path: Path) -> None:
    _write_binary(tmp_path)
    assert len(pickle.dumps(open_source(f"cifar10:{tmp_path}"))) < 2000


class _Attack:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> Any:
        return self._call


def test_a_pickle_can_run_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "was-here"
    attacks = [
        _Attack(os.system, f"touch {marker}"),
        _Attack(eval, f"open({str(marker)!r}, 'w')"),
        _Attack(open, str(marker), "w"),
        _Attack(getattr, np.ndarray, "tofile"),
        _Attack(np.load, str(marker)),
    ]
    for attack in attacks:
        _write_pickles(tmp_path)
        (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": attack, b"labels": [0]}, protocol=2))
        with pytest.raises(UserError, match=r"test_batch.*not loaded"):
            open_source(f"cifar10:{tmp_path}?split=test")
        assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"words",
        pickle.dumps([1, 2]),
        pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((1, 3072), np.float32), b"labels": [1]}),
        pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["cat"]}),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UserError, match="test_batch"):
        open_source(f"cifar10:{tmp_path}?split=test")


def test_missing_and_faulty_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected data_batch_1 \.\. 5 with \.bin.*\.npz.*pickles"):
        open_source(f"cifar10:{tmp_path}")
    _write_binary(tmp_path)
    (tmp_path / "data_batch_3.bin").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"data_batch_3\.bin"):
        open_source(f"cifar10:{tmp_path}")
    (tmp_path / "data_batch_3.bin").write_bytes(b"x" * 3000)
    with pytest.raises(UserError, match=r"data_batch_3\.bin.*3073"):
        open_source(f"cifar10:{tmp_path}")
    (tmp_path / "data_batch_3.bin").write_bytes((b"\0" * 3073) + b"\x0b" + b"\0" * 3072)
    with pytest.raises(UserError, match=r"data_batch_3\.bin, record 1: label 11"):
        open_source(f"cifar10:{tmp_path}")
    with pytest.raises(UserError, match="'train'"):
        open_source(f"cifar10:{tmp_path}?split=trian")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"offset": np.array([0, 2, 1])}, "rising"),
        ({"offset": np.array([0, 5])}, "3 rising"),
        ({"offset": np.array([0, 2, 9])}, "9"),
        ({"jpeg": np.zeros(5, np.float32)}, "uint8"),
        ({"label": np.array([0, 10])}, "record 1"),
        ({"label": np.array([0, None], object)}, "test_batch"),
    ],
)
def test_a_faulty_npz_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    good = {"jpeg": np.zeros(5, np.uint8), "offset": np.array([0, 2, 5]), "label": np.array([0, 1])}
    np.savez(tmp_path / "test_batch.npz", **(good | change))
    with pytest.raises(UserError, match=word):
        open_source(f"cifar10:{tmp_path}?split=test")
    (tmp_path / "test_batch.npz").write_bytes(b"PK\3\4 nonsense")
    with pytest.raises(UserError, match=r"test_batch\.npz"):
        open_source(f"cifar10:{tmp_path}?split=test")


def test_real_files_hold_the_known_counts(data_root: Path) -> None:
    for split, count in (("train", 5000), ("test", 1000)):
        source = open_source(f"cifar10:{data_root / 'cifar10'}", split=split)
        assert np.bincount(np.asarray(source.labels())).tolist() == [count] * 10
        read = source[17].read()
        assert isinstance(read, bytes)
        with Image.open(io.BytesIO(read)) as image:
            assert image.size == (32, 32)
