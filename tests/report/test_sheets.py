"""Sheets show the pixels they were given, boxes where they are, and are the same bytes each time."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from scenewise.report.sheets import MARGIN, PALETTE, CropExample, NeighbourRow, crop_sheet, neighbour_sheet


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def flat(colour: tuple[int, int, int], height: int = 50, width: int = 50) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def count(sheet: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((sheet == np.array(colour)).all(axis=2).sum())


def places(sheet: np.ndarray, colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((sheet == np.array(colour)).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def example(views: int = 1) -> CropExample:
    return CropExample(
        photo=flat((10, 200, 10), 190, 270),
        boxes={"query": np.array([[20.0, 30, 120, 130]] * views), "key": np.array([[100.0, 50, 200, 150]])},
        views={"query": [flat((200, 10, 200))] * views, "key": [flat((10, 10, 250))]},
        caption="folder/photo.jpg",
    )


def test_a_box_is_outlined_where_it_was_cut_and_its_views_shown() -> None:
    sheet = pixels(crop_sheet([example()], photo_size=(190, 270), view_size=100))
    left, top, _, _ = places(sheet, (10, 200, 10))  # the photo is not scaled here
    photo = sheet[top : top + 190, left : left + 270]
    for colour, box in ((PALETTE[0], (20, 30, 120, 130)), (PALETTE[1], (100, 50, 200, 150))):
        x1, _, x2, y2 = box
        ink = ImageColor.getrgb(colour)
        assert tuple(photo[y2 - 1, x1]) == ink
        assert tuple(photo[y2 - 1, x2 - 1]) == ink
        assert tuple(photo[y2, x2]) == (10, 200, 10)
    assert count(sheet, (200, 10, 200)) == 100 * 100
    assert count(sheet, (10, 10, 250)) == 100 * 100


@pytest.mark.parametrize("views", [1, 3, 9])
def test_every_view_is_shown_and_same_input_gives_same_bytes(views: int) -> None:
    examples = [example(views), example(1)]
    png = crop_sheet(examples, view_size=64)
    assert png == crop_sheet(examples, view_size=64)
    sheet = pixels(png)
    assert count(sheet, (200, 10, 200)) == (views + 1) * 64 * 64
    assert count(sheet, (10, 10, 250)) == 2 * 64 * 64
    assert (sheet[:, -MARGIN // 2 :] == 255).all()
    assert (sheet[-MARGIN // 2 :] == 255).all()


def test_odd_shapes_are_fitted_and_boxes_outside_are_clipped() -> None:
    wide = CropExample(
        photo=flat((10, 200, 10), 1, 3000),
        boxes={"query": np.array([[-50.0, -20, 5000, 30]]), "unseen": np.array([[0.0, 0, 0, 0]])},
        views={"query": [flat((200, 10, 200), 7, 3)]},
        caption="名前\n" + "long/" * 60,
    )
    assert pixels(crop_sheet([wide])).shape[1] < 1500
    assert pixels(crop_sheet([])).min() < 255


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
