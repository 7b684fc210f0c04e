"""Transport plans, SwAV's codes and the losses they weight, against matrix scaling in NumPy and the papers' figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.losses import (
    instance_loss,
    instance_marginals,
    match_instances,
    prototype_codes,
    sinkhorn_plan,
    swapped_prediction,
)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(first, second):
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def share(weights):
    return weights / weights.sum()


def slow_plan(cost, rows, columns, epsilon, iterations):
    """Scale the kernel's rows, then its columns, until the sums are the marginals: the textbook form, no logarithm."""
    plan = np.exp(-cost / epsilon)
    for _ in range(iterations):
        for m in range(len(rows)):
            plan[m] *= rows[m] / plan[m].sum() if rows[m] else 0.0
        for n in range(len(columns)):
            plan[:, n] *= columns[n] / plan[:, n].sum() if columns[n] else 0.0
    return plan


def slow_codes(scores, epsilon, iterations):
    """SwAV's published loop on prototypes x images."""
    codes = np.exp(scores.T / epsilon)
    codes /= codes.sum()
    for _ in range(iterations):
        codes /= codes.sum(axis=1, keepdims=True) * len(codes)
        codes /= codes.sum(axis=0, keepdims=True) * codes.shape[1]
    return (codes * codes.shape[1]).T


def slow_swapped(scores, assign, codes, temperature):
    per_assigning = []
    for number, view in enumerate(assign):
        per_view = []
        for other in range(len(scores)):
            if other == view:
                continue
            total = 0.0
            for b in range(len(scores[0])):
                chances = np.exp(scores[other][b] / temperature)
                total -= sum(codes[number][b] * np.log(chances / chances.sum()))
            per_view.append(total / len(scores[0]))
        per_assigning.append(sum(per_view) / len(per_view))
    return sum(per_assigning) / len(per_assigning)


# --- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 0.5])
@pytest.mark.parametrize("iterations", [1, 3, 50])
def test_the_plan_equals_matrix_scaling(epsilon, iterations):
    cost, rows, columns = draw(0, 5, 4, 3).abs(), draw(1, 5, 4).abs(), draw(2, 5, 3).abs()
    plan = sinkhorn_plan(cost, rows, columns, epsilon=epsilon, iterations=iterations)
    for b in range(5):
        marginals = share(rows[b].numpy()), share(columns[b].numpy())
        expected = slow_plan(cost[b].numpy(), *marginals, epsilon, iterations)
        np.testing.assert_allclose(plan[b].numpy(), expected, rtol=1e-9)


def test_the_hand_examples_of_the_paper():
    online = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double()
    target = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]).double()
    cost = torch.tensor([[[0.0, 0.29289322], [1.0, 0.29289322]]]).double()
    uniform = torch.ones(1, 2).double()
    plan = sinkhorn_plan(cost, uniform, uniform)
    np.testing.assert_allclose(plan[0], [[0.49778448, 0.00504874], [0.00221552, 0.49495126]], atol=1e-7)
    assert instance_loss(online, target, plan).item() == pytest.approx(-0.8513378697, abs=1e-8)
    once = sinkhorn_plan(cost, uniform, uniform, iterations=1)
    np.testing.assert_allclose(once[0], [[0.49955342, 0.02416519], [0.00044658, 0.47583481]], atol=1e-7)
    weighted = sinkhorn_plan(cost, torch.tensor([[2.0, 1.0]]).double(), torch.tensor([[1.0, 2.0]]).double())
    np.testing.assert_allclose(weighted[0], [[0.33331820, 0.33334847], [0.00001513, 0.33331820]], atol=1e-7)
    assert instance_loss(online, target, weighted).item() == pytest.approx(-0.8047227229, abs=1e-8)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**20), count=st.integers(1, 5), scale=st.floats(1e-3, 1e3), wide=st.booleans())
