"""Thresholds against simulated collapses and healthy features; sentences say what is wrong and what to try."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.report.health import HealthWindow
from scenewise.report.verdict import GRADIENT_RATIO, RULES, Advice, Rule, sentences, show


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def judged(features: torch.Tensor, *, noise: float = 0.3) -> dict[str, Advice]:
    """Judge features whose other views are themselves with noise."""
    window = HealthWindow()
    window.add(features, features, features + noise * features.std() * drawn(*features.shape, seed=9))
    return {advice.figure: advice for advice in sentences(window.figures(), method="mls")}


def test_isotropic_features_are_healthy() -> None:
    assert {advice.level for advice in judged(drawn(512, 128)).values()} == {"ok"}


@pytest.mark.parametrize(("noise", "level"), [(0.02, "alarm"), (0.2, "warn"), (1.0, "ok")])
def test_directions_around_one_mean_are_a_collapse(noise: float, level: str) -> None:
    advice = judged(drawn(1, 512, seed=1) + noise * drawn(512, 512))["health/feature_spread"]
    assert advice.level == level
    if level != "ok":
        assert advice.sentence.startswith(
            f"the features are collapsing: spread {advice.value:.2f}, healthy above 0.30; try "
        )
        assert "method.weight" in advice.sentence


@pytest.mark.parametrize(("dimensions", "level"), [(5, "alarm"), (20, "warn"), (200, "ok")])
def test_few_live_dimensions_are_a_dimensional_collapse(dimensions: int, level: str) -> None:
    advice = judged(drawn(512, dimensions) @ drawn(dimensions, 512, seed=1))
    assert advice["health/effective_rank_share"].level == level
    assert advice["health/feature_spread"].level == "ok"


def test_points_on_a_line_crowd_and_unrelated_views_are_far_apart() -> None:
    line = judged(drawn(512, 1) @ drawn(1, 64, seed=1))
    assert line["health/uniformity"].level == "warn"
    assert judged(torch.ones(512, 64))["health/uniformity"].level == "alarm"
    unrelated = judged(drawn(512, 64), noise=100)
    assert unrelated["health/alignment"].level == "alarm"


@given(st.sampled_from(RULES), st.floats(-10, 1000), st.floats(0, 10))
@settings(max_examples=100, deadline=None)
def test_levels_only_worsen_outwards(rule: Rule, value: float, step: float) -> None:
    grave = ("ok", "warn", "alarm")
    outwards = value - step if rule.good == "above" else value + step
    here, there = rule.judge(value), rule.judge(outwards)
    assert grave.index(there.level) >= grave.index(here.level)
    assert rule.judge(rule.healthy).level == "ok"
    assert ("; try " in here.sentence) == (here.level != "ok")


def test_rules_are_consistent() -> None:
    assert len({rule.figure for rule in RULES}) == len(RULES)
    for rule in RULES:
        if rule.alarm is not None:
            assert (rule.alarm < rule.healthy) == (rule.good == "above")


def test_gradients_are_weighed_against_one_another() -> None:
    even = sentences({"grad/contrast": 1.0, "grad/multilabel": 0.5}, method="mls")
    assert [advice.level for advice in even] == ["ok"]
    drowned = sentences({"grad/contrast": 1.0, "grad/multilabel": 0.5 / GRADIENT_RATIO}, method="mls")
    assert [advice.level for advice in drowned] == ["warn"]
    assert drowned[0].sentence.startswith("the term contrast drowns the term multilabel")
    assert sentences({"grad/contrast": 1.0, "grad/multilabel": 1e-4}, method="mls")[0].level == "alarm"
    weighted = sentences({"grad/contrast": 1.0, "grad/multilabel": 20.0, "weight/multilabel": 0.1}, method="mls")
    assert [(advice.level, advice.value) for advice in weighted] == [("ok", 2.0)]
    silent = sentences({"grad/contrast": 1.0, "grad/multilabel": 0.0}, method="mls")
    assert [(advice.figure, advice.level) for advice in silent] == [("grad/multilabel", "warn")]
    assert sentences({"grad/contrast": 1.0}, method="mocov2") == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_an_alarm_and_comes_first(value: float) -> None:
    advice = sentences({"health/feature_spread": 0.9, "loss": value, "data_wait": 0.2}, method="mls")
    assert [item.level for item in advice] == ["alarm", "warn", "ok"]
    assert advice[0].figure == "loss"


def test_unknown_figures_and_methods_are_passed_over() -> None:
    assert sentences({"loss": 3.0, "something/else": 1.0}, method="mls") == []
    assert "--lr" in sentences({"health/feature_spread": 0.01}, method="a new one")[0].sentence


def test_figures_are_shown_as_a_reader_writes_them() -> None:
    assert [show(value, "share") for value in (0.5, 0.034, 0.118, 1.0)] == ["50 %", "3.4 %", "12 %", "100 %"]
    assert show(1234.4, "steps") == "1,234 steps"
    assert [show(value, "number") for value in (0.03, -1.0, 0.0, 0.0004)] == ["0.03", "-1.00", "0.00", "4.0e-04"]
