"""The pictures of a report are those of the run: its crops, and its dictionary's nearest rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise.engine.config import build
from scenewise.engine.config_tree import read_yaml
from scenewise.engine.run import Run, pretrain_run
from scenewise.sources import open_source
from scenewise.tools.report import dictionary_crop, pseudo_label_rows, report_run, spread


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("report")
    (folder / "pool").mkdir()
    generator = np.random.default_rng(0)
    for number in range(16):
        coarse = generator.integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((60, 50)).save(folder / "pool" / f"{number:02}.jpg")
    settings = {
        "data": {"source": str(folder / "pool"), "size": 32},
        "method": {"name": "mls", "k": 3, "width": 16},
        "backbone": {"name": "test_resnet"},
        "engine": {"epochs": 1, "batch_size": 8, "workers": 0, "threads": 1, "device": "cpu", "precision": "32"},
    }
    settings["engine"]["tensorboard"] = False
    return pretrain_run(build(settings), folder / "run")


def test_the_report_is_one_file_with_both_sheets(run: Run) -> None:
    page = report_run(run.folder).read_text()
    assert "What the method sees" in page
    assert "Pseudo-labels of MLS" in page
    assert page.count("data:image/png;base64,") >= 2


def test_a_report_without_its_data_says_so(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace(run.config.data.source, f"folder:{tmp_path}/gone"))
    page = report_run(tmp_path / "run").read_text()
    assert "no pictures of run" in page
    assert "Pseudo-labels of MLS" not in page


def test_a_query_has_its_k_nearest_rows_in_order(run: Run) -> None:
    config = build(read_yaml(run.folder / "config.yaml"))
    rows = pseudo_label_rows(config, open_source(config.data.source), run.folder / "checkpoints" / "last.ckpt")
    assert len(rows) == 6
    for row in rows:
        assert len(row.neighbours) == len(row.similarities) == 3
        assert list(row.similarities) == sorted(row.similarities, reverse=True)
        assert all(-1 <= value <= 1 + 1e-6 for value in row.similarities)


def test_a_row_without_an_image_has_no_crop(run: Run) -> None:
    source = open_source(run.config.data.source)
    box = np.array([5, 5, 45, 45], np.float32)
    assert dictionary_crop(source, -1, box) is None
    cut = dictionary_crop(source, 2, box)
    assert cut is not None
    assert cut.shape == (112, 112, 3)


def test_places_are_spread_over_the_whole() -> None:
    assert spread(10, 3) == [0, 4, 9]
    assert spread(2, 6) == [0, 1]
    assert spread(1, 6) == [0]
