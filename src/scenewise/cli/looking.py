"""The commands that look at photos as training would: a report on a folder, and a sheet of what a method sees."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenewise.cli.json_file import check_json, write_json
from scenewise.cli.options import (
    DATA,
    ConfigOption,
    CropsOption,
    DataArgument,
    HtmlOption,
    JsonOption,
    MethodOption,
    OverwriteOption,
    RecipeOption,
    ReindexOption,
    RunSeedOption,
    SeedOption,
    ViewSizeOption,
    WorkersOption,
)

app = typer.Typer()


@app.command(
    epilog="Examples: scenewise audit PHOTOS | "
    "scenewise audit PHOTOS --proposals proposals.arrow --html audit.html --json audit.json --workers 2"
)
def audit(
    data: DataArgument,
    proposals: Annotated[
        str | None,
        typer.Option(
            help="what object-aware crops are cut by: a file of `scenewise propose`, or labels (what was packed)"
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="who says where objects are: labels (where known), another file, or saliency (elsewhere)"),
    ] = None,
    html: HtmlOption = None,
    json_file: JsonOption = None,
    limit: Annotated[int, typer.Option(min=1, help="images decoded, drawn by the seed")] = 2000,
    size: Annotated[
        int | None, typer.Option(min=16, help="pixels of a full view, for which all is judged (what is recommended)")
    ] = None,
    seed: SeedOption = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="how policies cut, for example crops.min_window=0.5"),
    ] = None,
    workers: WorkersOption = 0,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Read a folder as training would: what is in it, whether two crops share an object, what to use therefore."""
    from scenewise import api
    from scenewise.engine.config_tree import flat_settings
    from scenewise.engine.display import terminal

    check_json(json_file, overwrite=overwrite, others=[html])
    found = api.audit(
        data,
        proposals=proposals,
        judge=judge,
        html=html,
        limit=limit,
        size=size,
        seed=seed,
        settings=flat_settings(settings or [], example="crops.min_window=0.5"),
        workers=workers,
        overwrite=overwrite,
        reindex=reindex,
        display=terminal(),
    )
    write_json(json_file, found.to_json())
    typer.echo(found.to_text())


@app.command(
    epilog="Examples: scenewise inspect PHOTOS --method mls --out sheet.png | "
    "scenewise inspect PHOTOS --method univip --crops overlap --proposals proposals.arrow --out sheet.png | "
    "scenewise inspect --run RUN --out sheet.png"
)
def inspect(
    data: Annotated[
        str | None,
        typer.Argument(help=f"{DATA}; may be left out with --run or --config"),
    ] = None,
    out: Annotated[Path, typer.Option(help="the PNG to write")] = ...,  # type: ignore[assignment]
    method: MethodOption = None,
    crops: CropsOption = None,
    proposals: Annotated[
        str | None, typer.Option(help="a file of `scenewise propose`, or labels (ablation only)")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="a run folder: as it has seen its data; of UniVIP also its transport plans")
    ] = None,
    size: ViewSizeOption = None,
    count: Annotated[int, typer.Option(min=1, help="photos, spread over the data")] = 6,
    seed: RunSeedOption = None,
    epoch: Annotated[int, typer.Option(min=1, help="views of which epoch")] = 1,
    recipe: RecipeOption = None,
    config: ConfigOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="any setting, for example method.instances=2"),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="also write where each view was cut, photo by photo, to this file")
    ] = None,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Draw what a method will really see: crops on the photos, the rendered views, and how the policy did."""
    from scenewise import api
    from scenewise.engine.config_tree import flat_settings
    from scenewise.engine.display import terminal

    check_json(json_file, overwrite=overwrite, others=[out])
    display = terminal()
    found = api.inspect(
        data,
        out=out,
        method=method,
        crops=crops,
        proposals=proposals,
        run=run,
        size=size,
        count=count,
        seed=seed,
        epoch=epoch,
        recipe=recipe,
        config=config,
        settings=flat_settings(settings or []),
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )
    write_json(json_file, found.to_json())
    display.say(f"done: {found.file}")
