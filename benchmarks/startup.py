"""From the start of `scenewise pretrain` to its first step on N photos: the first start, which makes the file index,
and the second, which finds it.

    python benchmarks/startup.py [--files 100000] [--quick] [--json FILE]

Each start is a process of its own that ends after its first step (ResNet-18, 32 pixels, 8 images, two loader processes,
all on one machine's cores). Its parts: `import` until the libraries are loaded, `index` until the photos are known,
`plan` until the loader starts, `first step` with the first batch in it. Processor seconds of the job, which others on
the machine do not lengthen, and for the whole the wall clock too. `import torch` alone stands beside the parts: it says
how slow the machine is. N = 1,000, 10,000, 100,000, 1,000,000, as far as --files goes; the row of a million files is
extrapolated where they were not measured.
The photos are hard links in a temporary folder, hot in the system's cache: on a cold disk a first start takes longer.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rows import Row, compare, row, run_alone

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
PARTS = ("import", "index", "plan", "first step")
WHOLE, WALL = "whole start", "whole start, wall clock"
TORCH = "import torch alone"
FIRST, SECOND = "first start", "second start"
MILLION = COUNTS[-1]
GOAL = "under 10 s"
Seconds = dict[str, float]


def one_start(data: str, out: str, began: float) -> None:
    """Start a run, print the seconds of each part as JSON after its first step, and end; in a process of its own.

    began: `time.time()` when the process was started.
    """
    from scenewise import api
    from scenewise.engine.display import Bar

    marks = {"import": time.process_time()}

    class Clock:
        """A display that notes when what is done begins and ends."""

        def say(self, text: str) -> None:
            del text

        def warn(self, text: str) -> None:
            del text

        @contextmanager
        def bar(self, task: str, total: int | None) -> Iterator[Bar]:
            del total
            reading = task.startswith("reading")
            if not reading:
                marks["plan"] = time.process_time()
            yield Bar() if reading else FirstStep()
            marks["index"] = time.process_time()

    class FirstStep(Bar):
        """A bar that ends the process at the first step."""

        def update(self, done: int, *, total: int | None = None, text: str = "") -> None:
            del done, total, text
            marks["first step"] = time.process_time()
            ends = [marks[part] for part in PARTS]
            seconds = {part: end - start for part, start, end in zip(PARTS, [0.0, *ends[:-1]], ends, strict=True)}
            print(json.dumps(seconds | {WHOLE: ends[-1], WALL: time.time() - began}))
            sys.stdout.flush()
            os._exit(0)

    settings = {"engine.tensorboard": True, "engine.threads": 1}
    api.pretrain(
        data,
        out=out,
        method="simclr",
        backbone="resnet18",
        size=32,
        batch_size=8,
        epochs=1,
        workers=2,
        device="cpu",
        precision="32",
        settings=settings,
        display=Clock(),
    )


def start(data: Path, cache: Path) -> Seconds:
    """Return the seconds of each part of one start, and of the whole."""
    with tempfile.TemporaryDirectory() as folder:
        call = f"import startup; startup.one_start({str(data)!r}, {folder + '/run'!r}, {time.time()!r})"
        done = subprocess.run(
            [sys.executable, "-c", call],
            cwd=Path(__file__).parent,
            env={**os.environ, "SCENEWISE_CACHE": str(cache)},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"a start failed:\n{done.stderr}")
    parts: Seconds = json.loads(done.stdout.splitlines()[-1])
    return parts


def torch_alone() -> float:
    """Return the seconds until a Python has loaded torch and nothing else: what no run can start without."""
    call = "import time, torch; print(time.process_time())"
    return float(subprocess.run([sys.executable, "-c", call], check=True, capture_output=True, text=True).stdout)


def starts(counts: tuple[int, ...], rounds: int) -> tuple[dict[int, list[Seconds]], dict[int, list[Seconds]]]:
    """Return the first and the second starts of each number of photos; the numbers take turns."""
    from files import write_photos

    first: dict[int, list[Seconds]] = {count: [] for count in counts}
    second: dict[int, list[Seconds]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            write_photos(Path(folder) / str(count), count)
        for turn in range(rounds):
            for count in counts:
                data, cache = Path(folder) / str(count), Path(folder) / f"cache-{turn}-{count}"
                beside = {TORCH: torch_alone()}
                first[count].append(start(data, cache) | beside)
                second[count].append(start(data, cache) | beside)
    return first, second


def measured(kind: str, found: dict[int, list[Seconds]]) -> list[Row]:
    """Return the rows of one kind of start: each part beside the import of torch alone in the same round."""
    goals = {WHOLE: GOAL} if kind == SECOND else {}
    rows = []
    for count, runs in found.items():
        parts = {part: [seconds[part] for seconds in runs] for part in (TORCH, *PARTS, WHOLE, WALL)}
        rows += compare(f"{kind}, {count:,} files", parts, against=TORCH, unit="s", goals=goals)
    return rows


def extrapolated(found: dict[int, list[Seconds]]) -> list[Row]:
    """Return what a million files would take: the parts after the import grow along a line from the fewest to the most.

    The import is the median of all starts: it knows nothing of the files.
    """
    fewest, most = min(found), max(found)
    imports = statistics.median(seconds["import"] for runs in found.values() for seconds in runs)
    values, base = [], []
    for few, many in zip(found[fewest], found[most], strict=True):
        low, high = (seconds[WHOLE] - seconds["import"] for seconds in (few, many))
        values.append(imports + high + (high - low) / (most - fewest) * (MILLION - most))
        base.append(many[TORCH])
    name = f"{WHOLE}, extrapolated"
    return [row(f"{SECOND}, {MILLION:,} files", name, values, unit="s", base=base, compared=TORCH, goal=GOAL)]


def rows(*, quick: bool, files: int = 100_000) -> list[Row]:
    """Return the rows of this benchmark."""
    limit = min(files, 10_000) if quick else files
    counts = tuple(count for count in COUNTS if count <= limit) or (limit,)
    first, second = starts(counts, rounds=1 if quick else 3)
    further = extrapolated(second) if 1 < len(counts) < len(COUNTS) else []
    return [*measured(FIRST, first), *measured(SECOND, second), *further]


if __name__ == "__main__":
    run_alone(rows, __doc__, files=100_000)
