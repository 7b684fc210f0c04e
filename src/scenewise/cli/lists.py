"""The commands that list what there is by name."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command(epilog="Example: scenewise methods")
def methods() -> None:
    """List the methods."""
    from scenewise.methods import method_class, method_names

    for name in method_names():
        kind = method_class(name)
        config = kind.Config()
        views = " + ".join(f"{slot.count} {role}" for role, slot in kind.slots(config).items())
        typer.echo(f"{name:8} {kind.title}; views: {views}; {kind.passes(config):.3g} passes a step; {kind.paper}")


@app.command(epilog="Examples: scenewise protocols | scenewise protocols --settings")
def protocols(
    settings: Annotated[
        bool, typer.Option("--settings", help="also every setting with its default, as --set takes it")
    ] = False,
) -> None:
    """List the protocols of `evaluate` and `compare`."""
    from scenewise.tools.judge import protocol_lines

    for line in protocol_lines(settings=settings):
        typer.echo(line)


@app.command(epilog="Examples: scenewise recipes | scenewise recipes msvq-cifar10 > settings.yaml")
def recipes(
    name: Annotated[str | None, typer.Argument(help="print this one, as a file for `pretrain --config`")] = None,
) -> None:
    """List the recipes: published experiments as complete configurations."""
    from scenewise.recipes import recipe_names, recipe_yaml

    if name is not None:
        typer.echo(recipe_yaml(name, field="NAME"), nl=False)
        return
    for known, line in recipe_names().items():
        typer.echo(f"{known:29} {line}")


@app.command(epilog="Example: scenewise backbones")
def backbones() -> None:
    """List backbones; any other name of timm works too."""
    from scenewise.backbones import backbone_summaries

    for summary in backbone_summaries():
        typer.echo(f"{summary.name:28} {summary.width:5} features {summary.parameters / 1e6:7.1f} M parameters")
    typer.echo("... and any other name of timm")
