"""The command that carries out a study: many runs at equal compute, and their table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenewise.cli.options import DeviceOption
from scenewise.errors import Interrupted

app = typer.Typer()


@app.command(
    epilog="Examples: scenewise study studies/scenes_small.py --plan | "
    "scenewise study studies/scenes_small.py --out STUDY | scenewise study --table STUDY/table.json. "
    "A study file is code that this command runs: run your own."
)
def study(
    file: Annotated[Path | None, typer.Argument(help="a Python file that exports STUDY")] = None,
    out: Annotated[Path | None, typer.Option(help="the study's folder; the same command goes on where it was")] = None,
    table: Annotated[
        Path | None, typer.Option(help="make FILE.md and FILE.svg of this JSON file of a study's table, and no more")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="say what would be run, with how many epochs, and stop")] = False,
    choose: Annotated[
        bool, typer.Option("--choose", help="stop when all is chosen, before the test split is looked at")
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="processes at once (one a GPU, one on a CPU)")] = None,
    device: DeviceOption = "auto",
    workers: Annotated[int | None, typer.Option(min=0, help="processes that read images, of each run")] = None,
    overwrite: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM", help="make anew what has changed of this arm: its runs, or only its figures"),
    ] = None,
) -> None:
    """Carry out a grid of runs at equal compute, resumably, and write its table."""
    from scenewise import api
    from scenewise.engine.display import terminal

    display = terminal()
    try:
        result = api.study(
            file,
            out=out,
            table=table,
            plan=plan,
            choose=choose,
            jobs=jobs,
            device=device,
            workers=workers,
            overwrite=overwrite,
            display=display,
        )
    except (Interrupted, KeyboardInterrupt):
        so_far = "" if out is None else f" (table so far: {out}/table.md)"
        display.say(f"stopped; what is finished is kept. Go on with the same command{so_far}")
        raise
    if result.file is not None:
        typer.echo(result.to_markdown())
        display.say(f"done: {result.file}, {result.file.with_suffix('.md')}, {result.file.with_suffix('.svg')}")
