"""How many images may be left out before a run stops (law 6)."""

from __future__ import annotations

from scenewise.errors import UserError
from scenewise.sources import Source
from scenewise.types import Skip


def check_skipped(source: Source, share: float, left_out: int, example: Skip) -> None:
    """Raise UserError when a run has left out more images than `data.max_skipped` allows; one is always allowed."""
    problem = _problem(source, share, left_out, example)
    if problem:
        raise UserError(f"{problem}\nAll are named in skipped.csv. Mend or remove them, or raise data.max_skipped")


def check_skipped_at_start(source: Source, share: float) -> None:
    """Raise UserError when the index alone holds more unreadable images than a run allows."""
    unreadable = source.unreadable
    problem = _problem(source, share, 0, unreadable[-1]) if unreadable else None
    if problem:
        raise UserError(f"{problem}\n`scenewise audit` names all. Mend or remove them, or raise data.max_skipped")


def _problem(source: Source, share: float, left_out: int, example: Skip) -> str | None:
    everything, bad = len(source) + len(source.unreadable), left_out + len(source.unreadable)
    if bad <= allowed_skips(share, everything):
        return None
    return (
        f"data.max_skipped: {bad} of {everything} images cannot be read, more than the share {share} allows; the last: "
        f"{example.key} ({example.reason})."
    )


def allowed_skips(share: float, images: int) -> float:
    """Return how many of so many images may be left out by `data.max_skipped`."""
    return max(1.0, share * images)
