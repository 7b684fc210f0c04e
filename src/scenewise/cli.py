"""The command line. Every command is a thin skin over `scenewise.api`; heavy imports wait until a command needs them.

Exit status: 0 done; 2 the user's input is wrong (one or two lines an error); 1 our fault (a traceback); 128 + n stopped
by signal n, after saving.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from scenewise import __version__
from scenewise.errors import Interrupted, UserError

USAGE_ERROR: Any = typer.BadParameter.__base__  # click's UsageError, from wherever typer has click
# seconds: of several processes the first speaks; when it dies for the same reason, torchrun ends the others
OTHERS_WAIT = 10.0
MAIN_PROCESS = os.getpid()
_SETTING = re.compile(r"(seed|[a-z][a-z0-9-]*\.[a-z0-9_]+)=")  # a dotted name and a value, as --set takes it
# the files are the registry; to list them needs none of the libraries they import
PROTOCOL_NAMES = ", ".join(
    sorted(
        path.stem.replace("_", "-")
        for path in (Path(__file__).parent / "evaluate" / "protocols").glob("*.py")
        if path.stem != "__init__"
    )
)
REPORT_BUG = "this is a fault in Scenewise, not in your input; please report it with the lines above"

app = typer.Typer(
    name="scenewise",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From a folder of unlabelled photos of scenes to a vision backbone, with a figure that says what it is worth.",
    epilog="DATA is a folder or kind:path, for example voc:ROOT, csv:FILE, synthetic:2000. "
    "SUBJECT is a run folder, a weights file, random:NAME, timm:NAME or torchvision:NAME.",
)

DataArgument = Annotated[str, typer.Argument(help="a folder of images, or kind:path[?option=value]")]
SubjectArgument = Annotated[
    str, typer.Argument(help="a run folder, a weights file, random:NAME, timm:NAME or torchvision:NAME")
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda or auto")]
WorkersOption = Annotated[int, typer.Option(min=0, help="processes that read images")]
JsonOption = Annotated[Path | None, typer.Option("--json", help="also write the figures to this file")]
CropsJsonOption = Annotated[
    Path | None, typer.Option("--json", help="also write where each view was cut, photo by photo, to this file")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="replace what is there")]
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
ReindexOption = Annotated[
    bool, typer.Option("--reindex", help="walk the folder anew instead of using the cached index")
]


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"scenewise {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version and stop")
    ] = False,
) -> None:
    del version


@app.command(epilog="Example: scenewise demo --out story")
def demo(
    out: Annotated[Path, typer.Option(help="folder to write, new or empty")] = Path("scenewise-demo"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
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
        typer.Argument(help="a folder of images, or kind:path[?option=value]; may be left out with --config"),
    ] = None,
    out: Annotated[Path, typer.Option(help="the run's folder, new or empty")] = ...,  # type: ignore[assignment]
    method: Annotated[str | None, typer.Option(help="`scenewise methods` lists them")] = None,
    backbone: Annotated[str | None, typer.Option(help="a timm name, for example resnet50")] = None,
    init: Annotated[str | None, typer.Option(help="a SUBJECT whose weights to start from")] = None,
    crops: Annotated[str | None, typer.Option(help="region policy: where views are cut (the method's own)")] = None,
    proposals: Annotated[
        str | None, typer.Option(help="a file of `scenewise propose`, auto, or labels (ablation only)")
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels of a full view (224)")] = None,
    epochs: Annotated[int | None, typer.Option(help="0 writes the initial backbone (200)")] = None,
    batch_size: Annotated[int | None, typer.Option(help="over all processes (256)")] = None,
    lr: Annotated[float | None, typer.Option(help="for 256 images a step; scaled to the batch")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything random (0)")] = None,
    workers: Annotated[int | None, typer.Option(help="processes that read images")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or auto")] = None,
    precision: Annotated[str | None, typer.Option(help="32, bf16 or auto")] = None,
    probe: Annotated[
        str | None,
        typer.Option(help="small labelled data watched during training; keeps the best checkpoint"),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="`scenewise recipes` lists them")] = None,
    config: Annotated[Path | None, typer.Option(help="a YAML file, for example RUN/config.yaml")] = None,
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
    from scenewise.engine.config import flat_settings
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


@app.command(
    epilog="Examples: scenewise audit PHOTOS | "
    "scenewise audit PHOTOS --proposals proposals.arrow --html audit.html --json audit.json --workers 2"
)
def audit(
    data: DataArgument,
    proposals: Annotated[
        str | None, typer.Option(help="what object-aware crops are cut by: a file of `scenewise propose`, or labels")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="who says where objects are: labels (where known), another file, or saliency (elsewhere)"),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="also write one self-contained page")] = None,
    json_file: JsonOption = None,
    limit: Annotated[int, typer.Option(min=1, help="images decoded, drawn by the seed")] = 2000,
    size: Annotated[int, typer.Option(min=16, help="pixels of a full view")] = 224,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    workers: WorkersOption = 0,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Read a folder as training would: what is in it, whether two crops share an object, what to use therefore."""
    from scenewise import api
    from scenewise.engine.display import terminal

    _check_json(json_file, overwrite=overwrite, others=[html])
    found = api.audit(
        data,
        proposals=proposals,
        judge=judge,
        html=html,
        limit=limit,
        size=size,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
        reindex=reindex,
        display=terminal(),
    )
    typer.echo(found.to_text())
    _write_json(json_file, found.to_json())


