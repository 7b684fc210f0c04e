"""Several subjects judged alike on the same images: one table, and the differences that count."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scenewise.backbones import Subject, load_subject
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import writing
from scenewise.errors import MissingError, UserError, unknown_name
from scenewise.evaluate.evaluation import Evaluation, differences
from scenewise.evaluate.run import check_exam
from scenewise.report.compare_page import ComparePage, write_comparison
from scenewise.report.differences import Difference, sentences
from scenewise.report.records import ComparisonTable, Interval, percent
from scenewise.sources import Source
from scenewise.tools.judge import Terms, check_names, judge_subject, open_splits

PUBLISHED = ("timm:", "torchvision:")  # subjects that anyone can have for nothing
SEEDS = (
    "The intervals say how figures and differences vary with the test images; how they vary with the seed of a "
    "training, or of a protocol, is not in them."
)
SINGLE = (
    "Each interval stands for itself: of twenty figures in which two subjects do not differ, about one looks decided."
)
COUNTS = ("classes", "train_images", "test_images")  # those the page shows
_IMAGENET = re.compile("in1k|in12k|in21k|in22k|imagenet", re.IGNORECASE)  # in the names of published weights


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


def compare_subjects(
    subjects: Sequence[str],
    data: str,
    terms: Terms,
    *,
    test_data: str | None = None,
    against: str | None = None,
    skip_missing: bool = False,
    html: Path | None = None,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Comparison:
    """Judge every subject on the same images and return their figures and differences; `html`: also as a page.

    against: the subject that the others are compared to, the first by default; every subject is compared to published
    weights too, where there are any. skip_missing: subjects whose weights are not on this machine are left out, and a
    note says so. Raises UserError for wrong input, before any image is read; all missing subjects are named at once.
    """
    display = display or Quiet()
    _all_at_once(
        lambda: check_names(terms, data, test_data),
        lambda: _check_subjects(subjects, against),
        lambda: _check_html(html, overwrite=overwrite),
    )
    loaded, left_out = load_all(subjects, terms, skip_missing=skip_missing)
    train, test = open_splits(data, test_data, display, reindex=reindex)
    chosen = terms.choose()
    _all_at_once(*(lambda subject=subject: check_exam(terms.exam(subject, train, test), chosen) for subject in loaded))
    evaluations = tuple(_judge_all(loaded, train, test, terms, display))
    names = [subject.name for subject in loaded]
    reference = against if against in names else names[0]
    published = {subject.name: name for subject in loaded if (name := published_name(subject)) is not None}
    with display.bar("comparing", None):
        found = tuple(paired_differences(evaluations, _pairs(names, reference, published)))
    told = _reference_note(subjects, against, reference)
    comparison = Comparison(
        evaluations=evaluations,
        against=reference,
        tested_on=test.spec,
        differences=found,
        notes=(*left_out, *told, *size_notes(loaded)),
        published=published,
    )
    if html is not None:
        with writing(html):
            write_comparison(html, comparison.page())
    return comparison


def main_sentences(
    table: ComparisonTable, differences: Sequence[Difference], published: Mapping[str, str]
) -> list[str]:
    """Return in words what the differences in each protocol's main figure say; published: see `Comparison`."""
    main = set(table.main().columns)
    return sentences([each for each in differences if (each.protocol, each.metric) in main], published)


