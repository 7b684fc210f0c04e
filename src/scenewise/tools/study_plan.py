"""From a study to its jobs: each run with its complete settings, epochs derived from the budget, all faults at once."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scenewise.engine.config import RunConfig, build
from scenewise.engine.config_tree import Tree, assign, merge
from scenewise.errors import UserError
from scenewise.methods import method_class
from scenewise.studies import Arm, Settings, Split, Study
from scenewise.tools.study_check import study_problems
from scenewise.wording import counted, slug

Part = Literal["choose", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Exam:
    """What runs are judged by: `part` of the study, two specs of data, and the terms, alike for all."""

    part: Part
    train: str
    test: str
    protocols: tuple[str, ...]
    settings: Settings
    size: int
    limit: int | None
    min_positives: int
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run of an arm, or one look at weights as they are; `name` is that of its folder and files.

    tree: the configuration, None where nothing is trained and `subject` is judged as it is.
    """

    name: str
    arm: str
    seed: int
    tree: Tree | None
    subject: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """An arm with one of the settings that are tried, or the arm itself: what is equal for all its seeds.

    cost: encoder passes a step and image; epochs x cost: those of the run, an image. None: nothing is trained.
    """

    name: str
    settings: Settings
    tree: Tree | None
    epochs: int | None = None
    cost: float | None = None

    @property
    def passes(self) -> float | None:
        """Return the encoder passes of a whole run, an image of the pool."""
        return None if self.epochs is None or self.cost is None else self.epochs * self.cost


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedArm:
    """An arm and its variants: one, or one for each of its `tries`."""

    arm: Arm
    variants: tuple[Variant, ...]

    def job(self, variant: int, seed: int) -> Job:
        """Return the job of a variant with a seed."""
        chosen = self.variants[variant]
        tree = None if chosen.tree is None else merge(chosen.tree, {"seed": seed})
        name = chosen.name if self.arm.seedless else f"{chosen.name}-seed-{seed}"
        return Job(name=name, arm=self.arm.label, seed=seed, tree=tree, subject=self.arm.init if tree is None else None)

    def tried(self) -> tuple[Job, ...]:
        """Return the jobs that the arm's choice is made from, in the order of its `tries`; none without any."""
        return tuple(self.job(place, self.arm.seeds[0]) for place in range(len(self.variants) if self.arm.tries else 0))

    def final(self, variant: int) -> tuple[Job, ...]:
        """Return the jobs of the table's row."""
        seeds = self.arm.seeds[:1] if self.arm.seedless else self.arm.seeds
        return tuple(self.job(variant, seed) for seed in seeds)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlan:
    """A study, decided: `data` is the pool's one spec."""

    study: Study
    data: str
    arms: tuple[PlannedArm, ...]

    def exam(self, part: Part) -> Exam:
        """Return what the runs are judged by in this part of the study."""
        study = self.study
        split = study.test_on if part == "test" else study.choose_on
        assert isinstance(split, Split), "a study without choices has no exam to choose by"
        return Exam(
            part=part,
            train=split.train,
            test=split.test,
            protocols=study.protocols,
            settings=study.protocol_settings,
            size=study.size,
            limit=study.limit,
            min_positives=study.min_positives,
            seed=study.evaluation_seed,
        )

    def lines(self) -> list[str]:
        """Return how each arm's epochs follow from the budget, a line a variant."""
        budget = self.study.passes
        said = []
        for planned in self.arms:
            for variant in planned.variants:
                if variant.epochs is None:
                    said.append(f"{variant.name}: {planned.arm.init} as it is")
                    continue
                derived = "its own settings" if budget is None else f"a budget of {budget:g}"
                said.append(
                    f"{variant.name}: {variant.cost:.4g} encoder passes a step and image, {derived}: "
                    f"{counted(variant.epochs, 'epoch')}, {variant.passes:.4g} passes, "
                    f"{counted(len(planned.arm.seeds), 'seed')}"
                )
        return said


def plan_study(study: Study, *, data: str, boxes: Callable[[str], Path]) -> StudyPlan:
    """Return the study with everything decided; UserError with all that is wrong, each problem with its arm's label.

    data: the pool's one spec. boxes: name of the study's boxes -> their file, which may be made later.
    """
    problems = study_problems(study)
    planned = []
    for arm in study.arms:
        try:
            planned.append(PlannedArm(arm=arm, variants=_variants(study, arm, data, boxes)))
        except UserError as error:
            problems += [f"{arm.label}: {problem}" for problem in error.problems]
    problems += _same_names(planned)
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return StudyPlan(study=study, data=data, arms=tuple(planned))


