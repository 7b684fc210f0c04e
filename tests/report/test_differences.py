"""What is said of a difference is what its interval allows, at the edges too."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenewise.report.differences import Difference, points, sentence, sentences
from scenewise.report.records import Interval

IMAGENET = {"timm:resnet50": "ImageNet weights"}


def difference(
    value: float, low: float, high: float, *, first: str = "RUN", second: str = "random:resnet18", metric: str = "mAP"
) -> Difference:
    interval = Interval(value=value, low=low, high=high)
    return Difference(first=first, second=second, protocol="knn", metric=metric, interval=interval)


def test_what_lies_beyond_0_is_decided() -> None:
    assert sentence(difference(0.063, 0.049, 0.078), {}) == (
        "RUN is better than random:resnet18 on knn mAP by 6.3 points (95 %: 4.9 to 7.8)."
    )
    assert sentence(difference(-0.063, -0.078, -0.049), {}) == (
        "RUN is worse than random:resnet18 on knn mAP by 6.3 points (95 %: 4.9 to 7.8)."
    )


@pytest.mark.parametrize(("low", "high"), [(-0.01, 0.02), (0.0, 0.02), (-0.02, 0.0), (0.0, 0.0), (1e-16, 0.02)])
def test_an_interval_that_holds_0_decides_nothing(low: float, high: float) -> None:
    told = sentence(difference((low + high) / 2, low, high), {})
    assert told.startswith(
        "Whether RUN is better than random:resnet18 on knn mAP is not decided (the interval holds 0): "
    )
    assert "-0.0" not in told


def test_a_small_difference_that_is_decided_does_not_read_as_0() -> None:
    assert "by 0.5 points (95 %: 0.04 to 1.0)" in sentence(difference(0.005, 0.0004, 0.01), {})
    assert [points(share) for share in (0.0004, -0.0004, 0.0006, 0.000_000_3, 0.0, -0.0, 1e-17, 0.5)] == [
        "0.04", "-0.04", "0.1", "0.00003", "0.0", "0.0", "0.0", "50.0",
    ]  # fmt: skip


@given(st.floats(-1, 1))
def test_points_are_near_the_share_and_keep_its_sign(share: float) -> None:
    shown = float(points(share))
    assert abs(shown - 100 * share) <= 0.05 + 1e-6
    assert (shown > 0) == (share >= 1e-9) and (shown < 0) == (share <= -1e-9)


def test_published_weights_are_beaten_or_not() -> None:
    better = difference(0.02, 0.01, 0.03, second="timm:resnet50")
    assert sentence(better, IMAGENET) == (
        "RUN is better than ImageNet weights (timm:resnet50) on knn mAP by 2.0 points (95 %: 1.0 to 3.0)."
    )
    level = difference(-0.003, -0.014, 0.008, second="timm:resnet50")
    assert sentence(level, IMAGENET) == (
        "RUN is not better than ImageNet weights (timm:resnet50) on this task: knn mAP not decided "
        "(the interval holds 0): -0.3 points (95 %: -1.4 to 0.8)."
    )
    below = difference(-0.04, -0.051, -0.029, second="timm:resnet50")
    assert sentence(below, IMAGENET) == (
        "RUN is not better than ImageNet weights (timm:resnet50) on this task: knn mAP worse by 4.0 points "
        "(95 %: 2.9 to 5.1)."
    )


def test_the_other_way_round_is_the_same_sentence() -> None:
    for ends in ((0.02, 0.01, 0.03), (-0.003, -0.014, 0.008), (-0.04, -0.051, -0.029)):
        found = difference(*ends, second="timm:resnet50")
        assert sentence(found.turned(), IMAGENET) == sentence(found, IMAGENET)
        assert found.turned().turned() == found
        assert len(sentences([found, found.turned()], IMAGENET)) == 1


def test_two_published_subjects_are_like_any_other_two() -> None:
    both = {"timm:a": "ImageNet weights", "timm:b": "published weights"}
    told = sentence(difference(-0.04, -0.05, -0.03, first="timm:a", second="timm:b"), both)
    assert told == "timm:a is worse than timm:b on knn mAP by 4.0 points (95 %: 3.0 to 5.0)."


def test_without_an_interval_nothing_is_decided() -> None:
    found = difference(0.04, math.nan, math.nan)
    assert found.verdict() == "not decided"
    assert sentence(found, {}).endswith("is not decided (no interval could be computed): 4.0 points.")


def test_sentences_on_one_subject_stand_together() -> None:
    pairs = [("a", "random"), ("timm:resnet50", "random"), ("b", "random"), ("a", "timm:resnet50")]
    found = [difference(0.02, 0.01, 0.03, first=first, second=second) for first, second in pairs]
    assert [told.split()[0] for told in sentences(found, IMAGENET)] == ["a", "a", "random", "b"]
