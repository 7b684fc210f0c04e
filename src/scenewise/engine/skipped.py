"""How many images may be left out before a run stops (law 6)."""

from __future__ import annotations

from scenewise.engine.plan import Plan
from scenewise.errors import UserError
from scenewise.types import Skip


def check_skipped(plan: Plan, count: int, example: Skip) -> None:
    """Raise UserError when more images were left out than `data.max_skipped` allows; one is always allowed."""
    unreadable = len(plan.source.unreadable)
    everything, bad = len(plan.source) + unreadable, count + unreadable
    if bad > max(1, plan.config.data.max_skipped * everything):
        raise UserError(
            f"data.max_skipped: {bad} of {everything} images cannot be read, more than the share "
            f"{plan.config.data.max_skipped} allows; the last: {example.key} ({example.reason}).\n"
            "All are named in skipped.csv. Mend or remove them, or raise data.max_skipped"
        )


def check_skipped_at_start(plan: Plan) -> None:
    """Raise UserError when the index alone holds more unreadable images than the run allows."""
    unreadable = plan.source.unreadable
    if unreadable:
        check_skipped(plan, 0, unreadable[-1])