def test_a_plan_moves_one_mass_between_its_marginals(seed, count, scale, wide):
    cost, rows, columns = draw(seed, 3, count, count).abs(), draw(seed + 1, 3, count), draw(seed + 2, 3, count)
    if not wide:
        cost, rows, columns = cost.float(), rows.float(), columns.float()
    exact = 1e-12 if wide else 1e-6

    def missing(plan, side, dim):
        positive = side.clamp_min(0)
        empty = positive.sum(dim=1, keepdim=True) == 0
        shares = torch.where(empty, 1 / count, positive / positive.sum(dim=1, keepdim=True))
        return (plan.sum(dim=dim) - shares).abs().sum(dim=1)

    plans = [sinkhorn_plan(cost, rows, columns, iterations=number) for number in (1, 2, 10, 50)]
    for plan in plans:
        assert plan.dtype == cost.dtype and (plan >= 0).all()
        assert (missing(plan, columns, 1) <= 5 * exact).all()  # scaled last
    for plan, later in itertools.pairwise(plans):  # what a scaling of one side takes from the other never grows
        assert (missing(later, rows, 2) <= missing(plan, rows, 2) + 5 * exact).all()
    plan = plans[-1]
    turn, flip = (torch.randperm(count, generator=torch.Generator().manual_seed(seed + i)) for i in range(2))
    moved = sinkhorn_plan(cost[:, turn][:, :, flip], scale * rows[:, turn], columns[:, flip] / scale)
    torch.testing.assert_close(moved, plan[:, turn][:, :, flip], rtol=1e-4, atol=1e-5)


def test_a_constant_on_a_row_of_the_costs_changes_nothing():
    cost, rows, columns = draw(0, 2, 4, 4).abs(), draw(1, 2, 4).abs(), draw(2, 2, 4).abs()
    plan = sinkhorn_plan(cost, rows, columns, epsilon=0.5, iterations=500)
    shifted = sinkhorn_plan(cost + draw(3, 2, 4, 1), rows, columns, epsilon=0.5, iterations=500)
    torch.testing.assert_close(shifted, plan)
    np.testing.assert_allclose(plan.sum(dim=2), rows / rows.sum(dim=1, keepdim=True), rtol=1e-8)


def test_a_large_epsilon_gives_the_outer_product_of_the_marginals():
    rows, columns = draw(1, 3, 4).abs(), draw(2, 3, 4).abs()
    plan = sinkhorn_plan(draw(0, 3, 4, 4).abs(), rows, columns, epsilon=1e6)
    outer = (rows / rows.sum(1, keepdim=True))[:, :, None] * (columns / columns.sum(1, keepdim=True))[:, None]
    torch.testing.assert_close(plan, outer, rtol=1e-5, atol=0)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_small_epsilon_gives_the_best_matching(count):
    cost, uniform = draw(count, 6, count, count).abs(), torch.ones(6, count).double()
    plan = sinkhorn_plan(cost, uniform, uniform, epsilon=0.005, iterations=2000)
    for b in range(6):
        orders = itertools.permutations(range(count))
        price, best = min((sum(float(cost[b, m, n]) for m, n in enumerate(order)), order) for order in orders)
        assert plan[b].argmax(dim=1).tolist() == list(best)
        paid = float((plan[b] * cost[b]).sum())  # off by epsilon times an entropy, and by rows not yet converged
        assert paid == pytest.approx(price / count, abs=0.005 * np.log(count) + 1e-3)


def test_identical_instances_give_the_uniform_plan():
    uniform = torch.ones(2, 4).double()
    plan = sinkhorn_plan(torch.full((2, 4, 4), 0.7).double(), uniform, uniform)
    torch.testing.assert_close(plan, torch.full_like(plan, 1 / 16))


