"""Several evaluations side by side, as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from scenewise.evaluate.evaluation import Evaluation
from scenewise.report.records import ComparisonTable, percent


def comparison_markdown(results: Sequence[Evaluation]) -> str:
    """Return one row a subject and one column a figure of the whole set, in percent with 95 % intervals."""
    table = ComparisonTable.from_results([result.to_json() for result in results]).whole()
    names = [f"{protocol} {metric} (%)" for protocol, metric in table.columns]
    lines = [_row(["subject", *names]), _row(["---", *("---:" for _ in names)])]
    for subject in table.subjects:
        cells = [table.cells.get((subject, *column)) for column in table.columns]
        lines.append(_row([subject, *("-" if cell is None else percent(cell) for cell in cells)]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
