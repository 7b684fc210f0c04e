"""A study's folder: where things lie, what each run was made with, and how far it is.

DIR/runs/NAME                   an ordinary run folder for each run
DIR/evaluations/NAME.PART.json  what `scenewise evaluate --json` writes, and beside it NAME.PART.npz: the main figures
                                of every bootstrap resample, of which differences are taken
DIR/records/NAME.json           the settings they were made with, when, how long
DIR/choices.json                what was chosen, of what
DIR/table.json .md .svg, DIR/curves.json

A row needs its record and its figures alone: once it is judged, the run's folder may go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from scenewise.backbones import WEIGHTS_FILE
from scenewise.engine.config import RESUMABLE, flatten
from scenewise.engine.folder import LAST, held, remove_own, writing
from scenewise.engine.locks import locked
from scenewise.errors import UserError
from scenewise.tools.study_plan import Exam, Job, Part, configuration

IMAGES = "images "  # in a file of resamples, before the name of a protocol: which test images it judged by

State = Literal["new", "begun", "trained", "done"]
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """The paths of a study's folder."""

    root: Path

    def run(self, name: str) -> Path:
        """Return the run's folder."""
        return self.root / "runs" / name

    def record(self, name: str) -> Path:
        """Return the file of the settings that a job was made with."""
        return self.root / "records" / f"{name}.json"

    def evaluation(self, name: str, part: Part) -> Path:
        """Return the file of a job's figures."""
        return self.root / "evaluations" / f"{name}.{part}.json"

    def resamples(self, name: str, part: Part) -> Path:
        """Return the file of a job's figures in every resample."""
        return self.root / "evaluations" / f"{name}.{part}.npz"

    @property
    def curves(self) -> Path:
        """Return the file of all runs' figures by epoch."""
        return self.root / "curves.json"

    def log(self, name: str) -> Path:
        """Return where a process of its own writes what it says."""
        return self.root / "logs" / f"{name}.log"

    def boxes(self, name: str) -> Path:
        """Return the file of the study's boxes of that name."""
        return self.root / "proposals" / f"{name}.arrow"

    def read(self, name: str) -> Entry:
        """Return a job's record, empty where there is none."""
        return read_json(self.record(name))

    def write(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a job's record, whole or not at all."""
        write_whole(self.record(name), json_text(record))

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Let no other process do the same; UserError where one does."""
        file = self.root / "locks" / f"{name}.lock"
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        busy = f"--out: another process is at work on {name!r} in {str(self.root)!r}; wait for it or stop it"
        with locked(file, otherwise=busy):
            yield


def read_json(path: Path) -> Entry:
    """Return the object in a file of ours, empty where there is no file; UserError where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}; remove it to make it anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} does not hold an object; remove it to make it anew")
    return content


def json_text(content: Mapping[str, Any]) -> str:
    """Return the content as our files hold it."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under another name and rename it, so that whoever is killed leaves the former one."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)


def run_settings(job: Job) -> Entry:
    """Return all that a job's weights depend on, by dotted name: its fingerprint."""
    if job.tree is None:
        return {"subject": job.subject, "seed": job.seed}
    return _plain({name: value for name, value in flatten(configuration(job.tree)).items() if name not in RESUMABLE})


def exam_settings(exam: Exam) -> Entry:
    """Return all that a job's figures depend on beside its weights."""
    return _plain(asdict(exam))


def changes(job: Job, exam: Exam, record: Mapping[str, Any]) -> list[str]:
    """Return what is asked for otherwise than it was made, "NAME: BEFORE, now AFTER" each."""
    pairs = [(record.get("settings"), run_settings(job))]
    pairs.append((record.get("exams", {}).get(exam.part, {}).get("settings"), exam_settings(exam)))
    return [
        f"{name}: {before.get(name)!r}, now {now.get(name)!r}"
        for before, now in pairs
        if before is not None
        for name in dict.fromkeys((*before, *now))
        if before.get(name) != now.get(name)
    ]


def state_of(job: Job, exam: Exam, folder: StudyFolder) -> State:
    """Return how far a job is, whose settings are those that it was made with."""
    looked = exam.part in folder.read(job.name).get("exams", {})
    if looked and folder.evaluation(job.name, exam.part).exists() and folder.resamples(job.name, exam.part).exists():
        return "done"
    if job.tree is None:
        return "new"
    if has_weights(job, folder):
        return "trained"
    return "begun" if (folder.run(job.name) / LAST).exists() else "new"


def has_weights(job: Job, folder: StudyFolder) -> bool:
    """Return whether what a job judges is there: the weights of its run, or a subject that nothing trains."""
    return job.tree is None or (folder.run(job.name) / WEIGHTS_FILE).exists()


def is_as_asked(job: Job, record: Mapping[str, Any]) -> bool:
    """Return whether a job's weights were made with the settings asked for, whatever they were judged by."""
    return bool(record.get("settings") == run_settings(job))


def forget_figures(job: Job, part: Part, folder: StudyFolder) -> None:
    """Remove a job's figures on one part of the data, and keep its run."""
    record = folder.read(job.name)
    with writing(folder.root):
        _remove_figures(job, part, folder)
    folder.write(job.name, record | {"exams": {key: each for key, each in record["exams"].items() if key != part}})


def forget(job: Job, folder: StudyFolder) -> None:
    """Remove what was made of a job; its figures first, so that none are left without their run."""
    with writing(folder.root):
        parts: tuple[Part, ...] = ("choose", "test")
        for part in parts:
            _remove_figures(job, part, folder)
        if folder.run(job.name).is_dir():
            with held(folder.run(job.name)):
                remove_own(folder.run(job.name))
        folder.record(job.name).unlink(missing_ok=True)


def _remove_figures(job: Job, part: Part, folder: StudyFolder) -> None:
    folder.evaluation(job.name, part).unlink(missing_ok=True)
    folder.resamples(job.name, part).unlink(missing_ok=True)


def _plain(settings: Mapping[str, Any]) -> Entry:
    """Return the settings as JSON gives them back."""
    plain: Entry = json.loads(json.dumps(settings))
    return plain
