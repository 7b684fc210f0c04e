"""The files a run writes line by line: metrics.jsonl with TensorBoard beside it, and skipped.csv."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scenewise.types import Skip

METRICS = "metrics.jsonl"
SKIPPED = "skipped.csv"


class MetricsLog:
    """One JSON object a step; TensorBoard beside it where asked for."""

    def __init__(self, folder: Path, *, first_step: int, tensorboard: bool) -> None:
        self._path = folder / METRICS
        _keep_until(self._path, first_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import, so only where it is wanted

            self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1)

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a step's figures (`step` counts the optimiser steps done, from 1)."""
        known = {name: value if math.isfinite(value) else None for name, value in line.items()}  # JSON has no NaN
        self._file.write(json.dumps(known) + "\n")
        self._file.flush()
        if self._writer is not None:
            for name, value in known.items():
                if isinstance(value, float):
                    self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._writer is not None:
            self._writer.close()


class NoLog:
    """The log of the processes that write none."""

    def write(self, line: Mapping[str, Any]) -> None:
        """Write nothing."""


def _keep_until(path: Path, step: int) -> None:
    """Drop the lines after a step (they were written after the checkpoint that is resumed), and a cut-off last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    replace_text(path, "".join(kept))


def replace_text(path: Path, text: str) -> None:
    """Write a file that is whole at any time: the new content, or the old one."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8", errors="surrogateescape")
    temporary.replace(path)


def write_skipped(folder: Path, skipped: Iterable[Skip], *, name: str = SKIPPED) -> None:
    """Write skipped.csv (or `name`): every image that was left out, once, with the reason and what took its place."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "reason", "index", "replacement"])
    seen = set()
    for skip in skipped:
        if (skip.index, skip.key) in seen:
            continue
        seen.add((skip.index, skip.key))
        replacement = "" if skip.replacement < 0 else skip.replacement
        rows.writerow([skip.key, skip.reason, "" if skip.index < 0 else skip.index, replacement])
    replace_text(folder / name, text.getvalue())
