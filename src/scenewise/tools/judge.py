"""Evaluate a subject on labelled data: which images train the protocol, which test it, and whether that is fair."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from scenewise.backbones import load_subject
from scenewise.engine.config import build, read_yaml
from scenewise.engine.display import Display, Quiet
from scenewise.engine.plan import choose_device
from scenewise.engine.run import open_with_display
from scenewise.errors import UserError
from scenewise.evaluate.evaluation import Evaluation
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.run import Options, choose_protocols, evaluate_exam
from scenewise.sources import Source, open_source, parse_spec
from scenewise.views.opencv import use_one_thread


def judge(
    subject: str,
    data: str,
    *,
    test_data: str | None = None,
    protocols: Sequence[str] = ("knn", "linear"),
    size: int | None = None,
    limit: int | None = None,
    options: Options | None = None,
    epochs: int | None = None,
    iterations: int | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    reindex: bool = False,
    display: Display | None = None,
) -> Evaluation:
    """Return the figures of `protocols` for a subject, learnt on `data`'s training split, tested on its test split.

    `test_data`: what to test on instead. `options`, `epochs`, `iterations`: see `evaluate_exam`. Raises UserError for
    wrong input, before any work.
    """
    display = display or Quiet()
    choose_protocols(protocols, options or {}, epochs=epochs, iterations=iterations)
    where = choose_device(device)
    use_one_thread()
    for spec in filter(None, (data, test_data)):
        parse_spec(spec)
    loaded = load_subject(subject, seed=seed, size=size)
    train, test = open_splits(data, test_data, display, reindex=reindex)
    notes = [*loaded.notes, *pool_notes(subject, test)]
    with display.bar(f"evaluating {subject}", None) as bar:
        exam = Exam(
            backbone=loaded.backbone,
            train=train,
            test=test,
            size=loaded.size,
            mean=loaded.mean,
            std=loaded.std,
            seed=seed,
            limit=limit,
            device=torch.device(where),
            workers=workers,
            progress=lambda text, done, total: bar.update(done, total=total, text=text),
        )
        found = evaluate_exam(
            exam, protocols=protocols, options=options, epochs=epochs, iterations=iterations, subject=subject
        )
    return dataclasses.replace(found, notes=(*notes, *found.notes))


def open_splits(data: str, test_data: str | None, display: Display, *, reindex: bool = False) -> tuple[Source, Source]:
    """Return the training and the test source; raises UserError when there is no test part to be had."""
    spec = parse_spec(data)
    if test_data is not None:
        train = open_with_display(data, display, reindex=reindex)
        return train, open_with_display(test_data, display, reindex=reindex)
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
    seen = identities(pool) & identities(test)
    if not seen:
        return []
    return [f"{len(seen)} of the {len(test)} test images were in the pre-training pool (without their labels)"]


def identities(source: Source) -> set[str]:
    """Return what tells the images of a source apart: the real path of a file, the key within its data otherwise."""
    spec = parse_spec(source.spec)
    base = Path(spec.path)
    folder = base if base.is_dir() else base.parent
    names = set()
    for index in range(len(source)):
        key = source[index].key
        path = folder / key
        names.add(str(path.resolve()) if path.exists() else f"{source.spec}|{key}")
    return names
