"""Many jobs on what there is: one after the other in this process, or one process a device, with the time left told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch

from scenewise.engine.display import Display
from scenewise.engine.machine import choose_device
from scenewise.engine.signals import Signals
from scenewise.errors import Interrupted, UserError
from scenewise.tools.study_folder import StudyFolder, state_of, write_whole
from scenewise.tools.study_job import carry_out, job_file
from scenewise.tools.study_plan import Exam, Job

GLANCE = 0.2  # seconds between two looks at the processes
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """Where jobs are computed: the device, an environment for each process at once, loader processes of each."""

    device: str
    places: tuple[Mapping[str, str], ...]
    workers: int | None


@dataclass(slots=True)
class Pace:
    """How long jobs take here: those that train, and those that are only judged."""

    taken: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})

    def left(self, training: int, judging: int, places: int) -> str:
        """Return "about 1:20:00 left" as far as it can be told."""
        known = {kind: sum(times) / len(times) for kind, times in self.taken.items() if times}
        if (training and True not in known) or not (training or judging):
            return ""
        seconds = training * known.get(True, 0.0) + judging * known.get(False, 0.0)
        return f", about {timedelta(seconds=round(seconds / places))} left"


def choose_machine(device: str, jobs: int | None, workers: int | None) -> Machine:
    """Return one process a GPU, or `jobs` of them; on a CPU one, or `jobs`. UserError for a device that is not here."""
    chosen = choose_device(device)
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs: {jobs} must be at least 1")
    if chosen == "cpu":
        return Machine(device=chosen, places=({},) * (jobs or 1), workers=workers)
    listed = os.environ.get(VISIBLE)
    names = listed.split(",") if listed else [str(number) for number in range(torch.cuda.device_count())]
    places = tuple({VISIBLE: names[number % len(names)]} for number in range(jobs or len(names)))
    return Machine(device=chosen, places=places, workers=workers)


def carry_out_all(jobs: Sequence[Job], exam: Exam, folder: StudyFolder, machine: Machine, display: Display) -> None:
    """Carry out what is not done of the jobs. What fails is in its record; raises Interrupted after saving."""
    states = {job.name: state_of(job, exam, folder) for job in jobs}
    left = [job for job in jobs if states[job.name] != "done"]
    training = {job.name for job in left if job.tree is not None and states[job.name] != "trained"}
    if len(left) < len(jobs):
        display.say(f"{exam.part}: {len(jobs) - len(left)} of {len(jobs)} are done already")
    progress = _Progress(display, exam, len(left), len(machine.places), training)
    if len(machine.places) == 1:
        for job in left:
            progress.begins(job)
            fine = carry_out(job, exam, folder, device=machine.device, workers=machine.workers, display=display)
            progress.ends(job, folder, fine=fine)
    else:
        _side_by_side(left, exam, folder, machine, progress)


class _Progress:
    """Says which job begins and ends, and how long the rest will take."""

    def __init__(self, display: Display, exam: Exam, total: int, places: int, training: set[str]) -> None:
        self._display, self._part, self._total, self._places = display, exam.part, total, places
        self._training = training
        self._began: dict[str, float] = {}
        self._pace, self._done = Pace(), 0

    def begins(self, job: Job) -> None:
        kind = "training" if job.name in self._training else "judging"
        self._began[job.name] = time.monotonic()
        self._display.say(f"{self._part} [{len(self._began)}/{self._total}] {job.name}: {kind}")

    def ends(self, job: Job, folder: StudyFolder, *, fine: bool) -> None:
        trained = job.name in self._training
        self._pace.taken[trained].append(time.monotonic() - self._began[job.name])
        self._training.discard(job.name)
        self._done += 1
        training = len(self._training)
        left = self._pace.left(training, self._total - self._done - training, self._places)
        if fine:
            self._display.say(f"{self._part} {self._done}/{self._total} done: {job.name}{left}")
        else:
            self._display.warn(f"{job.name} failed: {folder.read(job.name)['failed']}{left}")


def _side_by_side(jobs: Sequence[Job], exam: Exam, folder: StudyFolder, machine: Machine, progress: _Progress) -> None:
    """Carry out jobs in processes of their own; a signal is handed to them once, and they are waited for."""
    waiting, free = list(jobs), list(range(len(machine.places)))
    working: dict[int, tuple[Job, subprocess.Popen[bytes]]] = {}
    with Signals(patient=True) as signals:
        try:
            while (waiting or working) and not signals.received:
                while waiting and free:
                    place, job = free.pop(0), waiting.pop(0)
                    progress.begins(job)
                    working[place] = job, _start(job, exam, folder, machine, machine.places[place])
                time.sleep(GLANCE)
                for place, (job, process) in list(working.items()):
                    if process.poll() is None:
                        continue
                    _wait(process)
                    del working[place]
                    free.append(place)
                    _check_status(job, process.returncode, folder)
                    progress.ends(job, folder, fine="failed" not in folder.read(job.name))
        finally:
            for _, process in working.values():
                process.send_signal(signals.received or signal.SIGTERM)
            for _, process in working.values():
                _wait(process)
        if signals.received:
            raise Interrupted(signals.received)


def _start(
    job: Job, exam: Exam, folder: StudyFolder, machine: Machine, place: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start a process; of a group of its own, so that the terminal's Ctrl-C reaches it through us, once.

    Its input is a pipe that nothing is written to: it ends when we are gone, however that came, and then it stops.
    """
    log = folder.log(job.name)
    told = log.with_suffix(".json")
    write_whole(told, job_file(job, exam, folder, device=machine.device, workers=machine.workers))
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "scenewise.tools.study_job", str(told)],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            env={**os.environ, **place},
            start_new_session=True,
        )


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process, and only then close the pipe whose end would stop it at once."""
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def _check_status(job: Job, status: int, folder: StudyFolder) -> None:
    if status == 0:
        return
    last = folder.log(job.name).read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    if status == 2:
        raise UserError(f"{job.name}: {last}")
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        raise Interrupted(status - 128)
    raise RuntimeError(
        f"the process of {job.name} ended with status {status}; {folder.log(job.name)} ends with: {last}"
    )
