"""One evaluation: a backbone and two labelled sources in, figures with intervals out, everything left out said."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scenewise.errors import UserError, unknown_name
from scenewise.evaluate.evaluation import Evaluation
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.intervals import check_resamples
from scenewise.evaluate.labels import check_pair
from scenewise.evaluate.protocol import Protocol
from scenewise.evaluate.protocols import load_protocol, summaries
from scenewise.evaluate.task import Outcome
from scenewise.settings import make_settings
from scenewise.types import Skip

PROTOCOLS: Mapping[str, str] = summaries()  # name -> one line
LENGTHS = ("epochs", "iterations")  # settings of every protocol that trains by gradient

Options = Mapping[str, Mapping[str, Any]]  # protocol -> setting -> value


def evaluate_exam(
    exam: Exam,
    *,
    protocols: Sequence[str],
    options: Options | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    subject: str = "",
    data: str | None = None,
) -> Evaluation:
    """Judge a backbone by the named protocols.

    `options` changes settings of protocols, for example `{"knn": {"k": 200, "temperature": 0.1}}`. `epochs` or
    `iterations` sets the length of every protocol that trains by gradient. `data`: how the data are called.
    UserError, before any image is read, for an unknown protocol or setting, sources without the labels that a protocol
    needs or that do not fit each other; later when no image can be read or every test image is a training image.
    """
    chosen = choose_protocols(protocols, options or {}, epochs=epochs, iterations=iterations)
    notes = [f"{name}: nothing is trained by gradient, so the length has no effect" for name in chosen.unaffected]
    check_exam(exam, chosen)
    notes += _unused(exam, chosen)
    outcomes = {name: protocol.run(exam, config) for name, (protocol, config) in chosen.protocols.items()}
    notes = [*exam.train.notes, *exam.test.notes, *notes]
    notes += [note for outcome in outcomes.values() for note in outcome.notes]
    return Evaluation(
        subject=subject,
        data=exam.train.spec if data is None else data,
        protocols={name: outcome.figures for name, outcome in outcomes.items()},
        counts=_counts({name: outcome.counts for name, outcome in outcomes.items()}),
        notes=tuple(dict.fromkeys(notes)),
        skipped=_skipped(outcomes.values()),
        outcomes=outcomes,
        seed=exam.seed,
        resamples=exam.resamples,
    )


def _unused(exam: Exam, chosen: Chosen) -> list[str]:
    """Return a note for each part of which images lack what a protocol needs."""
    notes = []
    for need in dict.fromkeys(protocol.needs for protocol, _ in chosen.protocols.values()):
        for part in ("train", "test"):
            missing = int((~exam.usable(part, need)).sum())
            if missing:
                notes.append(f"{part}: {missing} of {len(exam.source(part))} images have no {need} and are not used")
    return notes


def check_exam(exam: Exam, chosen: Chosen) -> None:
    """Raise UserError, before any image is read, for all parts without labels and settings that do not fit."""
    check_pair(exam.train, exam.test)
    check_resamples(exam.resamples)
    problems: list[str] = []
    for protocol, config in chosen.protocols.values():
        try:
            for part in ("train", "test"):
                exam.images(part, protocol.needs)
            if protocol.needs == "labels":
                exam.outline()
            protocol.check(exam, config)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _skipped(outcomes: Collection[Outcome]) -> dict[str, tuple[Skip, ...]]:
    """Return the images of each part that some protocol could not read."""
    return {
        part: tuple(dict.fromkeys(skip for outcome in outcomes for skip in outcome.skipped.get(part, ())))
        for part in ("train", "test")
    }


def _counts(found: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the counts of the first protocol, and those of the others that differ as PROTOCOL/NAME."""
    counts: dict[str, int] = {}
    for protocol, of_protocol in found.items():
        for name, number in of_protocol.items():
            if counts.setdefault(name, number) != number:
                counts[f"{protocol}/{name}"] = number
    return counts


@dataclasses.dataclass(frozen=True, slots=True)
class Chosen:
    """The protocols to run with their settings, and those that `epochs` or `iterations` say nothing to."""

    protocols: Mapping[str, tuple[Protocol, Any]]
    unaffected: tuple[str, ...]


def choose_protocols(
    names: Sequence[str], options: Options, *, epochs: int | None = None, iterations: int | None = None
) -> Chosen:
    """Return each named protocol with its settings; UserError says all that is wrong at once."""
    problems = [unknown_name("protocol", name, PROTOCOLS) for name in (*names, *options) if name not in PROTOCOLS]
    if not names:
        problems.append(f"protocol: none is named; known: {', '.join(PROTOCOLS)}")
    problems += [f"protocol: {name!r} has settings but is not run" for name in options if name not in names]
    if epochs is not None and iterations is not None:
        problems.append("epochs and iterations both give the length; give one of them")
    lengths = dict(zip(LENGTHS, (epochs, iterations), strict=True))
    short = {name for name, value in lengths.items() if value is not None and value < 1}
    problems += [f"{name}: {lengths[name]} must be at least 1" for name in LENGTHS if name in short]
    chosen, unaffected = {}, []
    for name in dict.fromkeys(name for name in names if name in PROTOCOLS):
        protocol = load_protocol(name)
        given: dict[str, Any] = dict(options.get(name, {}))
        if epochs is not None or iterations is not None:
            if not set(LENGTHS) <= {entry.name for entry in dataclasses.fields(protocol.config)}:
                unaffected.append(name)
            elif not short:
                given = lengths | given
        config, wrong = _read(name, protocol.config, given)
        problems += wrong
        chosen[name] = protocol, config
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return Chosen(chosen, tuple(unaffected))


def _read(name: str, kind: type[Any], given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Return a protocol's settings, None where they cannot be made, and all that is wrong with those given."""
    known = [entry.name for entry in dataclasses.fields(kind)]
    problems = [unknown_name(f"protocol {name}", key, known) for key in given if key not in known]
    made, wrong = make_settings(name, kind, {key: value for key, value in given.items() if key in known})
    return made, problems + wrong
