"""One self-contained page on a folder of photos: what is in it, how crops fall, and what to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from scenewise.report.histograms import Histogram, draw_histogram
from scenewise.report.page import Sheet, template, write_page

LISTED = 200  # unreadable images and pairs of duplicates that the page names; the JSON names all


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRow:
    """A crop policy's figures, shares 0..1, with the ends of their 95 % intervals; None where no object is known."""

    name: str
    title: str
    common: tuple[float, float, float] | None
    overlap: tuple[float, float, float]
    fallback: float


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditPage:
    """What the page shows. facts: (name, value) in the order shown. unreadable: (image, reason). twins: alike pairs."""

    title: str
    facts: Sequence[tuple[str, str]]
    choice: str
    reasons: Sequence[str]
    commands: Sequence[str]
    policies: Sequence[PolicyRow]
    objects_from: str
    histograms: Sequence[Histogram]
    sheets: Mapping[str, Sheet]
    twins: Sequence[tuple[str, str]]
    unreadable: Sequence[tuple[str, str]]
    notes: Sequence[str]


def audit_html(page: AuditPage) -> str:
    """Return the page as text of one HTML file, which loads and runs nothing; all that comes from data is escaped."""
    return template("audit_page.html").render(
        page=page,
        drawings=[(drawn, Markup(draw_histogram(drawn))) for drawn in page.histograms],
        listed=LISTED,
    )


def write_audit(out: Path, page: AuditPage) -> None:
    """Write the page to `out`, whole or not at all; its folder must exist."""
    write_page(out, audit_html(page))
