"""What each setting of a protocol may be: every number has a limit, and a value beyond it is told by name."""

from __future__ import annotations

import dataclasses
import typing

import pytest

from scenewise import settings
from scenewise.errors import UserError
from scenewise.evaluate.protocols import NAMES, load_protocol
from scenewise.evaluate.run import choose_protocols

NAN, INF = float("nan"), float("inf")
LENGTH = {"epochs": ([0, -1], "at least 1"), "iterations": ([0, -2], "at least 1")}
COUNT = ([0, -1], "at least 1")
POSITIVE = ([0.0, -1.0], "more than 0")
FROM_ZERO_ON = ([-0.1], "0 or more")
BELOW_ONE = ([-0.1, 1.0], "at least 0 and below 1")
BETWEEN = ([0.0, 1.0, -0.1], "more than 0 and below 1")
CELLS = ([-1, 8], "0 to 7")
DETECTOR = LENGTH | {
    "batch_size": COUNT,
    "learning_rate": POSITIVE,
    "momentum": BELOW_ONE,
    "weight_decay": FROM_ZERO_ON,
    "width": ([7, 0], "at least 8"),
    "score_threshold": BELOW_ONE,
}
# protocol -> setting -> (values beyond its limits, what is allowed); of a list: of each entry
LIMITS = {
    "detect": DETECTOR,
    "finetune": LENGTH
    | {
        "learning_rates": POSITIVE,
        "head_multipliers": POSITIVE,
        "weight_decay": FROM_ZERO_ON,
        "momentum": BELOW_ONE,
        "batch_size": ([2, 0], "at least 3"),
        "held_out": BETWEEN,
    },
    "knn": {"k": COUNT, "temperature": POSITIVE},
    "linear": LENGTH
    | {
        "learning_rates": POSITIVE,
        "weight_decays": FROM_ZERO_ON,
        "batch_size": COUNT,
        "momentum": BELOW_ONE,
        "held_out": BETWEEN,
        "batch_map": COUNT,
    },
    "objects": {
        "k": COUNT,
        "temperature": POSITIVE,
        "margin": FROM_ZERO_ON,
        "min_side": ([-0.1], "0 pixels or more"),
    },
    "retrieve": {},
    "segment": LENGTH | {"learning_rate": POSITIVE, "weight_decay": FROM_ZERO_ON, "batch_size": COUNT},
    "segment-instances": DETECTOR,
    "semi": LENGTH
    | {
        "fractions": ([0.0, 1.1], "more than 0 and at most 1"),
        "batch_size": ([2, 0], "at least 3"),
        "held_out": BETWEEN,
    },
    "svm": {"costs": POSITIVE, "folds": ([1, 0], "at least 2"), "grid": CELLS},
    "svm-lowshot": {"k": COUNT, "samples": COUNT, "negatives": COUNT, "costs": POSITIVE, "grid": CELLS},
}
NUMBERS = [(protocol, name, *limit) for protocol, own in LIMITS.items() for name, limit in own.items()]
# protocol -> setting -> what is no number within its limits
WORDS = {
    "detect": {"architecture": ["fpm"], "head": ["3fc"], "schedule": ["pascal"], "epochs": ["many", 1.5]},
    "finetune": {"learning_rates": [(), 0.1], "head_multipliers": [()], "schedule": ["cosin"], "batch_norm": ["off"]},
    "knn": {"k": ["x"], "vote": ["max"], "normalise": ["perhaps"]},
    "linear": {"learning_rates": [()], "weight_decays": [()], "recipe": ["mocov2"]},
    "retrieve": {"gallery": ["both"]},
    "segment": {"variant": ["C"]},
    "semi": {"recipe": ["swaw"], "fractions": [(), (0.1, 0.1)], "batch_norm": ["freeze"]},
    "svm": {"costs": [(), "fare"]},
    "svm-lowshot": {"k": [()], "costs": [(), "fare"], "choose_c": ["validation"]},
}


def hints(protocol):
    return typing.get_type_hints(load_protocol(protocol).config, include_extras=True)


def numbers(hint):
    """Return whether a value of this type can hold numbers."""
    parts = typing.get_args(hint)
    return hint in (int, float) or (typing.get_origin(hint) is not typing.Literal and any(map(numbers, parts)))


