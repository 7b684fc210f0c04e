"""From a study's files to its table as JSON: figures by seed, means, spreads, paired differences, their origin."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from scenewise.evaluate.intervals import Figure, intervals
from scenewise.report.records import ComparisonTable, read_run
from scenewise.report.trend import series
from scenewise.tools.study_choice import Choice, main_metrics
from scenewise.tools.study_folder import IMAGES, Entry, StudyFolder, read_json
from scenewise.tools.study_plan import Exam, Job, PlannedArm, StudyPlan, flat
from scenewise.wording import counted

ONE_SEED = "one seed, undecided"
# Student's t: half the width of a 95 % interval in standard errors, for 1 to 10 degrees of freedom; for more the last,
# which is on the safe side
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
CURVES = ("loss", "health/", "probe/")  # figures, or beginnings of their names, that are gathered by epoch


@dataclass(frozen=True, slots=True)
class Look:
    """A run's look at the test split.

    drawn: "PROTOCOL|METRIC" -> the figure, then its resamples, (1 + resamples,). images: protocol -> a digest of the
    test images, the seed and the number of resamples: only equal ones can be paired.
    """

    drawn: Mapping[str, Float[Tensor, " samples"]]
    images: Mapping[str, str]


def gather_results(
    plan: StudyPlan,
    folder: StudyFolder,
    *,
    choices: Mapping[str, Choice],
    closed: Mapping[str, str],
    command: str,
) -> Entry:
    """Return what table.json holds: all that is finished by now."""
    study = plan.study
    looks = {planned.arm.label: _looks(planned, folder, choices) for planned in plan.arms}
    arms = [_arm(plan, planned, folder, choices, closed, looks[planned.arm.label]) for planned in plan.arms]
    seedless = {planned.arm.label for planned in plan.arms if planned.arm.seedless}
    by_label = {arm["label"]: arm for arm in arms}
    metrics: dict[str, str] = {}
    for arm in arms:
        for run in arm["runs"]:
            metrics |= {name: metric for name, metric in run.get("main", {}).items() if name not in metrics}
    for arm in arms:
        label, control = arm["label"], arm["control"]
        arm["figures"] = _means(arm["runs"], looks[label], metrics)
        arm["differences"] = (
            {}
            if control is None
            else _differences(
                looks[label],
                looks[control],
                metrics,
                fixed=(label in seedless, control in seedless),
                planned=_pairs_planned(arm, by_label[control]),
            )
        )
    return {
        "study": study.name,
        "about": study.about,
        "command": command,
        "data": plan.data,
        "size": study.size,
        "passes": study.passes,
        "protocols": {name: metrics.get(name) for name in study.protocols},
        "test_on": asdict(study.test_on),
        "choose_on": None if study.choose_on is None else asdict(study.choose_on),
        "evaluation_seed": study.evaluation_seed,
        "arms": arms,
        "claims": [{**asdict(claim), "arms": list(claim.arms)} for claim in study.claims],
        "notes": [*_notes(arms), *_unlike(arms)],
        "run_notes": _run_notes(arms),
    }


def gather_curves(content: Mapping[str, Any], folder: StudyFolder) -> Entry:
    """Return, for each run of the table and each that was tried, its loss, health and probe figures by epoch.

    Those of a run whose folder is gone, or of another study in this folder, are kept as they were gathered before.
    """
    names = dict.fromkeys(name for arm in content["arms"] for name in arm["jobs"])
    curves = read_json(folder.curves)
    for name in names:
        if not (folder.run(name) / "metrics.jsonl").exists():
            continue
        history = read_run(folder.run(name)).history
        figures = dict.fromkeys(figure for line in history for figure in line if figure.startswith(CURVES))
        curves[name] = {
            figure: [[epoch, float(f"{value:.5g}")] for epoch, value in series(history, figure)]
            for figure in figures
            if not figure.startswith(f"{CURVES[0]}/")  # of single terms
        }
    return curves


def command_line(job: Job, exam: Exam) -> str:
    """Return the command that repeats a job's run, or the look at a subject as it is.

    Weights of another seed than the exam's cannot be judged by the command line, where `--seed` is of both.
    """
    if job.tree is None:
        words = ["scenewise", "evaluate", str(job.subject), "--data", exam.train, "--test-data", exam.test]
        words += ["--size", str(exam.size), "--protocol", ",".join(exam.protocols), "--seed", str(job.seed)]
        words += [] if exam.limit is None else ["--limit", str(exam.limit)]
        words += [word for name, value in exam.settings.items() for word in ("--set", f"{name}={_scalar(value)}")]
        return " ".join(shlex.quote(word) for word in words)
    settings = [f"{name}={_scalar(value)}" for name, value in flat(job.tree).items() if name != "data.source"]
    words = ["scenewise", "pretrain", job.tree["data"]["source"], "--out", job.name, "--set", *settings]
    return " ".join(shlex.quote(word) for word in words)


def with_seeds(interval: Figure, differences: Sequence[float]) -> Figure:
    """Return a difference's interval over test images widened by what its seeds say of another training.

    differences: by seed, two or more. The half-width of Student's interval of their mean is added in quadrature to that
    over test images, which all seeds share. Of differences that are none 1 to 4 in 100 look decided so, with 2, 3 or 5
    seeds, a half-width of 1.2 over images and runs that spread by 0.3 to 1 (200,000 draws of normal values each); by
    the interval over images alone, with every seed on one side of 0, 6 to 28 in 100.
    """
    t = STUDENT[min(len(differences) - 1, len(STUDENT)) - 1]
    seeds = t * stdev(differences) / math.sqrt(len(differences))
    low, high = (math.hypot(end - interval.value, seeds) for end in (interval.low, interval.high))
    return Figure(interval.value, interval.value - low, interval.value + high)


def verdict(interval: Figure, seeds: int, *, fixed: bool, planned: int) -> str:
    """Return what may be said of a difference: of one seed nothing, for the interval holds no other training.

    seeds: that it is the mean of. fixed: no seed changes either side. planned: how many seeds there are to be: a run
    that failed or is missing may be the one with which it is otherwise.
    """
    if not fixed and seeds < 2:
        return ONE_SEED
    if seeds < planned:
        return f"not decided ({seeds} of {planned} seeds)"
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "not decided"


def _arm(
    plan: StudyPlan,
    planned: PlannedArm,
    folder: StudyFolder,
    choices: Mapping[str, Choice],
    closed: Mapping[str, str],
    looks: Mapping[int, Look],
) -> Entry:
    arm = planned.arm
    choice = choices.get(arm.label, Choice(variant=None if arm.tries else 0))
    variant = None if choice.variant is None else planned.variants[choice.variant]
    jobs = () if choice.variant is None else planned.final(choice.variant)
    return {
        "label": arm.label,
        "about": arm.about,
        "method": arm.method,
        "init": arm.init,
        "crops": arm.crops,
        "proposals": arm.proposals,
        "control": arm.control,
        "seeds": [] if arm.seedless else list(arm.seeds),
        "settings": flat(arm.settings),
        "cost": None if variant is None else variant.cost,
        "epochs": None if variant is None else variant.epochs,
        "passes": None if variant is None else variant.passes,
        "choice": choice.to_json() if arm.tries else None,
        "open": closed.get(arm.label),
        "jobs": list(dict.fromkeys(job.name for job in (*planned.tried(), *jobs))),
        "runs": [_run(job, plan.exam("test"), folder, looks.get(job.seed)) for job in jobs]
        if arm.label not in closed
        else [],
    }


def _run(job: Job, exam: Exam, folder: StudyFolder, look: Look | None) -> Entry:
    """Return a row's run: its figures of the whole test set, and where they came from."""
    record = folder.read(job.name)
    run: Entry = {"name": job.name, "seed": job.seed}
    if "failed" in record:
        return run | {"failed": record["failed"]}
    looked = record.get("exams", {}).get("test")
    evaluation = read_json(folder.evaluation(job.name, "test"))
    if looked is None or not evaluation:
        return run | {"unfinished": True}
    environment = record.get("environment", looked["environment"])  # of the training, where there was one
    machine = environment["machine"]
    figures: Entry = {}
    for protocol, metric in ComparisonTable.from_results([evaluation]).whole().columns:
        figures.setdefault(protocol, {})[metric] = evaluation["protocols"][protocol][metric]
    if look is not None:  # as intervals are taken now, whenever the run was judged
        for name, found in intervals(look.drawn).items():
            protocol, _, metric = name.partition("|")
            if metric in figures.get(protocol, {}):
                figures[protocol][metric] = found.to_json()
    return run | {
        "figures": figures,
        "main": dict(main_metrics(evaluation).values()),
        "command": command_line(job, exam),
        "commit": environment["commit"],
        "torch": environment["versions"]["torch"],
        "precision": environment.get("engine", {}).get("precision"),
        "machine": f"{machine['processor']}, {counted(machine['cores'], 'core')}, {machine['device']}",
        "seconds": record.get("seconds"),
        "test_seconds": looked["seconds"],
        "tested_at": looked["at"],
        "notes": evaluation["notes"],
    }


