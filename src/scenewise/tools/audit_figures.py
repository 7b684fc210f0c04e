"""What an audit found, as a record, as the command's JSON and as its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scenewise.report.histograms import Histogram, histogram, whole_histogram
from scenewise.tools.audit_advice import Recommendation, shown_bytes
from scenewise.tools.audit_pairs import PairFigures
from scenewise.tools.audit_sample import ReadingTime
from scenewise.types import Skip

QUANTILES = (5, 25, 50, 75, 95)  # percent
TOLD = 5  # unreadable images and duplicates that the table names
MANY = 20  # objects an image from which the last bar of their histogram holds the rest


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """The figures of one folder.

    Of all images: read, unreadable (with reasons), tiny (short side under 32 px), short_side (pixels) and aspect (width
    / height), each (N,). bytes: of their files, None where there are none. duplicates: groups of images with the same
    bytes. Of the `sampled` images that were decoded: near (pairs that look alike, bytes differ), brightness (n,) 0..1,
    objects (n,) how many, object_area (m,) share of its image that each object covers, pairs (policy -> figures).
    """

    data: str
    read: int
    unreadable: Sequence[Skip]
    tiny: int
    short_side: np.ndarray
    aspect: np.ndarray
    bytes: int | None
    duplicates: Sequence[Sequence[str]]
    sampled: int
    near: Sequence[tuple[str, str]]
    brightness: np.ndarray
    objects_from: str
    objects: np.ndarray
    object_area: np.ndarray
    pairs: Mapping[str, PairFigures]
    reading: ReadingTime
    size: int
    recommendation: Recommendation
    notes: Sequence[str]

    @property
    def copies(self) -> int:
        """Images that could go without loss: all but one of each group of the same bytes."""
        return sum(len(group) - 1 for group in self.duplicates)

    @property
    def near_copies(self) -> int:
        """Sampled images that look like an earlier one."""
        return len({later for _, later in self.near})

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `--json` writes them; shares are 0..1, what is not known is null."""
        return {
            "data": self.data,
            "images": {
                "read": self.read,
                "unreadable": len(self.unreadable),
                "tiny": self.tiny,
                "duplicates": self.copies,
            },
            "objects_per_image": float(self.objects.mean()),
            "objects_from": self.objects_from,
            "crop_pairs": {
                name: {
                    "share_common_object": None if found.common is None else found.common.value,
                    "mean_overlap": found.overlap.value,
                }
                for name, found in self.pairs.items()
            },
            "recommendation": {
                "method": self.recommendation.method,
                "crops": self.recommendation.crops,
                "size": self.recommendation.size,
                "batch_size": self.recommendation.batch_size,
                "epochs": self.recommendation.epochs,
                "disk_bytes": self.recommendation.disk_bytes,
                "reading_core_hours": self.recommendation.reading_core_hours,
                "reasons": list(self.recommendation.reasons),
                "commands": list(self.recommendation.commands),
            },
            "sampled": self.sampled,
            "near_duplicates": self.near_copies,
            "crop_pairs_intervals": {
                name: {
                    "share_common_object": None if found.common is None else [found.common.low, found.common.high],
                    "mean_overlap": [found.overlap.low, found.overlap.high],
                }
                for name, found in self.pairs.items()
            },
            "crop_fallbacks": {name: found.fallback for name, found in self.pairs.items()},
            "quantiles": {name: _quantiles(values) for name, values in self.spreads().items()},
            "histograms": {
                name: {"edges": drawn.edges.tolist(), "counts": drawn.counts.tolist()}
                for name, drawn in self.histograms().items()
            },
            "bytes": self.bytes,
            "seconds": {
                "decode": self.reading.decode,
                "two_views": self.reading.two_views,
                "size": self.reading.size,
            },
            "unreadable_images": [{"image": skip.key, "reason": skip.reason} for skip in self.unreadable],
            "duplicate_images": [list(group) for group in self.duplicates],
            "near_duplicate_images": [list(pair) for pair in self.near],
            "notes": list(self.notes),
        }

    def spreads(self) -> dict[str, np.ndarray]:
        """Return the values whose spread is shown, by name."""
        return {
            "short_side": self.short_side,
            "aspect": self.aspect,
            "brightness": self.brightness,
            "objects_per_image": self.objects,
            "object_area": self.object_area,
        }

    def histograms(self) -> dict[str, Histogram]:
        """Return the histograms of the same values, by the same names; none of values that there are none of."""
        drawn = {
            "short_side": histogram("Short side (px)", self.short_side),
            "aspect": histogram("Aspect (width / height)", self.aspect),
            "brightness": histogram("Brightness (0 black, 1 white)", self.brightness, low=0.0, high=1.0),
            "objects_per_image": whole_histogram(
                f"Objects an image (last bar: {MANY} or more)", self.objects, most=MANY
            ),
        }
        if len(self.object_area):
            title = "Area of an object (share of its image)"
            drawn["object_area"] = histogram(title, self.object_area, low=0.0, high=1.0)
        return drawn

    def facts(self) -> list[tuple[str, str]]:
        """Return the counts as (name, text)."""
        decode, views = self.reading.decode, self.reading.two_views
        return [
            ("read", f"{self.read:,}"),
            ("unreadable", f"{len(self.unreadable):,}"),
            ("tiny (short side under 32 px)", f"{self.tiny:,}"),
            ("duplicates (same bytes)", f"{self.copies:,}"),
            (f"near duplicates among {self.sampled:,}", f"{self.near_copies:,}"),
            ("on disk", "no files" if self.bytes is None else shown_bytes(self.bytes)),
            ("objects an image", f"{self.objects.mean():.1f}"),
            ("to read and decode an image", f"{1000 * decode:.1f} ms"),
            (f"with two views of {self.reading.size} px", f"{1000 * views:.1f} ms: {1 / views:,.0f} images/s a core"),
        ]

    def choice(self) -> str:
        """Return the recommendation in one line."""
        use = self.recommendation
        return (
            f"--method {use.method} --crops {use.crops} --size {use.size} --batch-size {use.batch_size} "
            f"--epochs {use.epochs}"
        )

    def to_text(self) -> str:
        """Return the tables and sentences that the command prints; shares in percent."""
        lines = ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in self.facts())]
        lines += ["", "| quantile | " + " | ".join(f"{q} %" for q in QUANTILES) + " |", "| --- |" + " --- |" * 5]
        for name, values in self.spreads().items():
            if len(values):
                told = " | ".join(f"{value:.3g}" for value in _quantiles(values).values())
                lines.append(f"| {name.replace('_', ' ')} | {told} |")
        lines += [
            "",
            "| crops | pairs with an object in common (%) | mean overlap, IoU (%) | fallback (%) |",
            "| --- | --- | --- | --- |",
            *(f"| {name} | {_cells(found)} |" for name, found in self.pairs.items()),
            "",
            f"objects from: {self.objects_from}",
        ]
        for title, rows in (
            ("unreadable", [f"{skip.key}: {skip.reason}" for skip in self.unreadable]),
            ("same bytes", [" = ".join(group) for group in self.duplicates]),
            ("look alike", [" ~ ".join(pair) for pair in self.near]),
        ):
            more = [f"... and {len(rows) - TOLD:,} more"] if len(rows) > TOLD else []
            lines += [f"{title}: {row}" for row in [*rows[:TOLD], *more]]
        lines += [f"note: {note}" for note in self.notes]
        lines += ["", f"use {self.choice()}", *(f"- {reason}" for reason in self.recommendation.reasons), ""]
        return "\n".join([*lines, *(f"    {command}" for command in self.recommendation.commands)])


def _quantiles(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    return {f"{q} %": float(value) for q, value in zip(QUANTILES, np.percentile(values, QUANTILES), strict=True)}


def _cells(found: PairFigures) -> str:
    figures = [
        "no objects known"
        if figure is None
        else f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"
        for figure in (found.common, found.overlap)
    ]
    return " | ".join([*figures, f"{100 * found.fallback:.1f}"])
