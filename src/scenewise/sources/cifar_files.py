"""The three layouts of CIFAR's files: binary, npz parts of JPEGs, pickles; nothing in a file can run code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from scenewise.errors import UserError

PIXELS = 3 * 32 * 32  # red, green and blue planes


@dataclass(frozen=True, slots=True)
class LabelField:
    """Where a part keeps the labels that are wanted, and where its folder keeps their names.

    names: of the classes, by number. column, columns: which of the label bytes in front of the pixels (binary).
    array: name in an npz part. entry: key in a pickle. names_file, names_entry: the list of names beside a binary
    part, and its key in the pickle `meta`; empty where the archive's names are not looked at.
    """

    names: tuple[str, ...]
    column: int
    columns: int
    array: str
    entry: bytes
    names_file: str = ""
    names_entry: bytes = b""


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


def read_part(file: Path, field: LabelField) -> Part:
    """Read one file of any layout; UserError that names the file, and the record where one is at fault."""
    load: Callable[[Path, LabelField], Part] = {".bin": _binary, ".npz": _npz}.get(file.suffix, _pickled)
    with _named(file):
        part = load(file, field)
    last = len(field.names) - 1
    wrong = np.flatnonzero((part.labels < 0) | (part.labels > last))
    if len(wrong):
        raise UserError(f"data: {file}, record {wrong[0]}: label {part.labels[wrong[0]]} is not one of 0..{last}")
    return part


def read_names(part: Path, field: LabelField) -> tuple[str, ...]:
    """Return the class names that the folder of a part lists, or the published ones where it has no list."""
    if not field.names_file or part.suffix == ".npz":
        return field.names
    file = part.with_name(field.names_file if part.suffix == ".bin" else "meta")
    if not file.is_file():
        return field.names
    with _named(file):
        names = _unpickled(file, field.names_entry)[0] if part.suffix == "" else file.read_text("utf-8").split()
        texts = tuple(name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names)
        if len(set(texts)) != len(field.names):
            raise ValueError(f"lists {len(set(texts))} different names, but there are {len(field.names)} classes")
    return texts


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Turn whatever the reading of a stranger's file runs into into a UserError that names the file."""
    try:
        yield
    except (OSError, KeyError, ValueError, EOFError, TypeError, MemoryError, IndexError) as error:
        raise UserError(f"data: {file}: {error}") from None
    except (pickle.UnpicklingError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"data: {file}: {error}") from None


def _binary(file: Path, field: LabelField) -> Part:
    size, length = file.stat().st_size, field.columns + PIXELS
    if size == 0 or size % length:
        labels = "label" if field.columns == 1 else f"{field.columns} labels"
        raise ValueError(
            f"{size} bytes are not a whole number of records of {length} bytes ({labels}, 3 planes of 32 x 32)"
        )
    rows = np.memmap(file, np.uint8, mode="r", shape=(size // length, length))
    return Part(rows[:, field.column].astype(np.int64), planes=rows[:, field.columns :])


def _npz(file: Path, field: LabelField) -> Part:
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
        missing = [name for name in ("jpeg", "offset", field.array) if name not in content]
        if missing:
            raise ValueError(
                f"no array {' and '.join(missing)}; a part holds jpeg (bytes), offset (N + 1), {field.array} (N)"
            )
        jpeg, offset, labels = content["jpeg"], content["offset"], content[field.array]
    if jpeg.dtype != np.uint8 or jpeg.ndim != 1 or labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(f"jpeg must be a row of uint8, {field.array} a row of integers")
    if offset.shape != (len(labels) + 1,) or offset.dtype.kind not in "iu" or np.any(np.diff(offset) <= 0):
        raise ValueError(f"offset must be {len(labels) + 1} rising integers")
    if offset[0] != 0 or offset[-1] != len(jpeg):
        raise ValueError(f"offset runs from {offset[0]} to {offset[-1]}, but there are {len(jpeg)} bytes of jpeg")
    return Part(labels.astype(np.int64), jpeg=jpeg, offset=offset)


def _pickled(file: Path, field: LabelField) -> Part:
    planes, found = _unpickled(file, b"data", field.entry)
    labels = np.asarray(found)
    if not isinstance(planes, np.ndarray) or planes.dtype != np.uint8 or planes.shape != (len(labels), PIXELS):
        raise ValueError(f"data must be uint8 of {len(labels)} rows (one a label) of {PIXELS} bytes")
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError("labels must be a row of integers")
    return Part(labels.astype(np.int64), planes=planes)


def _unpickled(file: Path, *entries: bytes) -> list[Any]:
    with file.open("rb") as stream:
        content = _AllowList(stream, encoding="bytes").load()
    if not isinstance(content, dict) or not set(entries) <= content.keys():
        raise ValueError(f"not a file of CIFAR: a dictionary with {' and '.join(map(repr, entries))}")
    return [content[entry] for entry in entries]


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
