"""What a method will really see: photos with their crops, the rendered views and, of a UniVIP run, what it matches."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scenewise.engine.checkpoints import Checkpoint, load_checkpoint
from scenewise.engine.config import RunConfig, build, flatten
from scenewise.engine.config_tree import Tree, read_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.folder import CONFIG, LAST, PROPOSALS, writing
from scenewise.engine.proposed import AUTO, check_crops, check_proposals
from scenewise.engine.run import open_with_display
from scenewise.errors import UserError, all_at_once
from scenewise.methods import method_class
from scenewise.methods.univip import UniVIP
from scenewise.outputs import check_output, write_whole
from scenewise.proposals.store import FIELD
from scenewise.report.view_sheet import SeenPhoto, view_sheet
from scenewise.sources import Source, parse_spec
from scenewise.tools.report import spread
from scenewise.tools.restore import restore_method
from scenewise.tools.seen import Seen, see
from scenewise.types import Skip, View
from scenewise.views.collate import collate, normalise
from scenewise.views.opencv import use_one_thread
from scenewise.views.policies import policy_name

COUNT = 6  # photos


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """What a method sees: the sheet, and where each view of each photo was cut.

    keys: of the photos, in their order. skipped: the photos that cannot be read. epoch: from 1.
    """

    file: Path
    config: RunConfig
    data: str
    epoch: int
    photos: Sequence[SeenPhoto]
    keys: Sequence[str]
    skipped: Sequence[Skip]

    def to_json(self) -> dict[str, Any]:
        """Return what `scenewise inspect --json` writes; boxes are x1, y1, x2, y2 in pixels of the upright photo."""
        return {
            "file": str(self.file),
            "data": self.data,
            "method": self.config.method,
            "crops": policy_name(self.config.crops),
            "size": self.config.data.size,
            "seed": self.config.seed,
            "epoch": self.epoch,
            "photos": [_photo_json(photo, key) for photo, key in zip(self.photos, self.keys, strict=True)],
            "skipped": [{"image": skip.key, "reason": skip.reason} for skip in self.skipped],
        }


def _photo_json(photo: SeenPhoto, key: str) -> dict[str, Any]:
    """Return where a photo's views were cut, slot by slot, what the policy counted, and its transport plan or None."""
    regions = photo.regions
    return {
        "image": key,
        "index": photo.index,
        "height": photo.photo.shape[0],
        "width": photo.photo.shape[1],
        "views": {
            slot: [
                {"box": box, "kind": View(kind).name.lower()}
                for box, kind in zip(boxes.tolist(), regions.kinds[slot].tolist(), strict=True)
            ]
            for slot, boxes in regions.boxes.items()
        },
        "figures": {name: float(value) for name, value in regions.figures.items()},
        "transport_plan": None if photo.plan is None else photo.plan.tolist(),
    }


def inspect_data(
    config: RunConfig,
    out: Path,
    *,
    run: Path | None = None,
    count: int = COUNT,
    epoch: int = 1,
    overwrite: bool = False,
    reindex: bool = False,
    display: Display | None = None,
) -> Inspection:
    """Write a PNG of what a method sees of `count` photos, spread over the data, in an epoch (from 1).

    run: a run folder whose configuration this is (`run_tree`), other data or crops apart; where UniVIP has trained it,
    the transport plan of each photo is drawn too, by the weights of its last checkpoint. Photos that cannot be read are
    left out and named. Raises UserError for wrong input, before any work.
    """
    display = display or Quiet()
    _check(config, out, run=run, count=count, epoch=epoch, overwrite=overwrite)
    saved = None if run is None else load_checkpoint(run / LAST)
    use_one_thread()
    source = open_with_display(config.data.source, display, reindex=reindex)
    for note in source.notes:
        display.say(f"note: {note}")
    seen = _look(config, source, run=run, count=count, epoch=epoch, display=display)
    photos, heading = seen.photos, list(seen.heading)
    if saved is not None and matches_instances(config):
        plans = transport_plans(config, saved, photos)
        photos = [dataclasses.replace(photo, plan=plan) for photo, plan in zip(photos, plans, strict=True)]
        heading.append(f"transport plans by the weights of {run}, step {saved.step}")
    elif saved is not None:
        display.say(f"note: no transport plan is drawn: this run of {config.method} matches no objects")
    with writing(out):
        write_whole(out, view_sheet(photos, heading=heading))
    return Inspection(
        file=out,
        config=config,
        data=source.spec,
        epoch=epoch,
        photos=photos,
        keys=[source[photo.index].key for photo in photos],
        skipped=seen.skipped,
    )


