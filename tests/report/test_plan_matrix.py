"""A plan's cells are as dark as they have mass, and its instances stand along the right sides."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from scenewise.report.plan_matrix import draw_plan, plan_extent


def drawn(plan: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]], list[tuple[int, int, int]]]:
    rows, columns = plan.shape
    online = [(250, 10 * row, 0) for row in range(rows)]
    target = [(0, 250, 10 * column) for column in range(columns)]
    sheet = Image.new("RGB", plan_extent(plan), "white")
    draw_plan(sheet, plan, squares(online), squares(target), (0, 0))
    return np.asarray(sheet), online, target


def squares(colours: list[tuple[int, int, int]]) -> np.ndarray:
    return np.stack([np.full((16, 16, 3), colour, np.uint8) for colour in colours])


def centre(sheet: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    rows, columns = np.nonzero((sheet == np.array(colour)).all(axis=2))
    assert len(rows) > 200
    return round((rows.min() + rows.max()) / 2), round((columns.min() + columns.max()) / 2)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (4, 4), (2, 5), (9, 9)])
def test_a_cell_is_where_its_instances_meet_and_darker_the_more_mass_it_has(rows: int, columns: int) -> None:
    plan = np.random.default_rng(0).random((rows, columns)) / rows / columns / 2
    plan[-1, 0] = 1 / rows
    sheet, online, target = drawn(plan * 7)  # only shares count
    shares = plan / plan.sum()
    brightness = np.empty_like(plan)
    for row, column in np.ndindex(plan.shape):
        down, across = centre(sheet, online[row])[0], centre(sheet, target[column])[1]
        brightness[row, column] = sheet[down - 12, across - 12].astype(int).sum()  # beside the figure
    assert brightness.argmin() == shares.argmax()
    order = np.argsort(shares.ravel())
    assert (np.diff(brightness.ravel()[order]) <= 0).all()


def test_rows_stand_on_the_left_and_columns_above() -> None:
    sheet, online, target = drawn(np.full((3, 3), 1 / 9))
    lefts = {centre(sheet, colour)[1] for colour in online}
    tops = {centre(sheet, colour)[0] for colour in target}
    assert len(lefts) == len(tops) == 1
    assert [centre(sheet, colour)[0] for colour in online] == sorted(centre(sheet, colour)[0] for colour in online)
    assert min(centre(sheet, colour)[1] for colour in target) > lefts.pop()
    assert min(centre(sheet, colour)[0] for colour in online) > tops.pop()


def test_nothing_is_cut_off() -> None:
    for size in (1, 4, 20):
        plan = np.full((size, size), 1 / size**2)
        wide, high = plan_extent(plan)
        larger = Image.new("RGB", (wide + 40, high + 40), "white")
        draw_plan(larger, plan, squares([(250, 0, 0)] * size), squares([(0, 250, 0)] * size), (0, 0))
        outside = np.asarray(larger).copy()
        outside[:high, :wide] = 255
        assert (outside == 255).all()
