"""Labels stand in a corner of their box that is free; boxes without extent are drawn too."""

from __future__ import annotations

import numpy as np

from scenewise.report.outlines import Corners, corners_of, free_corner


def apart(first: Corners, second: Corners) -> bool:
    return first[2] <= second[0] or second[2] <= first[0] or first[3] <= second[1] or second[3] <= first[1]


def test_labels_of_equal_boxes_take_different_corners() -> None:
    taken: list[Corners] = []
    for _ in range(4):
        taken.append(free_corner((10.0, 10.0, 180.0, 120.0), (40.0, 13.0), (200, 150), taken))
    assert all(apart(first, second) for index, first in enumerate(taken) for second in taken[:index])
    assert all(left >= 10 and top >= 10 and right <= 180 and bottom <= 120 for left, top, right, bottom in taken)
    fifth = free_corner((10.0, 10.0, 180.0, 120.0), (40.0, 13.0), (200, 150), taken)
    assert fifth == taken[0]  # crowded: better one label over another than none


def test_a_label_stays_on_the_photo() -> None:
    left, top, right, bottom = free_corner((-50.0, -60.0, 900.0, 900.0), (40.0, 13.0), (200, 150), [])
    assert left >= 0 and top >= 0 and right <= 200 and bottom <= 150


def test_right_and_bottom_are_exclusive() -> None:
    assert corners_of(np.array([10, 20, 30, 50]), 2.0) == (20.0, 40.0, 59.0, 99.0)
    assert corners_of(np.array([7, 8, 7, 8]), 1.0) == (7.0, 8.0, 7.0, 8.0)
