"""The proposal file: what is written is read, by row and by key; what cannot be right is refused in words."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from scenewise.errors import UserError
from scenewise.proposals import store as store_module
from scenewise.proposals.rows import SCHEMA, Row, record_batch
from scenewise.proposals.store import ROWS, Origin, Store, check_row, read_header, write_store

Rows = Callable[[int], list[Row]]
MakeOrigin = Callable[..., Origin]


def same(first: Row, second: Row) -> bool:
    named = (first.key, first.size, first.scores is None) == (second.key, second.size, second.scores is None)
    scores = first.scores is None or second.scores is None or np.array_equal(first.scores, second.scores)
    return named and scores and np.array_equal(first.boxes, second.boxes)


def written(file: Path, rows: list[Row], origin: Origin) -> Store:
    write_store(file, origin, rows)
    return Store(file)


@pytest.mark.parametrize("count", [1, ROWS - 1, ROWS, 2 * ROWS + 3])
def test_what_is_written_is_read(tmp_path: Path, rows: Rows, origin: MakeOrigin, count: int) -> None:
    given = rows(count)
    store = written(tmp_path / "p.arrow", given, origin(images=count))
    store.check()
    assert len(store) == count
    assert all(same(store[number], row) for number, row in enumerate(given))
    assert store.sizes().tolist() == [list(row.size) for row in given]
    assert [path.name for path in tmp_path.iterdir()] == ["p.arrow"]
    for number in (-1, count):
        with pytest.raises(IndexError):
            store[number]


def test_the_columns_are_those_of_the_contract(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    written(tmp_path / "p.arrow", rows(5), origin(images=5))
    with pa.memory_map(str(tmp_path / "p.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    assert table.column_names == ["key", "height", "width", "boxes", "scores"]
    for row, expected in zip(table.to_pylist(), rows(5), strict=True):
        assert row["boxes"] == expected.boxes.tolist()
        assert row["scores"] == (None if expected.scores is None else expected.scores.tolist())


def test_the_header_counts_and_measures(tmp_path: Path, origin: MakeOrigin) -> None:
    ten = np.array([[0, 0, 10, 10]] * 10, np.int32)
    rows = [
        Row("a", (100, 50), np.concatenate([ten, [[0, 0, 50, 100]]]).astype(np.int32), None),  # the 11th is not one
        Row("b", (10, 10), np.empty((0, 4), np.int32), None),
        Row("c", (10, 20), np.array([[0, 0, 20, 10], [0, 0, 10, 10]], np.int32), None),
    ]
    header = write_store(tmp_path / "p.arrow", origin(images=3), rows)
    assert header == read_header(tmp_path / "p.arrow")
    assert (header.boxes, header.images_without_boxes) == (13, 1)
    assert header.mean_area == pytest.approx((100 / 5000 + (1 + 0.5) / 2) / 2)
    assert header.unreadable == 0
    empty = write_store(tmp_path / "q.arrow", origin(images=1), [rows[1]._replace(reason="truncated")])
    assert (empty.boxes, empty.images_without_boxes, empty.unreadable, empty.mean_area) == (0, 1, 1, 1.0)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    for name in ("one", "two"):
        write_store(tmp_path / name, origin(images=300), rows(300))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_large_file_is_mapped_and_not_copied(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    given = rows(10_000)
    write_store(tmp_path / "p.arrow", origin(images=10_000), given)
    before = pa.total_allocated_bytes()
    store = Store(tmp_path / "p.arrow")
    packed = pickle.dumps(store)
    other = pickle.loads(packed)
    assert same(other[9_876], given[9_876])
    assert pa.total_allocated_bytes() - before < 10_000  # of a file of 1.5 MB
    assert len(packed) < 500


def test_keys_are_found_and_missing_ones_said(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    store = written(tmp_path / "p.arrow", rows(600), origin(images=600))
    keys = ["deep/00599.jpg", "elsewhere.jpg", "deep/00000.jpg", "deep/00257.jpg", "deep/00000.jpg"]
    assert store.find(keys).tolist() == [599, -1, 0, 257, 0]
    assert store.find([]).tolist() == []


def test_a_file_that_was_replaced_is_not_the_one_that_was_opened(
    tmp_path: Path, rows: Rows, origin: MakeOrigin
) -> None:
    store = written(tmp_path / "p.arrow", rows(3), origin(images=3))
    packed = pickle.dumps(store)
    write_store(tmp_path / "p.arrow", origin(images=4), rows(4))
    with pytest.raises(UserError, match="was replaced while it was in use"):
        pickle.loads(packed)
    assert len(store) == 3  # what is open stays what it was
    assert same(store[2], rows(3)[2])


def foreign(file: Path, batch: pa.RecordBatch, origin: Origin, **changes: Any) -> Path:
    """Write a record batch as somebody else's program may have done."""
    header = {"format": 1, "images_without_boxes": 0, "unreadable": 0, "boxes": 1, "mean_area": 0.5, **changes}
    content = {"origin": {name: getattr(origin, name) for name in Origin.__slots__}, **header}
    schema = batch.schema.with_metadata({"scenewise": json.dumps(content)})
    with pa.ipc.new_file(str(file), schema) as writer:
        writer.write_batch(batch)
    return file


def one(box: list[int], scores: np.ndarray | None = None, *, key: str = "a.jpg") -> pa.RecordBatch:
    return record_batch([Row(key, (30, 40), np.array([box], np.int32), scores)])


