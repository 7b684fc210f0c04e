"""The three layouts of CIFAR-10's files: binary, npz parts of JPEGs, pickles; nothing in a file can run code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from scenewise.errors import UserError

PIXELS = 3 * 32 * 32
_ROW = 1 + PIXELS  # binary layout: the label, then red, green and blue planes


@dataclass(frozen=True, slots=True)
class Part:
    """One file: (n, 3072) planes of pixels or the JPEGs, and (n,) labels."""

    labels: np.ndarray
    planes: np.ndarray | None = None
    jpeg: np.ndarray | None = None
    offset: np.ndarray | None = None

    def read(self, row: int) -> bytes | np.ndarray:
        """Return the encoded image, or its (32, 32, 3) RGB pixels."""
        if self.planes is not None:
            return np.ascontiguousarray(self.planes[row].reshape(3, 32, 32).transpose(1, 2, 0))
        assert self.jpeg is not None and self.offset is not None
        return self.jpeg[self.offset[row] : self.offset[row + 1]].tobytes()


def read_part(file: Path) -> Part:
    """Read one file of any layout; UserError that names the file, and the record where one is at fault."""
    load: Callable[[Path], Part] = {".bin": _binary, ".npz": _npz}.get(file.suffix, _pickled)
    try:
        part = load(file)
    except (OSError, KeyError, ValueError, EOFError, TypeError, MemoryError, IndexError) as error:
        raise UserError(f"data: {file}: {error}") from None
    except (pickle.UnpicklingError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"data: {file}: {error}") from None
    wrong = np.flatnonzero((part.labels < 0) | (part.labels > 9))
    if len(wrong):
        raise UserError(f"data: {file}, record {wrong[0]}: label {part.labels[wrong[0]]} is not one of 0..9")
    return part


def _binary(file: Path) -> Part:
    size = file.stat().st_size
    if size == 0 or size % _ROW:
        raise ValueError(f"{size} bytes are not a whole number of records of {_ROW} bytes (label, 3 planes of 32 x 32)")
    rows = np.memmap(file, np.uint8, mode="r", shape=(size // _ROW, _ROW))
    return Part(rows[:, 0].astype(np.int64), planes=rows[:, 1:])


def _npz(file: Path) -> Part:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
        missing = [name for name in ("jpeg", "offset", "label") if name not in content]
        if missing:
            raise ValueError(f"no array {' and '.join(missing)}; a part holds jpeg (bytes), offset (N + 1), label (N)")
        jpeg, offset, labels = content["jpeg"], content["offset"], content["label"]
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1 or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError("jpeg must be a row of uint8, label a row of integers")
    if offset.shape != (len(labels) + 1,) or offset.dtype.kind not in "iu" or np.any(np.diff(offset) <= 0):
        raise ValueError(f"offset must be {len(labels) + 1} rising integers")
    if offset[0] != 0 or offset[-1] != len(jpeg):
        raise ValueError(f"offset runs from {offset[0]} to {offset[-1]}, but there are {len(jpeg)} bytes of jpeg")
    return Part(labels.astype(np.int64), jpeg=jpeg, offset=offset)


def _pickled(file: Path) -> Part:
    with file.open("rb") as stream:
        content = _AllowList(stream, encoding="bytes").load()
    if not isinstance(content, dict) or not {b"data", b"labels"} <= content.keys():
        raise ValueError("not a CIFAR-10 batch: a dictionary with b'data' and b'labels'")
    planes, labels = content[b"data"], np.asarray(content[b"labels"])
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape != (len(labels), PIXELS):
        raise ValueError(f"data must be uint8 of {len(labels)} rows (one a label) of {PIXELS} bytes")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError("labels must be a row of integers")
    return Part(labels.astype(np.int64), planes=planes)


@final
class _AllowList(pickle.Unpickler):
    """Loads the dictionaries, strings, numbers and NumPy arrays a CIFAR file is made of, and refuses anything else."""

    def find_class(self, module: str, name: str) -> object:
        """Return one of the four things a pickled array needs."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return np.ndarray if name == "ndarray" else np.dtype
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise pickle.UnpicklingError(f"asks for {module}.{name}, which a CIFAR file does not need; it was not loaded")


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    if kind is not np.ndarray or tuple(shape) != (0,):  # NumPy always begins with an empty array
        raise pickle.UnpicklingError("an array of an unusual kind; it was not loaded")
    return np.ndarray((0,), np.uint8)


def _encode(text: str, encoding: str | bytes) -> bytes:
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"text in an unusual encoding {encoding!r}; it was not loaded")
    return text.encode("latin1")
