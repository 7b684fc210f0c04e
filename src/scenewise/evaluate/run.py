"""One evaluation: a backbone and two labelled sources in, figures with intervals out, everything left out said."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from scenewise.errors import UserError, unknown_name
from scenewise.evaluate.evaluation import Evaluation
from scenewise.evaluate.feature_cache import Features, weights_digest
from scenewise.evaluate.features import Colour, extract_features
from scenewise.evaluate.intervals import RESAMPLES
from scenewise.evaluate.labels import check_pair, choose_images, keep_classes, source_labels
from scenewise.evaluate.protocols import load_protocol, summaries
from scenewise.evaluate.task import Part, Protocol, Task
from scenewise.sources.base import Labels, Progress, Source
from scenewise.views.collate import IMAGENET_MEAN, IMAGENET_STD

PROTOCOLS: Mapping[str, str] = summaries()  # name -> one line
NAMED_SKIPS = 5  # unreadable images named in a note; all of them are in Evaluation.skipped

Options = Mapping[str, Mapping[str, Any]]  # protocol -> setting -> value


def evaluate_backbone(
    backbone: nn.Module,
    train_source: Source,
    test_source: Source,
    *,
    protocols: Sequence[str],
    size: int,
    seed: int = 0,
    limit: int | None = None,
    min_positives: int = 1,
    resamples: int = RESAMPLES,
    options: Options | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    batch_size: int = 128,
    progress: Progress | None = None,
    cache: bool = True,
    mean: Colour = IMAGENET_MEAN,
    std: Colour = IMAGENET_STD,
    subject: str = "",
    data: str | None = None,
) -> Evaluation:
    """Judge a frozen backbone by the named protocols: learn on `train_source`, test on `test_source`.

    backbone: (B, 3, size, size) images normalised with `mean` and `std` -> (B, G) features. `limit` uses at most so
    many images of each part, a seeded choice among those with a label. Classes with fewer than `min_positives` training
    images or without a test image are left out (see `keep_classes`). `options` changes settings of protocols, for
    example `{"knn": {"k": 200, "temperature": 0.1}}`. `cache` keeps the features in the cache folder. `seed` decides
    the choice of images, what the protocols draw, and the resamples of the intervals (`resamples` of them).
    UserError, before any image is read, for an unknown protocol or setting, sources without labels or that do not fit
    each other; later when no image can be read or every test image is a training image.
    """
    chosen = _choose_protocols(protocols, options or {})
    sources = {"train": train_source, "test": test_source}
    labels = {part: source_labels(source, part) for part, source in sources.items()}
    check_pair(train_source, test_source)
    images = {part: choose_images(labels[part], limit=limit, seed=seed, part=part) for part in sources}
    key = weights_digest(backbone) if cache else None
    found = {
        part: extract_features(
            backbone,
            source,
            size=size,
            indices=images[part],
            batch_size=batch_size,
            device=device,
            workers=workers,
            progress=progress,
            cache_key=key,
            mean=mean,
            std=std,
        )
        for part, source in sources.items()
    }
    shared = _shared_images(found["train"], found["test"])
    parts = {part: _part(found[part], labels[part], device) for part in found}
    judged = keep_classes(parts["train"], parts["test"], train_source.classes, min_positives=min_positives)
    task = Task(
        train=judged.train,
        test=judged.test,
        classes=judged.classes,
        multi_label=train_source.multi_label,
        seed=seed,
        resamples=resamples,
    )
    outcomes = {name: protocol.run(task, config) for name, (protocol, config) in chosen.items()}
    notes = [note for source in sources.values() for note in source.notes]
    notes += [note for part in found for note in _feature_notes(part, found[part])]
    notes += [*shared, *judged.notes, *(note for outcome in outcomes.values() for note in outcome.notes)]
    return Evaluation(
        subject=subject,
        data=train_source.spec if data is None else data,
        protocols={name: outcome.figures for name, outcome in outcomes.items()},
        counts=_counts(task, found, labels),
        notes=tuple(dict.fromkeys(notes)),
        skipped=found["train"].skipped + found["test"].skipped,
        statistics={name: task.statistic(each.scores) for name, each in outcomes.items() if each.scores.numel()},
        test_images=tuple(found["test"].digest[judged.rows.numpy()].tolist()),
        seed=seed,
        resamples=resamples,
    )


def _choose_protocols(names: Sequence[str], options: Options) -> dict[str, tuple[Protocol, Any]]:
    """Return each named protocol with its settings; all that is wrong is said at once."""
    problems = [unknown_name("protocol", name, PROTOCOLS) for name in (*names, *options) if name not in PROTOCOLS]
    if not names:
        problems.append(f"protocol: none is named; known: {', '.join(PROTOCOLS)}")
    problems += [f"protocol: {name!r} has settings but is not run" for name in options if name not in names]
    chosen = {}
    for name in dict.fromkeys(name for name in names if name in PROTOCOLS):
        protocol, given = load_protocol(name), dict(options.get(name, {}))
        allowed = [field.name for field in dataclasses.fields(protocol.config)]
        problems += [unknown_name(f"protocol {name}", key, allowed) for key in given if key not in allowed]
        try:
            chosen[name] = protocol, TypeAdapter(protocol.config).validate_python(given)
        except ValidationError as error:
            problems += [f"{name}.{e['loc'][0]}: {e['msg']}, got {e['input']!r}" for e in error.errors() if e["loc"]]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return chosen


def _part(found: Features, labels: Labels, device: torch.device | str) -> Part:
    chosen = torch.from_numpy(np.ascontiguousarray(labels[found.index]))
    return Part(torch.from_numpy(found.features).to(device), chosen.to(device))


def _shared_images(train: Features, test: Features) -> list[str]:
    """Return a note when test images look exactly like training images; UserError when they all do."""
    same = np.isin(test.digest, train.digest)
    if same.all():
        raise UserError(f"test data: each of the {len(same)} test images is also a training image; name others")
    if not same.any():
        return []
    return [f"{int(same.sum())} of {len(same)} test images are pixel for pixel also training images"]


def _feature_notes(part: str, found: Features) -> list[str]:
    notes = list(found.notes)
    if found.skipped:
        named = ", ".join(f"{skip.key} ({skip.reason})" for skip in found.skipped[:NAMED_SKIPS])
        more = f" and {len(found.skipped) - NAMED_SKIPS} more" if len(found.skipped) > NAMED_SKIPS else ""
        total = len(found.skipped) + len(found.index)
        notes.append(f"{part}: {len(found.skipped)} of {total} images were unreadable and left out: {named}{more}")
    return notes


def _counts(task: Task, found: Mapping[str, Features], labels: Mapping[str, Labels]) -> dict[str, int]:
    return {
        "classes": len(task.classes),
        "train_images": len(task.train.labels),
        "test_images": len(task.test.labels),
        "train_skipped": len(found["train"].skipped),
        "test_skipped": len(found["test"].skipped),
        "train_in_source": len(labels["train"]),
        "test_in_source": len(labels["test"]),
    }
