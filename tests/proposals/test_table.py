"""Boxes made elsewhere: what a table says of each image, and what is wrong with it, by its lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.proposals.table import Table, read_table

KEYS, SIZES = ("a.jpg", "deep/b.jpg", "c.jpg"), np.array([(60, 80), (40, 50), (30, 30)])
HEADER = "image,x1,y1,x2,y2"
ROW = st.tuples(
    st.sampled_from((*KEYS, "other.jpg")),
    *[st.integers(0, 14)] * 2,
    *[st.integers(15, 30)] * 2,
    st.sampled_from([0.25, 0.5, 1.0]),
)


def read(folder: Path, *lines: str) -> Table:
    file = folder / "boxes.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_table(file, KEYS, SIZES)


def refused(folder: Path, *lines: str) -> str:
    with pytest.raises(UserError) as caught:
        read(folder, *lines)
    return str(caught.value)


@given(rows=st.lists(ROW, min_size=1, max_size=20), scored=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_image_has_its_rows_best_first(rows: list[tuple[object, ...]], scored: bool, tmp_path: Path) -> None:
    rows = [("c.jpg", 0, 0, 30, 30, 0.1), *rows]  # one image at least is in the data
    lines = [",".join(map(str, row if scored else row[:5])) for row in rows]
    table = read(tmp_path, HEADER + scored * ",score", *lines)
    for index, key in enumerate(KEYS):
        own = [row for row in rows if row[0] == key]
        if scored:
            own.sort(key=lambda row: -row[5])  # type: ignore[operator]  # stable: as they stand among equals
        boxes, scores = table.of(index)
        assert boxes.tolist() == [list(row[1:5]) for row in own]
        assert scores is None if not scored else scores.tolist() == pytest.approx([row[5] for row in own])
    assert table.unused == any(row[0] == "other.jpg" for row in rows)


def test_columns_may_stand_in_any_order_with_others_beside(tmp_path: Path) -> None:
    table = read(tmp_path, "class,y2,x2,y1,x1,image", "cat,4,30.5,2,-0.5,./deep/b.jpg", 'dog,9,8,7,6,"c.jpg"')
    assert table.of(1)[0].tolist() == [[-0.5, 2, 30.5, 4]]
    assert table.of(2)[0].tolist() == [[6, 7, 8, 9]]
    assert table.of(0)[0].shape == (0, 4) and table.of(0)[1] is None


def test_the_same_file_is_known_by_its_content(tmp_path: Path) -> None:
    first = read(tmp_path, HEADER, "a.jpg,0,0,5,5").settings
    assert read(tmp_path, HEADER, "a.jpg,0,0,5,5").settings == first != read(tmp_path, HEADER, "a.jpg,0,0,5,6").settings


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.jpg,0,0,82,10", "line 3: the box 0, 0, 82, 10 lies more than 1 px outside its image a.jpg of 80 x 60"),
        ("a.jpg,0,-3,8,10", "line 3: the box 0, -3, 8, 10 lies more than 1 px outside"),
        ("a.jpg,5,5,5,9", "line 3: 5, 5, 5, 9 is no box"),
        ("a.jpg,9,5,5,9", "line 3: 9, 5, 5, 9 is no box"),
        ("a.jpg,0,0,nan,9", "line 3: 0, 0, nan, 9 is no box"),
        ("other.jpg,0,0,inf,9", "line 3: 0, 0, inf, 9 is no box"),
        ("a.jpg,0,0,x,9", "boxes.csv"),
        ("a.jpg,0,0,5", "boxes.csv"),
        ("a.jpg,0,0,5,", "line 3: y2 is empty"),
    ],
)
def test_what_is_no_box_of_its_image_is_told_by_its_line(row: str, said: str, tmp_path: Path) -> None:
    assert said in refused(tmp_path, HEADER, "a.jpg,0,0,5,5", row)


def test_boxes_of_images_that_the_data_lack_may_be_anywhere(tmp_path: Path) -> None:
    assert read(tmp_path, HEADER, "a.jpg,0,0,80.9,60.9", "other.jpg,0,0,900,900").unused == 1


def test_what_is_not_such_a_table_is_told(tmp_path: Path) -> None:
    assert "no column y2; the header must be image,x1,y1,x2,y2" in refused(tmp_path, "image,x1,y1,x2", "a.jpg,0,0,5")
    assert "no column image and x1" in refused(tmp_path, "file,left,y1,x2,y2", "a.jpg,0,0,5,5")
    assert "not nothing" in refused(tmp_path, "")
    assert "has a header but no row" in refused(tmp_path, HEADER)
    said = refused(tmp_path, HEADER, "/photos/a.jpg,0,0,5,5")
    assert "none of the 1 images" in said and "/photos/a.jpg" in said and "a.jpg, deep/b.jpg, ..." in said
    assert "score is not a finite number" in refused(tmp_path, HEADER + ",score", "a.jpg,0,0,5,5,nan")
    with pytest.raises(UserError, match="cannot read"):
        read_table(tmp_path / "no.csv", KEYS, SIZES)
    (tmp_path / "bytes.csv").write_bytes(b"image,\xff\xfe")
    with pytest.raises(UserError, match="cannot read"):
        read_table(tmp_path / "bytes.csv", KEYS, SIZES)


def test_only_ten_wrong_lines_are_shown(tmp_path: Path) -> None:
    said = refused(tmp_path, HEADER, *["a.jpg,5,5,5,9"] * 25)
    assert len(said.splitlines()) == 11 and "15 more, 25 in all" in said
