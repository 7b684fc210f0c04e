"""The bootstrap against a slow loop over copied images, its coverage, and paired differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from scenewise.errors import UserError
from scenewise.evaluate.figures import accuracy_statistic, precision_statistic
from scenewise.evaluate.intervals import bootstrap, paired_bootstrap, remembered, resampled_weights
from scenewise.evaluate.metrics import average_precision, mean_average_precision

FORMS = {"mAP": "step", "mAP/area": "area", "mAP/11point": "11point"}


def random_task(seed, images=40, classes=3):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, classes, generator=generator).round(decimals=1)  # with ties
    labels = torch.randint(-1, 2, (images, classes), generator=generator)
    return scores, labels


def copies(weights):
    return torch.arange(len(weights)).repeat_interleave(weights)


def test_resampled_precisions_equal_those_of_copied_images():
    scores, labels = random_task(0)
    labels[:, 2] = torch.where(torch.arange(40) == 7, 1, 0)  # one positive: it is lost in some resamples
    statistic = precision_statistic(scores, labels, ("a", "b", "c"))
    (weights,) = resampled_weights(40, seed=3, resamples=25)
    got = statistic(weights)
    lost = 0
    for sample, row in enumerate(weights):
        drawn = copies(row)
        for name, form in FORMS.items():
            expected = mean_average_precision(scores[drawn], labels[drawn], form=form)
            assert float(got[name][sample]) == pytest.approx(expected, abs=1e-12)
        for number, name in enumerate("abc"):
            judged = drawn[labels[drawn, number] >= 0]
            expected = average_precision(scores[judged, number], labels[judged, number])
            assert float(got[f"AP/{name}"][sample]) == pytest.approx(expected, abs=1e-12, nan_ok=True)
        lost += int(got["AP/c"][sample].isnan())
        judged = drawn[labels[drawn, 0] >= 0]
        oracle = average_precision_score((labels[judged, 0] > 0).numpy(), scores[judged, 0].numpy())
        assert float(got["AP/a"][sample]) == pytest.approx(oracle, abs=1e-12)
    assert 0 < lost < 25


def test_resampled_accuracies_equal_those_of_copied_images():
    generator = torch.Generator().manual_seed(1)
    scores, labels = torch.randn(50, 7, generator=generator), torch.randint(0, 6, (50,), generator=generator)
    statistic = accuracy_statistic(scores, labels, tuple("abcdefg"))
    (weights,) = resampled_weights(50, seed=3, resamples=20)
    got = statistic(weights)
    top = scores.topk(5, dim=1).indices
    for sample, row in enumerate(weights):
        drawn = copies(row)
        right = top[drawn, 0] == labels[drawn]
        assert float(got["top1"][sample]) == pytest.approx(float(right.double().mean()))
        five = (top[drawn] == labels[drawn, None]).any(dim=1)
        assert float(got["top5"][sample]) == pytest.approx(float(five.double().mean()))
        of_class = labels[drawn] == 2
        assert float(got["accuracy/c"][sample]) == pytest.approx(float(right[of_class].double().mean()), nan_ok=True)


def test_the_interval_is_the_percentiles_of_the_resamples_without_their_bias():
    scores, labels = random_task(2, images=60)
    statistic = precision_statistic(scores, labels, ("a", "b", "c"))
    figure = bootstrap(statistic, 60, seed=5, resamples=300)["mAP"]
    (weights,) = resampled_weights(60, seed=5, resamples=300)
    samples = [mean_average_precision(scores[copies(row)], labels[copies(row)]) for row in weights]
    assert figure.value == pytest.approx(mean_average_precision(scores, labels))
    low, high = np.percentile(samples, [2.5, 97.5]) - np.mean(samples) + figure.value
    assert (figure.low, figure.high) == pytest.approx((low, high))


def test_weights_are_draws_with_replacement_and_chunks_change_nothing(monkeypatch):
    (whole,) = resampled_weights(30, seed=1, resamples=400)
    assert whole.shape == (400, 30) and (whole.sum(dim=1) == 30).all()
    assert float((whole == 0).double().mean()) == pytest.approx((1 - 1 / 30) ** 30, abs=0.02)
    monkeypatch.setattr("scenewise.evaluate.intervals.CHUNK_ENTRIES", 30 * 64)
    parts = list(resampled_weights(30, seed=1, resamples=400))
    assert len(parts) == 7 and torch.equal(torch.cat(parts), whole)
    (other,) = resampled_weights(30, seed=2, resamples=64)
    assert not torch.equal(other, whole[:64])


def test_a_class_without_an_image_has_no_figure_and_does_not_spoil_the_mean():
    scores, labels = random_task(3)
    labels[:, 1] = 0
    figures = bootstrap(precision_statistic(scores, labels, ("a", "b", "c")), 40, seed=0, resamples=50)
    assert "AP/b" not in figures and {"AP/a", "AP/c", "mAP"} <= set(figures)
    assert figures["mAP"].value == pytest.approx((figures["AP/a"].value + figures["AP/c"].value) / 2)
    assert all(np.isfinite([figure.low, figure.high]).all() for figure in figures.values())


def test_five_classes_have_no_top5():
    scores = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 5
    assert "top5" not in accuracy_statistic(scores, labels, tuple("abcde"))(torch.ones(1, 20, dtype=torch.long))


def test_intervals_cover_the_truth():
    """Of 200 test sets drawn from one population about 95 % have intervals that hold its accuracy."""
    chance, truth, covered = np.random.default_rng(0), 0.7, 0
    for trial in range(200):
        right = torch.from_numpy(chance.random(120) < truth)
        scores = torch.stack([right, ~right], dim=1).double()
        statistic = accuracy_statistic(scores, torch.zeros(120, dtype=torch.long), ("a", "b"))
        figure = bootstrap(statistic, 120, seed=trial, resamples=400)["top1"]
        covered += figure.low <= truth <= figure.high
    assert 0.90 <= covered / 200 <= 0.99


def test_intervals_of_precision_cover_what_to_expect_and_miss_on_both_sides():
    """Resamples of average precision read high: unless that is taken back, nearly all that miss lie above."""
    chance, images, shares = np.random.default_rng(0), 250, np.linspace(0.05, 0.3, 5)
    values, found = [], []
    for trial in range(150):
        labels = chance.random((images, 5)) < shares
        scores = chance.normal(size=(images, 5)) + 0.5 * labels
        statistic = precision_statistic(
            torch.from_numpy(scores), torch.from_numpy(labels.astype(np.int8)), tuple("abcde")
        )
        figure = bootstrap(statistic, images, seed=trial, resamples=200)["mAP"]
        values.append(figure.value)
        found.append((figure.low, figure.high))
    expected, (low, high) = np.mean(values), np.array(found).T
    assert 0.90 <= ((low <= expected) & (expected <= high)).mean() <= 0.99
    assert (low > expected).mean() <= 0.06


@settings(max_examples=50, deadline=None)
@given(images=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_ends_stay_where_figures_can_be(images, seed):
    """With few images the bias is large, and taken back it must not lead out of 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    scores, labels = torch.randn(images, 2, generator=generator), torch.randint(0, 2, (images, 2), generator=generator)
    for figure in bootstrap(precision_statistic(scores, labels, ("a", "b")), images, seed=seed, resamples=40).values():
        assert 0 <= figure.low <= figure.value <= figure.high <= 1


