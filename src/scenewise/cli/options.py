"""The arguments and options that several commands share; what one command alone takes is written in its signature."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# the files are the registry; to list them needs none of the libraries they import
PROTOCOL_NAMES = ", ".join(
    sorted(
        path.stem.replace("_", "-")
        for path in (Path(__file__).parents[1] / "evaluate" / "protocols").glob("*.py")
        if path.stem != "__init__"
    )
)
DATA = "a folder of images, or kind:path[?option=value]"
SUBJECT = "a run folder, a weights file, random:NAME, timm:NAME or torchvision:NAME"
_DEVICE = "cpu, cuda or auto"
_WORKERS = "processes that read images"

DataArgument = Annotated[str, typer.Argument(help=DATA)]
SubjectArgument = Annotated[str, typer.Argument(help=SUBJECT)]
SeedOption = Annotated[int, typer.Option(min=0)]
DeviceOption = Annotated[str, typer.Option(help=_DEVICE)]
WorkersOption = Annotated[int, typer.Option(min=0, help=_WORKERS)]
CoresOption = Annotated[int | None, typer.Option(min=0, help="processes (one a core)")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="also write the figures to this file")]
HtmlOption = Annotated[Path | None, typer.Option(help="also write one self-contained page")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="go on where it was interrupted")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace what is there")]
ReindexOption = Annotated[
    bool, typer.Option("--reindex", help="walk the folder anew instead of using the cached index")
]

# of a run's configuration, which checks them
MethodOption = Annotated[str | None, typer.Option(help="`scenewise methods` lists them")]
CropsOption = Annotated[str | None, typer.Option(help="region policy: where views are cut (the method's own)")]
ViewSizeOption = Annotated[int | None, typer.Option(help="pixels of a full view (224)")]
RunSeedOption = Annotated[int | None, typer.Option(help="of everything random (0)")]
RunDeviceOption = Annotated[str | None, typer.Option(help=_DEVICE)]
RunWorkersOption = Annotated[int | None, typer.Option(help=_WORKERS)]
RecipeOption = Annotated[str | None, typer.Option(help="`scenewise recipes` lists them")]
ConfigOption = Annotated[Path | None, typer.Option(help="a YAML file, for example RUN/config.yaml")]

# of an evaluation
LabelledOption = Annotated[
    str, typer.Option(help="labelled images to learn from (and to test on, where they have splits)")
]
TestDataOption = Annotated[str | None, typer.Option(help="labelled images to test on")]
ProtocolOption = Annotated[str, typer.Option(help=f"names with commas between: {PROTOCOL_NAMES}")]
SizeOption = Annotated[int | None, typer.Option(min=16, help="pixels; the subject's own by default")]
MinPositivesOption = Annotated[int, typer.Option(min=1, help="training images a class needs to count")]
LimitOption = Annotated[int | None, typer.Option(min=2, help="images of each split, drawn by the seed")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="length of every protocol that trains by gradient")]
IterationsOption = Annotated[int | None, typer.Option(min=1, help="the same, in steps")]
ProtocolSettingsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PROTOCOL.SETTING=VALUE",
        help="for example knn.k=200; `scenewise protocols --settings` lists them",
    ),
]