def _looks(planned: PlannedArm, folder: StudyFolder, choices: Mapping[str, Choice]) -> dict[int, Look]:
    """Return seed -> the resampled figures of an arm's finished runs."""
    choice = choices.get(planned.arm.label, Choice(variant=None if planned.arm.tries else 0))
    if choice.variant is None:
        return {}
    return {
        job.seed: _look(folder, job.name)
        for job in planned.final(choice.variant)
        if "test" in folder.read(job.name).get("exams", {}) and folder.resamples(job.name, "test").exists()
    }


def _look(folder: StudyFolder, name: str) -> Look:
    with np.load(io.BytesIO(folder.resamples(name, "test").read_bytes()), allow_pickle=False) as content:
        drawn = {figure: torch.from_numpy(content[figure]) for figure in content.files if "|" in figure}
        images = {figure.removeprefix(IMAGES): str(content[figure]) for figure in content.files if "|" not in figure}
    return Look(drawn, images)


def _means(runs: Sequence[Entry], looks: Mapping[int, Look], metrics: Mapping[str, str]) -> Entry:
    """Return each protocol's main figure: mean, interval over test images, and standard deviation over seeds.

    Where a protocol's figures cannot be resampled, several seeds have no interval.
    """
    found: Entry = {}
    for protocol, metric in metrics.items():
        name = f"{protocol}|{metric}"
        own = [run["figures"][protocol][metric] for run in runs if metric in run.get("figures", {}).get(protocol, {})]
        if not own:
            continue
        values = [each["value"] for each in own]
        drawn = [look.drawn[name] for look in looks.values() if name in look.drawn]
        figure: Entry = own[0] if len(own) == 1 else {"value": fmean(values), "low": None, "high": None}
        if len(drawn) == len(own) > 1:
            figure = intervals({name: torch.stack(drawn).mean(dim=0)})[name].to_json()
        spread = stdev(values) if len(values) > 1 else None
        found[protocol] = {"metric": metric, **figure, "spread": spread, "runs": len(values)}
    return found


