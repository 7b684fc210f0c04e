"""Rows on their way: kept through a kill at any byte, and never written by two processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.proposals.partial import Partial, start_partial
from scenewise.proposals.rows import Row
from scenewise.proposals.store import Origin, write_store

Rows = Callable[[int], list[Row]]
MakeOrigin = Callable[..., Origin]


def test_rows_are_kept_in_order_with_their_reasons(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    given = rows(7)
    given[3] = given[3]._replace(boxes=np.empty((0, 4), np.int32), scores=None, reason="truncated")
    partial = start_partial(tmp_path / "p.partial", origin(images=9))
    assert (len(partial), list(partial)) == (0, [])
    partial.append(given[:5])
    partial.append([])
    partial.append(given[5:])
    partial.close()
    again = Partial(tmp_path / "p.partial")
    assert again.origin == origin(images=9)
    assert len(again) == 7
    assert [(row.key, row.reason) for row in again] == [(row.key, row.reason) for row in given]
    again.close()


def test_a_torn_end_is_dropped_wherever_it_is_torn(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    path, given = tmp_path / "p.partial", rows(6)
    partial = start_partial(path, origin(images=6))
    ends = [path.stat().st_size]
    for start in (0, 2, 4):
        partial.append(given[start : start + 2])
        ends.append(path.stat().st_size)
    partial.close()
    whole = path.read_bytes()
    write_store(tmp_path / "reference", origin(images=6), given)
    about = [mark + offset for mark in ends for offset in (-1, 0, 1)][1:-1]
    for end in (*range(ends[0], ends[-1], 101), *about):
        path.write_bytes(whole[:end])
        partial = Partial(path)
        kept = 2 * (sum(end >= mark for mark in ends) - 1)
        assert len(partial) == kept, end
        partial.append(given[kept:])
        assert [row.key for row in partial] == [row.key for row in given], end
        partial.close()
    partial = Partial(path)
    write_store(tmp_path / "resumed", partial.origin, partial)
    partial.close()
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "reference").read_bytes()


def test_a_length_without_its_content_is_torn_too(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    """A power cut can leave zeros where the content should be."""
    path, given = tmp_path / "p.partial", rows(40)
    partial = start_partial(path, origin(images=40))
    partial.append(given[:20])
    end = path.stat().st_size
    partial.append(given[20:])
    partial.close()
    whole = path.read_bytes()
    for start in (end, end + 600):  # before the batch's head, and after it
        path.write_bytes(whole[:start] + bytes(len(whole) - start))
        partial = Partial(path)
        assert len(partial) == 20
        assert path.stat().st_size == end
        partial.close()


def test_two_processes_never_write_one_file(tmp_path: Path, origin: MakeOrigin) -> None:
    path = tmp_path / "p.partial"
    partial = start_partial(path, origin())

    def refused(begin: Callable[[], Partial]) -> None:
        try:
            begin()
        except UserError as error:
            os._exit(7 if "another process is making" in str(error) else 1)

    for begin in (lambda: Partial(path), lambda: start_partial(path, origin())):
        list(partial)  # reading lets go of nothing
        other = multiprocessing.get_context("fork").Process(target=refused, args=(begin,))
        other.start()
        other.join()
        assert other.exitcode == 7
    partial.close()
    start_partial(path, origin()).close()


def test_other_files_are_refused(tmp_path: Path, rows: Rows, origin: MakeOrigin) -> None:
    path = tmp_path / "p.partial"
    for content in (b"", b"something else"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="begin anew with --overwrite"):
            Partial(path)
    write_store(path, origin(images=2), rows(2))
    with pytest.raises(UserError, match="begin anew with --overwrite"):
        Partial(path)
