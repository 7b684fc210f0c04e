"""The Python interface: one function a command, with the command's names and defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenewise.backbones import Backbone
from scenewise.backbones import load_backbone as _load_backbone
from scenewise.engine.config import assign, build, merge, read_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import CONFIG, LAST, writing
from scenewise.engine.processes import started_rank
from scenewise.engine.proposing import Made
from scenewise.engine.run import AUTO_GENERATOR, Run, pretrain_run
from scenewise.errors import UserError
from scenewise.evaluate.evaluation import Evaluation
from scenewise.proposals import kept
from scenewise.recipes import recipe_tree
from scenewise.studies import Study
from scenewise.tools.audit import LIMIT, audit_data
from scenewise.tools.audit_figures import Audit
from scenewise.tools.compare import Comparison, compare_subjects
from scenewise.tools.demo import run_demo
from scenewise.tools.embed import embed_data
from scenewise.tools.export import export as _export
from scenewise.tools.inspect import COUNT, Inspection, inspect_data, run_tree
from scenewise.tools.judge import Terms, judge, protocol_options
from scenewise.tools.pack import QUALITY, SHARD_IMAGES, SHORT_SIDE, Packed, pack_data
from scenewise.tools.propose import propose_data
from scenewise.tools.report import report_run
from scenewise.tools.study import StudyResult, study_command

# the flags of `pretrain` and the settings they stand for
FLAGS: Mapping[str, str] = {
    "data": "data.source",
    "crops": "crops.name",
    "proposals": "data.proposals",
    "size": "data.size",
    "method": "method.name",
    "backbone": "backbone.name",
    "init": "backbone.init",
    "lr": "optimiser.lr",
    "epochs": "engine.epochs",
    "batch_size": "engine.batch_size",
    "workers": "engine.workers",
    "device": "engine.device",
    "precision": "engine.precision",
    "probe": "probe.data",
    "seed": "seed",
}


def configuration_tree(
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the merged configuration tree: base < recipe < file < flags < settings (dotted names or sections)."""
    chosen: dict[str, Any] = {}
    for flag, value in (flags or {}).items():
        if flag not in FLAGS:
            raise UserError(f"{flag}: no such argument of pretrain; known: {', '.join(FLAGS)}")
        if value is not None:
            assign(chosen, FLAGS[flag], str(value) if isinstance(value, Path) else value)
    dotted: dict[str, Any] = {}
    for name, value in (settings or {}).items():
        assign(dotted, name, value)
    return merge(
        base or {}, recipe_tree(recipe) if recipe else {}, read_yaml(Path(config)) if config else {}, chosen, dotted
    )


def resumed_tree(out: Path) -> dict[str, Any]:
    """Return the configuration of the run in a folder where it can go on: a resumed run need not be described again."""
    recorded = out / CONFIG
    return read_yaml(recorded) if recorded.is_file() and (out / LAST).exists() else {}


def pretrain(
    data: str | Path | None = None,
    *,
    out: str | Path,
    method: str | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reindex: bool = False,
    settings: Mapping[str, Any] | None = None,
    display: Display | None = None,
    backbone: str | None = None,
    init: str | None = None,
    crops: str | None = None,
    proposals: str | Path | None = None,
    size: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    precision: str | None = None,
    probe: str | None = None,
) -> Run:
    """Pre-train a backbone on unlabelled images and return the finished run (`scenewise pretrain`).

    `settings` reaches every field by its dotted name, as `--set` does: `{"method.k": 10}`. With `resume`, what is not
    named is as the run in `out` has it. Raises UserError for wrong input before any work starts, and Interrupted after
    saving when a signal asked it to stop.
    """
    flags = {
        "data": data,
        "method": method,
        "backbone": backbone,
        "init": init,
        "crops": crops,
        "proposals": proposals,
        "size": size,
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "workers": workers,
        "device": device,
        "precision": precision,
        "probe": probe,
    }
    folder = Path(out)
    base = resumed_tree(folder) if resume else {}
    tree = configuration_tree(recipe=recipe, config=config, flags=flags, settings=settings, base=base)
    run = pretrain_run(build(tree), folder, resume=resume, overwrite=overwrite, reindex=reindex, display=display)
    if started_rank() == 0:
        with writing(folder):
            report_run(run.folder)
    return run