def run_tree(run: Path) -> Tree:
    """Return the configuration of a run folder as sections; raises UserError where it is none."""
    if not (run / CONFIG).is_file() or not (run / LAST).is_file():
        lacking = CONFIG if not (run / CONFIG).is_file() else LAST
        raise UserError(f"--run: {str(run)!r} holds no {lacking}; name a folder that `scenewise pretrain --out` wrote")
    return read_yaml(run / CONFIG)


def matches_instances(config: RunConfig) -> bool:
    """Return whether the method makes a transport plan between objects."""
    return config.method == "univip" and config.method_config.instance_weight > 0


def transport_plans(config: RunConfig, saved: Checkpoint, photos: Sequence[SeenPhoto]) -> np.ndarray:
    """Return the plans (photos, K, K) that a UniVIP run makes of these views: online instances to the teacher's.

    By its weights at the checkpoint, in evaluation mode.
    """
    method = restore_method(config, saved)
    assert isinstance(method, UniVIP)
    batch = collate([(photo.index, photo.views, photo.regions) for photo in photos])
    mean, std = tuple(saved.extra["mean"]), tuple(saved.extra["std"])
    views = {slot: normalise(pixels, mean=mean, std=std) for slot, pixels in batch.views.items()}
    plans: np.ndarray = method.match(dataclasses.replace(batch, views=views)).plan.numpy()
    return plans


def _look(config: RunConfig, source: Source, *, run: Path | None, count: int, epoch: int, display: Display) -> Seen:
    """Return what the method sees of photos spread over the data; say which of them cannot be read."""
    indices = spread(len(source), count)
    with display.bar("looking at the photos", None):
        seen = see(config, source, indices, folder=run, epoch=epoch - 1)
    for skip in seen.skipped:
        display.warn(f"left out {skip.key}: {skip.reason}")
    if not seen.photos:
        first = seen.skipped[0]
        raise UserError(f"data: none of {len(indices)} photos can be read, e.g. {first.key}: {first.reason}")
    return seen


def _check(config: RunConfig, out: Path, *, run: Path | None, count: int, epoch: int, overwrite: bool) -> None:
    """Raise UserError for all that is wrong whatever the data are."""
    all_at_once(
        lambda: _check_numbers(count=count, epoch=epoch),
        lambda: None if run is None else _check_same(config, run),
        lambda: _check_proposals(config, run),
        # the longest data there could be: what fails for them fails for any
        lambda: method_class(config.method).resolve(
            config.method_config, images=sys.maxsize, batch_size=config.engine.batch_size
        ),
        lambda: parse_spec(config.data.source),
        lambda: _check_out(out, overwrite=overwrite),
    )


def _check_numbers(*, count: int, epoch: int) -> None:
    problems = []
    if count < 1:
        problems.append(f"--count: {count}; at least 1 photo has to be looked at")
    if epoch < 1:
        problems.append(f"--epoch: {epoch}; the first epoch is 1")
    if problems:
        raise UserError(*problems)


def _check_same(config: RunConfig, run: Path) -> None:
    """Raise UserError where the network or its views are not those of the run."""
    before, now = flatten(build(run_tree(run))), flatten(config)
    if before["method.name"] != config.method:
        raise UserError(f"method: {str(run)!r} is a run of {before['method.name']!r}, not of {config.method!r}")
    fixed = [name for name in now if name.startswith(("method.", "backbone.")) or name == "data.size"]
    changed = [name for name in fixed if now[name] != before[name]]
    if changed:
        raise UserError(
            *(
                f"{name}: {now[name]!r} was asked for, {str(run)!r} has {before[name]!r}; with --run only data, crops, "
                "proposals and seed may be others"
                for name in changed
            )
        )


def _check_proposals(config: RunConfig, run: Path | None) -> None:
    asked, has_own = config.data.proposals, run is not None and (run / PROPOSALS).exists()
    if asked == AUTO and not has_own:
        data = shlex.quote(config.data.source)
        raise UserError(
            f"{FIELD}: {AUTO!r} keeps its file in a run's folder; make one with `scenewise propose "
            f"{data} --out proposals.arrow` and name it, or a run that has made them: --run RUN"
        )
    check_crops(config.crops, asked, config.data.source, auto=has_own)
    check_proposals(asked)


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.suffix.lower() != ".png" and not out.is_dir():
        raise UserError(f"--out: {str(out)!r}; the sheet is a PNG, name it so, for example {out.stem}.png")
    check_output("--out", out, overwrite=overwrite)
