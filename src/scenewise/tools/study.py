"""`scenewise study`: carry out a study file, resumably, and write its table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scenewise.engine.display import Display, Quiet
from scenewise.errors import UserError
from scenewise.studies import Study
from scenewise.tools.study_choice import Choice, choose, made_choices
from scenewise.tools.study_devices import Machine, carry_out_all, choose_machine
from scenewise.tools.study_figure import claim_svg, figure_svg
from scenewise.tools.study_file import load_study
from scenewise.tools.study_folder import StudyFolder, json_text, read_json, write_whole
from scenewise.tools.study_plan import StudyPlan, plan_study
from scenewise.tools.study_pool import make_boxes, make_pool, pool_spec
from scenewise.tools.study_prepare import check_arms, check_changes, check_data, closed_arms, open_arms
from scenewise.tools.study_results import gather_curves, gather_results
from scenewise.tools.study_table import table_markdown
from scenewise.wording import slug


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """A study's table: `content` is that of table.json, `file` where it lies, None where nothing was written."""

    content: Mapping[str, Any]
    file: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return what table.json holds."""
        return dict(self.content)

    def to_markdown(self) -> str:
        """Return the table in Markdown."""
        return table_markdown(self.content)


def run_study(
    study: Study,
    out: Path,
    *,
    command: str,
    choose_only: bool = False,
    jobs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    overwrite: Sequence[str] = (),
    display: Display | None = None,
) -> StudyResult:
    """Carry out what is not done of a study and write its table to OUT.

    command: how this was asked for, for the table. choose_only: stop when all choices are made, before the test split
    is looked at. overwrite: labels of arms whose changes are made: their runs anew, or only their figures where it is
    the protocols or the labelled data. Raises UserError for wrong input, before any work, and at the end for runs that
    failed; Interrupted after saving.
    """
    display = display or Quiet()
    folder = StudyFolder(out)
    machine = choose_machine(device, jobs, workers)
    plan, closed = _tell_plan(study, folder, display)
    with folder.locked("study"):
        make_pool(study.data, out, display)
        check_data(plan, closed, display)
        check_changes(plan, folder, overwrite, display)
        for name, boxes in study.boxes.items():
            like = None if boxes.like is None else folder.boxes(boxes.like)
            make_boxes(boxes, folder.boxes(name), plan.data, like=like, workers=workers, display=display)

        def written() -> StudyResult:
            return _write(plan, folder, closed=closed, choices=made_choices(folder), command=command)

        try:
            choices = _choose_all(plan, folder, machine, closed, display)
            written()
            if not choose_only:
                finals = [
                    job
                    for planned in open_arms(plan, closed)
                    if (variant := choices[planned.arm.label].variant) is not None
                    for job in planned.final(variant)
                ]
                carry_out_all(finals, plan.exam("test"), folder, machine, display)
        finally:
            result = written()
    failed = [
        f"{run['name']} failed: {run['failed']}"
        for arm in result.content["arms"]
        for run in arm["runs"]
        if "failed" in run
    ]
    failed += [f"{label}: all that was tried has failed" for label, choice in choices.items() if choice.variant is None]
    if failed:
        raise UserError(*failed)
    return result


def remake_table(file: Path) -> StudyResult:
    """Write FILE.md, FILE.svg and the figure of each claim, FILE.NAME.svg, anew from FILE.json alone, beside it."""
    if not file.is_file():
        raise UserError(f"--table: no such file: {str(file)!r}; name the table.json of a study")
    content = read_json(file)
    if not {"arms", "claims", "protocols"} <= content.keys():
        raise UserError(f"--table: {str(file)!r} is not the table.json of a study: it holds no arms or no claims")
    _write_pages(file, content)
    return StudyResult(content=content, file=file)


def study(
    file: str | Path | Study | None = None,
    *,
    out: str | Path | None = None,
    table: str | Path | None = None,
    plan: bool = False,
    choose: bool = False,
    jobs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    overwrite: Sequence[str] | None = None,
    display: Display | None = None,
) -> StudyResult:
    """Carry out a study, or what is left of it (`scenewise study`); `.to_json()` gives the content of table.json.

    file: a study file, which is run, or a `Study`. table: make the pages of such JSON anew, and no more. plan: say what
    would be run. choose: stop before the test split is looked at. overwrite: labels of arms to make anew where their
    settings have changed. Raises UserError for wrong input before any work starts, and for runs that failed once all
    others are done; Interrupted after saving.
    """
    display, out = display or Quiet(), None if out is None else Path(out)
    others = {"--choose": choose, "--jobs": jobs, "--overwrite": overwrite}
    unused = [name for name, value in {**others, "--plan": plan and table is not None}.items() if value]
    if unused and (table is not None or plan):
        raise UserError(f"{unused[0]}: has no effect with {'--table' if table is not None else '--plan'}; leave it out")
    if table is not None:
        if file is not None or out is not None:
            raise UserError("--table: makes a table of its JSON alone; leave out the study file and --out")
        return remake_table(Path(table))
    if file is None:
        raise UserError("FILE: name a study file, for example studies/scenes_small.py, or --table FILE.json")
    described = file if isinstance(file, Study) else load_study(Path(file))
    if plan:
        return _planned(described, out or Path("study"), command=_command(file, out), display=display)
    if out is None:
        raise UserError("--out: name the study's folder; with the same command it goes on there")
    return run_study(
        described,
        out,
        command=_command(file, out),
        choose_only=choose,
        jobs=jobs,
        device=device,
        workers=workers,
        overwrite=overwrite or (),
        display=display,
    )


def _tell_plan(study: Study, folder: StudyFolder, display: Display) -> tuple[StudyPlan, dict[str, str]]:
    """Return the plan and the arms that stay open, once all settings can work, and say both."""
    plan = plan_study(study, data=pool_spec(study.data, folder.root), boxes=folder.boxes)
    closed = closed_arms(plan)
    check_arms(plan, closed)
    for line in plan.lines():
        display.say(line)
    for label, reason in closed.items():
        display.warn(f"{label} stays open: {reason}")
    return plan, closed


def _planned(study: Study, out: Path, *, command: str, display: Display) -> StudyResult:
    """Say what would be run, and return the table of what is there already; nothing is written."""
    folder = StudyFolder(out)
    plan, closed = _tell_plan(study, folder, display)
    content = gather_results(plan, folder, choices=made_choices(folder), closed=closed, command=command)
    return StudyResult(content=content, file=None)


def _command(file: str | Path | Study, out: Path | None) -> str:
    """Return how a study was asked for; one that was made in Python has no file."""
    named = "STUDY" if isinstance(file, Study) else str(file)
    return shlex.join(["scenewise", "study", named, *([] if out is None else ["--out", str(out)])])


def _choose_all(
    plan: StudyPlan, folder: StudyFolder, machine: Machine, closed: Mapping[str, str], display: Display
) -> dict[str, Choice]:
    """Try what is to be tried, and return each open arm's choice, which is kept with all it was made from."""
    tried = [job for planned in open_arms(plan, closed) for job in planned.tried()]
    if tried:
        carry_out_all(tried, plan.exam("choose"), folder, machine, display)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    choices = {arm.arm.label: choose(plan, arm, folder, at=now) for arm in open_arms(plan, closed)}
    before = made_choices(folder)
    kept = {
        label: before[label] if label in before and before[label].same(choice) else choice
        for label, choice in choices.items()
    }
    content = {label: choice.to_json() for label, choice in {**before, **kept}.items()}
    write_whole(folder.root / "choices.json", json_text(content))
    for planned in open_arms(plan, closed):
        if planned.arm.tries:
            display.say(f"{planned.arm.label}: {kept[planned.arm.label].sentence()}")
    return kept


def _write(
    plan: StudyPlan,
    folder: StudyFolder,
    *,
    closed: Mapping[str, str],
    choices: Mapping[str, Choice],
    command: str,
) -> StudyResult:
    content = gather_results(plan, folder, choices=choices, closed=closed, command=command)
    file = folder.root / "table.json"
    write_whole(file, json_text(content))
    write_whole(folder.curves, json_text(gather_curves(content, folder)))
    _write_pages(file, content)
    return StudyResult(content=content, file=file)


def _write_pages(file: Path, content: Mapping[str, Any]) -> None:
    write_whole(file.with_suffix(".svg"), figure_svg(content))
    pictures = {}
    for claim in content["claims"]:
        picture = file.with_suffix(f".{slug(claim['name'])}.svg")
        write_whole(picture, claim_svg(content, claim))
        pictures[claim["name"]] = picture.name
    write_whole(file.with_suffix(".md"), table_markdown(content, pictures))
