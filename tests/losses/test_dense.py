"""DenseCL's matching and loss against slow NumPy loops, and what the loss must and must not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.losses import dense_info_nce, dense_match, info_nce


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def grids(seed, images=3, cells=5, rows=9, dim=4, width=6):
    """Return query and key grids, the features that match their cells, and the negatives."""
    shapes = [(images, cells, dim)] * 2 + [(images, cells, width)] * 2 + [(rows, dim)]
    return [draw(seed + number, *shape) for number, shape in enumerate(shapes)]


def cosine(first, second):
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def slow_match(query_features, key_features):
    return [
        [int(np.argmax([cosine(cell, other) for other in key])) for cell in query]
        for query, key in zip(query_features, key_features, strict=True)
    ]


def slow_dense(query, key, query_features, key_features, negatives, temperature, valid):
    total, match = 0.0, slow_match(query_features, key_features)
    for n in range(len(query)):
        for s in range(len(query[n])):
            positive = cosine(query[n][s], key[n][match[n][s]]) / temperature
            others = [
                cosine(query[n][s], row) / temperature for row, use in zip(negatives, valid[n], strict=True) if use
            ]
            total += np.log(np.exp(positive) + np.sum(np.exp(others))) - positive
    return total / (len(query) * len(query[0]))


@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
@pytest.mark.parametrize("mask", [None, "shared", "each"])
def test_the_loss_equals_the_loop(temperature, mask):
    tensors = grids(0)
    valid = {None: None, "shared": draw(9, 9) > 0, "each": draw(9, 3, 9) > 0}[mask]
    table = torch.ones(3, 9, dtype=torch.bool) if valid is None else valid.expand(3, 9)
    expected = slow_dense(*(tensor.numpy() for tensor in tensors), temperature, table.numpy())
    got = dense_info_nce(*tensors, temperature=temperature, valid=valid)
    assert got.item() == pytest.approx(expected, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), images=st.integers(1, 3), cells=st.integers(1, 6), scale=st.floats(0.01, 100))
def test_matches_and_the_loss_follow_the_cells(seed, images, cells, scale):
    query, key, query_features, key_features, negatives = grids(seed, images, cells)
    match = dense_match(query_features, key_features)
    assert match.tolist() == slow_match(query_features.numpy(), key_features.numpy())
    loss = dense_info_nce(query, key, query_features, key_features, negatives, temperature=0.2)
    assert loss.item() >= 0
    turn, flip = (torch.randperm(cells, generator=torch.Generator().manual_seed(seed + i)) for i in range(2))
    moved = dense_match(scale * query_features[:, turn], key_features[:, flip] / scale)
    assert torch.equal(flip[moved], match[:, turn])
    grids_moved = (query[:, turn] * scale, key[:, flip], query_features[:, turn], key_features[:, flip])
    torch.testing.assert_close(dense_info_nce(*grids_moved, negatives / scale, temperature=0.2), loss)
    each = [
        dense_info_nce(
            *(grid[n : n + 1] for grid in (query, key, query_features, key_features)), negatives, temperature=0.2
        )
        for n in range(images)
    ]
    torch.testing.assert_close(torch.stack(each).mean(), loss)  # images do not mix


def test_a_match_is_undone_by_the_permutation_that_made_it():
    features = draw(0, 2, 7, 12)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(order[dense_match(features, features[:, order])], torch.arange(7).expand(2, 7))


def test_one_cell_is_info_nce():
    query, key, query_features, key_features, negatives = grids(0, cells=1)
    dense = dense_info_nce(query, key, query_features, key_features, negatives, temperature=0.2)
    assert torch.equal(dense, info_nce(query[:, 0], key[:, 0], negatives, temperature=0.2))


def test_the_backbone_features_choose_not_the_embeddings():
    query, key, query_features, key_features, negatives = grids(0)
    loss = dense_info_nce(query, key, query_features, key_features, negatives, temperature=0.2)
    elsewhere = dense_info_nce(query, key, query_features.roll(1, 1), key_features, negatives, temperature=0.2)
    by_embedding = dense_info_nce(query, key, query, key, negatives, temperature=0.2)
    assert abs(loss.item() - elsewhere.item()) > 1e-3 and by_embedding.item() < loss.item()


def test_gradients_equal_finite_differences():
    query, *others = grids(0, 2, 3)
    query.requires_grad_()
    for valid in (None, draw(9, 9) > 0, draw(9, 2, 9) > 0):
        assert torch.autograd.gradcheck(
            lambda grid, valid=valid: dense_info_nce(grid, *others, temperature=0.2, valid=valid), (query,)
        )


def test_only_the_query_grid_gets_a_gradient():
    leaves = [tensor.requires_grad_() for tensor in grids(0)]
    assert not dense_match(*leaves[2:4]).requires_grad
    dense_info_nce(*leaves, temperature=0.2).backward()
    assert leaves[0].grad is not None and leaves[0].grad.abs().sum() > 0
    assert all(leaf.grad is None for leaf in leaves[1:])


def test_unusable_rows_reach_neither_loss_nor_gradient():
    query, *others, negatives = grids(0)
    query.requires_grad_()
    valid = draw(9, 9) > 0
    clean = dense_info_nce(query, *others, negatives[valid], temperature=0.2)
    negatives[~valid] = torch.nan
    loss = dense_info_nce(query, *others, negatives, temperature=0.2, valid=valid)
    torch.testing.assert_close(loss, clean)
    torch.testing.assert_close(torch.autograd.grad(loss, query), torch.autograd.grad(clean, query))


def test_without_negatives_the_loss_is_zero_with_a_graph():
    query, *others, negatives = grids(0)
    query.requires_grad_()
    for loss in (
        dense_info_nce(query, *others, negatives, temperature=0.2, valid=torch.zeros(9, dtype=torch.bool)),
        dense_info_nce(query, *others, negatives, temperature=0.2, valid=torch.zeros(3, 9, dtype=torch.bool)),
        dense_info_nce(query, *others, negatives[:0], temperature=0.2),
    ):
        assert loss.requires_grad and loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, query)
        assert not gradient.any()


def test_vectors_without_length_give_finite_values_and_gradients():
    query = torch.zeros(2, 3, 4, requires_grad=True)
    nothing = torch.zeros(2, 3, 4)
    loss = dense_info_nce(query, nothing, nothing, nothing, torch.zeros(5, 4), temperature=0.2)
    (gradient,) = torch.autograd.grad(loss, query)
    assert loss.item() == pytest.approx(np.log(6), abs=1e-6) and not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_and_autocast_changes_nothing(dtype):
    tensors = [tensor.to(dtype) for tensor in grids(0, 2, 9, 20, 8, 32)]
    loss = dense_info_nce(*tensors, temperature=0.2)
    assert loss.dtype == torch.float32
    wide = dense_info_nce(*(tensor.double() for tensor in tensors), temperature=0.2)
    assert loss.item() == pytest.approx(wide.item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(dense_info_nce(*tensors, temperature=0.2), loss)
        close = 1 + 1e-2 * draw(0, 1, 64, 32).float()  # features that bf16 cannot tell apart
        assert torch.equal(dense_match(close, close)[0], torch.arange(64))