def test_paired_differences_are_narrower_and_zero_against_oneself():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (200, 3), generator=generator)
    first = labels + 1.0 * torch.randn(200, 3, generator=generator)
    second = first + 0.2 * torch.randn(200, 3, generator=generator)
    one, other = (precision_statistic(scores, labels, ("a", "b", "c")) for scores in (first, second))
    same = paired_bootstrap(one, one, 200, seed=0, resamples=100)["mAP"]
    assert (same.value, same.low, same.high) == (0, 0, 0)
    difference = paired_bootstrap(one, other, 200, seed=0, resamples=200)["mAP"]
    alone = bootstrap(one, 200, seed=0, resamples=200)["mAP"]
    assert difference.value == pytest.approx(alone.value - bootstrap(other, 200, seed=0, resamples=1)["mAP"].value)
    assert difference.high - difference.low < 0.7 * (alone.high - alone.low)
    swapped = paired_bootstrap(other, one, 200, seed=0, resamples=200)["mAP"]
    assert (swapped.low, swapped.high) == pytest.approx((-difference.high, -difference.low))


def test_what_was_computed_for_the_intervals_serves_the_differences():
    generator = torch.Generator().manual_seed(0)
    labels, seen = torch.randint(0, 3, (50,), generator=generator), []

    def counted(number):
        statistic = accuracy_statistic(torch.randn(50, 3, generator=generator), labels, ("a", "b", "c"))

        def count(weights):
            seen.append(number)
            return statistic(weights)

        return statistic, remembered(count)

    (plain, first), (other, second) = counted(1), counted(2)
    for memory, original in ((first, plain), (second, other)):
        assert bootstrap(memory, 50, seed=0, resamples=60) == bootstrap(original, 50, seed=0, resamples=60)
    expected = paired_bootstrap(plain, other, 50, seed=0, resamples=60)
    assert paired_bootstrap(first, second, 50, seed=0, resamples=60) == expected
    assert seen == [1, 1, 2, 2]  # the whole set and one chunk of resamples each
    bootstrap(first, 50, seed=1, resamples=60)  # other resamples
    assert seen == [1, 1, 2, 2, 1]


def test_no_resamples_are_refused():
    with pytest.raises(UserError, match="resamples: 0"):
        bootstrap(accuracy_statistic(torch.eye(3), torch.arange(3), ("a", "b", "c")), 3, seed=0, resamples=0)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), positives=st.integers(1, 4))
def test_an_interval_holds_its_figure_even_of_a_few_positives(seed, positives):
    chance = np.random.default_rng(seed)
    labels = torch.zeros(40, 1, dtype=torch.int8)
    labels[chance.permutation(40)[:positives]] = 1
    statistic = precision_statistic(torch.from_numpy(chance.normal(size=(40, 1))), labels, ("thin",))
    for figure in bootstrap(statistic, 40, seed=seed, resamples=40).values():
        assert figure.low <= figure.value <= figure.high
