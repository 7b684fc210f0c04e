"""The commands that make something of photos once, for many runs: object proposals, shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenewise.cli.json_file import check_json, write_json
from scenewise.cli.options import CoresOption, DataArgument, JsonOption, OverwriteOption, ReindexOption, ResumeOption
from scenewise.errors import Interrupted

app = typer.Typer()


@app.command(
    epilog="Examples: scenewise propose PHOTOS --out proposals.arrow | "
    "scenewise propose PHOTOS --out bing.arrow --generator bing --bing-model MODELS | "
    "scenewise propose PHOTOS --out control.arrow --generator random --like proposals.arrow | "
    "scenewise propose PHOTOS --out detected.arrow --generator table --boxes detected.csv | "
    "scenewise pretrain PHOTOS --method byol --crops object --proposals proposals.arrow --out RUN"
)
def propose(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="an Arrow file: one row an image, best box first")],
    generator: Annotated[
        str,
        typer.Option(
            help="selective-search, bing, random, grid; table (boxes made elsewhere: --boxes); or labels "
            "(labelled boxes: for ablations only)"
        ),
    ] = "selective-search",
    keep: Annotated[int, typer.Option(min=1, help="boxes of an image at most")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of what a generator draws")] = 0,
    workers: CoresOption = None,
    bing_model: Annotated[Path | None, typer.Option(help="folder of BING's model, for bing")] = None,
    like: Annotated[Path | None, typer.Option(help="proposal file whose box sizes are taken, for random")] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(help="a CSV file, image,x1,y1,x2,y2[,score] in pixels of the upright photo, for table"),
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="of selective-search: light, fast, quality or single (light)")
    ] = None,
    working_size: Annotated[
        int | None,
        typer.Option(min=0, help="of selective-search: pixels of the shorter side, 0 for the full photo (224)"),
    ] = None,
    json_file: JsonOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Make object proposals once and keep them in a file for --proposals."""
    from scenewise import api
    from scenewise.engine.display import terminal

    check_json(json_file, overwrite=overwrite, others=[out])
    display = terminal()
    try:
        made = api.propose(
            data,
            out=out,
            generator=generator,
            keep=keep,
            seed=seed,
            workers=workers,
            bing_model=bing_model,
            like=like,
            boxes=boxes,
            mode=mode,
            working_size=working_size,
            resume=resume,
            overwrite=overwrite,
            reindex=reindex,
            display=display,
        )
    except Interrupted:
        display.say(f"stopped; what is done is kept in {out}.partial. Go on with the same command and --resume")
        raise
    display.say(f"done: {made.file}")
    write_json(json_file, made.to_json())


@app.command(
    epilog="Examples: scenewise pack PHOTOS --out SHARDS --short-side 320 | "
    "scenewise pack voc:ROOT --out SHARDS --proposals proposals.arrow | "
    "scenewise pretrain shards:SHARDS --method mls --out RUN | "
    "scenewise pretrain shards:https://HOST/SHARDS --method mls --out RUN"
)
def pack(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="a folder, new or empty: tar files, an index, labels and boxes")],
    short_side: Annotated[
        int, typer.Option(min=32, help="pixels that an image's shorter side has at most; none is enlarged")
    ] = 320,
    quality: Annotated[
        int, typer.Option(min=1, max=100, help="of JPEG, for what is not copied as it is: small upright JPEG files")
    ] = 95,
    shard_images: Annotated[int, typer.Option(min=1, help="images of a tar file")] = 10_000,
    proposals: Annotated[
        Path | None, typer.Option(help="a file of `scenewise propose` for these data, to be carried along")
    ] = None,
    workers: CoresOption = None,
    json_file: JsonOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Pack images into tar shards, smaller and with all that is known of them, for `shards:OUT`."""
    from scenewise import api
    from scenewise.engine.display import terminal

    check_json(json_file, overwrite=overwrite, others=[out])
    display = terminal()
    try:
        made = api.pack(
            data,
            out=out,
            short_side=short_side,
            quality=quality,
            shard_images=shard_images,
            proposals=proposals,
            workers=workers,
            resume=resume,
            overwrite=overwrite,
            reindex=reindex,
            display=display,
        )
    except Interrupted:
        display.say(f"stopped; what is done is kept in {out}. Go on with the same command and --resume")
        raise
    display.say(f"done: shards:{made.folder}")
    write_json(json_file, made.to_json())
