"""What each setting may be: every number has a limit, and a value beyond it is told by name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from annotated_types import Gt, Le, Unit

from scenewise import settings
from scenewise.engine.config import SECTIONS, build
from scenewise.errors import UserError
from scenewise.methods import method_class, method_names
from scenewise.views.policies import POLICIES

COUNT = ([0, -1], "at least 1")
FROM_ZERO = ([-1], "0 or more")
FROM_ZERO_ON = ([-0.1], "0 or more")
LENGTH = ([-0.1], "0 pixels or more")
POSITIVE = ([0.0, -1.0], "more than 0")
SHARE = ([-0.1, 1.1], "0 to 1")
SOME = ([0, 65], "1 to 64")
MANY = ([-1, 65], "0 to 64")

# setting -> (values beyond its limits, what is allowed); a method's or a policy's wherever one has it
LIMITS: dict[str, tuple[list[Any], str]] = {
    "data.size": ([15, 0, -1], "at least 16 pixels"),
    "data.max_skipped": SHARE,
    "data.mean": ([[0.4, -0.1, 0.4], [0.4, 123.0, 0.4]], "0 to 1"),
    "data.std": ([[0.2, 0.0, 0.2], [0.2, 0.2, -1.0], [0.2, 58.0, 0.2]], "more than 0 and at most 1"),
    "engine.epochs": FROM_ZERO,
    "engine.batch_size": ([1, 0], "at least 2"),
    "engine.accumulate": COUNT,
    "engine.workers": FROM_ZERO,
    "engine.threads": COUNT,
    "engine.checkpoint_steps": COUNT,
    "backbone.batchnorm_group": ([1, 0], "at least 2"),
    "optimiser.lr": FROM_ZERO_ON,
    "optimiser.momentum": SHARE,
    "optimiser.weight_decay": FROM_ZERO_ON,
    "optimiser.warmup_epochs": FROM_ZERO_ON,
    "optimiser.warmup_start": SHARE,
    "optimiser.final_lr": SHARE,
    "optimiser.clip_gradient": POSITIVE,
    "probe.limit": ([19, 0], "at least 20"),
    "probe.every": COUNT,
    "method.temperature": POSITIVE,
    "method.term_temperature": POSITIVE,
    "method.momentum": SHARE,
    "method.width": COUNT,
    "method.dictionary_size": FROM_ZERO,
    "method.k": ([-1], "0 or more"),  # MSF's: at least 1
    "method.weight": ([-0.1], "0 or more"),  # DenseCL's: 0 to 1
    "method.scene_instance_weight": FROM_ZERO_ON,
    "method.instance_weight": FROM_ZERO_ON,
    "method.prototypes": ([1, 0, -3], "at least 2"),
    "method.query_views": COUNT,
    "method.epsilon": POSITIVE,
    "method.iterations": COUNT,
    "method.hidden": COUNT,
    "method.freeze_epochs": FROM_ZERO_ON,
    "method.queue_epochs": FROM_ZERO_ON,
    "method.second_momentum": SHARE,
    "method.teacher_temperature": POSITIVE,
    "method.bins": COUNT,
    "method.views": SOME,
    "method.small_views": MANY,
    "method.small_crops": MANY,
    "method.instances": SOME,
    "method.warmup": FROM_ZERO_ON,
    "crops.min_side": LENGTH,
    "crops.min_size": LENGTH,
    "crops.max_aspect": ([0.9, 0.0], "at least 1"),
    "crops.limit": COUNT,
    "crops.nms_iou": SHARE,
    "crops.min_window": SHARE,
    "crops.max_iou": SHARE,
    "crops.dilation": FROM_ZERO_ON,
    "crops.distance": ([[-1.0, 3.0], [3.0, -2.0]], "0 pixels or more"),
    "crops.scene_scale": SHARE,
    "crops.object_scale": SHARE,
    "crops.context_scale": SHARE,
    "crops.mean_area": ([0.0, 1.1], "more than 0 and at most 1"),
    "crops.swap": SHARE,
    "crops.instances": SOME,
    "crops.tries": ([0, 1001], "1 to 1000"),
}


def sections() -> Iterator[tuple[str, str, type[Any]]]:
    """Yield each section's name, what it is the section of, and its dataclass."""
    yield from ((section, "", kind) for section, kind in SECTIONS.items())
    yield from (("method", name, method_class(name).Config) for name in method_names())
    yield from (("crops", name, kind) for name, kind in POLICIES.items())