def configuration(tree: Tree) -> RunConfig:
    """Return the validated configuration of a job's tree; those that differ in their seed are validated once."""
    shared = {name: value for name, value in tree.items() if name != "seed"}
    return replace(_validated(json.dumps(shared)), seed=tree.get("seed", 0))


@functools.lru_cache(maxsize=4096)
def _validated(tree: str) -> RunConfig:
    return build(json.loads(tree))


def flat(settings: Mapping[str, Any], *, above: str = "") -> dict[str, Any]:
    """Return settings by dotted name, sections opened."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        dotted = f"{above}{name}"
        found |= flat(value, above=f"{dotted}.") if isinstance(value, Mapping) else {dotted: value}
    return found


def described(settings: Settings) -> str:
    """Return settings in a few words: "lr 0.1", "weight 0.2, reduction mean"."""
    return ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in flat(settings).items())


def epochs_of(budget: float, cost: float) -> int:
    """Return the epochs whose encoder passes are the nearest to the budget; UserError where that is none."""
    if budget < cost:
        raise UserError(
            f"passes: the budget of {budget:g} encoder passes an image is less than the {cost:g} of one epoch; "
            f"give at least {cost:g}"
        )
    return math.floor(budget / cost + 0.5)


def _variants(study: Study, arm: Arm, data: str, boxes: Callable[[str], Path]) -> tuple[Variant, ...]:
    if arm.method is None:
        return (Variant(name=slug(arm.label), settings={}, tree=None),)
    tries: Sequence[Settings] = arm.tries or ({},)
    found = []
    for tried in tries:
        tree = _tree(study, arm, tried, data, boxes)
        config = configuration(tree)
        _check_agreement(study, arm, config)
        cost = method_class(config.method).passes(config.method_config)
        epochs = config.engine.epochs if study.passes is None else epochs_of(study.passes, cost)
        tree = merge(tree, {"engine": {"epochs": epochs}})
        name = slug(f"{arm.label} {described(tried)}")
        found.append(Variant(name=name, settings=flat(tried), tree=tree, epochs=epochs, cost=cost))
    return tuple(found)


def _tree(study: Study, arm: Arm, tried: Settings, data: str, boxes: Callable[[str], Path]) -> Tree:
    """Return the configuration: the study's settings < what the arm names < the arm's settings < what is tried."""
    named: dict[str, Any] = {"data.source": data, "data.size": study.size, "method.name": arm.method}
    if arm.crops is not None:
        named["crops.name"] = arm.crops
    if arm.init is not None:
        named["backbone.init"] = arm.init
    if arm.proposals is not None:
        named["data.proposals"] = str(boxes(arm.proposals)) if arm.proposals in study.boxes else arm.proposals
    trees = []
    for settings in (study.settings, named, arm.settings, tried):
        tree: Tree = {}
        for name, value in settings.items():
            assign(tree, name, value)
        trees.append(tree)
    return merge(*trees)


def _check_agreement(study: Study, arm: Arm, config: RunConfig) -> None:
    """Raise UserError where settings say something else than the arm or the study."""
    pairs = (
        ("method.name", config.method, arm.method, "the arm's method"),
        ("data.size", config.data.size, study.size, "the study's size"),
        ("backbone.init", config.backbone.init, arm.init, "the arm's init"),
    )
    wrong = [
        f"settings {name}: {found!r} is not {field} {wanted!r}; leave it out of the settings"
        for name, found, wanted, field in pairs
        if found != wanted
    ]
    if wrong:
        raise UserError(*wrong)


def _same_names(planned: Sequence[PlannedArm]) -> list[str]:
    """Return a problem for every two variants whose files would have the same name."""
    known: dict[str, str] = {}
    problems = []
    for each in planned:
        for variant in each.variants:
            label = each.arm.label
            if variant.name in known:
                problems.append(
                    f"{label}: its files would be called {variant.name!r} as those of {known[variant.name]!r}"
                )
            known.setdefault(variant.name, label)
    return problems
