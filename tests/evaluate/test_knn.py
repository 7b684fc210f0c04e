"""The kNN protocol: votes of one and of several labels against a loop, perfect and constant predictors, its errors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from scenewise.errors import UserError
from scenewise.evaluate.protocols import knn
from scenewise.evaluate.task import Part, Task


def make_task(seed=0, *, train=80, test=40, classes=3, informative=4.0, multi=True, missing=0.0):
    """Features are noise plus a direction per class present."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(classes, 16, generator=generator)

    def part(images):
        if multi:
            labels = (torch.rand(images, classes, generator=generator) < 0.4).to(torch.int8)
            means = labels.float() @ directions
            labels[torch.rand(images, classes, generator=generator) < missing] = -1
        else:
            labels = torch.randint(0, classes, (images,), generator=generator)
            means = directions[labels]
        return Part(torch.randn(images, 16, generator=generator) + informative * means, labels)

    names = tuple(f"c{number}" for number in range(classes))
    return Task(train=part(train), test=part(test), classes=names, multi_label=multi, resamples=50)


def test_multi_label_votes_equal_the_loop():
    task = make_task(informative=0.5, missing=0.4)
    config = knn.Config(k=7, temperature=0.2)
    got = knn.multi_label_votes(task.train, task.test.features, classes=3, config=config)
    bank = task.train.features.double().numpy()
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    labels = task.train.labels.numpy()
    for number, query in enumerate(task.test.features.double().numpy()):
        similar = bank @ (query / np.linalg.norm(query))
        near = np.argsort(-similar)[:7]
        for c in range(3):
            judged = [row for row in near if labels[row, c] >= 0]
            weight = sum(math.exp(similar[row] / 0.2) for row in judged)
            share = sum(math.exp(similar[row] / 0.2) for row in judged if labels[row, c] == 1)
            known = labels[labels[:, c] >= 0, c]
            expected = share / weight if judged else (known == 1).mean()
            assert float(got[number, c]) == pytest.approx(expected, abs=1e-5)


def test_a_query_without_judged_neighbours_gets_the_share_of_the_bank():
    bank = Part(torch.eye(4), torch.tensor([[-1], [1], [0], [0]], dtype=torch.int8))
    votes = knn.multi_label_votes(bank, torch.eye(4)[:2], classes=1, config=knn.Config(k=1))
    assert votes[:, 0].tolist() == pytest.approx([1 / 3, 1.0])


@pytest.mark.parametrize("multi", [True, False])
def test_a_perfect_predictor_gets_one_and_a_constant_one_the_prior(multi):
    perfect = make_task(multi=multi)
    perfect = dataclasses.replace(perfect, test=Part(3 * perfect.train.features[:40], perfect.train.labels[:40]))
    main = "mAP" if multi else "top1"
    assert knn.run(perfect, knn.Config(k=1)).figures[main].value == pytest.approx(1)
    blind = Task(
        train=Part(torch.ones(80, 4), perfect.train.labels),
        test=Part(torch.ones(40, 4), perfect.test.labels),
        classes=perfect.classes,
        multi_label=multi,
        resamples=10,
    )
    figures = knn.run(blind, knn.Config(k=80)).figures
    if multi:
        assert figures["mAP"].value == pytest.approx(float((perfect.test.labels > 0).double().mean()))
    else:
        common = int(perfect.train.labels.bincount().argmax())
        assert figures["top1"].value == pytest.approx(float((perfect.test.labels == common).double().mean()))


@pytest.mark.parametrize("multi", [True, False])
def test_the_order_of_images_does_not_matter(multi):
    task = make_task(informative=0.5, multi=multi)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(1))
    turned = torch.randperm(40, generator=torch.Generator().manual_seed(2))
    shuffled = Task(
        train=Part(task.train.features[order], task.train.labels[order]),
        test=Part(task.test.features[turned], task.test.labels[turned]),
        classes=task.classes,
        multi_label=multi,
        resamples=10,
    )
    first, second = (knn.run(each, knn.Config()).figures for each in (task, shuffled))
    assert {name: f.value for name, f in first.items()} == pytest.approx({n: f.value for n, f in second.items()})


def test_settings_that_do_not_fit_are_refused():
    task = make_task(train=30)
    with pytest.raises(UserError, match=r"knn\.k: 31 is not possible with 30 .*allowed are 1\.\.30; give"):
        knn.run(task, knn.Config(k=31))
    with pytest.raises(UserError, match=r"knn\.k: 0"):
        knn.run(task, knn.Config(k=0))
    with pytest.raises(UserError, match=r"knn\.temperature: 0\.0 must be above 0"):
        knn.run(task, knn.Config(temperature=0.0))
