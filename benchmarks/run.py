"""All benchmarks, one table: figures beside what they are compared with, measured in the same run.

    python benchmarks/run.py [--only NAME] [--quick] [--json FILE]

Each benchmark runs in a process of its own, one after the other. README.md in this folder says how to read the table.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from rows import Row, table, write

from scenewise.engine.environment import describe

# the files of this folder, in the order of the table; proposals.py needs labelled photos and is run alone
NAMES = ("views", "crops", "step", "ranking", "transport", "dictionary", "startup", "memory", "neighbours")


def measure(name: str, quick: bool) -> list[Row]:
    """Return the rows of one benchmark; called in a fresh process."""
    found: list[Row] = importlib.import_module(name).rows(quick=quick)
    return found


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=NAMES, help="may be given several times")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds: for a first look")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    for name in options.only or NAMES:
        print(f"{name} ...", file=sys.stderr)
        began = time.perf_counter()
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            rows += pool.submit(measure, name, options.quick).result()
        seconds[name] = time.perf_counter() - began
    print(table(rows))
    if options.json:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        write(options.json, rows, **describe(device), quick=options.quick, seconds=seconds)


if __name__ == "__main__":
    main()
