"""Small image files and trees to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SaveImage = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test a cache folder of its own, beside its data."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SCENEWISE_CACHE", str(folder))
    return folder


@pytest.fixture
def save() -> SaveImage:
    """Return a function that writes a picture of (height, width) and makes the folders above it."""

    def write(path: Path, size: tuple[int, int] = (6, 9), *, mode: str = "RGB", orientation: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        if mode == "I;16":
            image = Image.fromarray(np.full(size, 700, np.uint16))
        else:
            image = Image.new(mode, (size[1], size[0]))
        exif = Image.Exif()
        if orientation:
            exif[274] = orientation
            image.save(path, exif=exif)
        else:
            image.save(path)
        return path

    return write
