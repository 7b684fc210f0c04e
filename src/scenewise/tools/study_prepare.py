"""Before a study begins: everything that can be known to fail is found while nothing has been computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from scenewise.backbones import load_subject
from scenewise.engine.check import check_config
from scenewise.engine.display import Display
from scenewise.engine.plan import DEFAULT_BACKBONE, make_schedule
from scenewise.engine.run import open_with_display
from scenewise.errors import MissingError, UserError, unknown_name
from scenewise.evaluate.run import check_exam
from scenewise.methods import method_class
from scenewise.sources import Source
from scenewise.tools.judge import identities, open_splits
from scenewise.tools.study_folder import StudyFolder, changes, forget, forget_figures, has_weights, is_as_asked
from scenewise.tools.study_job import exam_terms
from scenewise.tools.study_plan import Exam, Job, PlannedArm, StudyPlan, configuration


def open_arms(plan: StudyPlan, closed: Mapping[str, str]) -> list[PlannedArm]:
    """Return the arms that can be carried out on this machine."""
    return [planned for planned in plan.arms if planned.arm.label not in closed]


def closed_arms(plan: StudyPlan) -> dict[str, str]:
    """Return label -> reason of the arms whose weights to start from are not on this machine."""
    closed = {}
    for planned in plan.arms:
        if planned.arm.init is None:
            continue
        try:
            load_subject(planned.arm.init, size=plan.study.size)
        except MissingError as error:
            closed[planned.arm.label] = "; ".join(error.problems)
        except UserError as error:
            raise UserError(*(f"{planned.arm.label}: {problem}" for problem in error.problems)) from None
    return closed


def check_arms(plan: StudyPlan, closed: Mapping[str, str]) -> None:
    """Raise UserError for all settings that cannot work, whatever the data are."""
    made = set(plan.study.boxes)
    problems: list[str] = []
    for planned in open_arms(plan, closed):
        for variant in planned.variants:
            if variant.tree is None:
                continue
            tree = dict(variant.tree)
            if planned.arm.proposals in made:  # the file is made before the first run
                tree["data"] = {**tree["data"], "proposals": "auto"}
            try:
                check_config(configuration(tree))
            except UserError as error:
                problems += [f"{planned.arm.label}: {problem}" for problem in error.problems]
    if problems:
        raise UserError(*dict.fromkeys(problems))


def check_data(plan: StudyPlan, closed: Mapping[str, str], display: Display) -> None:
    """Raise UserError for what does not fit the data, before any run: batches, dictionaries, a test split chosen on."""
    pool = open_with_display(plan.data, display)
    problems: list[str] = []
    for planned in open_arms(plan, closed):
        for variant in planned.variants:
            if variant.tree is None:
                continue
            config = configuration(variant.tree)
            try:
                make_schedule(config, len(pool), world=1, rank=0)
                method_class(config.method).resolve(
                    config.method_config, images=len(pool), batch_size=config.engine.batch_size
                )
            except UserError as error:
                problems += [f"{planned.arm.label}: {problem}" for problem in error.problems]
    opened = {"test": open_splits(plan.study.test_on.train, plan.study.test_on.test, display)}
    if plan.study.choose_on is not None:
        opened["choose"] = open_splits(plan.study.choose_on.train, plan.study.choose_on.test, display)
        shared = set(identities(opened["test"][1])).intersection(chain.from_iterable(map(identities, opened["choose"])))
        if shared:
            problems.append(
                f"choose_on: {len(shared)} of its images are test images of `test_on`, for example {min(shared)}; "
                "nothing may be chosen on them"
            )
    for train, test in opened.values():
        problems += _exam_problems(plan, closed, train, test)
    if problems:
        raise UserError(*dict.fromkeys(problems))


def _exam_problems(plan: StudyPlan, closed: Mapping[str, str], train: Source, test: Source) -> list[str]:
    """Return what is wrong with the labelled images and the protocols, which is the same for every subject."""
    for planned in open_arms(plan, closed):
        tree = planned.variants[0].tree
        backbone = None if tree is None else configuration(tree).backbone.name
        subject = load_subject(planned.arm.init or f"random:{backbone or DEFAULT_BACKBONE}", size=plan.study.size)
        terms = exam_terms(plan.exam("test"), device="cpu", workers=0)
        try:
            check_exam(terms.exam(subject, train, test), terms.choose())
        except UserError as error:
            return list(error.problems)
        break
    return []


def _every_job(plan: StudyPlan) -> list[tuple[PlannedArm, Job, Exam]]:
    """Return every job that the study may come to, with the exams it may sit."""
    found = []
    for planned in plan.arms:
        for variant in range(len(planned.variants)):
            found += [(planned, job, plan.exam("test")) for job in planned.final(variant)]
        found += [(planned, job, plan.exam("choose")) for job in planned.tried()]
    return found


def check_changes(plan: StudyPlan, folder: StudyFolder, overwrite: Sequence[str], display: Display) -> None:
    """Raise UserError for runs that were made with other settings, but forget those of arms to overwrite.

    What was only judged otherwise keeps its run and loses its figures; where the run is gone, it is made anew.
    """
    labels = [planned.arm.label for planned in plan.arms]
    problems = [unknown_name("--overwrite", label, labels) for label in overwrite if label not in labels]
    if problems:
        raise UserError(*problems)
    for planned, job, exam in _every_job(plan):
        record = folder.read(job.name)
        changed = changes(job, exam, record)
        if not changed:
            continue
        trained, told = is_as_asked(job, record) and has_weights(job, folder), "; ".join(changed)
        if planned.arm.label not in overwrite:
            problems.append(
                f"{planned.arm.label}: {folder.run(job.name)} was {'judged' if trained else 'made'} with other "
                f"settings ({told}); give the arm another label, or {'judge' if trained else 'make'} it anew with "
                f"--overwrite {planned.arm.label!r}"
            )
        elif trained:
            display.say(f"{job.name} is judged anew: {told}")
            forget_figures(job, exam.part, folder)
        else:
            display.say(f"{job.name} is made anew: {told}")
            forget(job, folder)
    if problems:
        raise UserError(*problems)
