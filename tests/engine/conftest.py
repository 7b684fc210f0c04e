"""A folder of small photos, and a run on it that takes a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scenewise.engine.config import RunConfig, build
from scenewise.engine.config_tree import merge
from scenewise.engine.display import Display
from scenewise.engine.run import Run, pretrain_run

IMAGES = 40
SETTINGS: dict[str, Any] = {
    "data": {"size": 32},
    "method": {"name": "mls", "k": 3, "width": 16},
    "backbone": {"name": "test_resnet"},
    "optimiser": {"lr": 0.1},
    "engine": {
        "epochs": 2,
        "batch_size": 8,
        "workers": 0,
        "threads": 1,
        "precision": "32",
        "device": "cpu",
        "tensorboard": False,
    },
}

Train = Callable[..., Run]


def draw_photos(folder: Path, count: int) -> None:
    """Write `count` small photos on two levels."""
    generator = np.random.default_rng(0)
    (folder / "deeper").mkdir(parents=True)
    for number in range(count):
        coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((56, 48), Image.Resampling.BICUBIC)
        image.save(folder / ("deeper" if number % 2 else ".") / f"{number:02}.jpg", quality=92)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "pool"
    draw_photos(folder, IMAGES)
    return folder


@pytest.fixture(scope="session")
def settings(photos: Path) -> Callable[..., RunConfig]:
    """Return a configuration from sections that differ from the usual ones."""

    def configure(**sections: Any) -> RunConfig:
        return build(merge(SETTINGS, {"data": {"source": str(photos)}}, sections))

    return configure


@pytest.fixture(scope="session")
def train(settings: Callable[..., RunConfig]) -> Train:
    """Return a function that carries out a run: `train(out, resume=True, method={"k": 2})`."""

    def carry_out(
        out: Path, *, resume: bool = False, overwrite: bool = False, display: Display | None = None, **sections: Any
    ) -> Run:
        return pretrain_run(settings(**sections), out, resume=resume, overwrite=overwrite, display=display)

    return carry_out


@pytest.fixture(scope="session")
def reference(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return one finished run, to compare with."""
    return train(tmp_path_factory.mktemp("reference") / "run")
