"""What was found about several subjects on the same images: as a table, in words, as a page, as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scenewise.evaluate.evaluation import Evaluation
from scenewise.report.compare_page import ComparePage
from scenewise.report.differences import Difference, sentences
from scenewise.report.records import ComparisonTable, percent

SEEDS = (
    "The intervals say how figures and differences vary with the test images; how they vary with the seed of a "
    "training, or of a protocol, is not in them."
)
SINGLE = (
    "Each interval stands for itself: of twenty figures in which two subjects do not differ, about one looks decided."
)
COUNTS = ("classes", "train_images", "test_images")  # those the page shows


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What was found about several subjects on the same images.

    against: the subject that the others are compared to. tested_on: the test images. differences: of all figures that
    both subjects have. notes: on the comparison as a whole. published: subject -> how its published weights are called.
    """

    evaluations: tuple[Evaluation, ...]
    against: str
    tested_on: str
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    published: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `scenewise compare --json` writes."""
        return {
            "subjects": [evaluation.to_json() for evaluation in self.evaluations],
            "differences": [difference.to_json() for difference in self.differences],
            "notes": list(self.notes),
        }

    def table(self) -> ComparisonTable:
        """Return all figures side by side; a note that not all subjects share is given its subject's name."""
        table = ComparisonTable.from_results([evaluation.to_json() for evaluation in self.evaluations])
        return dataclasses.replace(table, notes=tuple(_notes(self.evaluations)))

    def sentences(self) -> list[str]:
        """Return in words what the differences in each protocol's main figure say."""
        return main_sentences(self.table(), self.differences, self.published)

    def to_markdown(self) -> str:
        """Return the table, the sentences and the notes."""
        table = self.table()
        told = [f"- {sentence}" for sentence in self.sentences()]
        notes = [f"- {note}" for note in (SEEDS, *self.notes, *table.notes)]
        parts = [comparison_markdown(self.evaluations), "\n".join(told), "Notes\n\n" + "\n".join(notes)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def facts(self) -> list[tuple[str, str]]:
        """Return what all subjects have in common, as (name, value)."""
        first = self.evaluations[0]
        counts = [(name.replace("_", " "), first.counts.get(name)) for name in COUNTS]
        return [
            ("learnt on", first.data),
            ("tested on", self.tested_on),
            *((name, f"{number:,}") for name, number in counts if number is not None),
            ("seed", str(first.seed)),
            ("bootstrap resamples", f"{first.resamples:,}"),
            ("compared to", self.against),
        ]

    def page(self) -> ComparePage:
        """Return what the page shows."""
        table = self.table()
        return ComparePage(
            title=f"Comparison on {table.data}",
            facts=self.facts(),
            sentences=self.sentences(),
            table=table,
            differences=self.differences,
            remarks=self.notes,
            reading=(SEEDS, SINGLE),
        )


def main_sentences(
    table: ComparisonTable, differences: Sequence[Difference], published: Mapping[str, str]
) -> list[str]:
    """Return in words what the differences in each protocol's main figure say; published: see `Comparison`."""
    main = set(table.main().columns)
    return sentences([each for each in differences if (each.protocol, each.metric) in main], published)


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
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the notes of all subjects: one that they all have once, any other behind the name of its subject."""
    shared = [note for note in evaluations[0].notes if all(note in other.notes for other in evaluations)]
    own = [f"{found.subject}: {note}" for found in evaluations for note in found.notes if note not in shared]
    return [*shared, *own]