@app.command(
    epilog="Examples: scenewise inspect PHOTOS --method mls --out sheet.png | "
    "scenewise inspect PHOTOS --method univip --crops overlap --proposals proposals.arrow --out sheet.png | "
    "scenewise inspect --run RUN --out sheet.png"
)
def inspect(
    data: Annotated[
        str | None,
        typer.Argument(help="a folder of images, or kind:path[?option=value]; may be left out with --run or --config"),
    ] = None,
    out: Annotated[Path, typer.Option(help="the PNG to write")] = ...,  # type: ignore[assignment]
    method: Annotated[str | None, typer.Option(help="`scenewise methods` lists them")] = None,
    crops: Annotated[str | None, typer.Option(help="region policy: where views are cut (the method's own)")] = None,
    proposals: Annotated[
        str | None, typer.Option(help="a file of `scenewise propose`, or labels (ablation only)")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="a run folder: as it has seen its data; of UniVIP also its transport plans")
    ] = None,
    size: Annotated[int | None, typer.Option(help="pixels of a full view (224)")] = None,
    count: Annotated[int, typer.Option(min=1, help="photos, spread over the data")] = 6,
    seed: Annotated[int | None, typer.Option(help="of everything random (0)")] = None,
    epoch: Annotated[int, typer.Option(min=1, help="views of which epoch")] = 1,
    recipe: Annotated[str | None, typer.Option(help="`scenewise recipes` lists them")] = None,
    config: Annotated[Path | None, typer.Option(help="a YAML file, for example RUN/config.yaml")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="any setting, for example method.instances=2"),
    ] = None,
    json_file: CropsJsonOption = None,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Draw what a method will really see: crops on the photos, the rendered views, and how the policy did."""
    from scenewise import api
    from scenewise.engine.config import flat_settings
    from scenewise.engine.display import terminal

    _check_json(json_file, overwrite=overwrite, others=[out])
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
    display.say(f"done: {found.file}")
    _write_json(json_file, found.to_json())


@app.command(
    epilog="Examples: scenewise propose PHOTOS --out proposals.arrow | "
    "scenewise propose PHOTOS --out bing.arrow --generator bing --bing-model MODELS | "
    "scenewise propose PHOTOS --out control.arrow --generator random --like proposals.arrow | "
    "scenewise pretrain PHOTOS --method byol --crops object --proposals proposals.arrow --out RUN"
)
def propose(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="an Arrow file: one row an image, best box first")],
    generator: Annotated[
        str,
        typer.Option(help="selective-search, bing, random, grid, or labels (labelled boxes: for ablations only)"),
    ] = "selective-search",
    keep: Annotated[int, typer.Option(min=1, help="boxes of an image at most")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="of what a generator draws")] = 0,
    workers: Annotated[int | None, typer.Option(min=0, help="processes (one a core)")] = None,
    bing_model: Annotated[Path | None, typer.Option(help="folder of BING's model, for bing")] = None,
    like: Annotated[Path | None, typer.Option(help="proposal file whose box sizes are taken, for random")] = None,
    mode: Annotated[
        str | None, typer.Option(help="of selective-search: light, fast, quality or single (light)")
    ] = None,
    working_size: Annotated[
        int | None,
        typer.Option(min=0, help="of selective-search: pixels of the shorter side, 0 for the full photo (224)"),
    ] = None,
    json_file: JsonOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where it was interrupted")] = False,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Make object proposals once and keep them in a file for --proposals."""
    from scenewise import api
    from scenewise.engine.display import terminal

    _check_json(json_file, overwrite=overwrite or resume, others=[out])
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
    _write_json(json_file, made.to_json())


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
    workers: Annotated[int | None, typer.Option(min=0, help="processes (one a core)")] = None,
    json_file: JsonOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where it was interrupted")] = False,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Pack images into tar shards, smaller and with all that is known of them, for `shards:OUT`."""
    from scenewise import api
    from scenewise.engine.display import terminal

    _check_json(json_file, overwrite=overwrite or resume, others=[out])
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
    _write_json(json_file, made.to_json())


