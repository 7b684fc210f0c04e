"""Memory of a run and of each of its loader processes as the photos grow from 1,000 to 100,000 (--files 1000000: more).

    python benchmarks/memory.py [--files 100000] [--quick] [--json FILE]

What counts is memory that the system cannot take back, by /proc/PID/smaps_rollup: of the job all that is no file's
(`Anonymous`), of a loader process, which begins as a copy of the job, what it wrote itself (`Private_Dirty`). The file
index is memory-mapped: its pages are shared by all and can be dropped. Peaks over the first batches of a second start
(the index is in the cache; two loader processes, 64-pixel views, 32 images, no network), a process of its own each,
read after every batch. `making the index` is the first start. Linux only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from rows import Row, row, run_alone

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
WORKERS, BATCHES = 2, 12
MEGABYTE = 1e6
GOAL = "flat"
INDEX = "making the index"
Peaks = dict[str, float]  # name of a process -> megabytes


def megabytes(process: int, kind: str) -> float:
    """Return the megabytes of a kind that a process has, by the name that /proc gives it."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * int(text.split(f"{kind}:")[1].split()[0]) / MEGABYTE


def observe(data: str, step: str) -> None:
    """Print the peaks as JSON; `step` is `index` (make it) or `batches` (take some); in a process of its own."""
    import torch

    from scenewise.engine.data import Parts, Schedule, make_loader
    from scenewise.sources import open_source
    from scenewise.views.policies import policy_class
    from scenewise.views.slots import Slot

    torch.set_num_threads(1)
    peaks: Peaks = {}
    if step == "index":
        over = threading.Event()
        watcher = threading.Thread(target=_watch, args=(peaks, over))
        watcher.start()
        open_source(data)
        over.set()
        watcher.join()
    else:
        source = open_source(data)
        schedule = Schedule(images=len(source), batch_size=32, accumulate=1, epochs=1, seed=0)
        slots = {name: Slot(augmentation="moco", size=64) for name in ("query", "key")}
        parts = Parts(source, schedule, policy=policy_class("scene")(), slots=slots)
        batches = iter(make_loader(parts, first_step=0, workers=WORKERS, pin_memory=False))
        for _ in range(BATCHES):
            next(batches)
            workers = sorted(child.pid or 0 for child in multiprocessing.active_children())
            found = {"the job": megabytes(os.getpid(), "Anonymous")}
            found |= {
                f"loader process {number}": megabytes(pid, "Private_Dirty")
                for number, pid in enumerate(workers, start=1)
            }
            peaks = {name: max(value, peaks.get(name, 0.0)) for name, value in found.items()}
    print(json.dumps(peaks))


def _watch(peaks: Peaks, over: threading.Event) -> None:
    while not over.wait(0.05):
        peaks[INDEX] = max(megabytes(os.getpid(), "Anonymous"), peaks.get(INDEX, 0.0))


def peaks_of(data: Path, cache: Path) -> Peaks:
    """Return the peaks of a first start, which makes the index, and of a second."""
    found: Peaks = {}
    for step in ("index", "batches"):
        done = subprocess.run(
            [sys.executable, "-c", f"import memory; memory.observe({str(data)!r}, {step!r})"],
            cwd=Path(__file__).parent,
            env={**os.environ, "SCENEWISE_CACHE": str(cache)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise RuntimeError(f"a process failed:\n{done.stderr}")
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def rows(*, quick: bool, files: int = 100_000) -> list[Row]:
    """Return the rows of this benchmark."""
    from files import add_photos, write_photos

    limit = min(files, 10_000) if quick else files
    counts = [count for count in COUNTS if count <= limit] or [limit]
    rounds = 1 if quick else 2
    found: dict[int, list[Peaks]] = {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "photos"
        for place, count in enumerate(counts):  # the same folder grows
            if place:
                add_photos(data, counts[place - 1], count)
            else:
                write_photos(data, count)
            found[count] = [peaks_of(data, Path(folder) / f"cache-{count}-{turn}") for turn in range(rounds)]
    return [
        row(
            name,
            f"{count:,} files",
            [peaks[name] for peaks in turns],
            unit="MB",
            base=[peaks[name] for peaks in found[counts[0]]] if count != counts[0] else None,
            compared=f"{counts[0]:,} files" if count != counts[0] else "",
            goal=GOAL if count != counts[0] else "",
        )
        for name in found[counts[0]][0]
        for count, turns in found.items()
    ]


if __name__ == "__main__":
    run_alone(rows, __doc__, files=100_000)
