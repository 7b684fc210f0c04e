"""The report of runs: curves, words, and sheets of what was really cut and labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import yaml

from scenewise.engine.checkpoints import load_checkpoint
from scenewise.engine.config import RunConfig, build
from scenewise.errors import ImageError, UserError
from scenewise.methods.mls import MLS
from scenewise.report.page import Sheet, write_report
from scenewise.report.records import ComparisonTable, read_run
from scenewise.report.sheets import NeighbourRow, neighbour_sheet
from scenewise.report.view_sheet import view_sheet
from scenewise.sources import Source, open_source
from scenewise.tools.restore import restore_method
from scenewise.tools.seen import see
from scenewise.types import Image, Record
from scenewise.views.collate import normalise
from scenewise.views.decode import decode
from scenewise.views.photometric import crop_and_resize

EXAMPLES = 6  # photos of the crop sheet, queries of the label sheet
NEIGHBOURS = 10  # dictionary crops shown for a query
SHOWN_SIZE = 112  # pixels of a crop on a sheet
PAGE = 1180  # pixels of a sheet at most: it is fitted to the page, where small text has to stay readable


def report_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    title: str,
    table: ComparisonTable | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write one self-contained page on the runs and return it; its sheets are those of the last run with data."""
    sheets: dict[str, Sheet] = {}
    told = list(notes)
    for folder in folders:
        try:
            sheets |= run_sheets(folder)
        except (UserError, ImageError) as error:
            told.append(f"no pictures of {folder.name}: {error}")
    write_report(
        out, title=title, runs=[read_run(folder) for folder in folders], table=table, sheets=sheets, notes=told
    )
    return out


def report_run(folder: Path) -> Path:
    """Write RUN/report.html and return it."""
    return report_runs([folder], folder / "report.html", title=f"Run {folder.resolve().name}")


def run_sheets(folder: Path) -> dict[str, Sheet]:
    """Return the sheets of one run: sampled crops and, for MLS, pseudo-labels from its last checkpoint."""
    config = build(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    source = open_source(config.data.source)
    seen = see(config, source, spread(len(source), EXAMPLES), folder=folder)
    sheets = {
        "What the method sees": Sheet(
            png=view_sheet(seen.photos, heading=seen.heading, width=PAGE, photo_size=(190, 270), view_size=120),
            caption="Photos with the regions that were cut in the first epoch, and the views made from them.",
        )
    }
    checkpoint = folder / "checkpoints" / "last.ckpt"
    if config.method == "mls" and checkpoint.exists():
        rows = pseudo_label_rows(config, source, checkpoint)
        if rows:
            sheets["Pseudo-labels of MLS"] = Sheet(
                png=neighbour_sheet(rows),
                caption="Query crops and the most similar crops of the dictionary at the end: their positives.",
            )
    return sheets


def spread(length: int, count: int) -> list[int]:
    """Return up to `count` indices, evenly spread over a source."""
    places = np.linspace(0, max(0, length - 1), num=min(count, length)).round()
    return [int(place) for place in np.unique(places)]


def pseudo_label_rows(config: RunConfig, source: Source, checkpoint: Path) -> list[NeighbourRow]:
    """Return query crops and their k nearest dictionary crops, as the run's last state labels them.

    The queries are the central parts of photos, seen by the online backbone in evaluation mode.
    """
    saved = load_checkpoint(checkpoint)
    method = restore_method(config, saved)
    assert isinstance(method, MLS)
    dictionary = method.queue.read()
    rows = []
    for index in spread(len(source), EXAMPLES):
        try:
            query = centre_crop(source[index], size=config.data.size)
        except ImageError:
            continue
        with torch.no_grad():
            pixels = torch.from_numpy(query.copy()).permute(2, 0, 1)[None]
            image = normalise(pixels, mean=tuple(saved.extra["mean"]), std=tuple(saved.extra["std"]))
            features, projection = method.encoder(image)
        encoded = {"feature": features, "projection": projection}[method.config.label_source]
        usable = dictionary.usable(torch.tensor([index]), mask_own=method.config.mask_own_image)
        scores = torch.nn.functional.normalize(encoded) @ dictionary.rows[method.config.label_source].T  # (1, Q)
        scores = scores.masked_fill(~usable.reshape(1, -1), -2.0)[0]
        values, places = scores.topk(min(method.k, NEIGHBOURS, int(usable.sum())))
        crops, similarities = [], []
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            crop = dictionary_crop(source, int(dictionary.image[place]), dictionary.box[place].numpy())
            if crop is not None:
                crops.append(crop)
                similarities.append(value)
        rows.append(
            NeighbourRow(query=query, neighbours=crops, similarities=similarities, caption=Path(source[index].key).name)
        )
    return rows


def centre_crop(record: Record, *, size: int) -> Image:
    """Return the central square of 60 % of the short side: about the area of a median training crop."""
    height, width = record.size
    half = 0.3 * min(height, width)
    box = np.array([width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half], np.float32)
    return _cut(record, box, size=size)


def dictionary_crop(source: Source, index: int, box: np.ndarray) -> Image | None:
    """Return the crop a dictionary row was made from, or None for a random row or an unreadable image."""
    if not 0 <= index < len(source):
        return None
    try:
        return _cut(source[index], box, size=SHOWN_SIZE)
    except ImageError:
        return None


def _cut(record: Record, box: np.ndarray, *, size: int) -> Image:
    return crop_and_resize(decode(record.read(), record.size, record.orientation).pixels, box, size=size)
