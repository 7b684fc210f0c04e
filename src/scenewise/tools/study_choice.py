"""What is chosen for an arm, of what, and by which figure: on the part to choose on, never on the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from scenewise.report.records import ComparisonTable
from scenewise.tools.study_folder import StudyFolder, read_json
from scenewise.tools.study_plan import PlannedArm, StudyPlan, described


@dataclass(frozen=True, kw_only=True, slots=True)
class Tried:
    """One of an arm's tries and its figure, a share; None and why where it has none."""

    settings: Mapping[str, Any]
    value: float | None
    failed: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """variant: place of what was chosen; None where all that was tried has failed. by: "knn mAP". at: UTC."""

    variant: int | None
    tried: tuple[Tried, ...] = ()
    by: str | None = None
    at: str | None = None

    def same(self, other: Choice) -> bool:
        """Return whether the same was chosen of the same figures, whenever it was."""
        return replace(self, at=None) == replace(other, at=None)

    def to_json(self) -> dict[str, Any]:
        """Return the choice as choices.json and the table hold it."""
        return asdict(self)

    def sentence(self) -> str:
        """Return what was chosen of what."""
        of = "; ".join(_words(tried) for tried in self.tried)
        if self.variant is None:
            return f"nothing can be chosen ({of})"
        return f"{described(self.tried[self.variant].settings)} is chosen by {self.by} ({of})"


def choose(plan: StudyPlan, planned: PlannedArm, folder: StudyFolder, *, at: str) -> Choice:
    """Return the best of what an arm has tried, the first of equals; an arm without tries is what it is."""
    if not planned.arm.tries:
        return Choice(variant=0)
    tried = []
    by = None
    for job, variant in zip(planned.tried(), planned.variants, strict=True):
        content = read_json(folder.evaluation(job.name, "choose"))
        failed = folder.read(job.name).get("failed")
        value = None
        if content and failed is None:
            metric = main_metrics(content)[plan.study.choose_by or plan.study.protocols[0]]
            by = " ".join(metric)
            value = float(content["protocols"][metric[0]][metric[1]]["value"])
        tried.append(Tried(settings=variant.settings, value=value, failed=failed))
    values = [-math.inf if each.value is None else each.value for each in tried]
    best = max(values)
    chosen = None if best == -math.inf else values.index(best)
    return Choice(variant=chosen, tried=tuple(tried), by=by, at=at)


def main_metrics(evaluation: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return for each protocol of an evaluation's JSON its main figure, as (protocol, metric)."""
    return {column[0]: column for column in ComparisonTable.from_results([evaluation]).main().columns}


def made_choices(folder: StudyFolder) -> dict[str, Choice]:
    """Return the choices that were made so far, by the arm's label."""
    return {
        label: Choice(**{**content, "tried": tuple(Tried(**tried) for tried in content["tried"])})
        for label, content in read_json(folder.root / "choices.json").items()
    }


def _words(tried: Tried) -> str:
    shown = f"failed: {tried.failed}" if tried.value is None else f"{100 * tried.value:.1f}"
    return f"{described(tried.settings)}: {shown}"
