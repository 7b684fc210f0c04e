"""A run folder of plainly fabricated figures: smooth curves with seeded noise, no training behind them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

EPOCHS, STEPS = 12, 20

Fabricate = Callable[..., Path]


def fabricated_lines(
    *, epochs: int = EPOCHS, steps: int = STEPS, seed: int = 0, collapsing: bool = False
) -> list[dict]:
    draw = np.random.default_rng(seed)
    lines = []
    for step in range(epochs * steps):
        done = step / (epochs * steps)
        line = {
            "step": step + 1,
            "epoch": step // steps + 1,
            "loss": round(3 + 4 * float(np.exp(-3 * done)) + 0.1 * draw.normal(), 6),
            "lr": 0.03 * 0.5 * (1 + float(np.cos(np.pi * done))),
            "data_wait": round(0.04 + 0.02 * float(draw.random()), 4),
            "images_per_second": round(300 + 20 * draw.normal(), 1),
            "grad/contrast": round(0.5 + 0.05 * draw.normal(), 4),
            "grad/multilabel": round(0.12 + 0.02 * draw.normal(), 4),
            "queue/fill": min(1.0, (step + 1) / 15),
            "queue/age_steps": min(7.5, (step + 1) / 2),
            "labels/new_share": round(0.9 - 0.4 * done + 0.02 * draw.normal(), 4),
            "labels/own_image_share": 0.004,
        }
        if (step + 1) % steps == 0:
            fade = 1 - 0.95 * done if collapsing else 1.0
            line |= {
                "health/feature_spread": round((0.5 + 0.3 * done) * fade, 4),
                "health/effective_rank": round((180 + 120 * done) * fade, 2),
                "health/effective_rank_share": round((180 + 120 * done) * fade / 512, 4),
                "health/alignment": round(0.5 - 0.1 * done, 4),
                "health/uniformity": round((-1.5 - 2 * done) * fade, 4),
                "probe/knn_mAP": round(0.2 + 0.2 * done, 4),
            }
        lines.append(line)
    return lines


@pytest.fixture
def fabricate(tmp_path: Path) -> Fabricate:
    """Return a function that writes a fabricated run folder and returns it."""

    def write(name: str = "mls-run", *, method: str = "mls", skipped: int = 3, **lines: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(
            f"method:\n  name: {method}\n  k: 10\nbackbone:\n  name: resnet18\nepochs: 12\n"
        )
        environment = {"versions": {"torch": "2.14.1"}, "command": ["scenewise", "pretrain", "photos"], "cores": 2}
        (folder / "environment.json").write_text(json.dumps(environment))
        text = "".join(json.dumps(line) + "\n" for line in fabricated_lines(**lines))  # type: ignore[arg-type]
        (folder / "metrics.jsonl").write_text(text)
        rows = [f"street/{index:04d}.jpg,the file is truncated" for index in range(skipped)]
        (folder / "skipped.csv").write_text("\n".join(["key,reason", *rows]) + "\n")
        return folder

    return write