@app.command(
    epilog="Examples: scenewise evaluate RUN --data voc:ROOT --protocol knn,linear --json figures.json | "
    "scenewise evaluate random:resnet18 --data csv:TRAIN.csv --test-data csv:TEST.csv --size 112 | "
    "scenewise evaluate RUN --data voc:ROOT --protocol knn --set knn.k=200 knn.temperature=0.1 | "
    "scenewise evaluate RUN --data voc:ROOT --protocol linear --epochs 100"
)
def evaluate(
    subject: SubjectArgument,
    data: LabelledOption,
    test_data: TestDataOption = None,
    protocol: ProtocolOption = "knn,linear",
    size: SizeOption = None,
    limit: LimitOption = None,
    min_positives: MinPositivesOption = 1,
    epochs: EpochsOption = None,
    iterations: IterationsOption = None,
    settings: ProtocolSettingsOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    json_file: JsonOption = None,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Say what a backbone is worth on labelled images."""
    from scenewise import api
    from scenewise.engine.config import flat_settings
    from scenewise.engine.display import terminal

    _check_json(json_file, overwrite=overwrite)
    result = api.evaluate(
        subject,
        data=data,
        test_data=test_data,
        protocol=protocol,
        size=size,
        limit=limit,
        min_positives=min_positives,
        epochs=epochs,
        iterations=iterations,
        settings=flat_settings(settings or []),
        seed=seed,
        device=device,
        workers=workers,
        reindex=reindex,
        display=terminal(),
    )
    typer.echo(result.to_markdown())
    if result.rows(per_class=True):
        typer.echo(result.to_markdown(per_class=True))
    for note in result.notes:
        typer.echo(f"note: {note}")
    _write_json(json_file, result.to_json())


@app.command(
    epilog="Examples: scenewise compare random:resnet18 RUN --data voc:ROOT --html comparison.html | "
    "scenewise compare RUN OTHER timm:resnet50 --data csv:TRAIN.csv --test-data csv:TEST.csv --size 224 "
    "--against OTHER --skip-missing --json comparison.json"
)
def compare(
    subjects: Annotated[
        list[str],
        typer.Argument(help="two or more, each a run folder, a weights file, random:NAME, timm:NAME, torchvision:NAME"),
    ],
    data: LabelledOption,
    test_data: TestDataOption = None,
    protocol: ProtocolOption = "knn,linear",
    against: Annotated[str | None, typer.Option(help="the subject that the others are compared to (the first)")] = None,
    skip_missing: Annotated[
        bool,
        typer.Option("--skip-missing", help="leave out subjects whose weights are not on this machine, and say so"),
    ] = False,
    size: Annotated[int | None, typer.Option(min=16, help="pixels, of all; each subject's own by default")] = None,
    limit: LimitOption = None,
    min_positives: MinPositivesOption = 1,
    epochs: EpochsOption = None,
    iterations: IterationsOption = None,
    settings: ProtocolSettingsOption = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    html: Annotated[Path | None, typer.Option(help="also write one self-contained page")] = None,
    json_file: JsonOption = None,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Evaluate several subjects alike and say which is better: one table, paired differences, plain sentences."""
    from scenewise import api
    from scenewise.engine.config import flat_settings
    from scenewise.engine.display import terminal

    _check_json(json_file, overwrite=overwrite, others=[html])
    result = api.compare(
        subjects,
        data=data,
        test_data=test_data,
        protocol=protocol,
        against=against,
        skip_missing=skip_missing,
        html=html,
        size=size,
        limit=limit,
        min_positives=min_positives,
        epochs=epochs,
        iterations=iterations,
        settings=flat_settings(settings or []),
        seed=seed,
        device=device,
        workers=workers,
        overwrite=overwrite,
        reindex=reindex,
        display=terminal(),
    )
    typer.echo(result.to_markdown())
    _write_json(json_file, result.to_json())


@app.command(epilog="Example: scenewise embed RUN PHOTOS --out embeddings.parquet")
def embed(
    subject: SubjectArgument,
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="a Parquet file: columns path, embedding")],
    size: Annotated[int | None, typer.Option(min=16, help="pixels; the subject's own by default")] = None,
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
    display.say(f"done: {rows} embeddings in {out}")


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
    seed: Annotated[int, typer.Option(min=0)] = 0,
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