def _differences(
    looks: Mapping[int, Look],
    controls: Mapping[int, Look],
    metrics: Mapping[str, str],
    *,
    fixed: tuple[bool, bool],
    planned: int,
) -> Entry:
    """Return each protocol's difference to the control: the mean over the seeds of both, on the same resamples."""
    pairs = [
        (looks[first], controls[second]) for first in looks for second in controls if first == second or any(fixed)
    ]
    found: Entry = {}
    for protocol, metric in metrics.items():
        name = f"{protocol}|{metric}"
        drawn = [
            one.drawn[name] - other.drawn[name]
            for one, other in pairs
            if name in one.drawn and name in other.drawn and one.images[protocol] == other.images[protocol]
        ]
        figure = intervals({name: torch.stack(drawn).mean(dim=0)}).get(name) if drawn else None
        if figure is None:
            continue
        by_seed = [float(each[0]) for each in drawn]
        if len(by_seed) > 1:
            figure = with_seeds(figure, by_seed)
        found[protocol] = {
            "metric": metric,
            **figure.to_json(),
            "by_seed": by_seed,
            "verdict": verdict(figure, len(by_seed), fixed=all(fixed), planned=planned),
        }
    return found


def _pairs_planned(arm: Entry, control: Entry) -> int:
    """Return how many differences there are to be: of the seeds in common; an arm without seeds is in all of them."""
    first, second = set(arm["seeds"]), set(control["seeds"])
    return max(len(first & second if first and second else first | second), 1)


