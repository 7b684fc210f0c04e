"""The metrics against slow loops and scikit-learn, and what must not change them."""

from __future__ import annotations

import inspect
import math
import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, jaccard_score

from scenewise.errors import UserError
from scenewise.evaluate.metrics import (
    average_precision,
    class_average_precisions,
    knn_predict,
    knn_votes,
    mean_average_precision,
    mean_iou,
    precision_at_k,
    recall_at_k,
    retrieval_map,
)
from scenewise.evaluate.neighbours import nearest

FORMS = ["step", "area", "11point"]


def slow_average_precision(scores, relevant, form):
    """Every threshold in turn, in exact fractions."""
    total = sum(relevant)
    points = []
    for threshold in sorted(set(scores), reverse=True):
        chosen = [hit for score, hit in zip(scores, relevant, strict=True) if score >= threshold]
        points.append((Fraction(sum(chosen), total), Fraction(sum(chosen), len(chosen))))
    if form == "11point":
        return sum(max([p for r, p in points if r >= Fraction(t, 10)], default=0) for t in range(11)) / 11
    result, before = Fraction(0), Fraction(0)
    for place, (recall, precision) in enumerate(points):
        best = precision if form == "step" else max(p for _, p in points[place:])
        result, before = result + (recall - before) * best, recall
    return result


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(FORMS),
    ranked=st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25).filter(
        lambda rows: any(hit for _, hit in rows)
    ),
    seed=st.integers(0, 1000),
)
def test_average_precision_equals_every_threshold_in_turn(form, ranked, seed):
    scores, relevant = [float(s) for s, _ in ranked], [hit for _, hit in ranked]
    got = average_precision(torch.tensor(scores), torch.tensor(relevant), form=form)
    assert got == pytest.approx(float(slow_average_precision(scores, relevant, form)), abs=1e-12)
    order = np.random.default_rng(seed).permutation(len(scores))  # neither the order of the images ...
    again = average_precision(torch.tensor(scores)[order], torch.tensor(relevant)[order], form=form)
    grown = average_precision(torch.tensor(scores).exp() - 3, torch.tensor(relevant), form=form)  # ... nor the scale
    assert again == pytest.approx(got, abs=1e-15) and grown == pytest.approx(got, abs=1e-15)
    if form == "step":
        assert got == pytest.approx(average_precision_score(relevant, scores), abs=1e-12)
        assert average_precision(torch.tensor(scores), torch.tensor(relevant), form="area") >= got - 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_perfect_and_constant_scores(form):
    relevant = torch.arange(200) < 30
    assert average_precision(-torch.arange(200.0), relevant, form=form) == pytest.approx(1)
    assert average_precision(torch.zeros(200), relevant, form=form) == pytest.approx(30 / 200)
    assert average_precision(torch.arange(200.0), relevant, form="step") < 30 / 200
    assert math.isnan(average_precision(torch.arange(200.0), torch.zeros(200, dtype=torch.bool), form=form))


def test_a_recall_of_exactly_three_tenths_counts():
    relevant = torch.tensor([True] * 3 + [False] * 90 + [True] * 7)  # precision 1 up to recall 3/10
    got = average_precision(-torch.arange(100.0), relevant, form="11point")
    assert got == pytest.approx((4 * 1 + 7 * 10 / 100) / 11, abs=1e-12)


def test_mean_average_precision_leaves_out_what_is_not_judged():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(80, 4, generator=generator)
    labels = torch.randint(-1, 2, (80, 4), generator=generator)
    labels[:, 2] = labels[:, 2].clamp_max(0)  # no positive
    each = []
    for column in (0, 1, 3):
        judged = labels[:, column] >= 0
        each.append(average_precision_score(labels[judged, column].numpy(), scores[judged, column].numpy()))
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(each), abs=1e-12)
    assert class_average_precisions(scores, labels)[2].isnan()
    present = labels > 0
    whole = [average_precision_score(present[:, c].numpy(), scores[:, c].numpy()) for c in (0, 1, 3)]
    assert mean_average_precision(scores, present) == pytest.approx(np.mean(whole), abs=1e-12)
    assert math.isnan(mean_average_precision(scores, torch.zeros_like(labels)))


def test_scores_without_an_order_and_unknown_forms_are_refused():
    with pytest.raises(ValueError, match="not a number"):
        average_precision(torch.tensor([0.1, math.nan]), torch.tensor([True, False]))
    with pytest.raises(UserError, match="Did you mean '11point'"):
        average_precision(torch.tensor([0.1, 0.2]), torch.tensor([True, False]), form="11points")


def unit_rows(rng, count, width):
    rows = rng.standard_normal((count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (200, 0.1)])
