"""The command that lists photos of Open Images by published rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scenewise.cli.options import OverwriteOption, SeedOption

app = typer.Typer()


@app.command(
    epilog="Examples: scenewise openimages-list OI/oidv6-train-annotations-bbox.csv "
    "OI/class-descriptions-boxable.csv --out ohms.csv | scenewise openimages-list OI/test-annotations-bbox.csv "
    "OI/class-descriptions-boxable.csv --split test --classes-of ohms.csv --out ohms-test.csv"
)
def openimages_list(
    boxes: Annotated[Path, typer.Argument(help="Open Images' table of boxes of one split")],
    classes: Annotated[Path, typer.Argument(help="its table of classes, class-descriptions-boxable.csv")],
    out: Annotated[Path, typer.Option(help="the list to write, for csv:LIST?root=OPENIMAGES")],
    split: Annotated[str, typer.Option(help="folder of the images below the root")] = "train",
    classes_of: Annotated[Path | None, typer.Option(help="a list written before: only its classes count")] = None,
    class_images: Annotated[
        int | None, typer.Option(min=1, help="photos a class has at least (900; 1 with --classes-of)")
    ] = None,
    image_classes: Annotated[int, typer.Option(min=1, help="classes a photo has at least")] = 2,
    limit: Annotated[int, typer.Option(min=1, help="photos at most, drawn by the seed")] = 212_753,
    seed: SeedOption = 0,
    overwrite: OverwriteOption = False,
) -> None:
    """List Open Images' photos of several classes by the rules of OAC's hard subset, with the list's hash."""
    from scenewise.tools.openimages_subset import write_subset

    made = write_subset(
        boxes,
        classes,
        out=out,
        split=split,
        classes_of=classes_of,
        class_images=class_images,
        image_classes=image_classes,
        limit=limit,
        seed=seed,
        overwrite=overwrite,
    )
    typer.echo(f"{made.images:,} photos of {len(made.classes)} classes in {made.file}, sha256 {made.sha256}")
