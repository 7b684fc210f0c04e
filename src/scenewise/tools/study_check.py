"""What can be wrong with a study before anything is opened: names, seeds, splits, controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from scenewise.errors import UserError, unknown_name
from scenewise.settings import read_fields
from scenewise.sources import parse_spec
from scenewise.studies import Arm, Claim, Settings, Split, Study
from scenewise.tools.judge import Terms, protocol_options
from scenewise.wording import slug

LABEL = 150  # characters of a label: names of files may have 255, and hold the settings that were tried as well
# what a study says by fields of its own
OWN_SETTINGS = {
    "data.source": "Study.data",
    "data.proposals": "Arm.proposals",
    "seed": "Arm.seeds",
    "engine.device": "--device",
}


def study_problems(study: Study) -> list[str]:
    """Return all that is wrong with the study as a whole and with its arms, a sentence each."""
    problems = _type_problems(study)
    if problems:
        return problems
    if not study.arms:
        problems.append("arms: there is none; give at least one Arm")
    if study.passes is not None and not study.passes > 0:
        problems.append(f"passes: {study.passes} must be above 0, or None with engine.epochs in the settings")
    problems += _told(lambda: terms_of(study).choose())
    for split in filter(None, (study.test_on, study.choose_on)):
        for spec in (split.train, split.test):
            problems += _told(lambda spec=spec: parse_spec(spec))  # type: ignore[misc]
    if study.choose_by is not None and study.choose_by not in study.protocols:
        problems.append(unknown_name("choose_by", study.choose_by, study.protocols))
    if study.choose_on is not None:
        problems += _told(lambda: _check_choice(study.choose_on, study.test_on))
    for name, boxes in study.boxes.items():
        others = [other for other in study.boxes if other != name]
        if boxes.like is not None and boxes.like not in others:
            problems.append(unknown_name(f"boxes {name!r}: like", boxes.like, others))
    problems += [f"settings: {problem}" for problem in _settings_problems(study, study.settings)]
    labels = [arm.label for arm in study.arms]
    for arm in study.arms:
        problems += [f"{arm.label}: {problem}" for problem in _arm_problems(study, arm, labels)]
    for claim in study.claims:
        problems += [f"claim {claim.name!r}: {problem}" for problem in _claim_problems(study, claim, labels)]
    return problems


def _type_problems(study: Study) -> list[str]:
    """Return what is of another type than its field, for a study file is checked by nothing before it is run."""
    problems = _wrong_types(study)
    if not problems:
        for split in filter(None, (study.test_on, study.choose_on)):
            problems += _wrong_types(split)
        for name, boxes in study.boxes.items():
            problems += [f"boxes {name!r}: {problem}" for problem in _wrong_types(boxes)]
        for arm in study.arms:
            problems += [f"{arm.label}: {problem}" for problem in _wrong_types(arm)]
        for claim in study.claims:
            problems += [f"claim {claim.name!r}: {problem}" for problem in _wrong_types(claim)]
    return problems


def _wrong_types(record: Any) -> list[str]:
    kind = type(record)
    given = {entry.name: getattr(record, entry.name) for entry in dataclasses.fields(kind)}
    values, wrong = read_fields(kind, given)
    # what could be read as another type ("8" as 8) is used as it is, so it must be of its type; lists do for tuples
    loose = [name for name in values if not isinstance(given[name], list) and given[name] != values[name]]
    wrong += read_fields(kind, {name: given[name] for name in loose}, strict=True)[1]
    return [f"{name}: {sentence}" for name, sentence in wrong]


def terms_of(study: Study) -> Terms:
    """Return the protocols and their settings as `evaluate` takes them."""
    return Terms(protocols=study.protocols, options=protocol_options(study.protocol_settings))


def _arm_problems(study: Study, arm: Arm, labels: list[str]) -> list[str]:
    problems = []
    if labels.count(arm.label) > 1:
        problems.append("two arms have this label; give each its own")
    if len(slug(arm.label)) > LABEL:
        problems.append(f"label: {len(arm.label)} characters; at most {LABEL}, as files are named by it")
    if not any(sign.isalnum() for sign in arm.label):
        problems.append("label: give one with a letter or a digit; files are named by it")
    if not arm.seeds or len(set(arm.seeds)) < len(arm.seeds) or min(arm.seeds) < 0:
        problems.append(f"seeds: {arm.seeds} must be different whole numbers from 0, at least one")
    if arm.control is not None:
        others = [label for label in labels if label != arm.label]
        if arm.control not in others:
            problems.append(unknown_name("control", arm.control, others))
    if arm.tries and study.choose_on is None:
        problems.append("tries: the study has no `choose_on` to choose on; the test split must not be used for it")
    if arm.method is None:
        if arm.init is None:
            problems.append("method: without one, `init` says what is judged as it is, for example 'random:resnet18'")
        given = {"crops": arm.crops, "proposals": arm.proposals, "settings": arm.settings, "tries": arm.tries}
        problems += [f"{name}: has no effect without a method; leave it out" for name, value in given.items() if value]
    for settings in (arm.settings, *arm.tries):
        problems += _settings_problems(study, settings)
    return problems


def _claim_problems(study: Study, claim: Claim, labels: list[str]) -> list[str]:
    problems = [unknown_name("arms", label, labels) for label in claim.arms if label not in labels]
    if not claim.arms:
        problems.append("arms: there is none; name at least one")
    if not slug(claim.name):
        problems.append("name: give one with a letter or a digit; a file is named by it")
    if [slug(other.name) for other in study.claims].count(slug(claim.name)) > 1:
        problems.append("name: two claims would have one file; give each its own")
    return problems


def _settings_problems(study: Study, settings: Settings) -> list[str]:
    own = OWN_SETTINGS | (
        {} if study.passes is None else {"engine.epochs": "Study.passes, of which epochs are derived"}
    )
    return [f"{name}: is said by {own[name]}; leave it out" for name in _dotted(settings) if name in own]


def _dotted(settings: Mapping[str, Any], above: str = "") -> list[str]:
    names = []
    for name, value in settings.items():
        names += _dotted(value, f"{above}{name}.") if isinstance(value, Mapping) else [f"{above}{name}"]
    return names


def _check_choice(choose: Split | None, test: Split) -> None:
    """Raise UserError where choices would be made on the test split; that it is named otherwise is seen later."""
    assert choose is not None
    looked_at = _same(test.test)
    for name, spec in (("train", choose.train), ("test", choose.test)):
        if _same(spec) == looked_at:
            raise UserError(
                f"choose_on.{name}: {spec!r} is the test split, which nothing may be chosen on; name another"
            )


def _same(spec: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    parsed = parse_spec(spec)
    return parsed.canonical(), tuple(sorted(parsed.options.items()))


def _told(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except UserError as error:
        return list(error.problems)
    return []
