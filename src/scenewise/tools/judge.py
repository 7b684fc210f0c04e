"""Evaluate a subject on labelled data: which images train the protocol, which test it, and whether that is fair."""

from __future__ import annotations

import dataclasses
import math
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from scenewise.backbones import Subject, load_subject
from scenewise.engine.config import build
from scenewise.engine.config_tree import read_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.machine import choose_device
from scenewise.engine.run import open_with_display
from scenewise.errors import UserError, all_at_once
from scenewise.evaluate.evaluation import Evaluation
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.protocols import load_protocol
from scenewise.evaluate.run import PROTOCOLS, Chosen, Options, choose_protocols, evaluate_exam
from scenewise.settings import allowed_values
from scenewise.sources import Source, open_source, parse_spec
from scenewise.sources.base import Progress
from scenewise.sources.headers import FileReader
from scenewise.sources.united import with_common_classes
from scenewise.views.opencv import use_one_thread

PROTOCOL = ("knn", "linear")  # one without training and the papers' usual one


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What subjects are judged by, the same for each of them; `options`, `epochs`, `iterations`: see `evaluate_exam`.

    size: side in pixels, instead of each subject's own. device: cpu, cuda or auto.
    """

    protocols: Sequence[str] = PROTOCOL
    options: Options = field(default_factory=dict)
    epochs: int | None = None
    iterations: int | None = None
    size: int | None = None
    limit: int | None = None
    min_positives: int = 1
    seed: int = 0
    device: str = "auto"
    workers: int = 0

    def choose(self) -> Chosen:
        """Return the protocols with their settings; UserError for all that is wrong with them."""
        return choose_protocols(self.protocols, self.options, epochs=self.epochs, iterations=self.iterations)

    def exam(self, subject: Subject, train: Source, test: Source, progress: Progress | None = None) -> Exam:
        """Return the exam of a subject, which has read no image yet."""
        return Exam(
            backbone=subject.backbone,
            train=train,
            test=test,
            size=subject.size,
            mean=subject.mean,
            std=subject.std,
            seed=self.seed,
            limit=self.limit,
            min_positives=self.min_positives,
            device=torch.device(choose_device(self.device)),
            workers=self.workers,
            progress=progress,
        )


def evaluate(
    subject: str | Path,
    *,
    data: str,
    test_data: str | None = None,
    protocol: str | Sequence[str] = PROTOCOL,
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

    It learns on the training split of `data` and is tested on the test split, or on `test_data`. `epochs` or
    `iterations`: the length of every protocol that trains by gradient. `settings` reaches every setting of a protocol
    by its dotted name, as `--set` does: `{"knn.k": 200}` (`scenewise protocols --settings` lists them). Raises
    UserError for wrong input, before any work.
    """
    display, subject = display or Quiet(), str(subject)
    terms = Terms(
        protocols=protocol_names(protocol),
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
    check_names(terms, data, test_data)
    loaded = load_subject(subject, seed=terms.seed, size=terms.size)
    train, test = open_splits(data, test_data, display, reindex=reindex)
    return judge_subject(loaded, train, test, terms, display=display, title=f"evaluating {subject}")


def check_names(terms: Terms, data: str, test_data: str | None) -> None:
    """Raise UserError for protocols, settings, devices and kinds of data that do not exist, before any is opened."""
    all_at_once(
        lambda: choose_device(terms.device),
        terms.choose,
        *(partial(parse_spec, spec) for spec in (data, test_data) if spec is not None),
    )


def judge_subject(
    subject: Subject, train: Source, test: Source, terms: Terms, *, display: Display, title: str
) -> Evaluation:
    """Return the figures of one subject on opened sources, under a progress bar of that title."""
    use_one_thread()
    with display.bar(title, None) as bar:
        bar.update(0, text="looking for test images in the pre-training pool")
        notes = [*subject.notes, *pool_notes(subject.name, test)]
        exam = terms.exam(
            subject, train, test, progress=lambda text, done, total: bar.update(done, total=total, text=text)
        )
        found = evaluate_exam(
            exam,
            protocols=terms.protocols,
            options=terms.options,
            epochs=terms.epochs,
            iterations=terms.iterations,
            subject=subject.name,
        )
    return dataclasses.replace(found, notes=(*notes, *found.notes))


def protocol_names(protocol: str | Sequence[str]) -> list[str]:
    """Return the protocols' names, which may be one text with commas between."""
    names = protocol.split(",") if isinstance(protocol, str) else protocol
    return [name.strip() for name in names if name.strip()]


def protocol_options(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return settings by dotted name, `{"knn.k": 200}`, as protocol -> setting -> value; UserError without a dot."""
    wrong = [name for name in settings if "." not in name.strip(".")]
    if wrong:
        raise UserError(*(f"--set {name}: write PROTOCOL.SETTING=VALUE, for example --set knn.k=200" for name in wrong))
    options: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        protocol, _, setting = name.partition(".")
        options.setdefault(protocol, {})[setting] = value
    return options


def protocol_lines(*, settings: bool = False) -> list[str]:
    """Return a line a protocol: name and summary; with `settings` each of them too, as `--set` takes it."""
    lines = []
    for name, summary in PROTOCOLS.items():
        protocol = load_protocol(name)
        lines.append(f"{name:14} {summary}; needs {protocol.needs}")
        if settings:
            config = protocol.config()
            allowed = allowed_values(protocol.config)
            lines += [
                f"  {name}.{setting}={_shown(config, setting)}" + (f"  # {words}" if words else "")
                for setting, words in allowed.items()
            ]
    return lines


def _shown(config: Any, name: str) -> str:
    """Return a setting's value as `--set` reads it: in YAML, on one line."""
    value = dataclasses.asdict(config)[name]
    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=math.inf)
    return text.removesuffix("...\n").strip()


def open_splits(data: str, test_data: str | None, display: Display, *, reindex: bool = False) -> tuple[Source, Source]:
    """Return the training and the test source, with one class list; UserError when there is no test part to be had."""
    spec = parse_spec(data)
    if test_data is not None:
        train = open_with_display(data, display, reindex=reindex)
        return with_common_classes(train, open_with_display(test_data, display, reindex=reindex))
    if "split" in spec.options:
        raise UserError(
            f"--data: {data!r} names one split; leave ?split= out to train and test on the data's own splits, "
            "or name the other with --test-data"
        )
    whole = open_with_display(data, display, reindex=reindex)
    if whole.splits is None:
        raise UserError(
            f"--test-data: {spec.kind}: has no splits; name the images to test on, for example --test-data csv:TEST.csv"
        )
    train_split, test_split = whole.splits
    return open_source(data, split=train_split), open_source(data, split=test_split)


def pool_notes(subject: str, test: Source) -> list[str]:
    """Say when images of the test part were in the pool that a run was pre-trained on (same file, links followed)."""
    config = Path(subject) / "config.yaml"
    if not config.is_file():
        return []
    try:
        recorded = build(read_yaml(config)).data.source
        pool = open_source(recorded)
    except UserError as error:
        return [f"whether test images were in the pre-training pool is not known: {error.problems[0]}"]
    seen = set(identities(test)).intersection(identities(pool))  # the pool may have millions, and is not kept
    if not seen:
        return []
    return [f"{len(seen)} of the {len(test)} test images were in the pre-training pool (without their labels)"]


def identities(source: Source) -> Iterator[str]:
    """Yield what tells the images of a source apart: the real path of a file, the key within its data otherwise."""
    base = Path(parse_spec(source.spec).path)
    root = str(base if base.is_dir() else base.parent)
    folders: dict[str, str] = {}
    for index in range(len(source)):
        key, read = source[index].key, source[index].read
        file = os.fsdecode(read.path) if isinstance(read, FileReader) else f"{root}/{key}"
        folder, _, name = file.rpartition("/")  # plain text: a million of pathlib's would take minutes
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = f"{folders[folder]}/{name}"
        try:
            linked = stat.S_ISLNK(os.lstat(path).st_mode)
        except OSError:
            yield f"{source.spec}|{key}"
            continue
        yield os.path.realpath(path) if linked else path
