"""Retrieval against loops over queries, perfect and constant predictors, who is a query, and the sentences on it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from scenewise.errors import UserError
from scenewise.evaluate.metrics import precision_at_k, recall_at_k, retrieval_map
from scenewise.evaluate.protocols import retrieve
from scenewise.evaluate.task import Part, Task

TRAIN, TEST = retrieve.Config(gallery="train"), retrieve.Config(gallery="test")
NAMES = {"mAP", *(f"{what}@{k}" for what in ("recall", "precision") for k in (1, 5, 10))}


def make_task(seed=0, *, train=50, test=30, classes=4, multi=True, informative=2.0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(classes, 12, generator=generator)

    def part(images):
        if multi:
            labels = (torch.rand(images, classes, generator=generator) < 0.3).to(torch.int8)
            means = labels.float() @ directions
        else:
            labels = torch.randint(0, classes, (images,), generator=generator)
            means = directions[labels]
        return Part(torch.randn(images, 12, generator=generator) + informative * means, labels)

    names = tuple(f"c{number}" for number in range(classes))
    return Task(train=part(train), test=part(test), classes=names, multi_label=multi, resamples=20)


@pytest.mark.parametrize("config", [TRAIN, TEST], ids=["train", "test"])
@pytest.mark.parametrize("multi", [True, False])
def test_figures_are_those_of_the_metrics_over_the_queries(multi, config):
    task = make_task(multi=multi)
    same = config is TEST
    asked = (task.test.labels > 0).any(dim=1) if multi else torch.ones(30, dtype=torch.bool)
    figures = retrieve.run(task, config).figures
    assert set(figures) == NAMES
    gallery = task.test if same else task.train
    for number, metric in ((k, m) for k in (1, 5, 10) for m in (recall_at_k, precision_at_k)):
        # each query against the gallery, which holds also the images that are no queries
        values = []
        for row in asked.nonzero()[:, 0].tolist():
            others = torch.arange(len(gallery.labels)) != row if same else slice(None)
            one = slice(row, row + 1)
            arrays = (task.test.features[one], gallery.features[others])
            values.append(metric(*arrays, task.test.labels[one], gallery.labels[others], k=number))
        name = f"{'recall' if metric is recall_at_k else 'precision'}@{number}"
        assert figures[name].value == pytest.approx(np.mean(values), abs=1e-9)
    rows = task.test.features[asked], task.test.labels[asked]
    if not same:
        expected = retrieval_map(rows[0], gallery.features, rows[1], gallery.labels)
        assert figures["mAP"].value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("config", [TRAIN, TEST], ids=["train", "test"])
def test_a_perfect_predictor_gets_one_and_a_constant_one_the_prior(multi, config):
    task = make_task(multi=multi, train=80, test=80)
    labels = [torch.where(part.labels == part.labels.max(), part.labels, 0) for part in (task.train, task.test)]
    if multi:  # one class each, so that features can say all there is
        labels = [torch.nn.functional.one_hot(torch.arange(80) % 4).to(torch.int8)] * 2
    features = [each.float() if multi else torch.stack([each, 3 - each], dim=1).float() for each in labels]
    parts = [Part(rows, each) for rows, each in zip(features, labels, strict=True)]
    perfect = dataclasses.replace(task, train=parts[0], test=parts[1])
    assert {name: figure.value for name, figure in retrieve.run(perfect, config).figures.items()} == pytest.approx(
        dict.fromkeys(NAMES, 1.0)
    )
    parts = [Part(torch.ones(80, 3), part.labels) for part in (task.train, task.test)]
    blind = dataclasses.replace(task, train=parts[0], test=parts[1])
    gallery, shares = (blind.test if config is TEST else blind.train).labels, []
    for row, own in enumerate(blind.test.labels):
        relevant = (gallery * own > 0).any(dim=1) if multi else gallery == own
        if config is TEST:
            relevant = relevant[torch.arange(80) != row]
        if not multi or own.any():
            shares.append(float(relevant.double().mean()))
    assert retrieve.run(blind, config).figures["mAP"].value == pytest.approx(np.mean([s for s in shares if s > 0]))


def test_images_without_a_class_ask_nothing_but_can_be_found():
    task = make_task()
    task.test.labels[:5] = 0
    task.test.labels[5:] = 0
    task.test.labels[5:, 1] = 1
    task.train.labels[:] = 0
    task.train.labels[:10, 1] = 1
    outcome = retrieve.run(task, TRAIN)
    assert outcome.counts["queries"] == 25 and outcome.images == tuple(range(5, 30))
    assert "retrieve: 5 test images have no class and are no queries" in outcome.notes
    blind = dataclasses.replace(
        task, train=Part(torch.ones(50, 12), task.train.labels), test=Part(torch.ones(30, 12), task.test.labels)
    )
    assert retrieve.run(blind, TRAIN).figures["mAP"].value == pytest.approx(10 / 50)  # 40 of 50 are never relevant
    task.test.labels[:] = 0
    with pytest.raises(UserError, match="none of the 30 test images has a class"):
        retrieve.run(task, TRAIN)


def test_queries_without_a_relevant_image_miss_and_are_left_out_of_the_mean():
    eye = torch.eye(4)
    task = Task(
        train=Part(eye[:2], torch.tensor([0, 1])),
        test=Part(eye[[0, 1, 2, 3]], torch.tensor([0, 1, 2, 2])),
        classes=("a", "b", "c"),
        multi_label=False,
        resamples=20,
    )
    outcome = retrieve.run(task, TRAIN)
    assert outcome.figures["mAP"].value == 1 and outcome.figures["recall@10"].value == 0.5
    assert "retrieve: 2 queries have no relevant image in the gallery; mAP leaves them out" in outcome.notes
    assert "retrieve: the gallery is smaller than 5: at more than 2 it is the whole of it" in outcome.notes
    weights = torch.tensor([[3, 1, 0, 0], [0, 0, 1, 3]])
    found = outcome.statistic(weights)
    assert found["recall@1"].tolist() == [1, 0]
    assert found["mAP"][0] == 1 and found["mAP"][1].isnan()


def test_weights_count_queries():
    outcome = retrieve.run(make_task(multi=False), TRAIN)
    weights = torch.zeros(2, 30, dtype=torch.long)
    weights[0, [3, 7]] = torch.tensor([2, 1])
    weights[1, 11] = 1
    found, ones = outcome.statistic(weights), [outcome.statistic(torch.eye(30, dtype=torch.long)[[r]]) for r in (3, 7)]
    for name in NAMES:
        assert float(found[name][0]) == pytest.approx(float(2 * ones[0][name] + ones[1][name]) / 3)


def test_classes_that_are_not_judged_count_as_absent_and_that_is_said():
    task = make_task()
    before = retrieve.run(task, TRAIN)
    task.train.labels[task.train.labels == 0] = -1
    after = retrieve.run(task, TRAIN)
    assert after.figures == before.figures
    assert "retrieve: classes that are not judged count as absent" in set(after.notes) - set(before.notes)
