"""One job of a study: train what is not trained, look at it once, keep the figures; also as a process of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scenewise.backbones import load_subject
from scenewise.engine.config import build
from scenewise.engine.config_tree import merge
from scenewise.engine.display import Display, terminal
from scenewise.engine.environment import describe
from scenewise.engine.folder import ENVIRONMENT
from scenewise.engine.machine import choose_device
from scenewise.engine.run import pretrain_run
from scenewise.errors import Interrupted, UserError
from scenewise.evaluate.evaluation import Evaluation
from scenewise.evaluate.intervals import resampled
from scenewise.report.records import ComparisonTable
from scenewise.tools.judge import Terms, judge_subject, open_splits, protocol_options
from scenewise.tools.report import report_run
from scenewise.tools.study_folder import (
    IMAGES,
    StudyFolder,
    exam_settings,
    has_weights,
    json_text,
    read_json,
    run_settings,
    write_whole,
)
from scenewise.tools.study_plan import Exam, Job


def carry_out(job: Job, exam: Exam, folder: StudyFolder, *, device: str, workers: int | None, display: Display) -> bool:
    """Train and judge; return False where that cannot be done, with the reason in the job's record.

    Whatever is finished is used, and a run that was interrupted goes on. Raises Interrupted after saving.
    """
    with folder.locked(job.name):
        record = folder.read(job.name) | {"arm": job.arm, "seed": job.seed, "settings": run_settings(job)}
        record.pop("failed", None)
        folder.write(job.name, record)
        try:
            if not has_weights(job, folder):
                _train(job, folder, record, device=device, workers=workers, display=display)
            _look(job, exam, folder, record, device=device, workers=workers, display=display)
        except UserError as error:
            folder.write(job.name, record | {"failed": "; ".join(error.problems)})
            return False
        return True


def _train(
    job: Job, folder: StudyFolder, record: dict[str, Any], *, device: str, workers: int | None, display: Display
) -> None:
    assert job.tree is not None
    out = folder.run(job.name)
    moved = {"device": device} if workers is None else {"device": device, "workers": workers}
    config = build(merge(job.tree, {"engine": moved}))
    began = time.monotonic()
    try:
        pretrain_run(config, out, resume=True, report=report_run, display=display)
    finally:
        record["seconds"] = round(record.get("seconds", 0.0) + time.monotonic() - began, 1)
        record["environment"] = read_json(folder.run(job.name) / ENVIRONMENT)  # the row outlives the run's folder
        folder.write(job.name, record)


def _look(
    job: Job,
    exam: Exam,
    folder: StudyFolder,
    record: dict[str, Any],
    *,
    device: str,
    workers: int | None,
    display: Display,
) -> None:
    terms = exam_terms(exam, device=device, workers=workers or 0)
    began = time.monotonic()
    subject = load_subject(job.subject or str(folder.run(job.name)), seed=job.seed, size=exam.size)
    train, test = open_splits(exam.train, exam.test, display)
    found = judge_subject(subject, train, test, terms, display=display, title=f"judging {job.name}")
    found = replace(found, subject=job.name)
    write_whole(folder.resamples(job.name, exam.part), resamples_file(found))
    write_whole(folder.evaluation(job.name, exam.part), json_text(found.to_json()))
    entry = {
        "settings": exam_settings(exam),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began, 1),
        "environment": describe(torch.device(choose_device(device))),
    }
    folder.write(job.name, record | {"exams": record.get("exams", {}) | {exam.part: entry}})


def exam_terms(exam: Exam, *, device: str, workers: int) -> Terms:
    """Return an exam's terms as `judge` takes them."""
    return Terms(
        protocols=exam.protocols,
        options=protocol_options(exam.settings),
        size=exam.size,
        limit=exam.limit,
        min_positives=exam.min_positives,
        seed=exam.seed,
        device=device,
        workers=workers,
    )


def resamples_file(found: Evaluation) -> bytes:
    """Return, as npz, each whole-set figure of every resample, (1 + resamples,) float64 with the figure itself first.

    Names are PROTOCOL|METRIC; "images PROTOCOL" tells which test images, with which seed, so that no two files of
    different ones are ever paired.
    """
    whole = set(ComparisonTable.from_results([found.to_json()]).whole().columns)
    content: dict[str, np.ndarray] = {}
    for protocol, outcome in found.outcomes.items():
        if outcome.statistic is None:
            continue
        drawn = resampled(outcome.statistic, len(outcome.images), seed=found.seed, resamples=found.resamples)
        names = [metric for metric in drawn if (protocol, metric) in whole]
        content |= {f"{protocol}|{metric}": drawn[metric].double().numpy() for metric in names}
        images = json.dumps([list(outcome.images), found.seed, found.resamples])
        content[f"{IMAGES}{protocol}"] = np.array(hashlib.sha256(images.encode()).hexdigest())
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **content)
    return file.getvalue()


def job_file(job: Job, exam: Exam, folder: StudyFolder, *, device: str, workers: int | None) -> str:
    """Return what a process of its own is told."""
    return json_text(
        {"folder": str(folder.root), "job": asdict(job), "exam": asdict(exam), "device": device, "workers": workers}
    )


def main(told: Mapping[str, Any]) -> int:
    """Carry out the job of a job file and return the exit status: 0 also for a failure that is in the record."""
    job, exam = Job(**told["job"]), Exam(**told["exam"] | {"protocols": tuple(told["exam"]["protocols"])})
    try:
        carry_out(
            job,
            exam,
            StudyFolder(Path(told["folder"])),
            device=told["device"],
            workers=told["workers"],
            display=terminal(),
        )
    except Interrupted as error:
        return 128 + error.signal
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        sys.stderr.write("".join(f"scenewise: {problem}\n" for problem in error.problems))
        return 2
    return 0


def stop_with_parent(pipe: int) -> None:
    """Have this process told to stop, as by SIGTERM, when whoever holds the other end of the pipe is gone."""

    def wait() -> None:
        while os.read(pipe, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    stop_with_parent(sys.stdin.fileno())
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
