"""Embeddings as a table: every readable image once, and files that are whole or not there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from scenewise.backbones import load_subject
from scenewise.engine.display import Quiet
from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.tools import embed as module
from scenewise.tools.embed import embed
from scenewise.views.collate import normalise
from scenewise.views.pipeline import test_view as view_of

SUBJECT = "random:test_resnet"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(5):
        pixels = generator.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"ä {number}.jpg")
    return folder


def test_each_row_is_the_feature_of_its_image(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    assert embed(SUBJECT, str(photos), out=file, size=32, device="cpu") == 5
    table = pq.read_table(file).to_pylist()
    source, subject = open_source(str(photos)), load_subject(SUBJECT, size=32)
    assert [row["path"] for row in table] == [source[index].key for index in range(5)]
    for index, row in enumerate(table):
        pixels = torch.from_numpy(view_of(source[index], size=32).copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            feature = subject.backbone(normalise(pixels, mean=subject.mean, std=subject.std))[0]
        np.testing.assert_allclose(row["embedding"], feature.numpy(), atol=1e-5)


def test_an_image_that_cannot_be_read_is_left_out_and_said(photos: Path, tmp_path: Path) -> None:
    bad = photos / "ä 3.jpg"
    bad.write_bytes(bad.read_bytes()[:-300])
    display = Quiet()
    file = tmp_path / "table.parquet"
    assert embed(SUBJECT, str(photos), out=file, size=32, display=display) == 4
    assert "ä 3.jpg" not in pq.read_table(file)["path"].to_pylist()
    assert any("left out ä 3.jpg" in warning for warning in display.warnings)


def test_a_file_that_cannot_be_written_is_told_and_nothing_is_left(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "table.parquet"
    file.write_bytes(b"the former one")
    with pytest.raises(UserError, match="exists"):
        embed(SUBJECT, str(photos), out=file, size=32)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.pq.ParquetWriter, "write_table", refuse)
    with pytest.raises(UserError, match="No space left"):
        embed(SUBJECT, str(photos), out=file, size=32, overwrite=True)
    assert file.read_bytes() == b"the former one"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["photos", "table.parquet"]


def test_rows_are_written_as_they_come(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A million of them would not fit into memory; in row groups of any size they are the same."""
    assert embed(SUBJECT, str(photos), out=tmp_path / "whole.parquet", size=32, device="cpu") == 5
    monkeypatch.setattr(module, "ROWS", 2)
    assert embed(SUBJECT, str(photos), out=tmp_path / "parts.parquet", size=32, device="cpu", batch_size=1) == 5
    whole, parts = (pq.ParquetFile(tmp_path / f"{name}.parquet") for name in ("whole", "parts"))
    assert (whole.num_row_groups, parts.num_row_groups) == (1, 3)
    assert whole.read()["path"] == parts.read()["path"]
    for first, second in zip(*(file.read()["embedding"].to_pylist() for file in (whole, parts)), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"let its name end in \.parquet"):
        embed(SUBJECT, str(photos), out=tmp_path / "table.csv", size=32)


def test_wrong_places_are_told_first(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "no" / "table.parquet"):
        with pytest.raises(UserError, match=r"--out: .*name a file in a folder that exists"):
            embed("nothing", "nowhere", out=out)
    with pytest.raises(UserError, match="Did you mean 'voc'"):
        embed("nothing", "vov:x", out=tmp_path / "table.parquet")
