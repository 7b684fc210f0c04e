"""Pictures to cut views from: synthetic ones always, real ones where SCENEWISE_DATA says that they are."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from scenewise.types import Record


def draw_scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A scene with smooth colour, sharp edges and fine texture; no turn of it equals another."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float64)
    image = np.stack([255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 17 + y / 11)], axis=-1)
    for _ in range(12):
        left, top = rng.integers(0, width), rng.integers(0, height)
        inside = (abs(x - left) < width / 9) & (abs(y - top) < height / 9)
        image[inside] = rng.integers(0, 256, 3)
    image += cv2.GaussianBlur(rng.normal(0, 25, image.shape), (0, 0), 1.5)
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def scene() -> np.ndarray:
    return draw_scene(427, 640)


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Write an array or a Pillow image as a file of that format."""

    def write(image: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
        file = io.BytesIO()
        picture.save(file, kind, **{**({"quality": 92} if kind == "JPEG" else {}), **options})
        return file.getvalue()

    return write


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    def make(data: bytes | np.ndarray, size: tuple[int, int], *, index: int = 0, orientation: int = 1) -> Record:
        return Record(index=index, key=f"photo-{index}.jpg", size=size, orientation=orientation, read=lambda: data)

    return make


@pytest.fixture(scope="session")
def photos() -> list[bytes]:
    """40 real photos, JPEG files of 192 to 500 pixels; skipped where there are none."""
    folder = os.environ.get("SCENEWISE_DATA")
    if not folder:
        pytest.skip("SCENEWISE_DATA is not set: no real photos")
    files = sorted((Path(folder) / "coco_mini" / "train2017").glob("*.jpg"))[:20]
    files += sorted((Path(folder) / "scenes_extra" / "JPEGImages").glob("*.jpg"))[::100][:20]
    assert len(files) == 40
    return [file.read_bytes() for file in files]


@pytest.fixture(scope="session")
def textures(scene: np.ndarray) -> list[np.ndarray]:
    """Views of 224 pixels: a scene, white noise, a ramp."""
    rng = np.random.default_rng(1)
    ramp = np.linspace(0, 255, 224)
    ramps = np.stack(np.broadcast_arrays(ramp[None], ramp[:, None], (ramp[None] + ramp[:, None]) / 2), axis=-1)
    noise = rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)
    return [np.ascontiguousarray(scene[100:324, 200:424]), noise, ramps.astype(np.uint8)]
