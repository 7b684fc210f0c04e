"""Rows of proposals, made up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from scenewise.proposals.rows import Row
from scenewise.proposals.store import Origin


def make_row(number: int, *, boxes: int | None = None) -> Row:
    """Return the row of an image: up to 14 boxes inside it, with scores for every other image."""
    generator = np.random.default_rng(number)
    height, width = (int(side) for side in generator.integers(20, 400, 2))
    count = int(generator.integers(0, 15)) if boxes is None else boxes
    corners = np.sort(generator.integers(0, (width, height), (count, 2, 2)), axis=1).reshape(count, 4)
    corners[:, 2:] += 1
    scores = generator.random(count, dtype=np.float32) if number % 2 else None
    return Row(f"deep/{number:05}.jpg", (height, width), corners.astype(np.int32), scores)


@pytest.fixture
def rows() -> Callable[[int], list[Row]]:
    """Return a function that gives so many rows."""
    return lambda count: [make_row(number) for number in range(count)]


@pytest.fixture
def origin() -> Callable[..., Origin]:
    """Return a function that gives an origin with some values changed."""

    def describe(**changes: object) -> Origin:
        values = {
            "generator": "fake",
            "settings": {"side": 320, "library": "1.0"},
            "keep": 1000,
            "max_iou": 0.9,
            "seed": 0,
            "versions": {"scenewise": "0"},
            "source": "folder:/photos",
            "fingerprint": "abc",
            "images": 0,
        }
        return Origin(**{**values, **changes})  # type: ignore[arg-type]

    return describe