def load_all(subjects: Sequence[str], terms: Terms, *, skip_missing: bool) -> tuple[list[Subject], list[str]]:
    """Return the subjects, and a note on each that is left out; UserError for all that cannot be loaded."""
    loaded: list[Subject] = []
    notes: list[str] = []
    problems: list[str] = []
    for name in subjects:
        try:
            loaded.append(load_subject(name, seed=terms.seed, size=terms.size))
        except MissingError as error:
            (notes if skip_missing else problems).extend(f"{name}: {problem}" for problem in error.problems)
        except UserError as error:
            problems += [f"{name}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*problems)
    if not loaded:
        raise UserError(*notes, "compare: the weights of no subject are on this machine")
    return loaded, [f"left out: {note}" for note in notes]


def published_name(subject: Subject) -> str | None:
    """Return what a subject's published weights are called, None when they are not published ones."""
    if not subject.name.startswith(PUBLISHED):
        return None
    return "ImageNet weights" if _IMAGENET.search(subject.backbone.weights.method) else "published weights"


def size_notes(subjects: Sequence[Subject]) -> list[str]:
    """Say when subjects see images of different sizes."""
    seen = {subject.name: subject.size for subject in subjects}
    if len(set(seen.values())) < 2:
        return []
    sizes = ", ".join(f"{name} {size} px" for name, size in seen.items())
    return [f"the subjects see images of different sizes ({sizes}); --size makes them equal"]


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


def _check_subjects(subjects: Sequence[str], against: str | None) -> None:
    problems = []
    if len(subjects) < 2:
        problems.append("compare: name at least two subjects; `scenewise evaluate` judges one")
    first: dict[str, str] = {}
    for subject in subjects:
        same = str(Path(subject).resolve()) if Path(subject).exists() else subject
        if same in first:
            also = "" if first[same] == subject else f" ({first[same]!r} is the same)"
            problems.append(f"compare: {subject!r} is named twice{also}; name each subject once")
        first.setdefault(same, subject)
    if against is not None and against not in subjects:
        problems.append(f"{unknown_name('--against', against, subjects)}; it must be one of the subjects")
    if problems:
        raise UserError(*problems)


def _check_html(html: Path | None, *, overwrite: bool) -> None:
    if html is None:
        return
    if html.is_dir() or not html.absolute().parent.is_dir():
        raise UserError(f"--html: cannot write {str(html)!r}; name a file in a folder that exists")
    if html.exists() and not overwrite:
        raise UserError(f"--html: {str(html)!r} exists; name another file or replace it with --overwrite")


def _all_at_once(*checks: Callable[[], object]) -> None:
    """Run every check; UserError holds the problems of all, each once."""
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _judge_all(
    subjects: Sequence[Subject], train: Source, test: Source, terms: Terms, display: Display
) -> list[Evaluation]:
    found = []
    for number, subject in enumerate(subjects, start=1):
        title = f"evaluating {subject.name} ({number} of {len(subjects)})"
        try:
            found.append(judge_subject(subject, train, test, terms, display=display, title=title))
        except UserError as error:
            raise UserError(*(f"{subject.name}: {problem}" for problem in error.problems)) from error
    return found


def _pairs(names: Sequence[str], against: str, published: Collection[str]) -> list[tuple[str, str]]:
    """Return every subject with the reference, then every other subject with each published one."""
    pairs = [(name, against) for name in names if name != against]
    return pairs + [
        (name, other) for other in published for name in names if name not in published and against not in (name, other)
    ]


def paired_differences(evaluations: Sequence[Evaluation], pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """Return first minus second of each pair of subjects, in every figure that both have."""
    known = {evaluation.subject: evaluation for evaluation in evaluations}
    return [
        Difference(
            first=first,
            second=second,
            protocol=protocol,
            metric=metric,
            interval=Interval(value=figure.value, low=figure.low, high=figure.high),
        )
        for first, second in pairs
        for protocol, figures in differences(known[first], known[second]).items()
        for metric, figure in figures.items()
    ]


def _reference_note(subjects: Sequence[str], against: str | None, reference: str) -> list[str]:
    wanted = subjects[0] if against is None else against
    return [] if wanted == reference else [f"{wanted} is left out, so the others are compared to {reference}"]


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the notes of all subjects: one that they all have once, any other behind the name of its subject."""
    shared = [note for note in evaluations[0].notes if all(note in other.notes for other in evaluations)]
    own = [f"{found.subject}: {note}" for found in evaluations for note in found.notes if note not in shared]
    return [*shared, *own]