def tree(section: str, of: str, **settings: Any) -> dict[str, Any]:
    """Return a configuration with the given settings in one section."""
    named = {"name": of} if of else {}
    least = {"data": {"source": "photos"}, "method": {"name": "simclr"}}
    return least | {section: least.get(section, {}) | named | settings}


OWN = {("msf", "k"): "at least 1", ("densecl", "weight"): "0 to 1"}  # where a method allows less than the others
FREE = {("mls", "logit_bias")}  # numbers that may be anything finite
CASES = [
    pytest.param(section, of, entry.name, value, LIMITS[f"{section}.{entry.name}"][1], id=f"{of}-{entry.name}-{value}")
    for section, of, kind in sections()
    for entry in dataclasses.fields(kind)
    for value in LIMITS.get(f"{section}.{entry.name}", ([], ""))[0]
]


@pytest.mark.parametrize(("section", "of", "field", "value", "allowed"), CASES)
def test_a_value_beyond_its_limit_is_refused(section: str, of: str, field: str, value: Any, allowed: str) -> None:
    with pytest.raises(UserError) as caught:
        build(tree(section, of, **{field: value}))
    (told,) = caught.value.problems
    assert told.startswith(f"{section}.{field}: ")
    assert told.endswith(f" must be {OWN.get((of, field), allowed)}")


def test_every_number_has_a_limit_and_is_tested_beyond_it() -> None:
    there = set()
    for section, of, kind in sections():
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            if typing.get_origin(hint) is not typing.ClassVar and numbers(hint) and (of, name) not in FREE:
                assert settings.limits(hint), f"{section}.{name} of {kind.__qualname__} has no limit"
                there.add(f"{section}.{name}")
    assert there == LIMITS.keys()


def numbers(hint: Any) -> bool:
    """Return whether a value of this type can hold numbers."""
    parts = typing.get_args(hint)
    return hint in (int, float) or (typing.get_origin(hint) is not typing.Literal and any(map(numbers, parts)))


@pytest.mark.parametrize(("section", "of", "kind"), [each for each in sections() if each[1]])
def test_methods_and_policies_are_judged_however_they_are_made(section: str, of: str, kind: type[Any]) -> None:
    """Without a configuration too: in a loop of one's own, in a recipe."""
    bad = {
        entry.name: tuple(value) if isinstance(value, list) else value
        for entry in dataclasses.fields(kind)
        for value in LIMITS.get(f"{section}.{entry.name}", ([], ""))[0][:1]
    }
    with pytest.raises(UserError) as caught:
        kind(**bad)
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [f"{section}.{name}" for name in bad]


def test_every_float_is_finite() -> None:
    for section, of, kind in sections():
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            if hint in (settings.Positive, settings.NotNegative, settings.Share, settings.Pixels):
                for value in (float("nan"), float("inf")):
                    with pytest.raises(UserError, match=rf"{section}\.{name}: {value} must be a finite number"):
                        build(tree(section, of, **{name: value}))


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (settings.Positive, "more than 0"),
        (settings.Share | None, "0 to 1"),
        (typing.Annotated[int, Le(3)], "at most 3"),
        (typing.Annotated[float, Gt(0), Le(1), Unit("m")], "more than 0 and at most 1 m"),
        (tuple[settings.Pixels, settings.Pixels], "0 pixels or more"),
        (settings.Count | typing.Literal["all"] | None, "at least 1"),
        (int | None, ""),
        (str, ""),
    ],
)
def test_limits_in_words(hint: Any, words: str) -> None:
    assert settings.limits(hint) == words