def test_weights_of_zero_give_zeros_and_a_side_without_any_becomes_uniform():
    cost = draw(0, 1, 3, 3).abs()
    rows, columns = torch.tensor([[0.0, 1.0, 2.0]]).double(), torch.tensor([[1.0, 0.0, 1.0]]).double()
    plan = sinkhorn_plan(cost, rows, columns)
    assert not plan[0, 0].any() and not plan[0, :, 1].any() and plan.sum().item() == pytest.approx(1)
    uniform = torch.ones(1, 3).double()
    for nothing in (torch.zeros(1, 3).double(), torch.full((1, 3), 1e-9).double(), torch.full((1, 3), -2.0).double()):
        torch.testing.assert_close(sinkhorn_plan(cost, nothing, columns), sinkhorn_plan(cost, uniform, columns))
        torch.testing.assert_close(sinkhorn_plan(cost, rows, nothing), sinkhorn_plan(cost, rows, uniform))
    negative = torch.tensor([[-5.0, 1.0, 2.0]]).double()
    assert torch.equal(sinkhorn_plan(cost, negative, columns), plan)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_plan_in_single_precision_is_near_the_double_one(dtype):
    cost, rows, columns = (2 * torch.rand(8, 4, 4)).to(dtype), torch.rand(8, 4).to(dtype), torch.rand(8, 4).to(dtype)
    wide = sinkhorn_plan(cost.double(), rows.double(), columns.double())
    plan = sinkhorn_plan(cost, rows, columns)
    assert plan.dtype == torch.float32
    torch.testing.assert_close(plan.double(), wide, rtol=1e-3, atol=1e-6)
    hard = sinkhorn_plan(cost, rows, columns, epsilon=1e-3)  # exp(-2 / 0.001) is 0 in any precision
    assert hard.isfinite().all() and hard.sum(dim=(1, 2)).tolist() == pytest.approx([1.0] * 8, abs=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sinkhorn_plan(cost, rows, columns), plan)


def test_plans_and_codes_carry_no_gradient():
    leaves = [draw(0, 2, 3, 3).requires_grad_(), draw(1, 2, 3).requires_grad_(), draw(2, 2, 3).requires_grad_()]
    assert not sinkhorn_plan(*leaves).requires_grad
    assert not prototype_codes(draw(0, 4, 3).requires_grad_()).requires_grad


# --- which instances belong together ---------------------------------------------------------------------------------


def slow_marginals(online, target, online_scenes, target_scenes, features):
    """The printed formula, one image and one instance at a time."""
    sides = [side.double().numpy() for side in (online, target, online_scenes, target_scenes)]
    if features == "l2":
        sides = [side / np.linalg.norm(side, axis=-1, keepdims=True) for side in sides]
    o, t, fo, ft = sides
    rows, columns = np.zeros(o.shape[:2]), np.zeros(t.shape[:2])
    for b, k in itertools.product(*map(range, o.shape[:2])):
        rows[b, k] = max(0.0, o[b, k] @ (ft[b, 0] + ft[b, 1]) / 2)
        columns[b, k] = max(0.0, t[b, k] @ (fo[b, 0] + fo[b, 1]) / 2)
    return rows, columns


def instances_and_scenes(seed, batch=6, count=4, width=5):
    return [draw(seed + i, batch, n, width) for i, n in enumerate((count, count, 2, 2))]


@pytest.mark.parametrize("features", ["raw", "l2"])
def test_the_marginals_equal_the_printed_formula(features):
    sides = instances_and_scenes(0)
    found, expected = instance_marginals(*sides, features=features), slow_marginals(*sides, features)
    for side, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(side, wanted, rtol=1e-12)
        assert (side == 0).any() and (side > 0).any()
    longer = instance_marginals(*(3 * side for side in sides), features=features)
    torch.testing.assert_close(longer, tuple(side * (9 if features == "raw" else 1) for side in found))


def test_the_hand_example_of_the_marginals_and_of_their_plan():
    online = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]).double()
    target = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]).double()
    online_scenes, target_scenes = (torch.tensor([[scene, scene]]).double() for scene in ([1.0, 1.0], [2.0, 1.0]))
    rows, columns = instance_marginals(online, target, online_scenes, target_scenes)
    assert (rows.tolist(), columns.tolist()) == ([[2.0, 1.0]], [[1.0, 2.0]])
    matching = match_instances(online, target, online_scenes, target_scenes)
    np.testing.assert_allclose(matching.plan[0], [[0.33331820, 0.33334847], [0.00001513, 0.33331820]], atol=1e-7)
    assert instance_loss(online, target, matching.plan).item() == pytest.approx(-0.8047227229, abs=1e-8)
    assert matching.diagonal.item() == pytest.approx(2 * 0.33331820, abs=1e-7)
    assert matching.row_error.item() == pytest.approx(2 / 3 - 0.33331820 - 0.33334847, abs=1e-7)
    assert matching.uniform_share.item() == 0