def test_knn_equals_the_loop(k, temperature):
    rng = np.random.default_rng(0)
    bank, queries, labels = unit_rows(rng, 60, 5), unit_rows(rng, 30, 5), rng.integers(0, 4, 60)
    expected, shares = [], []
    for query in queries:
        similar = bank @ query
        votes = np.zeros(4)
        for row in sorted(range(60), key=lambda r, s=similar: (-s[r], r))[: min(k, 60)]:
            votes[labels[row]] += math.exp(similar[row] / temperature)
        expected.append(int(np.argmax(votes)))
        shares.append(votes / votes.sum())
    tensors = torch.from_numpy(3 * queries), torch.from_numpy(bank), torch.from_numpy(labels)
    assert knn_predict(*tensors, classes=4, k=k, temperature=temperature).tolist() == expected
    got = knn_votes(*tensors, classes=4, k=k, temperature=temperature)
    np.testing.assert_allclose(got.numpy(), shares, atol=1e-12)


def test_knn_equals_lightly():
    knn = pytest.importorskip("lightly.utils.benchmarking.knn", reason="lightly is not installed", exc_type=ImportError)
    rng = np.random.default_rng(1)
    bank, queries = torch.from_numpy(unit_rows(rng, 300, 8)), torch.from_numpy(unit_rows(rng, 50, 8))
    labels = torch.from_numpy(rng.integers(0, 6, 300))
    theirs = knn.knn_predict(queries, bank.T, labels, num_classes=6, knn_k=20, knn_t=0.07)[:, 0]
    assert torch.equal(knn_predict(queries, bank, labels, classes=6, k=20, temperature=0.07), theirs)


def test_knn_ties_go_to_the_lower_row_and_the_lower_class():
    bank = torch.eye(3)[[0, 0, 0, 0, 1]].double()
    labels = torch.tensor([3, 1, 1, 2, 0])
    query = torch.eye(3)[:1].double()
    assert knn_predict(query, bank, labels, classes=4, k=1, temperature=0.1).tolist() == [3]
    assert knn_predict(query, bank, labels, classes=4, k=2, temperature=0.1).tolist() == [1]
    ((_, _, rows),) = nearest(query, bank, k=3)
    assert rows.tolist() == [[0, 1, 2]]
    wide = torch.eye(3)[torch.zeros(500, dtype=torch.long)]
    ((_, _, rows),) = nearest(query.float(), wide, k=7)
    assert rows.tolist() == [list(range(7))]


def test_a_tiny_temperature_is_one_nearest_neighbour():
    rng = np.random.default_rng(2)
    bank, queries = torch.from_numpy(unit_rows(rng, 40, 4)), torch.from_numpy(unit_rows(rng, 20, 4))
    labels = torch.from_numpy(rng.integers(0, 5, 40))
    sharp = knn_predict(queries, bank, labels, classes=5, k=40, temperature=1e-5)
    assert torch.equal(sharp, labels[(queries @ bank.T).argmax(dim=1)])


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    bank, queries = torch.from_numpy(unit_rows(rng, 40, 4)), torch.from_numpy(unit_rows(rng, 23, 4))
    ((_, whole, rows),) = nearest(queries, bank, k=6)
    monkeypatch.setattr("scenewise.evaluate.neighbours.CHUNK_ENTRIES", 200)
    parts = list(nearest(queries, bank, k=6))
    assert len(parts) == 5 and [part[0].start for part in parts] == [0, 5, 10, 15, 20]
    assert torch.equal(torch.cat([part[2] for part in parts]), rows)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole)


@pytest.mark.parametrize("same_set", [False, True])
@pytest.mark.parametrize("k", [1, 3, 100])
def test_recall_equals_the_loop(k, same_set):
    rng = np.random.default_rng(4)
    queries, query_labels = unit_rows(rng, 25, 4), rng.integers(0, 9, 25)
    gallery, gallery_labels = (queries, query_labels) if same_set else (unit_rows(rng, 40, 4), rng.integers(0, 9, 40))
    hits = 0
    for i, query in enumerate(queries):
        ranked = sorted(
            (j for j in range(len(gallery)) if not (same_set and i == j)), key=lambda j, q=query: -(gallery[j] @ q)
        )
        hits += any(gallery_labels[j] == query_labels[i] for j in ranked[:k])
    arrays = map(torch.from_numpy, (queries, gallery, query_labels, gallery_labels))
    assert recall_at_k(*arrays, k=k, same_set=same_set) == pytest.approx(hits / 25)


def some_labels(rng, count, kind):
    """Class numbers, or several classes an image as bool or as integers with -1 where not judged."""
    if kind == "numbers":
        return rng.integers(0, 9, count)
    several = rng.random((count, 5)) < 0.15
    return several if kind == "bool" else np.where(rng.random((count, 5)) < 0.2, -1, several.astype(np.int64))


def slow_retrieval(queries, gallery, query_labels, gallery_labels, *, same_set):
    """Yield each query's relevant places, nearest first, and its cosines in that order."""
    for i, query in enumerate(queries):
        rows = [j for j in range(len(gallery)) if not (same_set and i == j)]
        rows.sort(key=lambda j, q=query: (-(gallery[j] @ q), j))
        if query_labels.ndim == 1:
            yield [gallery_labels[j] == query_labels[i] for j in rows], [gallery[j] @ query for j in rows]
        else:
            own = {c for c, present in enumerate(query_labels[i]) if present > 0}
            yield [any(gallery_labels[j][c] > 0 for c in own) for j in rows], [gallery[j] @ query for j in rows]


