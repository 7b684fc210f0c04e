"""The interface between the frame of an evaluation and its protocols."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scenewise.evaluate.exam import Exam, Need
from scenewise.evaluate.task import Outcome, Task


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to judge a backbone.

    summary: one line. config: a frozen dataclass of its settings, each with a default and its origin; one that trains
    by gradient has `epochs` and `iterations`. needs: what an image must have been labelled with. run: takes the exam
    and the settings; raises UserError when they do not fit. check: the same, before any image is read.
    """

    summary: str
    config: type[Any]
    run: Callable[[Exam, Any], Outcome]
    needs: Need = "labels"
    check: Callable[[Exam, Any], None] = lambda exam, config: None


def frozen(run: Callable[[Task, Any], Outcome]) -> Callable[[Exam, Any], Outcome]:
    """Return a protocol's run from what it does with the frozen, pooled features."""
    return lambda exam, config: run(exam.task(), config)
