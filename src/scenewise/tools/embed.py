"""Embeddings of a folder: one row an image, as a Parquet table."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from scenewise.backbones import load_subject
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import writing
from scenewise.engine.machine import choose_device
from scenewise.engine.run import open_with_display
from scenewise.evaluate.features import extract_features
from scenewise.outputs import check_output
from scenewise.sources import parse_spec
from scenewise.views.opencv import use_one_thread


def embed(
    subject: str | Path,
    data: str,
    *,
    out: str | Path,
    size: int | None = None,
    device: str = "auto",
    workers: int = 0,
    batch_size: int = 128,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> int:
    """Write the embeddings of every image to a Parquet file and return their number (`scenewise embed`).

    Its columns are `path` and `embedding` (pooled float32 features, not normalised). Images that cannot be read are
    left out and named. Raises UserError for wrong input, before any work.
    """
    display, out = display or Quiet(), Path(out)
    check_output("--out", out, overwrite=overwrite)
    where = choose_device(device)
    use_one_thread()
    parse_spec(data)
    loaded = load_subject(str(subject), size=size)
    source = open_with_display(data, display, reindex=reindex)
    for note in source.notes:
        display.say(f"note: {note}")
    with display.bar("embedding", len(source)) as bar:
        features = extract_features(
            loaded.backbone,
            source,
            size=loaded.size,
            mean=loaded.mean,
            std=loaded.std,
            batch_size=batch_size,
            device=torch.device(where),
            workers=workers,
            progress=lambda text, done, total: bar.update(done, total=total, text=text),
        )
    paths = [source[int(index)].key for index in features.index]
    values = pa.array(features.features.reshape(-1))
    table = pa.table(
        {
            "path": pa.array(paths, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(values, loaded.backbone.width),
        }
    )
    temporary = out.with_name(f".{out.name}.partial")
    try:
        with writing(out):
            pq.write_table(table, temporary)
            temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    for skip in features.skipped:
        display.warn(f"left out {skip.key}: {skip.reason}")
    return len(paths)
