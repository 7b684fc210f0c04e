"""The commands that train: the whole story on generated scenes, and a run on photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenewise.cli.options import (
    DATA,
    ConfigOption,
    CropsOption,
    MethodOption,
    OverwriteOption,
    RecipeOption,
    ReindexOption,
    RunDeviceOption,
    RunSeedOption,
    RunWorkersOption,
    SeedOption,
    ViewSizeOption,
)
from scenewise.errors import Interrupted

app = typer.Typer()


@app.command(epilog="Example: scenewise demo --out story")
def demo(
    out: Annotated[Path, typer.Option(help="folder to write, new or empty")] = Path("scenewise-demo"),
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """Tell the whole story on generated scenes: pre-train, evaluate, report (about 5 minutes on 2 cores)."""
    from scenewise import api
    from scenewise.engine.display import terminal

    api.demo(out, overwrite=overwrite, seed=seed, display=terminal())


@app.command(
    epilog="Examples: scenewise pretrain PHOTOS --method mls --backbone resnet18 --size 112 --epochs 100 --out RUN | "
    "scenewise pretrain PHOTOS --method mls --init timm:resnet50 --set method.k=10 --out RUN | "
    "scenewise pretrain --config RUN/config.yaml --out AGAIN | scenewise pretrain --out RUN --resume"
)
def pretrain(
    data: Annotated[
        str | None,
        typer.Argument(help=f"{DATA}; may be left out with --config"),
    ] = None,
    out: Annotated[Path, typer.Option(help="the run's folder, new or empty")] = ...,  # type: ignore[assignment]
    method: MethodOption = None,
    backbone: Annotated[str | None, typer.Option(help="a timm name, for example resnet50")] = None,
    init: Annotated[str | None, typer.Option(help="a SUBJECT whose weights to start from")] = None,
    crops: CropsOption = None,
    proposals: Annotated[
        str | None, typer.Option(help="a file of `scenewise propose`, auto, or labels (ablation only)")
    ] = None,
    size: ViewSizeOption = None,
    epochs: Annotated[int | None, typer.Option(help="0 writes the initial backbone (200)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="over all processes (256)")] = None,
    lr: Annotated[float | None, typer.Option(help="for 256 images a step; scaled to the batch")] = None,
    seed: RunSeedOption = None,
    workers: RunWorkersOption = None,
    device: RunDeviceOption = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16 or auto")] = None,
    probe: Annotated[
        str | None,
        typer.Option(help="small labelled data watched during training; keeps the best checkpoint"),
    ] = None,
    recipe: RecipeOption = None,
    config: ConfigOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="any setting, for example method.k=10"),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the run's last checkpoint")] = False,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Pre-train a backbone on unlabelled images."""
    from scenewise import api
    from scenewise.engine.config_tree import flat_settings
    from scenewise.engine.display import terminal

    display = terminal()
    try:
        run = api.pretrain(
            data,
            out=out,
            method=method,
            backbone=backbone,
            init=init,
            crops=crops,
            proposals=proposals,
            size=size,
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            workers=workers,
            device=device,
            precision=precision,
            probe=probe,
            recipe=recipe,
            config=config,
            settings=flat_settings(settings or []),
            resume=resume,
            overwrite=overwrite,
            reindex=reindex,
            display=display,
        )
    except Interrupted:
        display.say(f"stopped; the run is saved. Go on with the same command and --resume (run folder: {out})")
        raise
    display.say(f"done: {run.backbone}, {run.folder / 'report.html'}")
