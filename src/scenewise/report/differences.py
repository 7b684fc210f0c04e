"""Which of two subjects is better, in sentences that claim no more than the interval of their difference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from scenewise.report.records import Interval

Verdict = Literal["better", "worse", "not decided"]
ROUNDING = 1e-9  # an end of an interval as near to 0 as that is 0: sums in another order differ by 1e-16


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """`first` minus `second` in one figure, shares, with the 95 % interval over the same resampled test images."""

    first: str
    second: str
    protocol: str
    metric: str
    interval: Interval

    @property
    def figure(self) -> str:
        """Return the figure's name: "knn mAP"."""
        return f"{self.protocol} {self.metric}"

    def verdict(self) -> Verdict:
        """Return what the interval says of `first`; higher is better in every figure."""
        if self.interval.low > ROUNDING:
            return "better"
        if self.interval.high < -ROUNDING:
            return "worse"
        return "not decided"

    def turned(self) -> Difference:
        """Return `second` minus `first`."""
        turned = Interval(value=-self.interval.value, low=-self.interval.high, high=-self.interval.low)
        return Difference(
            first=self.second, second=self.first, protocol=self.protocol, metric=self.metric, interval=turned
        )

    def to_json(self) -> dict[str, Any]:
        """Return the difference as the results file holds it."""
        return {
            "first": self.first,
            "second": self.second,
            "protocol": self.protocol,
            "metric": self.metric,
            "value": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
        }


def sentence(difference: Difference, published: Mapping[str, str]) -> str:
    """Return what may be said of a difference.

    published: subject -> what its published weights are called, for example "ImageNet weights". Such weights cost
    nothing, so a subject is told apart from them only where it is better: anything else is "not better".
    """
    difference = _oriented(difference, published)
    first, second, verdict = difference.first, difference.second, difference.verdict()
    generic = second in published and first not in published
    name = f"{published[second]} ({second})" if generic else second
    told = _told(difference.interval, verdict)
    if generic and verdict != "better":
        return f"{first} is not better than {name} on this task: {difference.figure} {verdict} {told}."
    if verdict == "not decided":
        return f"Whether {first} is better than {name} on {difference.figure} is not decided {told}."
    return f"{first} is {verdict} than {name} on {difference.figure} {told}."


def sentences(differences: Sequence[Difference], published: Mapping[str, str]) -> list[str]:
    """Return a sentence on each difference, the same one once, those on one subject together."""
    about: dict[str, list[str]] = {}
    for difference in differences:
        about.setdefault(_oriented(difference, published).first, []).append(sentence(difference, published))
    return list(dict.fromkeys(told for of_subject in about.values() for told in of_subject))


def _oriented(difference: Difference, published: Mapping[str, str]) -> Difference:
    """Return the difference as seen from the subject that is not published, where the other is."""
    return difference.turned() if difference.first in published and difference.second not in published else difference


def points(share: float) -> str:
    """Return a share in percentage points: one digit, or the first that is not 0 where that would read 0.0."""
    value = 0.0 if abs(share) < ROUNDING else 100 * share
    text = f"{value:.1f}"
    if value != 0 and float(text) == 0:
        return f"{value:.{-math.floor(math.log10(abs(value)))}f}"
    return text


def _told(interval: Interval, verdict: Verdict) -> str:
    """Return "by 6.3 points (95 %: 4.9 to 7.8)": of what is wholly below 0, how far below."""
    value, low, high = interval.value, interval.low, interval.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"(no interval could be computed): {points(value)} points"
    if verdict == "worse":
        value, low, high = -value, -high, -low
    size = f"{points(value)} points (95 %: {points(low)} to {points(high)})"
    return f"(the interval holds 0): {size}" if verdict == "not decided" else f"by {size}"
