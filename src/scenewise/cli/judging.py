"""The commands that say what backbones are worth: of one its figures, of several the differences."""

from __future__ import annotations

from typing import Annotated

import typer

from scenewise.cli.json_file import check_json, write_json
from scenewise.cli.options import (
    DeviceOption,
    EpochsOption,
    HtmlOption,
    IterationsOption,
    JsonOption,
    LabelledOption,
    LimitOption,
    MinPositivesOption,
    OverwriteOption,
    ProtocolOption,
    ProtocolSettingsOption,
    ReindexOption,
    SeedOption,
    SizeOption,
    SubjectArgument,
    TestDataOption,
    WorkersOption,
)

app = typer.Typer()


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
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    json_file: JsonOption = None,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Say what a backbone is worth on labelled images."""
    from scenewise import api
    from scenewise.engine.config_tree import flat_settings
    from scenewise.engine.display import terminal

    check_json(json_file, overwrite=overwrite)
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
        settings=flat_settings(settings or [], example="knn.k=200"),
        seed=seed,
        device=device,
        workers=workers,
        reindex=reindex,
        display=terminal(),
    )
    write_json(json_file, result.to_json())
    typer.echo(result.to_markdown())
    if result.rows(per_class=True):
        typer.echo(result.to_markdown(per_class=True))
    for note in result.notes:
        typer.echo(f"note: {note}")


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
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: WorkersOption = 0,
    html: HtmlOption = None,
    json_file: JsonOption = None,
    overwrite: OverwriteOption = False,
    reindex: ReindexOption = False,
) -> None:
    """Evaluate several subjects alike and say which is better: one table, paired differences, plain sentences."""
    from scenewise import api
    from scenewise.engine.config_tree import flat_settings
    from scenewise.engine.display import terminal

    check_json(json_file, overwrite=overwrite, others=[html])
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
        settings=flat_settings(settings or [], example="knn.k=200"),
        seed=seed,
        device=device,
        workers=workers,
        overwrite=overwrite,
        reindex=reindex,
        display=terminal(),
    )
    write_json(json_file, result.to_json())
    typer.echo(result.to_markdown())