@app.command()
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


@app.command()
def backbones() -> None:
    """List backbones; any other name of timm works too."""
    from scenewise.backbones import backbone_summaries

    for summary in backbone_summaries():
        typer.echo(f"{summary.name:28} {summary.width:5} features {summary.parameters / 1e6:7.1f} M parameters")
    typer.echo("... and any other name of timm")


def _check_json(path: Path | None, *, overwrite: bool, others: Sequence[Path | None] = ()) -> None:
    """Refuse a file that cannot be written, or must not be, before the work instead of after it.

    others: what else the command writes.
    """
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"--json: cannot write {str(path)!r}; name a file in a folder that exists")
    if path.resolve() in [other.resolve() for other in others if other is not None]:
        raise UserError(f"--json: {str(path)!r} is what the command itself writes; name another file")
    if path.exists() and not overwrite:
        raise UserError(f"--json: {str(path)!r} exists; name another file or replace it with --overwrite")


def _write_json(path: Path | None, content: Any) -> None:
    if path is None:
        return
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--json: cannot write {str(path)!r}: {error.strerror}") from error


def main() -> None:
    """Run the command line and exit with its status."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = run(sys.argv[1:])
    except Terminated:  # while an error was told
        status = 128 + signal.SIGTERM
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave_others(status)
    sys.exit(status)


def _leave_others(status: int) -> None:
    """Take leave of torchrun's other processes, so that the status is what is seen of a run, however it has ended.

    A thread of the process group that outlives Python's end can abort the process (PyTorch's issue 190489). And
    torchrun ends the rest when the first process is gone: those that are leaving already need not be told.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # after a fault the others may be waiting for something that does not come; without the engine none were met
    if status != 1 and "scenewise.engine.processes" in sys.modules:
        from scenewise.engine.processes import leave

        leave()


def _terminated(number: int, frame: FrameType | None) -> None:
    """Leave in order where nothing is there to be saved (while a run trains the engine answers the signal)."""
    if os.getpid() != MAIN_PROCESS:  # a process that reads images: it has nothing to close
        os._exit(128 + number)
    raise Terminated(number)


class Terminated(BaseException):
    """The process was asked to end."""


def _repeat_set(arguments: list[str]) -> list[str]:
    """Let one --set carry several settings: `--set method.k=10 method.weight=0.1` is `--set ... --set ...`."""
    repeated: list[str] = []
    for argument in arguments:
        follows = repeated[-2:-1] == ["--set"] and _SETTING.match(argument)
        repeated += ["--set", argument] if follows else [argument]
    return repeated


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status."""
    try:
        status = app(_repeat_set(arguments), standalone_mode=False, prog_name="scenewise")
    except USAGE_ERROR as error:
        _complain(
            _with_value(error.format_message(), arguments),
            "`scenewise --help` and `scenewise COMMAND --help` list what there is",
        )
        return 2
    except UserError as error:
        _complain(*error.problems)
        return 2
    except Interrupted as error:
        return 128 + error.signal
    except Terminated:
        return 128 + signal.SIGTERM
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        _complain(REPORT_BUG)
        return 1
    return status if isinstance(status, int) else 0


def _with_value(message: str, arguments: list[str]) -> str:
    """Return the message about an option with the value it was given, which the parser leaves out."""
    option = re.search(r"'(--[\w-]+)'", message)
    if option is None or option[1] not in arguments[:-1]:
        return message
    value = arguments[arguments.index(option[1]) + 1]
    return message if repr(value) in message else f"{message} (given: {value!r})"


def _complain(*lines: str) -> None:
    if int(os.environ.get("RANK", "0")):
        time.sleep(OTHERS_WAIT)
    for line in lines:
        typer.echo(f"scenewise: {line}", err=True)
