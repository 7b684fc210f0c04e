"""Several subjects judged alike on the same images: one table, and the differences that count."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from scenewise.backbones import Subject, load_subject
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import writing
from scenewise.errors import MissingError, UserError, all_at_once, unknown_name
from scenewise.evaluate.evaluation import Evaluation, differences
from scenewise.evaluate.run import check_exam
from scenewise.outputs import check_output
from scenewise.report.compare_page import write_comparison
from scenewise.report.differences import Difference
from scenewise.report.records import Interval
from scenewise.sources import Source
from scenewise.tools.comparison import Comparison
from scenewise.tools.judge import (
    PROTOCOL,
    Terms,
    check_names,
    judge_subject,
    open_splits,
    protocol_names,
    protocol_options,
)

PUBLISHED = ("timm:", "torchvision:")  # subjects that anyone can have for nothing
_IMAGENET = re.compile("in1k|in12k|in21k|in22k|imagenet", re.IGNORECASE)  # in the names of published weights


def compare(
    subjects: Sequence[str | Path],
    *,
    data: str,
    test_data: str | None = None,
    protocol: str | Sequence[str] = PROTOCOL,
    against: str | Path | None = None,
    skip_missing: bool = False,
    html: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    min_positives: int = 1,
    epochs: int | None = None,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Comparison:
    """Evaluate several subjects alike (`scenewise compare`); `.to_json()` gives the command's JSON.

    against: the subject that the others are compared to, the first by default; every subject is compared to published
    weights too, where there are any. skip_missing: subjects whose weights are not on this machine are left out, and a
    note says so. html: a page to write too. epochs, iterations, settings: as of `evaluate`. Raises UserError for wrong
    input, before any image is read; all missing subjects are named at once.
    """
    display, page = display or Quiet(), None if html is None else Path(html)
    names, reference = [str(subject) for subject in subjects], None if against is None else str(against)
    terms = Terms(
        protocols=protocol_names(protocol),
        options=protocol_options(settings or {}),
        epochs=epochs,
        iterations=iterations,
        size=size,
        limit=limit,
        min_positives=min_positives,
        seed=seed,
        device=device,
        workers=workers,
    )
    all_at_once(
        lambda: check_names(terms, data, test_data),
        lambda: _check_subjects(names, reference),
        lambda: check_output("--html", page, overwrite=overwrite),
    )
    loaded, left_out = load_all(names, terms, skip_missing=skip_missing)
    train, test = open_splits(data, test_data, display, reindex=reindex)
    chosen = terms.choose()
    all_at_once(*(lambda subject=subject: check_exam(terms.exam(subject, train, test), chosen) for subject in loaded))
    evaluations = _judge_all(loaded, train, test, terms, display)
    with display.bar("comparing", None):
        found = _compared(loaded, evaluations, names[0] if reference is None else reference, test, notes=left_out)
    if page is not None:
        with writing(page):
            write_comparison(page, found.page())
    return found


def _compared(
    subjects: Sequence[Subject], evaluations: Sequence[Evaluation], wanted: str, test: Source, *, notes: Sequence[str]
) -> Comparison:
    """Return the figures with their differences; wanted: the subject to compare to, which may have been left out."""
    names = [subject.name for subject in subjects]
    against = wanted if wanted in names else names[0]
    told = [] if wanted == against else [f"{wanted} is left out, so the others are compared to {against}"]
    published = {subject.name: name for subject in subjects if (name := published_name(subject)) is not None}
    return Comparison(
        evaluations=tuple(evaluations),
        against=against,
        tested_on=test.spec,
        differences=tuple(paired_differences(evaluations, _pairs(names, against, published))),
        notes=(*notes, *told, *size_notes(subjects)),
        published=published,
    )


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