@pytest.mark.parametrize("norm", ["sum1", "none"])
@pytest.mark.parametrize("features", ["raw", "l2"])
def test_the_matching_equals_matrix_scaling_between_the_marginals(features, norm):
    sides = instances_and_scenes(0)
    settings = {"marginal_features": features, "marginal_norm": norm, "epsilon": 0.5, "iterations": 7}
    found = match_instances(*sides, **settings)
    rows, columns = slow_marginals(*sides, features)
    assert (rows.sum(axis=1) > 0).all() and (columns.sum(axis=1) > 0).all()
    diagonal, errors = [], []
    for b in range(len(rows)):
        cost = np.array([[1 - cosine(o, t) for t in sides[1][b].numpy()] for o in sides[0][b].numpy()])
        plan = slow_plan(cost, share(rows[b]), share(columns[b]), 0.5, 7)
        diagonal.append(np.trace(plan))
        errors.append(abs(plan.sum(axis=1) - share(rows[b])).max())
        # as printed: the kernel is scaled to marginals of different mass, columns last
        expected = plan if norm == "sum1" else slow_plan(cost, rows[b], columns[b], 0.5, 7)
        np.testing.assert_allclose(found.plan[b], expected, rtol=1e-9, atol=1e-15)
    assert found.diagonal.item() == pytest.approx(np.mean(diagonal), rel=1e-9)
    assert found.row_error.item() == pytest.approx(np.mean(errors), rel=1e-6)
    assert 1e-6 < found.row_error.item() < 0.2


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), count=st.integers(1, 5))
def test_the_order_of_the_instances_permutes_the_plan(seed, count):
    online, target, *scenes = instances_and_scenes(seed, batch=2, count=count)
    turn, flip = (torch.randperm(count, generator=torch.Generator().manual_seed(seed + i)) for i in range(2))
    plain, moved = match_instances(online, target, *scenes), match_instances(online[:, turn], target[:, flip], *scenes)
    torch.testing.assert_close(moved.plan, plain.plan[:, turn][:, :, flip])
    torch.testing.assert_close(instance_loss(online[:, turn], target[:, flip], moved.plan), (
        instance_loss(online, target, plain.plan)
    ))  # fmt: skip
    if count == 1:
        torch.testing.assert_close(plain.plan, torch.ones(2, 1, 1).double())


def test_instances_unlike_every_scene_are_weighed_alike_and_counted():
    online, target, *scenes = instances_and_scenes(0, batch=2)
    against = -scenes[1][:1].mean(dim=1, keepdim=True)
    unlike = torch.cat([against.expand(1, 4, 5), online[1:]])  # image 0: every product with the scenes is negative
    found = match_instances(unlike, target, *scenes)
    np.testing.assert_allclose(found.plan[0].sum(dim=1), [0.25] * 4, atol=0.01)
    assert found.uniform_share.item() == 0.25  # one of the four marginals
    nothing = match_instances(torch.zeros(2, 4, 5), torch.zeros(2, 4, 5), *(torch.zeros(2, 2, 5),) * 2)
    torch.testing.assert_close(nothing.plan, torch.full((2, 4, 4), 1 / 16))
    assert nothing.uniform_share == 1 and nothing.diagonal.item() == pytest.approx(0.25)
    massless = match_instances(unlike, -unlike, *scenes, marginal_norm="none")
    assert massless.plan.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_matching_lifts_half_precision_and_autocast_changes_nothing(dtype):
    sides = [(3 * side).to(dtype) for side in instances_and_scenes(0, batch=16, width=64)]
    found, wide = match_instances(*sides), match_instances(*(side.double() for side in sides))
    assert found.plan.dtype == torch.float32
    torch.testing.assert_close(found.plan.double(), wide.plan, rtol=1e-3, atol=1e-6)
    assert abs(instance_loss(*sides[:2], found.plan).item() - instance_loss(*sides[:2], wide.plan).item()) < 1e-3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(match_instances(*sides).plan, found.plan)


