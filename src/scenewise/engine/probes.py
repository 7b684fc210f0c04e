"""The online probe: kNN between two halves of a small labelled set, watched during training.

It uses the data's own training split only: half of the images are the bank, half are the queries. A run that keeps its
best checkpoint by the probe has therefore chosen nothing on a test split (law 10).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from scenewise import keys
from scenewise.backbones import WeightsInfo
from scenewise.engine.config import RunConfig
from scenewise.engine.loop import Probe
from scenewise.errors import ImageError, UserError
from scenewise.evaluate.metrics import mean_average_precision
from scenewise.evaluate.protocols import knn
from scenewise.evaluate.task import Part, Task
from scenewise.sources import Source, open_source, parse_spec
from scenewise.views.collate import normalise
from scenewise.views.pipeline import test_view

BATCH = 128  # images a pass
LEAST = 20  # images, else a kNN figure says nothing


def make_probe(config: RunConfig, weights: WeightsInfo, device: torch.device) -> Probe | None:
    """Return the probe of a run, its images decoded once, or None without `probe.data`.

    Raises UserError without labels.
    """
    if config.probe.data is None:
        return None
    source = open_source(config.probe.data)
    if source.splits is not None and "split" not in parse_spec(config.probe.data).options:
        source = open_source(config.probe.data, split=source.splits[0])
    labels = source.labels()
    if labels is None:
        raise UserError(
            f"probe.data: {config.probe.data!r} has no labels; use labelled data such as voc:ROOT or csv:FILE"
        )
    order = keys.generator(config.seed, "probe").permutation(len(source))[: config.probe.limit]
    images, kept = _decode(source, order, config.data.size)
    if len(kept) < LEAST:
        raise UserError(
            f"probe.data: {config.probe.data!r} has {len(kept)} readable images; a probe needs at least {LEAST}"
        )
    half = len(kept) // 2
    targets = torch.from_numpy(np.asarray(labels)[kept])

    def probe(backbone: nn.Module) -> dict[str, float]:
        features = _features(backbone, images, weights, device)
        task = Task(
            train=Part(features[:half], targets[:half]),
            test=Part(features[half:], targets[half:]),
            classes=source.classes,
            multi_label=source.multi_label,
            resamples=1,
        )
        return {f"probe/{name}": value for name, value in _knn(task).items()}

    return probe


def _knn(task: Task) -> dict[str, float]:
    """Return the kNN vote's whole-set mAP, or its accuracy where an image has one class, 0..1."""
    usual = knn.Config()
    scores = knn.votes(task, replace(usual, k=min(usual.k, len(task.train.labels))))
    if task.multi_label:
        return {"knn_mAP": float(mean_average_precision(scores, task.test.labels))}
    return {"knn_top1": float((scores.argmax(dim=1) == task.test.labels).float().mean())}


def _decode(source: Source, order: np.ndarray, size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Return the readable images (N, 3, S, S) uint8 of `order` and their indices."""
    views, kept = [], []
    for index in order.tolist():
        try:
            views.append(test_view(source[index], size=size))
            kept.append(index)
        except ImageError:  # a probe does without an image that cannot be read
            continue
    pixels = np.stack(views) if views else np.empty((0, size, size, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2), np.array(kept, np.int64)


@torch.no_grad()
def _features(backbone: nn.Module, images: torch.Tensor, weights: WeightsInfo, device: torch.device) -> torch.Tensor:
    """Return pooled features (N, G) in evaluation mode; the backbone goes back to training."""
    training = backbone.training
    backbone.eval()
    parts = [
        backbone(normalise(chunk.to(device), mean=weights.mean, std=weights.std)).cpu()
        for chunk in torch.split(images, BATCH)
    ]
    backbone.train(training)
    return torch.cat(parts)