def _notes(arms: Sequence[Entry]) -> list[str]:
    """Return what the reader of the table has to know beside its rows."""
    notes = [f"{arm['label']} stays open: {arm['open']}" for arm in arms if arm["open"]]
    runs = [run for arm in arms for run in arm["runs"]]
    notes += [f"{run['name']} failed: {run['failed']}" for run in runs if "failed" in run]
    unfinished = [run["name"] for run in runs if "unfinished" in run]
    if unfinished:
        notes.append(f"not finished yet: {', '.join(unfinished)}")
    looked = [run["tested_at"] for run in runs if "tested_at" in run]
    late = [arm["label"] for arm in arms if arm["choice"] and looked and (arm["choice"]["at"] or "") > min(looked)]
    if late:
        notes.append(f"chosen after the test split had been looked at for other arms: {', '.join(late)}")
    tries = {arm["label"]: len(arm["choice"]["tried"]) if arm["choice"] else 1 for arm in arms}
    uneven = [arm["label"] for arm in arms if arm["control"] and tries[arm["label"]] != tries[arm["control"]]]
    if uneven:
        notes.append(f"more or fewer settings were tried than for the control: {', '.join(uneven)}")
    figures = {arm["label"]: arm["figures"] for arm in arms}
    notes += [
        f"{arm['label']} and {arm['control']} have no paired difference by {protocol}: no seed in common, or not the "
        "same test images, or figures that cannot be resampled"
        for arm in arms
        for protocol in arm["figures"]
        if arm["control"] and protocol in figures[arm["control"]] and protocol not in arm["differences"]
    ]
    told = [run["notes"] for run in runs if "notes" in run]
    return notes + [note for note in (told[0] if told else ()) if all(note in said for said in told)]


def _run_notes(arms: Sequence[Entry]) -> list[str]:
    """Return what was said of some of the runs and not of all, behind their names."""
    told = {run["name"]: run["notes"] for arm in arms for run in arm["runs"] if "notes" in run}
    names: dict[str, list[str]] = {}
    for name, said in told.items():
        for note in said:
            names.setdefault(note, []).append(name)
    return [f"{', '.join(those)}: {note}" for note, those in names.items() if len(those) < len(told)]


def _unlike(arms: Sequence[Entry]) -> list[str]:
    """Return what to say of arms that were made otherwise than their controls: the difference may come from that."""
    by_label = {arm["label"]: arm for arm in arms}
    notes = []
    for arm in arms:
        control = by_label.get(arm["control"])
        pair = [] if control is None else [arm, control]
        for name in ("torch", "precision", "machine"):
            sides = [{run[name] for run in each["runs"] if run.get(name)} for each in pair]
            if pair and all(sides) and sides[0] != sides[1]:
                first, second = (", ".join(sorted(side)) for side in sides)
                notes.append(f"{arm['label']} and {arm['control']} were made with another {name}: {first}; {second}")
    return notes


def _scalar(value: Any) -> str:
    """Return a value as `--set` reads it."""
    if isinstance(value, float):
        return repr(value)
    text = yaml.safe_dump(
        list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=float("inf")
    )
    return text.removesuffix("\n").removesuffix("...").strip()