def test_a_matching_carries_no_gradient():
    found = match_instances(*(side.requires_grad_() for side in instances_and_scenes(0)))
    assert not any(value.requires_grad for value in (found.plan, found.diagonal, found.row_error, found.uniform_share))


# --- the instance term ----------------------------------------------------------------------------------------------


def test_the_instance_loss_and_its_gradient_equal_the_loops():
    online, target = draw(0, 3, 4, 6).requires_grad_(), 2 * draw(1, 3, 4, 6)
    plan = sinkhorn_plan(draw(2, 3, 4, 4).abs(), draw(3, 3, 4).abs(), draw(4, 3, 4).abs())
    value, expected = 0.0, np.zeros((3, 4, 6))
    o, t, y = online.detach().numpy(), target.numpy(), plan.numpy()
    for b, m, n in itertools.product(range(3), range(4), range(4)):
        length, similarity = np.linalg.norm(o[b, m]), cosine(o[b, m], t[b, n])
        value -= y[b, m, n] * similarity / 3
        pull = t[b, n] / np.linalg.norm(t[b, n]) - similarity * o[b, m] / length
        expected[b, m] -= y[b, m, n] * pull / length / 3
    loss = instance_loss(online, target, plan)
    assert loss.item() == pytest.approx(value, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, online)
    np.testing.assert_allclose(gradient, expected, atol=1e-14)
    assert torch.autograd.gradcheck(lambda rows: instance_loss(rows, target, plan), (online,))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**20), count=st.integers(1, 5), scale=st.floats(0.01, 100))
def test_the_order_and_length_of_the_instances_do_not_matter(seed, count, scale):
    online, target = draw(seed, 2, count, 4), draw(seed + 1, 2, count, 4)

    def loss(first, second):
        unit_first, unit_second = (torch.nn.functional.normalize(side, dim=2) for side in (first, second))
        cost = 1 - unit_first @ unit_second.transpose(1, 2)
        weights = torch.ones(2, count).double()
        return instance_loss(first, second, sinkhorn_plan(cost, weights, weights))

    value = loss(online, target)
    turn = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss(scale * online, target[:, turn] / scale), value)
    assert -1 - 1e-12 <= value.item() <= 1 + 1e-12
    if count == 1:
        cosines = [cosine(online[b, 0].numpy(), target[b, 0].numpy()) for b in range(2)]
        assert value.item() == pytest.approx(-sum(cosines) / 2)


def test_targets_and_plan_get_no_gradient_and_vectors_without_length_are_finite():
    leaves = [draw(0, 2, 3, 4).requires_grad_(), draw(1, 2, 3, 4).requires_grad_(), draw(2, 2, 3, 3).requires_grad_()]
    instance_loss(*leaves).backward()
    assert leaves[0].grad is not None and leaves[0].grad.abs().sum() > 0
    assert leaves[1].grad is None and leaves[2].grad is None
    empty = torch.zeros(2, 3, 4, requires_grad=True)
    loss = instance_loss(empty, torch.zeros(2, 3, 4), torch.full((2, 3, 3), 1 / 9))
    (gradient,) = torch.autograd.grad(loss, empty)
    assert loss.item() == 0 and not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_instance_loss_lifts_half_precision_and_autocast_changes_nothing(dtype):
    online, target, plan = draw(0, 2, 4, 64).to(dtype), draw(1, 2, 4, 64).to(dtype), torch.full((2, 4, 4), 1 / 16)
    loss = instance_loss(online, target, plan)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(instance_loss(online.double(), target.double(), plan).item(), abs=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(instance_loss(online, target, plan), loss)


# --- codes and swapped prediction -----------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_codes_equal_the_published_loop(iterations):
    scores = draw(0, 7, 5).tanh()
    got = prototype_codes(scores, epsilon=0.05, iterations=iterations)
    np.testing.assert_allclose(got, slow_codes(scores.numpy(), 0.05, iterations), rtol=1e-9)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20), batch=st.integers(1, 8), prototypes=st.integers(1, 8), size=st.sampled_from([1, 1e3])
)
def test_codes_are_distributions_whatever_the_order(seed, batch, prototypes, size):
    scores = size * draw(seed, batch, prototypes)
    codes = prototype_codes(scores)
    torch.testing.assert_close(codes.sum(dim=1), torch.ones(batch).double())
    assert (codes >= 0).all() and codes.isfinite().all()
    images, columns = (torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n in (batch, prototypes))
    torch.testing.assert_close(prototype_codes(scores[images][:, columns]), codes[images][:, columns])
    shifted = scores + draw(seed + 1, prototypes)  # what all images like more is no information
    torch.testing.assert_close(prototype_codes(shifted), codes)


