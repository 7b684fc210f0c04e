"""Columns of a table of comma-separated values, read all at once; what is wrong with them is named by its line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv

from scenewise.errors import Problems, UserError


def read_columns(
    file: Path, options: pa.csv.ConvertOptions, *, field: str, needed: Iterable[str], hint: str = ""
) -> pa.Table:
    """Return the columns that `options` include, each dictionary the same in all its chunks.

    UserError, which begins with `field`, for a file that is not such a table (followed by `hint`) and for an empty
    value in a `needed` column.
    """
    try:
        rows = pa.csv.read_csv(file, convert_options=options)
    except (pa.ArrowException, OSError) as first:
        message = str(first)
        try:  # one thread knows the number of the row
            pa.csv.read_csv(file, convert_options=options, read_options=pa.csv.ReadOptions(use_threads=False))
        except (pa.ArrowException, OSError) as second:
            message = str(second)
        raise UserError(f"{field}: {file}: {message.strip()}{hint}") from None
    problems = Problems()
    for name in needed:
        if rows[name].null_count:
            line = pa.compute.index(rows[name].is_null(), True).as_py() + 2
            problems.add(f"{field}: {file}, line {line}: {name} is empty")
    problems.check()
    return rows.unify_dictionaries()