@pytest.mark.parametrize("kind", ["numbers", "bool", "int"])
@pytest.mark.parametrize("same_set", [False, True])
def test_retrieval_equals_the_loop(kind, same_set, monkeypatch):
    monkeypatch.setattr("scenewise.evaluate.retrieval.CHUNK_ENTRIES", 250)  # several chunks
    rng = np.random.default_rng(6)
    queries, query_labels = unit_rows(rng, 25, 4), some_labels(rng, 25, kind)
    gallery, gallery_labels = (
        (queries, query_labels) if same_set else (unit_rows(rng, 40, 4), some_labels(rng, 40, kind))
    )
    found = list(slow_retrieval(queries, gallery, query_labels, gallery_labels, same_set=same_set))
    arrays = [torch.from_numpy(3 * queries), *map(torch.from_numpy, (gallery, query_labels, gallery_labels))]
    for k in (1, 3, 100):
        recall = np.mean([any(hits[:k]) for hits, _ in found])
        precision = np.mean([np.mean(hits[:k]) for hits, _ in found])
        assert recall_at_k(*arrays, k=k, same_set=same_set) == pytest.approx(recall, abs=1e-12)
        assert precision_at_k(*arrays, k=k, same_set=same_set) == pytest.approx(precision, abs=1e-12)
    expected = np.mean([average_precision_score(hits, cosine) for hits, cosine in found if any(hits)])
    assert retrieval_map(*arrays, same_set=same_set) == pytest.approx(expected, abs=1e-12)


def test_equal_cosines_are_one_group_of_a_ranking():
    rng = np.random.default_rng(7)
    gallery, gallery_labels = torch.eye(3)[rng.integers(0, 3, 30)].double(), torch.from_numpy(rng.integers(0, 2, 30))
    query, query_labels = torch.eye(3)[:2].double(), torch.tensor([0, 1])
    cosine = (query @ gallery.T).numpy()
    expected = [average_precision_score(gallery_labels.numpy() == number, cosine[number]) for number in (0, 1)]
    assert retrieval_map(query, gallery, query_labels, gallery_labels) == pytest.approx(np.mean(expected), abs=1e-12)
    order = torch.from_numpy(rng.permutation(30))  # so the order of the gallery has no influence
    again = retrieval_map(query, gallery[order], query_labels, gallery_labels[order])
    assert again == pytest.approx(np.mean(expected), abs=1e-12)


def test_retrieval_at_the_edges():
    gallery, labels = torch.eye(3), torch.tensor([0, 0, 1])
    nothing = torch.empty(0, 3), torch.empty(0, dtype=torch.long)
    assert math.isnan(retrieval_map(nothing[0], gallery, nothing[1], labels))
    assert math.isnan(precision_at_k(nothing[0], gallery, nothing[1], labels, k=1))
    assert math.isnan(retrieval_map(gallery[:1], gallery, torch.tensor([7]), labels))  # nobody is relevant
    query = torch.tensor([0, 7])
    assert retrieval_map(gallery[:2], gallery, query, labels) == pytest.approx(1 / 2 + 1 / 3)  # the other is left out
    assert precision_at_k(gallery[:2], gallery, query, labels, k=1) == 0.5  # here it counts 0


def test_mean_iou_equals_scikit_learn():
    rng = np.random.default_rng(5)
    target, predicted = rng.integers(0, 5, (6, 20, 20)), rng.integers(0, 5, (6, 20, 20))
    target[rng.random(target.shape) < 0.1] = 255
    judged = target != 255
    expected = jaccard_score(target[judged], predicted[judged], average="macro")
    got = mean_iou(torch.from_numpy(predicted), torch.from_numpy(target), classes=7)  # classes 5 and 6 do not occur
    assert got == pytest.approx(expected, abs=1e-12)
    assert mean_iou(torch.from_numpy(target), torch.from_numpy(target), classes=5) == 1


def test_mean_iou_at_the_edges():
    target = torch.tensor([0, 0, 1, 255])
    assert mean_iou(torch.tensor([0, 9, 1, 0]), target, classes=2) == pytest.approx((1 / 2 + 1) / 2)  # 9: a miss
    assert math.isnan(mean_iou(target, torch.full((4,), 255), classes=2))
    with pytest.raises(ValueError, match=r"values 0\.\.1, allowed are 0\.\.0"):
        mean_iou(target, target, classes=1)


def plain(function):
    """Return the function as users have it: in the tests its shapes are checked by its types."""
    return inspect.unwrap(function)


def test_scores_and_labels_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match="scores has 4 images, relevant has 3"):
        plain(average_precision)(torch.rand(4), torch.tensor([1, 0, 1]))
    with pytest.raises(ValueError, match="scores has 3 images, relevant has 4"):
        plain(average_precision)(torch.rand(3), torch.tensor([1, 0, 1, 0]))
    for figure in (mean_average_precision, class_average_precisions):
        for shape in ((4, 2), (5, 3), (5, 2, 1), (5,)):
            with pytest.raises(ValueError, match=rf"scores has the shape \(5, 2\), labels has {re.escape(str(shape))}"):
                plain(figure)(torch.rand(5, 2), torch.ones(shape, dtype=torch.long))
