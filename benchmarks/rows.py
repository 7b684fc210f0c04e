"""What every benchmark hands over: rows of one table, each a figure beside another that was measured in the same run.

A benchmark is a file of this folder with a function `rows(*, quick: bool) -> list[Row]`. Its contestants take turns
(`take_turns`), so that what else the machine does meets all of them; ratios are taken turn by turn.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One figure of one benchmark.

    group: under which conditions, the same for all that are compared. name: what was measured.
    figure, low, high: median, lowest and highest over the turns, in `unit`.
    ratio, ratio_low, ratio_high: figure divided by that of `compared`, median, lowest and highest over the turns; None
    for what the others are compared with. goal: what the ratio (or the figure) should be, "" where there is no goal.
    """

    group: str
    name: str
    unit: str
    figure: float
    low: float
    high: float
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    compared: str = ""
    goal: str = ""


def take_turns(
    work: Mapping[str, Callable[[], object]], *, rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Return name -> seconds of each turn; all take one turn first that is not counted.

    The default clock counts the processor's time for this process: on a shared machine others do not count then. It
    adds up threads, so what is timed with it runs on one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, run in work.items():
            start = clock()
            run()
            if turn:
                seconds[name].append(clock() - start)
    return seconds


def rates(seconds: Mapping[str, Sequence[float]], count: int) -> dict[str, list[float]]:
    """Return name -> things a second of each turn, where a turn handled `count` of them."""
    return {name: [count / value for value in values] for name, values in seconds.items()}


def compare(
    group: str,
    figures: Mapping[str, Sequence[float]],
    *,
    against: str,
    unit: str,
    goals: Mapping[str, str] | None = None,
) -> list[Row]:
    """Return a row for each name -> figures of its turns, beside those of `against` in the same turn."""
    return [
        row(
            group,
            name,
            values,
            unit=unit,
            base=None if name == against else figures[against],
            compared="" if name == against else against,
            goal=(goals or {}).get(name, ""),
        )
        for name, values in figures.items()
    ]


def row(
    group: str,
    name: str,
    values: Sequence[float],
    *,
    unit: str,
    base: Sequence[float] | None = None,
    compared: str = "",
    goal: str = "",
) -> Row:
    """Return the row of one thing's figures, turn by turn beside those of `base` where there is one."""
    plain = Row(
        group=group,
        name=name,
        unit=unit,
        figure=statistics.median(values),
        low=min(values),
        high=max(values),
        goal=goal,
    )
    if base is None:
        return plain
    ratios = [value / other for value, other in zip(values, base, strict=True)]
    return dataclasses.replace(
        plain, ratio=statistics.median(ratios), ratio_low=min(ratios), ratio_high=max(ratios), compared=compared
    )


def table(rows: Iterable[Row]) -> str:
    """Return the rows as text: a line for each group, a line for each of its rows."""
    rows = list(rows)
    lines = [_cells(each) for each in rows]
    heads = ("", "figure", "spread", "ratio", "spread", "to", "goal")
    widths = [max(len(line[place]) for line in (heads, *lines)) for place in range(len(heads))]
    told, group = [_line(heads, widths)], ""
    for each, line in zip(rows, lines, strict=True):
        if each.group != group:
            told.append(each.group)
        group = each.group
        told.append(_line(line, widths))
    return "\n".join(told)


def _cells(row: Row) -> tuple[str, ...]:
    spread = f"{_short(row.low)} to {_short(row.high)}"
    if row.ratio is None or row.ratio_low is None or row.ratio_high is None:
        beside = ("", "", "")
    else:
        beside = (f"{_short(row.ratio)} x", f"{_short(row.ratio_low)} to {_short(row.ratio_high)}", row.compared)
    return f"  {row.name}", f"{_short(row.figure)} {row.unit}", spread, *beside, row.goal


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    words = (0, 5, 6)  # stand on the left, numbers on the right
    columns = enumerate(zip(cells, widths, strict=True))
    return "  ".join(text.ljust(width) if at in words else text.rjust(width) for at, (text, width) in columns).rstrip()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def run_alone(rows: Callable[..., list[Row]], description: str | None, *, files: int | None = None) -> None:
    """Run one benchmark as a command: `--quick` for a first look, `--json FILE` for the rows beside the table.

    files: of a benchmark that makes photos, how many at most, unless `--files` says otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    parser.add_argument("--json", type=Path)
    if files is not None:
        parser.add_argument("--files", type=int, default=files, help="photos at most")
    options = parser.parse_args()
    found = rows(quick=options.quick) if files is None else rows(quick=options.quick, files=options.files)
    print(table(found))
    if options.json:
        write(options.json, found)


def write(file: Path, rows: Iterable[Row], **facts: object) -> None:
    """Write the rows, and facts about the run before them, as JSON."""
    content = {**facts, "rows": [dataclasses.asdict(each) for each in rows]}
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
