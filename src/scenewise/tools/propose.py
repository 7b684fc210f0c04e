"""Object proposals of a data set, made once and kept in a file that any run can cut its views by."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scenewise.engine import proposing
from scenewise.engine.display import Display, Quiet
from scenewise.engine.proposed import LABELS
from scenewise.engine.proposing import Made
from scenewise.engine.proposing_files import check_out
from scenewise.engine.run import AUTO_GENERATOR, open_with_display
from scenewise.errors import UserError, unknown_name
from scenewise.hardware import cores
from scenewise.proposals.base import Generator
from scenewise.proposals.generators import GENERATORS, check_options, make_generator
from scenewise.proposals.kept import LIMIT
from scenewise.proposals.table import FIELD, Table, read_table
from scenewise.sources import Source, parse_spec
from scenewise.views.opencv import check_opencv
from scenewise.wording import counted


def propose(
    data: str,
    *,
    out: str | Path,
    generator: str = AUTO_GENERATOR,
    keep: int = LIMIT,
    seed: int = 0,
    workers: int | None = None,
    bing_model: str | Path | None = None,
    like: str | Path | None = None,
    boxes: str | Path | None = None,
    mode: str | None = None,
    working_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Made:
    """Make object proposals once and keep them in a file (`scenewise propose`); `.to_json()` gives the command's JSON.

    generator: a name of `proposals.generators`, `table` for boxes made elsewhere (boxes: the table, see `read_table`),
    or `labels` for the labelled boxes (for ablations only). keep: boxes of an image at most. bing_model: the folder of
    BING's model. like: a proposal file whose box sizes the generator `random` takes. mode, working_size (pixels of the
    shorter side, 0 for the full photo): of `selective-search`. workers: one a core by default. Raises UserError for
    wrong input, before any work, and Interrupted once all that is done is kept, for `resume`.
    """
    display, out = display or Quiet(), Path(out)
    check_opencv()
    check_out(out, resume=resume, overwrite=overwrite)
    if keep < 1:
        raise UserError(f"--keep: {keep} must be at least 1 box an image")
    made_by: Generator | Table | None = None
    if generator in GENERATORS:
        made_by = make_generator(
            generator,
            bing_model=None if bing_model is None else Path(bing_model),
            like=None if like is None else Path(like),
            mode=mode,
            working_size=working_size,
        )
    elif generator not in (LABELS, Table.name):
        raise UserError(unknown_name("--generator", generator, (*GENERATORS, LABELS, Table.name)))
    options = {"bing_model": bing_model, "like": like, "mode": mode, "working_size": working_size, FIELD: boxes}
    check_options(generator, options)
    if generator == Table.name and boxes is None:
        raise UserError(f"{FIELD}: 'table' needs the boxes; add {FIELD} FILE, a table image,x1,y1,x2,y2")
    parse_spec(data)
    source = open_with_display(data, display, reindex=reindex)
    for note in source.notes:
        display.say(f"note: {note}")
    if generator == LABELS:
        display.warn("the boxes are LABELLED ones (--generator labels): for ablations only")
    if boxes is not None:
        made_by = _table(Path(boxes), source, display)
    return proposing.propose(
        source,
        out,
        made_by,
        limit=keep,
        seed=seed,
        workers=cores() if workers is None else workers,
        resume=resume,
        overwrite=overwrite,
        display=display,
    )


def _table(file: Path, source: Source, display: Display) -> Table:
    """Return the boxes of a table for the images of a source, and say what is left over of it."""
    keys, sizes = list[str](), np.empty((len(source), 2), np.int64)
    for index in range(len(source)):  # one record at a time: there may be a million
        record = source[index]
        keys.append(record.key)
        sizes[index] = record.size
    table = read_table(file, keys, sizes)
    if table.unused:
        display.say(f"note: {file} names {counted(table.unused, 'image')} that {source.spec} does not have")
    return table
