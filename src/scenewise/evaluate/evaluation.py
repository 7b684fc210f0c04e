"""The result of an evaluation: figures with intervals, and everything that was left out, as JSON and as tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from scenewise.errors import UserError
from scenewise.evaluate.intervals import Figure, paired_bootstrap
from scenewise.evaluate.task import Outcome
from scenewise.types import Skip

CLASS_PREFIXES = ("AP/", "mask/AP/", "IoU/", "accuracy/", "recall/")  # of the figures of single classes


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was found about one subject on one set of data.

    protocols: protocol -> metric -> figure, shares 0..1; a figure that could not be computed is absent, and a note says
    so. counts: images and classes used and left out. skipped: images of the parts train and test that could not be
    read. outcomes, seed, resamples: what `differences` needs to compare two subjects on the same images.
    """

    subject: str
    data: str
    protocols: Mapping[str, Mapping[str, Figure]]
    counts: Mapping[str, int]
    notes: tuple[str, ...] = ()
    skipped: Mapping[str, tuple[Skip, ...]] = field(default_factory=dict)
    outcomes: Mapping[str, Outcome] = field(default_factory=dict, repr=False, compare=False)
    seed: int = 0
    resamples: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what `scenewise evaluate --json` writes."""
        return {
            "subject": self.subject,
            "data": self.data,
            "protocols": {
                protocol: {metric: figure.to_json() for metric, figure in figures.items()}
                for protocol, figures in self.protocols.items()
            },
            "counts": dict(self.counts),
            "notes": list(self.notes),
        }

    def rows(self, *, per_class: bool = False) -> list[tuple[str, str, str]]:
        """Return (protocol, metric, figure in percent with its interval), of the whole set or of single classes."""
        return [
            (protocol, metric, in_percent(figure))
            for protocol, figures in self.protocols.items()
            for metric, figure in figures.items()
            if metric.startswith(CLASS_PREFIXES) == per_class
        ]

    def to_table(self, *, per_class: bool = False) -> Table:
        """Return the figures as a table for the terminal."""
        table = Table("protocol", "metric", title=self.subject, caption=self.data)
        table.add_column("% [95 % interval]", justify="right")
        for row in self.rows(per_class=per_class):
            table.add_row(*row)
        return table

    def to_markdown(self, *, per_class: bool = False) -> str:
        """Return the figures as a Markdown table."""
        lines = ["| protocol | metric | % [95 % interval] |", "| --- | --- | ---: |"]
        return "\n".join(lines + [f"| {' | '.join(row)} |" for row in self.rows(per_class=per_class)]) + "\n"


def in_percent(figure: Figure) -> str:
    """Return a share and its interval as percent with one digit: `24.3 [22.9, 26.6]`."""
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def differences(first: Evaluation, second: Evaluation) -> dict[str, dict[str, Figure]]:
    """Return first minus second, protocol -> metric -> figure, with paired bootstrap intervals.

    Each resample is the same test images for both, so what makes an image easy or hard for both cancels. UserError when
    the two were not tested on the same images in the same way.
    """
    found = {}
    for protocol in first.outcomes.keys() & second.outcomes.keys():
        left, right = first.outcomes[protocol], second.outcomes[protocol]
        alike = left.images == right.images and (first.seed, first.resamples) == (second.seed, second.resamples)
        if not alike:
            raise UserError(
                f"compare: {first.subject!r} and {second.subject!r} were not tested by {protocol} on the same images "
                "with the same seed"
            )
        if left.statistic is not None and right.statistic is not None:
            found[protocol] = paired_bootstrap(
                left.statistic, right.statistic, len(left.images), seed=first.seed, resamples=first.resamples
            )
    return {protocol: found[protocol] for protocol in first.protocols if protocol in found}
