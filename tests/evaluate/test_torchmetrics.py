"""Our figures beside those of torchmetrics, where both define the same."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index, multilabel_average_precision
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_hit_rate,
    retrieval_precision,
)

from scenewise.evaluate.metrics import (
    average_precision,
    mean_average_precision,
    mean_iou,
    precision_at_k,
    recall_at_k,
    retrieval_map,
)


@pytest.fixture
def chance():
    return torch.Generator().manual_seed(7)


def test_average_precision_of_several_labels(chance):
    scores = torch.rand(60, 5, generator=chance)
    labels = (torch.rand(60, 5, generator=chance) < 0.3).long()
    theirs = multilabel_average_precision(scores, labels, num_labels=5, average="none")
    ours = [average_precision(scores[:, column].double(), labels[:, column]) for column in range(5)]
    torch.testing.assert_close(torch.tensor(ours), theirs, rtol=1e-5, atol=1e-6)
    assert mean_average_precision(scores, labels) == pytest.approx(float(theirs.mean()), abs=1e-6)


def test_mean_intersection_over_union(chance):
    target = torch.randint(0, 4, (3, 20, 30), generator=chance)
    predicted = torch.where(torch.rand(3, 20, 30, generator=chance) < 0.6, target, (target + 1) % 4)
    target[:, :4] = 255
    theirs = multiclass_jaccard_index(predicted, target, num_classes=4, ignore_index=255)
    assert mean_iou(predicted, target, classes=4) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_retrieval(chance, k):
    query, gallery = torch.randn(20, 8, generator=chance), torch.randn(50, 8, generator=chance)
    asked, there = (torch.randint(0, 4, (count,), generator=chance) for count in (20, 50))
    cosine = torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(gallery).T
    relevant = asked[:, None] == there
    rows = list(zip(cosine + 2, relevant, strict=True))  # torchmetrics takes what scores 0 or less for not retrieved

    def mean(figure, **settings):
        return float(torch.stack([figure(scores, hits, **settings) for scores, hits in rows]).mean())

    assert recall_at_k(query, gallery, asked, there, k=k) == pytest.approx(mean(retrieval_hit_rate, top_k=k), abs=1e-6)
    assert precision_at_k(query, gallery, asked, there, k=k) == pytest.approx(
        mean(retrieval_precision, top_k=k), abs=1e-6
    )
    assert retrieval_map(query, gallery, asked, there) == pytest.approx(mean(retrieval_average_precision), abs=1e-5)
