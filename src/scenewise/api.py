"""The Python interface: one function a command, with the command's names and defaults.

What a tool does by itself is the tool's own function; those that build a run's configuration, from recipes too, are
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from scenewise.backbones import Backbone
from scenewise.backbones import load_backbone as _load_backbone
from scenewise.engine.config import build
from scenewise.engine.config_tree import assign, merge, read_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import CONFIG, LAST
from scenewise.engine.run import Run, pretrain_run
from scenewise.errors import UserError
from scenewise.recipes import recipe_tree
from scenewise.tools.audit import audit
from scenewise.tools.compare import compare
from scenewise.tools.demo import demo
from scenewise.tools.embed import embed
from scenewise.tools.export import export
from scenewise.tools.inspect import COUNT, Inspection, inspect_data, run_tree
from scenewise.tools.judge import evaluate
from scenewise.tools.pack import pack
from scenewise.tools.propose import propose
from scenewise.tools.report import report_run
from scenewise.tools.study import study

__all__ = [
    "audit",
    "compare",
    "demo",
    "embed",
    "evaluate",
    "export",
    "inspect",
    "load_backbone",
    "pack",
    "pretrain",
    "propose",
    "study",
]

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
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Return the merged configuration tree: base < recipe < file < flags < settings (dotted names or sections).

    say: is told what the file holds for another method, or other crops, than those of flags and settings.
    """
    chosen: dict[str, Any] = {}
    for flag, value in (flags or {}).items():
        if flag not in FLAGS:
            raise UserError(f"{flag}: no such argument of pretrain; known: {', '.join(FLAGS)}")
        if value is not None:
            assign(chosen, FLAGS[flag], str(value) if isinstance(value, Path) else value)
    dotted: dict[str, Any] = {}
    for name, value in (settings or {}).items():
        assign(dotted, name, value)
    file = read_yaml(Path(config)) if config else {}
    before = merge(base or {}, recipe_tree(recipe) if recipe else {}, file)
    dropped: list[str] = []
    tree = merge(before, chosen, dotted, dropped=dropped)
    unused = [name for name in dropped if name.partition(".")[2] in (file.get(name.partition(".")[0]) or {})]
    if unused:
        more = f" and {len(unused) - 4} more" if len(unused) > 4 else ""
        names = f"{', '.join(unused[:4])}{more}"
        say(f"note: not taken from {config}, as they are for another method or other crops: {names}")
    return tree


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
    display = display or Quiet()
    tree = configuration_tree(recipe=recipe, config=config, flags=flags, settings=settings, base=base, say=display.say)
    return pretrain_run(
        build(tree),
        folder,
        resume=resume,
        overwrite=overwrite,
        reindex=reindex,
        report=report_run,
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
    display = display or Quiet()
    tree = configuration_tree(recipe=recipe, config=config, flags=flags, settings=settings, base=base, say=display.say)
    return inspect_data(
        build(tree, example="`scenewise inspect PHOTOS --method mls --out sheet.png`, or a run: --run RUN"),
        Path(out),
        run=folder,
        count=count,
        epoch=epoch,
        overwrite=overwrite,
        reindex=reindex,
        display=display,
    )


def load_backbone(path: str | Path) -> Backbone:
    """Return the backbone of a run folder or weights file, in evaluation mode: (B, 3, H, W) normalised images in."""
    return _load_backbone(path)
