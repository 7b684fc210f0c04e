"""Embeddings of a folder: one row an image, as a Parquet table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from scenewise.backbones import load_subject
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import writing
from scenewise.engine.machine import choose_device
from scenewise.engine.run import open_with_display
from scenewise.errors import UserError, all_at_once
from scenewise.evaluate.features import stream_features
from scenewise.outputs import check_output
from scenewise.sources import parse_spec
from scenewise.types import Skip
from scenewise.views.opencv import check_opencv

ENDINGS = (".parquet", ".pq")
ROWS = 16_384  # of a row group: 134 MB of a ResNet-50


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
    all_at_once(
        lambda: _check_out(out, overwrite=overwrite),
        lambda: choose_device(device),
        lambda: parse_spec(data),
        check_opencv,
    )
    loaded = load_subject(str(subject), size=size)
    source = open_with_display(data, display, reindex=reindex)
    for note in source.notes:
        display.say(f"note: {note}")
    temporary = out.with_name(f".{out.name}.partial")
    count, skipped = 0, list[Skip]()
    try:
        table = _Table(out, temporary, loaded.backbone.width)
        with display.bar("embedding", len(source)) as bar, table:
            for part in stream_features(
                loaded.backbone,
                source,
                size=loaded.size,
                indices=np.arange(len(source)),
                mean=loaded.mean,
                std=loaded.std,
                batch_size=batch_size,
                device=choose_device(device),
                workers=workers,
                progress=lambda text, done, total: bar.update(done, total=total, text=text),
            ):
                table.add([source[int(index)].key for index in part.index], part.features)
                count += len(part.index)
                skipped += part.skipped
        with writing(out):
            temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    for skip in skipped:
        display.warn(f"left out {skip.key}: {skip.reason}")
    return count


def _check_out(out: Path, *, overwrite: bool) -> None:
    check_output("--out", out, overwrite=overwrite)
    if out.suffix.lower() not in ENDINGS:
        raise UserError(f"--out: {str(out)!r} gets a Parquet table; let its name end in {' or '.join(ENDINGS)}")


class _Table:
    """A Parquet file of paths and embeddings that grows, `ROWS` of them kept in memory; `out` names it in errors."""

    def __init__(self, out: Path, file: Path, width: int) -> None:
        embedding = pa.list_(pa.float32(), width)
        self._schema = pa.schema([("path", pa.string()), ("embedding", embedding)])
        self._out, self._file = out, file
        self._paths, self._rows = list[str](), list[np.ndarray]()

    def __enter__(self) -> None:
        with writing(self._out):
            self._writer = pq.ParquetWriter(self._file, self._schema)

    def add(self, paths: list[str], rows: Float32[np.ndarray, "batch width"]) -> None:
        """Add the embeddings of a batch."""
        if paths:
            self._paths += paths
            self._rows.append(rows)
        if len(self._paths) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._paths:
            values = pa.array(np.concatenate(self._rows).reshape(-1))
            kind = self._schema.field("embedding").type
            columns = [pa.array(self._paths, pa.string()), pa.FixedSizeListArray.from_arrays(values, kind.list_size)]
            with writing(self._out):
                self._writer.write_table(pa.table(columns, schema=self._schema))
        self._paths, self._rows = [], []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        with writing(self._out):
            self._writer.close()
