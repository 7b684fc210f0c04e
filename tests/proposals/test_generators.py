"""Generators by name: what is made, and what is refused before any work."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from scenewise.errors import UserError
from scenewise.proposals.generators import GENERATORS, Generator, make_generator
from scenewise.proposals.selective_search import SelectiveSearch

WITHOUT_A_MODEL = ["selective-search", "random", "grid"]


def test_the_names() -> None:
    assert list(GENERATORS) == ["selective-search", "bing", "random", "grid"]


def check(generator: Generator, name: str) -> None:
    assert isinstance(generator, Generator)
    assert generator.name == name
    assert json.loads(json.dumps(dict(generator.settings))) == dict(generator.settings)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    before = pixels.copy()
    copy = pickle.loads(pickle.dumps(generator))
    (boxes, scores), again = (one(pixels, np.random.default_rng(1)) for one in (generator, copy))
    assert np.array_equal(pixels, before)
    assert np.array_equal(boxes, again.boxes)
    assert boxes.dtype == np.int32
    assert len(boxes) > 0
    assert scores is None or scores.shape == (len(boxes),)


@pytest.mark.parametrize("name", WITHOUT_A_MODEL)
def test_each_makes_boxes_and_pickles(name: str) -> None:
    check(make_generator(name), name)


def test_bing_makes_boxes_and_pickles(data_root: Path) -> None:
    check(make_generator("bing", bing_model=data_root / "bing"), "bing")


@pytest.mark.parametrize("name", ["selective-search", "grid"])
def test_what_draws_nothing_does_not_depend_on_chance(name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    first, second = (make_generator(name)(pixels, np.random.default_rng(seed)).boxes for seed in (0, 1))
    assert np.array_equal(first, second)


def test_the_settings_of_the_search_are_passed_on() -> None:
    assert make_generator("selective-search") == SelectiveSearch()
    assert make_generator("selective-search", mode="fast", working_size=0) == SelectiveSearch("fast", None)


def test_an_unknown_name_names_the_nearest() -> None:
    with pytest.raises(
        UserError, match=r"generator: unknown name 'selective_search'\. Did you mean 'selective-search'"
    ):
        make_generator("selective_search")


def test_bing_without_a_model_says_what_to_add() -> None:
    with pytest.raises(UserError, match="bing_model: 'bing' needs the folder of its model files; add --bing-model"):
        make_generator("bing")


@pytest.mark.parametrize(("field", "user", "other"), [("bing_model", "bing", "grid"), ("like", "random", "bing")])
def test_what_a_generator_has_no_use_for_is_refused(field: str, user: str, other: str) -> None:
    with pytest.raises(UserError, match=f"{field}: 'some' is for the generator '{user}'; '{other}' has no use for it"):
        make_generator(other, **{field: Path("some")})
    with pytest.raises(UserError, match="mode: 'fast' is for the generator 'selective-search'; 'grid' has no use"):
        make_generator("grid", mode="fast")
    with pytest.raises(UserError, match="working_size: '0' is for the generator 'selective-search'; 'bing' has no use"):
        make_generator("bing", working_size=0)
