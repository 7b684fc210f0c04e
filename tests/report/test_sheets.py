"""Sheets show the pixels they were given, in order, and are the same bytes each time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from scenewise.report.sheets import PALETTE, NeighbourRow, font, neighbour_sheet, wrapped


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def flat(colour: tuple[int, int, int], height: int = 50, width: int = 50) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def count(sheet: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((sheet == np.array(colour)).all(axis=2).sum())


def places(sheet: np.ndarray, colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((sheet == np.array(colour)).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def test_neighbours_stand_in_order_with_bars_as_long_as_their_cosine() -> None:
    colours = [(250, 40 * place, 10) for place in range(5)]
    row = NeighbourRow(
        query=flat((10, 200, 10)),
        neighbours=[flat(colour) for colour in colours],
        similarities=[1.0, 0.75, 0.5, 0.0, -0.5],
        caption="query.jpg",
        captions=[f"{place}.jpg" for place in range(5)],
    )
    png = neighbour_sheet([row, row], size=80)
    assert png == neighbour_sheet([row, row], size=80)
    sheet = pixels(png)
    assert count(sheet, (10, 200, 10)) == 2 * 80 * 80
    lefts = [places(sheet, colour)[0] for colour in colours]
    assert lefts == sorted(lefts)
    bar = ImageColor.getrgb(PALETTE[0])
    widths = [count(sheet[: sheet.shape[0] // 2 + 10, left : left + 80], bar) for left in lefts]
    assert widths[3] <= 5  # the line of zero length
    assert widths[4] == 0
    assert widths[0] > widths[1] > widths[2] > widths[3]
    assert widths[2] / widths[0] == pytest.approx(0.5, abs=0.05)


def test_many_neighbours_wrap_and_none_is_fine() -> None:
    row = NeighbourRow(query=flat((10, 200, 10)), neighbours=[flat((250, 0, 10))] * 23, similarities=[0.5] * 23)
    assert count(pixels(neighbour_sheet([row], size=40)), (250, 0, 10)) == 23 * 40 * 40
    lonely = NeighbourRow(query=flat((10, 200, 10)), neighbours=[], similarities=[float("nan")][:0])
    assert count(pixels(neighbour_sheet([lonely], size=40)), (10, 200, 10)) == 40 * 40
    assert pixels(neighbour_sheet([])).min() < 255


@pytest.mark.parametrize(
    "text", ["", "word", "some words of a heading " * 9, "/a/path/without/any/space/" * 12, "a " + "b" * 300]
)
def test_wrapped_lines_are_narrow_and_lose_nothing(text: str) -> None:
    lines = wrapped(text, 200, 11)
    assert all(font(11).getlength(line) <= 200 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) == 1 or all(lines)