@pytest.mark.parametrize(
    ("box", "why"),
    [
        ([10, 10, 5, 20], "reversed"),
        ([10, 10, 10, 20], "empty"),
        ([-1, 0, 5, 5], "reaches outside"),
        ([0, 0, 41, 5], "reaches outside"),
        ([0, 0, 5, 31], "reaches outside"),
    ],
)
def test_boxes_that_cannot_be_are_refused_by_name(tmp_path: Path, origin: MakeOrigin, box: list[int], why: str) -> None:
    good = Row("fine.jpg", (30, 40), np.array([[0, 0, 40, 30], [1, 1, 2, 2]], np.int32), None)
    bad = Row("a.jpg", (30, 40), np.array([[0, 0, 1, 1], box], np.int32), None)
    none = Row("empty.jpg", (30, 40), np.empty((0, 4), np.int32), None)
    store = Store(foreign(tmp_path / "p.arrow", record_batch([good, none, bad]), origin(images=3)))
    with pytest.raises(UserError) as caught:
        store.check()
    told = str(caught.value)
    assert str(box) in told
    assert "a.jpg (40 x 30 pixels)" in told
    assert why in told
    assert check_row(good) is None and check_row(none) is None
    assert "a.jpg has boxes that are empty, reversed or reach outside of its 40 x 30 pixels" in str(check_row(bad))


def test_of_a_long_file_rows_from_all_over_it_are_checked(
    tmp_path: Path, rows: Rows, origin: MakeOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "ROWS", 1)
    seen: list[int] = []
    monkeypatch.setattr(store_module, "find_problem", lambda batch: seen.append(batch.num_rows))
    store = written(tmp_path / "p.arrow", rows(12), origin(images=12))
    for most, count in ((100, 12), (12, 12), (6, 6), (4, 4), (1, 1)):
        seen.clear()
        store.check(most=most)
        assert len(seen) == count


def test_values_that_cannot_be_are_refused(tmp_path: Path, origin: MakeOrigin) -> None:
    box = [0, 0, 5, 5]
    cases = {
        "not a finite number": one(box, np.array([np.nan], np.float32)),
        "1 boxes and 2 scores": one(box, None).set_column(4, SCHEMA.field(4), pa.array([[1.0, 2.0]], SCHEMA[4].type)),
        "a value is missing": one(box).set_column(0, SCHEMA.field(0), pa.array([None], pa.string())),
        "has no size": one(box).set_column(1, SCHEMA.field(1), pa.array([0], pa.int32())),
        "score is missing": one(box).set_column(4, SCHEMA.field(4), pa.array([[None]], SCHEMA[4].type)),
    }
    boxes = SCHEMA[3].type
    for lost in ([None], [[None]], [[[1, None, 3, 4]]]):
        cases[f"a value is missing{'':{len(cases)}}"] = one(box).set_column(3, SCHEMA.field(3), pa.array(lost, boxes))
    for message, batch in cases.items():
        store = Store(foreign(tmp_path / "p.arrow", batch, origin(images=1)))
        with pytest.raises(UserError, match=message.strip()):
            store.check()


def test_what_is_no_proposal_file_is_told_so(tmp_path: Path, origin: MakeOrigin) -> None:
    file = tmp_path / "p.arrow"
    with pytest.raises(UserError, match=r"data\.proposals: no such file.*scenewise propose DATA --out"):
        read_header(file)
    with pytest.raises(UserError, match="--like: no such file"):
        read_header(file, field="--like")
    with pytest.raises(UserError, match="is a folder"):
        read_header(tmp_path)
    for content in (b"", b"PAR1 something else"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="no Arrow IPC file"):
            read_header(file)
    table = pa.table({"key": ["a"], "boxes": [[[1.0, 2.0, 3.0, 4.0]]]})
    with pa.ipc.new_file(str(file), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match="other columns"):
        read_header(file)
    with pa.ipc.new_file(str(file), SCHEMA) as writer:
        writer.write_batch(one([0, 0, 1, 1]))
    with pytest.raises(UserError, match="no header"):
        read_header(file)
    for changes, message in (
        ({"format": 2}, "is of format 2, this version reads 1"),
        ({"boxes": "many"}, "damaged one"),
        ({"mean_area": 0.0}, "a mean area of 0.0"),
    ):
        with pytest.raises(UserError, match=message):
            read_header(foreign(file, one([0, 0, 1, 1]), origin(images=1), **changes))
    with pytest.raises(UserError, match="its rows are not the 2 of its header"):
        read_header(foreign(file, one([0, 0, 1, 1]), origin(images=2)))


def test_a_file_that_is_cut_off_is_told_so_wherever_it_ends(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    whole = tmp_path / "whole.arrow"
    write_store(whole, origin(images=300), rows(300))
    length = whole.stat().st_size
    for end in (7, 100, length // 2, length - 1):
        cut = tmp_path / "cut.arrow"
        shutil.copy(whole, cut)
        with cut.open("r+b") as file:
            file.truncate(end)
        with pytest.raises(UserError, match=r"cut off or damaged; make it anew with .*--overwrite"):
            Store(cut)


def test_damage_inside_never_goes_unseen_or_crashes(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    """Every stretch of the file overwritten in turn: an error in words, or boxes that can still be."""
    whole = tmp_path / "whole.arrow"
    write_store(whole, origin(images=3), rows(3))
    content = whole.read_bytes()
    for start in range(0, len(content), 40):
        damaged = tmp_path / "damaged.arrow"
        damaged.write_bytes(content[:start] + b"\xff" * 8 + content[start + 8 :])
        try:
            store = Store(damaged)
            store.check()
            assert all(len(store[number].boxes) >= 0 for number in range(3))
        except UserError as error:
            assert len(str(error).splitlines()) <= 2


def test_a_disk_that_refuses_leaves_the_former_file(
    tmp_path: Path, rows: Rows, origin: MakeOrigin, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "p.arrow"
    write_store(file, origin(images=2), rows(2))
    before = file.read_bytes()

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"):
        write_store(file, origin(images=3), rows(3))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["p.arrow"]
