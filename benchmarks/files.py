"""Folders of very many photos that take no room: hard links to a few JPEGs, 1,000 to a folder."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from scenewise.sources import open_source

DIFFERENT = 100  # a file system allows so many links to one file (ext4: 65,000)
A_FOLDER = 1000


def write_photos(folder: Path, count: int) -> None:
    """Fill a new folder with so many photos of 640 x 427 pixels."""
    originals = folder.with_name(f"{folder.name}-originals")
    originals.mkdir(parents=True)
    source = open_source(f"synthetic:{DIFFERENT}")
    for number in range(DIFFERENT):
        pixels = cv2.resize(np.asarray(source[number].read()), (640, 427), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(originals / f"{number}.jpg"), pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    add_photos(folder, 0, count)


def add_photos(folder: Path, start: int, stop: int) -> None:
    """Add the photos of these numbers to a folder that `write_photos` made."""
    originals = folder.with_name(f"{folder.name}-originals")
    for number in range(start, stop):
        inner = folder / f"{number // A_FOLDER:05}"
        if number % A_FOLDER == 0 or number == start:
            inner.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{number % DIFFERENT}.jpg", inner / f"photo-{number:08}.jpg")