def listed(hint):
    """Return whether a value of this type can be a list."""
    return typing.get_origin(hint) is tuple or any(map(listed, typing.get_args(hint)))


def told(protocol, given):
    with pytest.raises(UserError) as caught:
        choose_protocols([protocol], {protocol: given})
    return caught.value.problems


@pytest.mark.parametrize(("protocol", "setting", "values", "allowed"), NUMBERS)
def test_a_value_beyond_its_limit_is_refused(protocol, setting, values, allowed):
    for value in values:
        given = (value,) if listed(hints(protocol)[setting]) else value
        assert told(protocol, {setting: given}) == (f"{protocol}.{setting}: {value} must be {allowed}",)


@pytest.mark.parametrize(("protocol", "setting", "values", "allowed"), NUMBERS)
def test_every_float_is_finite(protocol, setting, values, allowed):
    for value in (NAN, INF):
        given = (value,) if listed(hints(protocol)[setting]) else value
        (problem,) = told(protocol, {setting: given})
        assert problem.startswith(f"{protocol}.{setting}: {value} must be a ")


@pytest.mark.parametrize(
    ("protocol", "setting", "value"),
    [(protocol, name, value) for protocol, own in WORDS.items() for name, values in own.items() for value in values],
)
def test_what_is_of_another_kind_is_refused(protocol, setting, value):
    (problem,) = told(protocol, {setting: value})
    assert problem.startswith(f"{protocol}.{setting}: {value!r} ")


def test_every_number_has_a_limit_and_is_tested_beyond_it():
    assert LIMITS.keys() == set(NAMES)
    for protocol, own in LIMITS.items():
        there = {name: hint for name, hint in hints(protocol).items() if numbers(hint)}
        assert [name for name, hint in there.items() if not settings.limits(hint)] == [], protocol
        assert there.keys() == own.keys(), protocol


@pytest.mark.parametrize("protocol", [name for name, own in LIMITS.items() if own])
def test_settings_are_judged_however_they_are_made(protocol):
    """Without `choose_protocols` too, in one's own code, and all at once."""
    config = load_protocol(protocol).config
    first = {entry.name: LIMITS[protocol].get(entry.name, ([], ""))[0][:1] for entry in dataclasses.fields(config)}
    bad = {
        name: tuple(values) if listed(hints(protocol)[name]) else values[0] for name, values in first.items() if values
    }
    with pytest.raises(UserError) as caught:
        config(**bad)
    section = {"detect": "detector", "segment-instances": "detector"}.get(protocol, protocol)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [f"{section}.{name}" for name in bad]


def test_all_that_is_wrong_is_told_at_once():
    problems = told(
        "finetune",
        {"epochs": None, "iterations": None, "momentum": 1.0, "learning_rates": (-1.0, 0.1, 0.0), "epoch": 3},
    )
    assert len(problems) == 5 and "Did you mean 'epochs'?" in problems[0]
    assert problems[1:] == (
        "finetune.momentum: 1.0 must be at least 0 and below 1",
        "finetune.learning_rates: -1.0 must be more than 0",
        "finetune.learning_rates: 0.0 must be more than 0",
        "finetune: neither epochs nor iterations is set; give the length by one of them",
    )


def test_a_length_of_no_step_is_told_once():
    with pytest.raises(UserError) as caught:
        choose_protocols(["linear", "finetune", "knn"], {"knn": {"k": 0}}, epochs=0)
    assert caught.value.problems == ("epochs: 0 must be at least 1", "knn.k: 0 must be at least 1")


@pytest.mark.parametrize(
    ("protocol", "costs", "words"),
    [
        ("svm", (1.0, -1.0), "-1.0 must be more than 0"),
        ("svm", "fare", "'fare' must be 'openselfsup', 'fair' or 'vissl' or a list"),
        ("svm-lowshot", (), "() must be 'openselfsup', 'fair' or 'vissl' or a longer list"),
    ],
)
def test_a_name_or_a_list(protocol, costs, words):
    assert told(protocol, {"costs": costs}) == (f"{protocol}.costs: {words}",)
