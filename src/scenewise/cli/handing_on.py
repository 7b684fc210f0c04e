"""The commands that hand the result on: as embeddings of images, or as weights that other tools load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenewise.cli.options import (
    DataArgument,
    DeviceOption,
    OverwriteOption,
    ReindexOption,
    SizeOption,
    SubjectArgument,
    WorkersOption,
)
from scenewise.wording import counted

app = typer.Typer()


@app.command(epilog="Example: scenewise embed RUN PHOTOS --out embeddings.parquet")
def embed(
    subject: SubjectArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="a Parquet file: columns path, embedding")],
    size: SizeOption = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Write the embedding of every image to a table."""
    from scenewise import api
    from scenewise.engine.display import terminal

    display = terminal()
    rows = api.embed(
        subject,
        data,
        out=out,
        size=size,
        batch_size=batch_size,
        device=device,
        workers=workers,
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )
    display.say(f"done: {counted(rows, 'embedding')} in {out}")


@app.command(epilog="Example: scenewise export RUN --format torchvision --out backbone.pth")
def export(
    subject: SubjectArgument,
    format: Annotated[str, typer.Option(help="safetensors, timm or torchvision")],  # noqa: A002
    out: Annotated[Path, typer.Option(help="the file to write")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write the weights as a plain file that other tools load, and print the lines that load it."""
    from scenewise import api

    typer.echo(api.export(subject, format=format, out=out, overwrite=overwrite))