def propose(
    data: str,
    *,
    out: str | Path,
    generator: str = AUTO_GENERATOR,
    keep: int = kept.LIMIT,
    seed: int = 0,
    workers: int | None = None,
    bing_model: str | Path | None = None,
    like: str | Path | None = None,
    mode: str | None = None,
    working_size: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Made:
    """Make object proposals once and keep them in a file (`scenewise propose`); `.to_json()` gives the command's JSON.

    `like`: a proposal file whose box sizes the generator `random` takes. `mode`, `working_size` (pixels of the shorter
    side, 0 for the full photo): of `selective-search`. Raises UserError for wrong input before any
    work starts, and Interrupted once what is done is kept, for `resume`.
    """
    return propose_data(
        data,
        Path(out),
        generator=generator,
        keep=keep,
        seed=seed,
        workers=workers,
        bing_model=None if bing_model is None else Path(bing_model),
        like=None if like is None else Path(like),
        mode=mode,
        working_size=working_size,
        resume=resume,
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )


def pack(
    data: str,
    *,
    out: str | Path,
    short_side: int = SHORT_SIDE,
    quality: int = QUALITY,
    shard_images: int = SHARD_IMAGES,
    proposals: str | Path | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Packed:
    """Put the images of a data set into tar shards for `shards:OUT` (`scenewise pack`); `.to_json()` gives its JSON.

    Raises UserError for wrong input before any work starts, and Interrupted once what is done is kept, for `resume`.
    """
    return pack_data(
        data,
        Path(out),
        short_side=short_side,
        quality=quality,
        shard_images=shard_images,
        proposals=None if proposals is None else Path(proposals),
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )


def audit(
    data: str,
    *,
    proposals: str | Path | None = None,
    judge: str | Path | None = None,
    html: str | Path | None = None,
    limit: int = LIMIT,
    size: int = 224,
    seed: int = 0,
    workers: int = 0,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Audit:
    """Say what is in a folder and what to use for it (`scenewise audit`); `.to_json()` gives the command's JSON."""
    return audit_data(
        data,
        proposals=None if proposals is None else str(proposals),
        judge=None if judge is None else str(judge),
        html=None if html is None else Path(html),
        limit=limit,
        size=size,
        seed=seed,
        workers=workers,
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )


def inspect(
    data: str | Path | None = None,
    *,
    out: str | Path,
    method: str | None = None,
    crops: str | None = None,
    proposals: str | Path | None = None,
    run: str | Path | None = None,
    size: int | None = None,
    count: int = COUNT,
    seed: int | None = None,
    epoch: int = 1,
    recipe: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Inspection:
    """Draw what a method will really see of a few photos (`scenewise inspect`); `.to_json()` gives the command's JSON.

    With `run` what is not named is as that run has it, and of a UniVIP run its transport plans are drawn too.
    """
    flags = {
        "data": data,
        "method": method,
        "crops": crops,
        "proposals": proposals,
        "size": size,
        "seed": seed,
    }
    folder = None if run is None else Path(run)
    base = {} if folder is None else run_tree(folder)
    tree = configuration_tree(recipe=recipe, config=config, flags=flags, settings=settings, base=base)
    return inspect_data(
        build(tree),
        Path(out),
        run=folder,
        count=count,
        epoch=epoch,
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )


def evaluate(
    subject: str | Path,
    *,
    data: str,
    test_data: str | None = None,
    protocol: str | Sequence[str] = ("knn", "linear"),
    size: int | None = None,
    limit: int | None = None,
    min_positives: int = 1,
    epochs: int | None = None,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    reindex: bool = False,
    display: Display | None = None,
) -> Evaluation:
    """Evaluate a subject on labelled data (`scenewise evaluate`); `.to_json()` gives the command's JSON.

    `epochs` or `iterations`: the length of every protocol that trains by gradient. `settings` reaches every setting of
    a protocol by its dotted name, as `--set` does: `{"knn.k": 200}` (`scenewise protocols --settings` lists them).
    """
    terms = Terms(
        protocols=_names(protocol),
        options=protocol_options(settings or {}),
        epochs=epochs,
        iterations=iterations,
        size=size,
        limit=limit,
        min_positives=min_positives,
        seed=seed,
        device=device,
        workers=workers,
    )
    return judge(str(subject), data, terms, test_data=test_data, reindex=reindex, display=display)


def compare(
    subjects: Sequence[str | Path],
    *,
    data: str,
    test_data: str | None = None,
    protocol: str | Sequence[str] = ("knn", "linear"),
    against: str | Path | None = None,
    skip_missing: bool = False,
    html: str | Path | None = None,
    size: int | None = None,
    limit: int | None = None,
    min_positives: int = 1,
    epochs: int | None = None,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Comparison:
    """Evaluate several subjects alike (`scenewise compare`); `.to_json()` gives the command's JSON.

    `against`: the subject that the others are compared to, the first by default. `skip_missing`: leave out subjects
    whose weights are not on this machine. `epochs`, `iterations`, `settings`: as of `evaluate`.
    """
    terms = Terms(
        protocols=_names(protocol),
        options=protocol_options(settings or {}),
        epochs=epochs,
        iterations=iterations,
        size=size,
        limit=limit,
        min_positives=min_positives,
        seed=seed,
        device=device,
        workers=workers,
    )
    return compare_subjects(
        [str(subject) for subject in subjects],
        data,
        terms,
        test_data=test_data,
        against=None if against is None else str(against),
        skip_missing=skip_missing,
        html=None if html is None else Path(html),
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )


def study(
    file: str | Path | Study | None = None,
    *,
    out: str | Path | None = None,
    table: str | Path | None = None,
    plan: bool = False,
    choose: bool = False,
    jobs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    overwrite: Sequence[str] | None = None,
    display: Display | None = None,
) -> StudyResult:
    """Carry out a study, or what is left of it (`scenewise study`); `.to_json()` gives the content of table.json.

    file: a study file, which is run, or a `Study`. table: make the pages of such JSON anew, and no more. plan: say what
    would be run. choose: stop before the test split is looked at. overwrite: labels of arms to make anew where their
    settings have changed. Raises UserError for wrong input before any work starts, and for runs that failed once all
    others are done; Interrupted after saving.
    """
    return study_command(
        file,
        out=None if out is None else Path(out),
        table=None if table is None else Path(table),
        plan=plan,
        choose=choose,
        jobs=jobs,
        device=device,
        workers=workers,
        overwrite=overwrite or (),
        display=display or Quiet(),
    )


def _names(protocol: str | Sequence[str]) -> list[str]:
    """Return the protocols' names, which may be one text with commas between."""
    names = protocol.split(",") if isinstance(protocol, str) else protocol
    return [name.strip() for name in names if name.strip()]


def embed(
    subject: str | Path,
    data: str,
    *,
    out: str | Path,
    size: int | None = None,
    device: str = "auto",
    workers: int = 0,
    batch_size: int = 128,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> int:
    """Write the embeddings of every image to a Parquet file and return their number (`scenewise embed`)."""
    return embed_data(
        str(subject),
        data,
        Path(out),
        size=size,
        device=device,
        workers=workers,
        batch_size=batch_size,
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )


def export(subject: str | Path, *, format: str, out: str | Path, overwrite: bool = False) -> str:  # noqa: A002
    """Write a subject's weights for other tools and return the snippet that loads them (`scenewise export`)."""
    return _export(str(subject), format=format, out=Path(out), overwrite=overwrite)


def load_backbone(path: str | Path) -> Backbone:
    """Return the backbone of a run folder or weights file, in evaluation mode: (B, 3, H, W) normalised images in."""
    return _load_backbone(path)


def demo(
    out: str | Path = "scenewise-demo", *, overwrite: bool = False, seed: int = 0, display: Display | None = None
) -> Path:
    """Run the whole story on generated scenes and return its folder (`scenewise demo`)."""
    return run_demo(Path(out), overwrite=overwrite, seed=seed, display=display)