def test_codes_share_the_prototypes_equally_in_the_end():
    codes = prototype_codes(draw(0, 12, 4), epsilon=0.5, iterations=200)
    torch.testing.assert_close(codes.sum(dim=0), torch.full((4,), 3.0).double())
    once = prototype_codes(draw(0, 12, 4), iterations=0)
    torch.testing.assert_close(once, (draw(0, 12, 4) / 0.05).softmax(dim=1))
    joined = prototype_codes(draw(0, 12, 4))
    assert not torch.allclose(joined[:6], prototype_codes(draw(0, 12, 4)[:6]))  # why a queue makes a difference


@pytest.mark.parametrize(("views", "assign"), [(2, (0, 1)), (4, (0, 1)), (3, (2,)), (3, (0, 1, 2))])
@pytest.mark.parametrize("given_codes", [False, True])
def test_swapped_prediction_equals_the_loops(views, assign, given_codes):
    scores = [draw(seed, 6, 5).tanh() for seed in range(views)]
    codes = [draw(9 + seed, 6, 5).softmax(dim=1) for seed in range(len(assign))] if given_codes else None
    tables = [slow_codes(scores[view].numpy(), 0.05, 3) for view in assign]
    expected = slow_swapped([s.numpy() for s in scores], assign, [c.numpy() for c in codes] if codes else tables, 0.1)
    assert swapped_prediction(scores, assign=assign, codes=codes).item() == pytest.approx(expected, rel=1e-10)


def test_the_gradient_reaches_every_view_and_none_flows_through_codes():
    scores = [draw(seed, 4, 3).requires_grad_() for seed in range(3)]
    codes = [prototype_codes(view) for view in scores[:2]]
    assert torch.autograd.gradcheck(lambda *views: swapped_prediction(list(views), codes=codes), scores)
    own = torch.autograd.grad(swapped_prediction(scores), scores)
    fixed = torch.autograd.grad(swapped_prediction(scores, codes=codes), scores)
    for first, second in zip(own, fixed, strict=True):
        assert torch.equal(first, second) and first.any()
    leaves = [code.requires_grad_() for code in codes]
    swapped_prediction(scores, codes=leaves).backward()
    assert all(leaf.grad is None for leaf in leaves)


def test_swapping_views_changes_nothing_and_equal_scores_give_log_of_the_prototypes():
    first, second = draw(0, 6, 5), draw(1, 6, 5)
    torch.testing.assert_close(swapped_prediction([first, second]), swapped_prediction([second, first]))
    level = swapped_prediction([torch.zeros(6, 5), torch.zeros(6, 5)])
    assert level.item() == pytest.approx(np.log(5), abs=1e-6)
    with pytest.raises(AssertionError):
        swapped_prediction([first])
    with pytest.raises(AssertionError):
        swapped_prediction([first, second], codes=[first])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_swapped_prediction_lifts_half_precision_and_autocast_changes_nothing(dtype):
    scores = [draw(seed, 6, 5).tanh().to(dtype) for seed in range(2)]
    loss = swapped_prediction(scores)
    assert loss.dtype == prototype_codes(scores[0]).dtype == torch.float32
    assert loss.item() == pytest.approx(swapped_prediction([view.double() for view in scores]).item(), rel=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(swapped_prediction(scores), loss)
