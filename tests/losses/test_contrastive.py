"""NT-Xent and InfoNCE against slow NumPy loops, their gradients, and what must not change them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.losses import info_nce, nt_xent

LOSSES = pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])


def cosine(first, second):
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def slow_nt_xent(first, second, temperature):
    views = np.concatenate([first, second])
    count, total = len(views), 0.0
    for anchor in range(count):
        partner = (anchor + len(first)) % count
        scores = [cosine(views[anchor], views[other]) / temperature for other in range(count) if other != anchor]
        total += np.log(np.sum(np.exp(scores))) - cosine(views[anchor], views[partner]) / temperature
    return total / count


def slow_info_nce(query, key, negatives, temperature, valid):
    total = 0.0
    for row in range(len(query)):
        positive = cosine(query[row], key[row]) / temperature
        others = [cosine(query[row], negatives[j]) / temperature for j in range(len(negatives)) if valid[row][j]]
        total += np.log(np.exp(positive) + np.sum(np.exp(others))) - positive
    return total / len(query)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@LOSSES
def test_nt_xent_equals_the_loop(temperature):
    first, second = draw(0, 7, 5), 3 * draw(1, 7, 5)
    expected = slow_nt_xent(first.numpy(), second.numpy(), temperature)
    assert float(nt_xent(first, second, temperature=temperature)) == pytest.approx(expected, rel=1e-12)


@LOSSES
@pytest.mark.parametrize("mask", [None, "shared", "each"])
def test_info_nce_equals_the_loop(temperature, mask):
    query, key, negatives = draw(0, 4, 5), draw(1, 4, 5), 2 * draw(2, 9, 5)
    allowed = draw(3, 4, 9) > 0 if mask == "each" else (draw(3, 9) > 0 if mask else None)
    table = torch.ones(4, 9, dtype=torch.bool) if allowed is None else allowed.expand(4, 9)
    expected = slow_info_nce(query.numpy(), key.numpy(), negatives.numpy(), temperature, table.numpy())
    got = info_nce(query, key, negatives, temperature=temperature, valid=allowed)
    assert got.item() == pytest.approx(expected, rel=1e-12)


def test_gradients_equal_finite_differences():
    first, second, bank = draw(0, 4, 3).requires_grad_(), draw(1, 4, 3).requires_grad_(), draw(2, 6, 3)
    valid = torch.tensor([True, False, True, True, False, True])
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.2), (first, second))
    assert torch.autograd.gradcheck(lambda a: info_nce(a, second, bank, temperature=0.2, valid=valid), (first,))


def test_keys_and_queue_get_no_gradient():
    tensors = [draw(seed, 4, 3).requires_grad_() for seed in range(3)]
    info_nce(*tensors, temperature=0.2).backward()
    assert tensors[0].grad is not None and tensors[0].grad.abs().sum() > 0
    assert tensors[1].grad is None and tensors[2].grad is None


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), scale=st.floats(0.01, 100), batch=st.integers(1, 6), rows=st.integers(0, 8))
def test_length_and_order_do_not_matter(seed, scale, batch, rows):
    query, key, bank = draw(seed, batch, 4), draw(seed + 1, batch, 4), draw(seed + 2, rows, 4)
    loss = info_nce(query, key, bank, temperature=0.2)
    shuffled = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(info_nce(scale * query, key / scale, bank[shuffled], temperature=0.2), loss)
    turned = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(info_nce(query[turned], key[turned], bank, temperature=0.2), loss)
    pairs = nt_xent(query, key, temperature=0.2)
    torch.testing.assert_close(nt_xent(key[turned], scale * query[turned], temperature=0.2), pairs)
    assert loss.item() >= 0 and pairs.item() >= 0


def test_unusable_rows_reach_neither_loss_nor_gradient():
    query, key, bank = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4), draw(2, 5, 4)
    valid = torch.tensor([True, True, False, True, False])
    clean = info_nce(query, key, bank[valid], temperature=0.2)
    bank[~valid] = torch.nan
    loss = info_nce(query, key, bank, temperature=0.2, valid=valid)
    torch.testing.assert_close(loss, clean)
    torch.testing.assert_close(torch.autograd.grad(loss, query), torch.autograd.grad(clean, query))


def test_without_negatives_the_loss_is_zero_with_a_graph():
    query, key, bank = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4), draw(2, 5, 4)
    for loss in (
        info_nce(query, key, bank, temperature=0.2, valid=torch.zeros(5, dtype=torch.bool)),
        info_nce(query, key, bank[:0], temperature=0.2),
        nt_xent(query[:1], key[:1], temperature=0.2),
    ):
        assert loss.requires_grad and loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, query)
        assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted(dtype):
    query, key, bank = (draw(seed, 4, 8).to(dtype) for seed in range(3))
    loss = info_nce(query, key, bank, temperature=0.07)
    assert loss.dtype == torch.float32
    wide = info_nce(query.double(), key.double(), bank.double(), temperature=0.07)
    assert wide.dtype == torch.float64 and loss.item() == pytest.approx(wide.item(), rel=1e-5)
    assert nt_xent(query, key, temperature=0.2).dtype == torch.float32


def test_autocast_changes_nothing():
    query, key, bank = (draw(seed, 4, 8).float() for seed in range(3))
    plain = info_nce(query, key, bank, temperature=0.07), nt_xent(query, key, temperature=0.07)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = info_nce(query, key, bank, temperature=0.07), nt_xent(query, key, temperature=0.07)
    assert torch.equal(torch.stack(plain), torch.stack(cast))


def test_vectors_without_length_give_finite_values_and_gradients():
    query = torch.zeros(3, 4, requires_grad=True)
    for loss in (
        info_nce(query, draw(1, 3, 4).float(), torch.zeros(5, 4), temperature=0.2),
        nt_xent(query, torch.zeros(3, 4), temperature=0.2),
    ):
        (gradient,) = torch.autograd.grad(loss, query)
        assert loss.isfinite() and not gradient.any()


@pytest.mark.parametrize("temperature", [1e-3, 1e3])
def test_extreme_temperatures_stay_finite(temperature):
    query, key, bank = draw(0, 3, 4).float().requires_grad_(), draw(1, 3, 4).float(), draw(2, 5, 4).float()
    loss = info_nce(query, key, bank, temperature=temperature)
    (gradient,) = torch.autograd.grad(loss, query)
    assert loss.isfinite() and gradient.isfinite().all()
