"""MLS's labels, its binary cross-entropy and the losses of its ablation, against slow NumPy loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.errors import UserError
from scenewise.losses import info_nce, knn_softmax, multilabel_loss, pseudo_labels

REDUCTIONS = ["mean", "sum", "balanced", "per_positive"]
FORMS = ["each_positive", "supervised_contrastive"]


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def logit(query, row, temperature, bias=0.0):
    return float(query @ row / (np.linalg.norm(query) * np.linalg.norm(row))) / temperature + bias


def slow_multilabel(query, dictionary, labels, valid, temperature, reduction, bias=0.0, positives_only=False):
    total = 0.0
    for b in range(len(query)):
        pull, push = [], []
        for j in range(len(dictionary)):
            if not valid[b][j]:
                continue
            probability = 1 / (1 + math.exp(-logit(query[b], dictionary[j], temperature, bias)))
            if labels[b][j]:
                pull.append(-math.log(probability))
            else:
                push.append(0.0 if positives_only else -math.log(1 - probability))
        count = {
            "mean": len(pull) + len(push),
            "sum": 1,
            "per_positive": len(pull),
        }
        if reduction == "balanced":
            total += (sum(pull) / len(pull) if pull else 0.0) + (sum(push) / len(push) if push else 0.0)
        else:
            total += (sum(pull) + sum(push)) / max(1, count[reduction])
    return total / len(query)


def slow_softmax(query, dictionary, labels, valid, temperature, form):
    total = 0.0
    for b in range(len(query)):
        weights = {
            j: math.exp(logit(query[b], dictionary[j], temperature)) for j in range(len(dictionary)) if valid[b][j]
        }
        positives = [j for j in weights if labels[b][j]]
        for i in positives:
            rivals = [j for j in weights if form == "supervised_contrastive" or j == i or not labels[b][j]]
            total += -math.log(weights[i] / sum(weights[j] for j in rivals)) / len(positives)
    return total / len(query)


@pytest.fixture(params=["none", "shared", "each"])
def problem(request):
    """Two queries have both sides, one has no positive, one no negative (as far as the mask lets them)."""
    query, dictionary = draw(0, 5, 4), 2 * draw(1, 11, 4)
    labels = draw(2, 5, 11) > 0.4
    labels[3], labels[4] = False, True
    valid = {"none": None, "shared": draw(3, 11) > -0.3, "each": draw(3, 5, 11) > -0.3}[request.param]
    table = torch.ones(5, 11, dtype=torch.bool) if valid is None else valid.expand(5, 11)
    return query, dictionary, labels, valid, table


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("bias", "positives_only"), [(0.0, False), (-3.0, False), (0.0, True)])
def test_multilabel_equals_the_loop(problem, reduction, bias, positives_only):
    query, dictionary, labels, valid, table = problem
    arrays = [tensor.numpy() for tensor in (query, dictionary, labels, table)]
    got = multilabel_loss(
        query,
        dictionary,
        labels,
        temperature=0.2,
        reduction=reduction,
        valid=valid,
        logit_bias=bias,
        positives_only=positives_only,
    )
    expected = slow_multilabel(*arrays, 0.2, reduction, bias, positives_only)
    assert got.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_softmax_forms_equal_the_loop(problem, form):
    query, dictionary, labels, valid, table = problem
    arrays = [tensor.numpy() for tensor in (query, dictionary, labels, table)]
    got = knn_softmax(query, dictionary, labels, temperature=0.2, form=form, valid=valid)
    assert got.item() == pytest.approx(slow_softmax(*arrays, 0.2, form), rel=1e-10)


def test_gradients_equal_finite_differences(problem):
    query, dictionary, labels, valid, _ = problem
    query.requires_grad_()
    for reduction in REDUCTIONS:
        assert torch.autograd.gradcheck(
            lambda rows, how=reduction: multilabel_loss(
                rows, dictionary, labels, temperature=0.2, reduction=how, valid=valid, logit_bias=-1.0
            ),
            (query,),
        )
    for form in FORMS:
        assert torch.autograd.gradcheck(
            lambda rows, how=form: knn_softmax(rows, dictionary, labels, temperature=0.2, form=how, valid=valid),
            (query,),
        )


def test_the_hand_example_of_the_paper():
    keys_g = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, 0.6]], dtype=torch.float64)
    keys_z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    feature, query = torch.tensor([[2.0, 1.5]]).double(), torch.tensor([[3.0, 4.0]]).double().requires_grad_()
    labels = pseudo_labels(feature, keys_g, k=2)
    assert labels.tolist() == [[False, False, True, True]]
    loss = multilabel_loss(query, keys_z, labels, temperature=0.2)
    assert loss.item() == pytest.approx(3.5333686397, abs=1e-9)
    (gradient,) = torch.autograd.grad(loss, query)
    np.testing.assert_allclose(gradient.numpy(), [[0.06914041, -0.05185531]], atol=1e-8)
    contrast = info_nce(query, torch.tensor([[4.0, 3.0]]).double(), keys_z, temperature=0.2)
    assert contrast.item() == pytest.approx(0.4794515569, abs=1e-9)
    positives = multilabel_loss(query, keys_z, labels, temperature=0.2, positives_only=True)
    assert positives.item() == pytest.approx(1.7666843199, abs=1e-9)
    forms = [knn_softmax(query, keys_z, labels, temperature=0.2, form=form).item() for form in FORMS]
    assert forms == pytest.approx([7.8137175024, 7.8141731540], abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    k=st.integers(0, 15),
    rows=st.integers(0, 10),
    share=st.sampled_from([0.0, 0.3, 1.0]),
    each=st.booleans(),
)
def test_labels_are_the_nearest_valid_rows(seed, k, rows, share, each):
    features, dictionary = draw(seed, 3, 4), draw(seed + 1, rows, 4)
    random = torch.rand(3, rows, generator=torch.Generator().manual_seed(seed))
    valid = random < share if each else (random < share)[0]
    labels = pseudo_labels(features, dictionary, k=k, valid=valid)
    table = valid.expand(3, rows)
    assert not (labels & ~table).any()
    assert torch.equal(labels.sum(dim=1), table.sum(dim=1).clamp_max(k))
    assert torch.equal(pseudo_labels(features * 7.5, dictionary * 0.1, k=k, valid=valid), labels)
    for b in range(3):  # nothing left out is nearer than anything taken
        scores = np.array([logit(features[b].numpy(), row.numpy(), 1.0) for row in dictionary])
        taken, left = scores[labels[b].numpy()], scores[(table[b] & ~labels[b]).numpy()]
        assert not len(taken) or not len(left) or taken.min() >= left.max()


def test_all_or_no_rows_are_positive_at_the_ends_of_k():
    features, dictionary = draw(0, 3, 4), draw(1, 6, 4)
    assert pseudo_labels(features, dictionary, k=6).all()
    assert pseudo_labels(features, dictionary, k=60).all()
    assert not pseudo_labels(features, dictionary, k=0).any()
    assert pseudo_labels(torch.zeros(3, 4), torch.zeros(6, 4), k=2).sum(dim=1).tolist() == [2, 2, 2]


def test_a_query_can_be_kept_from_its_own_image():
    features = draw(0, 4, 8)
    image, row_image = torch.tensor([10, 11, 12, 13]), torch.tensor([10, 11, 12, 13, 99])
    dictionary = torch.cat([features, draw(1, 1, 8)])
    assert torch.equal(pseudo_labels(features, dictionary, k=1), torch.eye(4, 5, dtype=torch.bool))
    others = image[:, None] != row_image
    assert not (pseudo_labels(features, dictionary, k=1, valid=others) & ~others).any()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), reduction=st.sampled_from(REDUCTIONS), k=st.integers(0, 6))
def test_one_permutation_of_both_dictionaries_changes_nothing(seed, reduction, k):
    features, query = draw(seed, 3, 4), draw(seed + 1, 3, 5)
    keys_g, keys_z = draw(seed + 2, 9, 4), draw(seed + 3, 9, 5)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    labels = pseudo_labels(features, keys_g, k=k)
    loss = multilabel_loss(query, keys_z, labels, temperature=0.2, reduction=reduction)
    moved = pseudo_labels(features, keys_g[order], k=k)
    torch.testing.assert_close(multilabel_loss(query, keys_z[order], moved, temperature=0.2, reduction=reduction), loss)
    assert loss.item() >= 0
    if k > 0:
        alone = multilabel_loss(query, keys_z.roll(1, 0), labels, temperature=0.2, reduction=reduction)
        assert abs(float(alone) - loss.item()) > 1e-9


def test_zero_logits_give_log_two():
    query = torch.tensor([[1.0, 0.0, 0.0]])
    dictionary = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    loss = multilabel_loss(query, dictionary, torch.tensor([[True, False, False]]), temperature=0.2)
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)


def test_the_bias_gives_the_prior_of_the_labels():
    labels = torch.arange(400)[None] < 2
    bias = -math.log(400 / 2 - 1)
    query, dictionary = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]).expand(400, 2)
    loss = multilabel_loss(query, dictionary, labels, temperature=0.2, logit_bias=bias)
    prior = 2 / 400
    assert loss.item() == pytest.approx(-prior * math.log(prior) - (1 - prior) * math.log(1 - prior), rel=1e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_large_logits_stay_finite(reduction):
    query, dictionary = draw(0, 3, 4).float().requires_grad_(), draw(1, 9, 4).float()
    labels = pseudo_labels(-query.detach(), dictionary, k=4)
    loss = multilabel_loss(query, dictionary, labels, temperature=1e-4, reduction=reduction)
    (gradient,) = torch.autograd.grad(loss, query)
    assert loss.isfinite() and gradient.isfinite().all() and loss.item() > 100


def test_labels_and_dictionary_get_no_gradient():
    features, query, keys_g, keys_z = (draw(seed, 5, 4).requires_grad_() for seed in range(4))
    labels = pseudo_labels(features, keys_g, k=2)
    assert not labels.requires_grad
    (
        multilabel_loss(query, keys_z, labels, temperature=0.2) + knn_softmax(query, keys_z, labels, temperature=0.2)
    ).backward()
    assert query.grad is not None and query.grad.abs().sum() > 0
    assert features.grad is None and keys_g.grad is None and keys_z.grad is None


def test_without_valid_rows_the_loss_is_zero_with_a_graph():
    query, dictionary = draw(0, 3, 4).requires_grad_(), torch.full((6, 4), torch.nan).double()
    nothing = torch.zeros(6, dtype=torch.bool)
    labels = pseudo_labels(query, dictionary, k=3, valid=nothing)
    assert not labels.any()
    losses = [
        *(
            multilabel_loss(query, dictionary, labels, temperature=0.2, reduction=how, valid=nothing)
            for how in REDUCTIONS
        ),
        *(knn_softmax(query, dictionary, labels, temperature=0.2, form=form, valid=nothing) for form in FORMS),
        multilabel_loss(query, dictionary[:0], labels[:, :0], temperature=0.2),
    ]
    for loss in losses:
        assert loss.requires_grad and loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, query)
        assert not gradient.any()


@pytest.mark.parametrize("form", FORMS)
def test_rows_without_one_side_contribute_nothing_to_the_softmax(form):
    query, dictionary = draw(0, 2, 4).requires_grad_(), draw(1, 5, 4)
    empty = torch.zeros(2, 5, dtype=torch.bool)
    loss = knn_softmax(query, dictionary, empty, temperature=0.2, form=form)
    assert loss.item() == 0 and loss.requires_grad
    full = knn_softmax(query, dictionary, ~empty, temperature=0.2, form=form)
    (gradient,) = torch.autograd.grad(full, query)
    assert gradient.isfinite().all()
    assert (full.item() == 0) == (form == "each_positive")


def test_softmax_forms_agree_for_one_positive_and_are_info_nce():
    query, dictionary = draw(0, 4, 6), draw(1, 12, 6)
    labels = torch.zeros(4, 12, dtype=torch.bool)
    labels[torch.arange(4), torch.arange(4)] = True
    first, second = (knn_softmax(query, dictionary, labels, temperature=0.2, form=form) for form in FORMS)
    torch.testing.assert_close(first, second)
    others = ~labels
    torch.testing.assert_close(first, info_nce(query, dictionary[:4], dictionary, temperature=0.2, valid=others))


def test_half_precision_is_lifted_and_autocast_changes_nothing():
    query, dictionary, features = draw(0, 8, 16), draw(1, 64, 16), draw(2, 8, 16).abs()
    labels = pseudo_labels(features, dictionary, k=5)
    wide = multilabel_loss(query, dictionary, labels, temperature=0.2)
    assert wide.dtype == torch.float64
    for dtype in (torch.float16, torch.bfloat16):
        half = multilabel_loss(query.to(dtype), dictionary.to(dtype), labels, temperature=0.2)
        exact = multilabel_loss(query.to(dtype).double(), dictionary.to(dtype).double(), labels, temperature=0.2)
        assert half.dtype == torch.float32 and float(half) == pytest.approx(float(exact), rel=1e-5)
    plain = multilabel_loss(query.float(), dictionary.float(), labels, temperature=0.2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pseudo_labels(features.float(), dictionary.float(), k=5), labels)
        assert torch.equal(multilabel_loss(query.float(), dictionary.float(), labels, temperature=0.2), plain)


def test_unknown_names_offer_the_nearest():
    query, dictionary, labels = draw(0, 2, 3), draw(1, 4, 3), torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(UserError, match=r"reduction: unknown name 'balance'\. Did you mean 'balanced'"):
        multilabel_loss(query, dictionary, labels, temperature=0.2, reduction="balance")
    with pytest.raises(UserError, match="each_positive"):
        knn_softmax(query, dictionary, labels, temperature=0.2, form="each")
