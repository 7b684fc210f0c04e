"""The kNN protocol: votes of one and of several labels against a loop, perfect and constant predictors, its errors."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from scenewise.errors import UserError
from scenewise.evaluate.metrics import knn_votes
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


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("vote", ["exp", "majority"])
@pytest.mark.parametrize("normalise", [True, False])
def test_every_variant_equals_the_loop(multi, vote, normalise):
    task = make_task(informative=0.5, multi=multi)
    config = knn.Config(k=7, temperature=0.8, vote=vote, normalise=normalise)
    got = knn.votes(task, config)
    bank, queries = task.train.features.double().numpy(), task.test.features.double().numpy()
    if normalise:
        bank = bank / np.linalg.norm(bank, axis=1, keepdims=True)
        queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    labels = task.train.labels.numpy()
    table = labels if multi else np.eye(3)[labels]
    for number, query in enumerate(queries):
        similar = bank @ query
        near = np.argsort(-similar)[:7]
        weights = np.exp((similar[near] - similar[near].max()) / 0.8) if vote == "exp" else np.ones(7)
        np.testing.assert_allclose(got[number].numpy(), weights @ table[near] / weights.sum(), atol=1e-4)


def test_the_dot_product_lets_long_vectors_win():
    bank, labels, query = torch.tensor([[1.0, 0.0], [5.0, 5.0]]), torch.tensor([0, 1]), torch.tensor([[2.0, 0.1]])
    short, long = (
        knn_votes(query, bank, labels, classes=2, k=1, temperature=0.07, normalise=normalise)
        for normalise in (True, False)
    )
    assert short.tolist() == [[1.0, 0.0]] and long.tolist() == [[0.0, 1.0]]
    huge = knn_votes(1e4 * query, bank, labels, classes=2, k=2, temperature=0.07, normalise=False)
    assert huge.tolist() == [[0.0, 1.0]]


def test_majority_counts_are_exact_and_the_lower_class_wins_a_tie():
    task = make_task(multi=False, informative=0.1)
    labels = torch.arange(80) % 3
    task = dataclasses.replace(task, train=Part(task.train.features, labels))
    config = knn.Config(k=6, vote="majority")
    votes = knn.votes(task, config)
    counts = (6 * votes).round()
    tied = (counts == counts.amax(dim=1, keepdim=True)).sum(dim=1) > 1
    assert tied.any()
    for row, count in zip(votes[tied], counts[tied], strict=True):
        best = [c for c in range(3) if count[c] == count.max()]
        assert len({float(row[c]) for c in best}) == 1
        assert int(row.sort(descending=True, stable=True).indices[0]) == best[0]
    cold, hot = (knn.votes(task, dataclasses.replace(config, temperature=t)) for t in (0.01, 10.0))
    assert torch.equal(cold, hot)


def test_notes_say_which_variant():
    task = make_task()
    said = {
        config: knn.run(task, config).notes[-1]
        for config in (knn.Config(), knn.Config(k=1, vote="majority"), knn.Config(normalise=False))
    }
    assert list(said.values()) == [
        "knn: k = 20, temperature = 0.07",
        "knn: k = 1, majority vote",
        "knn: k = 20, temperature = 0.07, dot product of features that are not normalised",
    ]


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
