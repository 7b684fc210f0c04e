"""The types of settings: their limits in words, and that a field is read by its type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.settings import Count, Pixels, Positive, Share, allowed_values, check_fields, limits, read_fields


@dataclass(frozen=True)
class Config:
    """A method's settings, say."""

    k: Count | None = None
    share: Share | Literal["auto"] = "auto"
    side: Pixels = 0.0
    steps: tuple[Positive, ...] = (1.0,)
    kind: Literal["a", "b"] = "a"
    free: str = ""


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (int, ""),
        (Positive, "more than 0"),
        (Share | None, "0 to 1"),
        (tuple[Count, ...], "at least 1"),
        (Pixels, "0 pixels or more"),
        (Annotated[float, Gt(0), Lt(1)], "more than 0 and below 1"),
        (Annotated[float, Gt(0), Le(2)], "more than 0 and at most 2"),
        (Annotated[float, Ge(3), Lt(4)], "at least 3 and below 4"),
        (Annotated[float, Le(4)], "at most 4"),
    ],
)
def test_limits_in_words(hint: Any, words: str) -> None:
    assert limits(hint) == words


def test_what_each_field_may_be() -> None:
    assert allowed_values(Config) == {
        "k": "at least 1",
        "share": "auto",
        "side": "0 pixels or more",
        "steps": "more than 0",
        "kind": "a, b",
        "free": "",
    }


@given(share=st.floats(), k=st.integers(), side=st.floats())
def test_a_number_is_read_where_its_limits_allow_it(share: float, k: int, side: float) -> None:
    values, wrong = read_fields(Config, {"share": share, "k": k, "side": side})
    allowed = {"share": 0 <= share <= 1, "k": k >= 1, "side": 0 <= side < math.inf}
    assert {name for name, _ in wrong} == {name for name, kept in allowed.items() if not kept}
    assert set(values) == {name for name, kept in allowed.items() if kept}


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(UserError) as told:
        check_fields("method", Config(k=0, side=math.nan, steps=(1.0, -2.0), kind="c"))  # type: ignore[arg-type]
    assert list(told.value.problems) == [
        "method.k: 0 must be at least 1",
        "method.side: nan must be a finite number",
        "method.steps: -2.0 must be more than 0",
        "method.kind: 'c' must be 'a' or 'b'",
    ]
