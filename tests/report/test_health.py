"""Health figures against slow, obvious NumPy, and the laws they obey."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from scenewise.report.health import HealthWindow, alignment, effective_rank, feature_spread, uniformity

KEYS = {
    "health/feature_spread",
    "health/effective_rank",
    "health/effective_rank_share",
    "health/alignment",
    "health/uniformity",
}
shapes = st.tuples(st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**31))
fast = settings(max_examples=25, deadline=None)


def rows(count: int, width: int, seed: int = 0, *, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, width))).to(dtype)


def unit(matrix: np.ndarray) -> np.ndarray:
    return np.stack([row / np.sqrt(np.sum(row * row)) for row in matrix])


def spread_oracle(matrix: np.ndarray) -> float:
    directions = unit(matrix)
    deviations = [np.sqrt(np.mean((column - np.mean(column)) ** 2)) for column in directions.T]
    return float(np.mean(deviations) * np.sqrt(matrix.shape[1]))


def rank_oracle(matrix: np.ndarray) -> float:
    values = np.sqrt(np.clip(np.linalg.eigvalsh(matrix @ matrix.T), 0, None))[::-1][: min(matrix.shape)]
    entropy = 0.0
    for value in values:
        share = value / values.sum() + 1e-7
        entropy -= share * math.log(share)
    return math.exp(entropy)


def uniformity_oracle(matrix: np.ndarray) -> float:
    directions = unit(matrix)
    potentials = [
        math.exp(-2 * float(np.sum((first - second) ** 2))) for first, second in itertools.combinations(directions, 2)
    ]
    return math.log(sum(potentials) / len(potentials))


@fast
@given(shapes)
def test_figures_equal_their_oracles(shape: tuple[int, int, int]) -> None:
    count, width, seed = shape
    first, second = rows(count, width, seed), rows(count, width, seed + 1)
    assert feature_spread(first).item() == pytest.approx(spread_oracle(first.numpy()), rel=1e-9, abs=1e-9)
    assert effective_rank(first).item() == pytest.approx(rank_oracle(first.numpy()), rel=1e-5)
    assert uniformity(first).item() == pytest.approx(uniformity_oracle(first.numpy()), rel=1e-9, abs=1e-9)
    distances = [float(np.sum((a - b) ** 2)) for a, b in zip(unit(first.numpy()), unit(second.numpy()), strict=True)]
    assert alignment(first, second).item() == pytest.approx(np.mean(distances), rel=1e-9)


@fast
@given(shapes, st.floats(0.01, 100))
def test_scale_rotation_and_order_change_nothing(shape: tuple[int, int, int], scale: float) -> None:
    count, width, seed = shape
    x = rows(count, width, seed)
    rotation = torch.linalg.qr(rows(width, width, seed + 1)).Q
    moved = scale * x[torch.randperm(count, generator=torch.Generator().manual_seed(seed))] @ rotation
    assert_close(uniformity(moved), uniformity(x))
    assert_close(effective_rank(moved), effective_rank(x), rtol=1e-4, atol=1e-4)
    assert_close(alignment(scale * x @ rotation, x @ rotation), torch.zeros((), dtype=x.dtype), atol=1e-9, rtol=0)
    assert_close(feature_spread(scale * x), feature_spread(x))


@fast
@given(shapes)
def test_ranges(shape: tuple[int, int, int]) -> None:
    count, width, seed = shape
    x, y = rows(count, width, seed, dtype=torch.float32), rows(count, width, seed + 1, dtype=torch.float32)
    assert -1e-6 <= feature_spread(x).item() <= 1 + 1e-5
    assert 1 - 1e-4 <= effective_rank(x).item() <= min(count, width) * (1 + 1e-4)
    assert 0 <= alignment(x, y).item() <= 4 + 1e-5
    assert -8 <= uniformity(x).item() <= 1e-5


def test_the_ends_of_the_scales() -> None:
    isotropic = rows(4000, 64)
    assert feature_spread(isotropic).item() == pytest.approx(1, abs=0.01)
    assert uniformity(isotropic[:1000]).item() == pytest.approx(-4, abs=0.15)
    assert effective_rank(torch.eye(7, dtype=torch.float64)).item() == pytest.approx(7, rel=1e-4)
    same = rows(1, 64).expand(50, 64)
    assert feature_spread(same).item() == pytest.approx(0, abs=1e-7)
    assert uniformity(same).item() == pytest.approx(0, abs=1e-7)
    assert effective_rank(same).item() == pytest.approx(1, abs=1e-3)
    assert alignment(isotropic, -isotropic).item() == pytest.approx(4)


def test_opposite_points_do_not_underflow_and_zero_rows_stay_finite() -> None:
    pair = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert uniformity(pair).item() == pytest.approx(-8)
    zero = torch.zeros(5, 4)
    for figure in (feature_spread(zero), effective_rank(zero), uniformity(zero), alignment(zero, zero)):
        assert torch.isfinite(figure)
    assert uniformity(pair[:1]).item() == 0
    assert feature_spread(pair[:1]).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_half_is_lifted_and_double_stays(dtype: torch.dtype) -> None:
    x = rows(20, 6, dtype=dtype)
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    for figure in (feature_spread(x), effective_rank(x), uniformity(x), alignment(x, x.flip(0))):
        assert figure.dtype == wanted
    assert_close(feature_spread(x), feature_spread(x.to(wanted)))


@fast
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(2, 12), st.integers(0, 8))
def test_the_window_holds_the_last_rows_and_resumes_exactly(sizes: list[int], capacity: int, cut: int) -> None:
    batches = [
        (rows(size, 5, 3 * i), rows(size, 4, 3 * i + 1), rows(size, 4, 3 * i + 2)) for i, size in enumerate(sizes)
    ]
    straight, resumed = HealthWindow(capacity=capacity), HealthWindow(capacity=capacity)
    for index, batch in enumerate(batches):
        if index == cut:
            buffer = io.BytesIO()
            torch.save(resumed.state_dict(), buffer)
            buffer.seek(0)
            resumed = HealthWindow(capacity=capacity)
            resumed.load_state_dict(torch.load(buffer, weights_only=True))
        straight.add(*batch)
        resumed.add(*batch)
    assert len(straight) == min(capacity, sum(sizes))
    assert straight.figures() == resumed.figures()
    joined = torch.cat([batch[0] for batch in batches])[-capacity:].float()
    assert torch.equal(straight.state_dict()["features"], joined)


def test_the_window_reports_reset_and_emptiness() -> None:
    window = HealthWindow()
    assert window.figures() == {}
    window.load_state_dict(window.state_dict())
    window.add(rows(1, 5), rows(1, 4), rows(1, 4))
    assert window.figures() == {}
    features = rows(40, 5, dtype=torch.bfloat16).requires_grad_()
    window.add(features, rows(40, 4), rows(40, 4, 1))
    figures = window.figures()
    assert set(figures) == KEYS
    assert figures["health/effective_rank_share"] == pytest.approx(figures["health/effective_rank"] / 5)
    assert not window.state_dict()["features"].requires_grad
    window.reset()
    assert window.figures() == {}
    with pytest.raises(ValueError, match="capacity"):
        HealthWindow(capacity=1)


def test_rows_changed_after_they_were_added_are_not_seen() -> None:
    window = HealthWindow(capacity=8)
    features = rows(8, 5, dtype=torch.float32)
    window.add(features, rows(8, 4), rows(8, 4, 1))
    before = window.figures()
    features.zero_()
    assert window.figures() == before
