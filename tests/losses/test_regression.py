"""Regression onto a target and onto its neighbours, against slow NumPy loops, and what ties the two together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.losses import cosine_regression, mean_shift_loss


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(first, second):
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def slow_regression(prediction, target):
    total = 0.0
    for row, goal in zip(prediction, target, strict=True):
        total += float(np.sum((row / np.linalg.norm(row) - goal / np.linalg.norm(goal)) ** 2))
    return total / len(prediction)


def slow_mean_shift(prediction, target, bank, neighbours, valid):
    total = 0.0
    for b in range(len(prediction)):
        rows = sorted((j for j in range(len(bank)) if valid[b][j]), key=lambda j, b=b: -cosine(target[b], bank[j]))
        terms = [2 - 2 * cosine(prediction[b], bank[j]) for j in rows[:neighbours]]
        total += sum(terms) / max(1, len(terms))
    return total / len(prediction)


def test_regression_is_the_squared_distance_of_unit_vectors():
    prediction, target = draw(0, 6, 5), 4 * draw(1, 6, 5)
    expected = slow_regression(prediction.numpy(), target.numpy())
    assert cosine_regression(prediction, target).item() == pytest.approx(expected, rel=1e-12)
    assert cosine_regression(target, 3 * target).item() == pytest.approx(0, abs=1e-12)
    assert cosine_regression(target, -target).item() == pytest.approx(4)


def test_univips_hand_example():
    """L_scene = -(cos + cos) is the sum of the two regressions less 4, halved."""
    online = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    target = torch.tensor([[1.0, 1.0]]), torch.tensor([[3.0, 4.0]])
    both = cosine_regression(online[0], target[1]) + cosine_regression(online[1], target[0])
    assert (both.item() - 4) / 2 == pytest.approx(-1.3071067812, abs=1e-6)


@pytest.mark.parametrize("neighbours", [1, 3, 20])
@pytest.mark.parametrize("mask", [None, "shared", "each"])
def test_mean_shift_equals_the_loop(neighbours, mask):
    prediction, target, bank = draw(0, 5, 4), draw(1, 5, 4), 3 * draw(2, 11, 4)
    valid = {None: None, "shared": draw(3, 11) > 0, "each": draw(3, 5, 11) > 0.5}[mask]
    table = torch.ones(5, 11, dtype=torch.bool) if valid is None else valid.expand(5, 11)
    arrays = [tensor.numpy() for tensor in (prediction, target, bank)]
    expected = slow_mean_shift(*arrays, neighbours, table.numpy())
    got = mean_shift_loss(prediction, target, bank, neighbours=neighbours, valid=valid)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_the_neighbours_are_those_of_the_target_not_of_the_prediction():
    prediction, target = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert mean_shift_loss(prediction, target, bank, neighbours=1).item() == pytest.approx(2)
    assert mean_shift_loss(prediction, target, bank, neighbours=1, valid=torch.tensor([True, False, True])) in (0, 4)


def test_gradients_equal_finite_differences():
    prediction, target, bank = draw(0, 4, 3).requires_grad_(), draw(1, 4, 3), draw(2, 8, 3)
    valid = draw(3, 4, 8) > 0
    assert torch.autograd.gradcheck(lambda rows: cosine_regression(rows, target), (prediction,))
    for mask in (None, valid):
        assert torch.autograd.gradcheck(
            lambda rows, mask=mask: mean_shift_loss(rows, target, bank, neighbours=3, valid=mask), (prediction,)
        )


def test_target_and_bank_get_no_gradient():
    leaves = [draw(seed, 4, 3).requires_grad_() for seed in range(3)]
    (cosine_regression(*leaves[:2]) + mean_shift_loss(*leaves, neighbours=2)).backward()
    assert leaves[0].grad is not None and leaves[0].grad.abs().sum() > 0
    assert leaves[1].grad is None and leaves[2].grad is None


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    batch=st.integers(1, 5),
    rows=st.integers(1, 8),
    scale=st.floats(0.01, 100),
    neighbours=st.integers(1, 10),
)
def test_length_and_order_do_not_matter(seed, batch, rows, scale, neighbours):
    prediction, target, bank = draw(seed, batch, 4), draw(seed + 1, batch, 4), draw(seed + 2, rows, 4)
    regression, shift = cosine_regression(prediction, target), mean_shift_loss(prediction, target, bank)
    assert 0 <= regression.item() <= 4 and 0 <= shift.item() <= 4
    images, places = (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n in (batch, rows))
    torch.testing.assert_close(cosine_regression(scale * prediction[images], target[images] / scale), regression)
    shift = mean_shift_loss(prediction, target, bank, neighbours=neighbours)
    moved = mean_shift_loss(scale * prediction[images], target[images], bank[places] / scale, neighbours=neighbours)
    torch.testing.assert_close(moved, shift)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_neighbour_in_a_bank_that_holds_the_targets_is_the_regression(dtype):
    prediction, target, others = draw(0, 5, 8).to(dtype), draw(1, 5, 8).to(dtype), draw(2, 20, 8).to(dtype)
    prediction.requires_grad_()
    plain = cosine_regression(prediction, target)
    shift = mean_shift_loss(prediction, target, torch.cat([others, 0.3 * target]), neighbours=1)
    torch.testing.assert_close(shift, plain)
    torch.testing.assert_close(torch.autograd.grad(shift, prediction), torch.autograd.grad(plain, prediction))
    more = mean_shift_loss(prediction, target, torch.cat([others, target]), neighbours=5)
    assert abs(more.item() - plain.item()) > 1e-3


def test_unusable_rows_reach_neither_loss_nor_gradient():
    prediction, target, bank = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4), draw(2, 6, 4)
    valid = torch.tensor([True, False, True, False, True, True])
    clean = mean_shift_loss(prediction, target, bank[valid], neighbours=5)
    bank[~valid] = torch.nan
    loss = mean_shift_loss(prediction, target, bank, neighbours=5, valid=valid)
    torch.testing.assert_close(loss, clean)
    torch.testing.assert_close(torch.autograd.grad(loss, prediction), torch.autograd.grad(clean, prediction))


def test_without_neighbours_the_loss_is_zero_with_a_graph():
    prediction, target, bank = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4), draw(2, 6, 4)
    for loss in (
        mean_shift_loss(prediction, target, bank, valid=torch.zeros(6, dtype=torch.bool)),
        mean_shift_loss(prediction, target, bank, valid=torch.zeros(3, 6, dtype=torch.bool)),
        mean_shift_loss(prediction, target, bank[:0]),
        mean_shift_loss(prediction, target, bank, neighbours=0),
    ):
        assert loss.requires_grad and loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, prediction)
        assert not gradient.any()


def test_vectors_without_length_give_finite_values_and_gradients():
    prediction = torch.zeros(3, 4, requires_grad=True)
    for loss in (
        cosine_regression(prediction, torch.zeros(3, 4)),
        mean_shift_loss(prediction, torch.zeros(3, 4), torch.zeros(6, 4)),
    ):
        (gradient,) = torch.autograd.grad(loss, prediction)
        assert loss.item() == 2 and not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_and_autocast_changes_nothing(dtype):
    prediction, target, bank = (draw(seed, rows, 16).to(dtype) for seed, rows in enumerate((6, 6, 40)))
    both = cosine_regression(prediction, target), mean_shift_loss(prediction, target, bank)
    wide = [tensor.double() for tensor in (prediction, target, bank)]
    assert both[0].dtype == both[1].dtype == torch.float32
    assert both[0].item() == pytest.approx(cosine_regression(*wide[:2]).item(), rel=1e-5)
    assert both[1].item() == pytest.approx(mean_shift_loss(*wide).item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = cosine_regression(prediction, target), mean_shift_loss(prediction, target, bank)
    assert torch.equal(torch.stack(both), torch.stack(cast))
