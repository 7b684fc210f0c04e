"""ReSSL's and MSVQ's losses against slow NumPy loops, MSVQ's closed-form gradient, and what the papers promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise.losses import multi_view_queue_loss, relate, relation_loss


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(first, second):
    return float(first @ second / (np.linalg.norm(first) * np.linalg.norm(second)))


def slow_softmax(embedding, queue, temperature, counts):
    weights = [
        math.exp(cosine(embedding, row) / temperature) if use else 0.0 for row, use in zip(queue, counts, strict=True)
    ]
    return np.array(weights) / max(sum(weights), 1e-300)


def slow_relation(student, teacher, queue, student_temperature, teacher_temperature, valid):
    total = 0.0
    for i in range(len(student)):
        label = slow_softmax(teacher[i], queue, teacher_temperature, valid[i])
        guess = slow_softmax(student[i], queue, student_temperature, valid[i])
        total -= sum(label[k] * math.log(guess[k]) for k in range(len(queue)) if valid[i][k])
    return total / len(student)


def views(seed, batch=5, rows=9, dim=4):
    """Return the student, two views of the first teacher, one of the second, and the two queues."""
    shapes = [(batch, dim)] * 4 + [(rows, dim), (rows + 2, dim)]
    return [draw(seed + number, *shape) for number, shape in enumerate(shapes)]


def labels_entropy(teacher, queue, *, temperature, valid=None):
    """Return what is told of the soft labels, here of a teacher that is its own student."""
    return relate(
        teacher, teacher, queue, student_temperature=temperature, teacher_temperature=temperature, valid=valid
    ).entropy


@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.2, 0.2), (1.0, 0.03)])
@pytest.mark.parametrize("mask", [None, "shared", "each"])
def test_relation_loss_equals_the_loop(temperatures, mask):
    student, teacher, queue = draw(0, 5, 4), 3 * draw(1, 5, 4), 0.2 * draw(2, 9, 4)
    valid = {None: None, "shared": draw(3, 9) > -0.3, "each": draw(3, 5, 9) > -0.3}[mask]
    table = torch.ones(5, 9, dtype=torch.bool) if valid is None else valid.expand(5, 9)
    arrays = [tensor.numpy() for tensor in (student, teacher, queue)]
    expected = slow_relation(*arrays, *temperatures, table.numpy())
    got = relation_loss(
        student, teacher, queue, student_temperature=temperatures[0], teacher_temperature=temperatures[1], valid=valid
    )
    assert got.item() == pytest.approx(expected, rel=1e-9)
    pairs = zip(arrays[1], table.numpy(), strict=True)
    labels = [slow_softmax(row, arrays[2], temperatures[1], use) for row, use in pairs]
    entropy = np.mean([-sum(p * math.log(p) for p in label if p > 0) for label in labels])
    found = labels_entropy(teacher, queue, temperature=temperatures[1], valid=valid)
    assert found.item() == pytest.approx(entropy, rel=1e-9)


@pytest.mark.parametrize(("batch", "rows"), [(1, 3), (4, 16), (7, 5)])
def test_msvq_equals_three_relations_and_its_gradient_the_closed_form(batch, rows):
    tensors = views(batch, batch, rows)
    arrays = [tensor.numpy() for tensor in tensors]
    z, q1, q2 = arrays[0], arrays[4], arrays[5]
    everything = [np.ones((batch, len(queue)), dtype=bool) for queue in (q1, q2)]
    terms = [
        slow_relation(z, arrays[1], q1, 0.1, 0.04, everything[0]),
        slow_relation(z, arrays[2], q1, 0.1, 0.04, everything[0]),
        slow_relation(z, arrays[3], q2, 0.1, 0.04, everything[1]),
    ]
    student = tensors[0].requires_grad_()
    loss = multi_view_queue_loss(student, *tensors[1:])
    assert loss.item() == pytest.approx(sum(terms) / 3, rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, student)
    expected = np.zeros_like(z)  # papers: dL/du = 1 / (3 N tau) [(2 s1 - p2 - p3) Q1 + (s2 - p4) Q2], u the unit vector
    unit1, unit2 = (queue / np.linalg.norm(queue, axis=1, keepdims=True) for queue in (q1, q2))
    for i in range(batch):
        s1, s2 = slow_softmax(z[i], q1, 0.1, everything[0][i]), slow_softmax(z[i], q2, 0.1, everything[1][i])
        p2, p3 = (slow_softmax(arrays[view][i], q1, 0.04, everything[0][i]) for view in (1, 2))
        p4 = slow_softmax(arrays[3][i], q2, 0.04, everything[1][i])
        along = ((2 * s1 - p2 - p3) @ unit1 + (s2 - p4) @ unit2) / (3 * batch * 0.1)
        length = np.linalg.norm(z[i])
        u = z[i] / length
        expected[i] = (along - u * (u @ along)) / length
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-8, atol=1e-12)


def test_gradients_equal_finite_differences():
    tensors = views(0)
    valid1, valid2 = draw(8, 9) > 0, draw(9, 5, 11) > 0
    student = tensors[0].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: multi_view_queue_loss(z, *tensors[1:], valid1=valid1, valid2=valid2), (student,)
    )
    assert torch.autograd.gradcheck(lambda z: relation_loss(z, tensors[1], tensors[4]), (student,))


def test_teachers_and_queues_get_no_gradient():
    leaves = [tensor.requires_grad_() for tensor in views(0)]
    multi_view_queue_loss(*leaves).backward()
    assert leaves[0].grad is not None and leaves[0].grad.abs().sum() > 0
    assert all(leaf.grad is None for leaf in leaves[1:])
    assert not labels_entropy(leaves[1], leaves[4], temperature=0.04).requires_grad


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**20), batch=st.integers(1, 5), rows=st.integers(1, 8), scale=st.floats(0.01, 100))
def test_what_leaves_the_loss_as_it_is(seed, batch, rows, scale):
    student, first, second, third, queue1, queue2 = views(seed, batch, rows)
    loss = multi_view_queue_loss(student, first, second, third, queue1, queue2)
    one, two, three = (
        torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for n in (rows, rows + 2, batch)
    )
    torch.testing.assert_close(
        multi_view_queue_loss(scale * student, first / scale, second, third * scale, queue1 / scale, queue2), loss
    )
    torch.testing.assert_close(multi_view_queue_loss(student, second, first, third, queue1[one], queue2[two]), loss)
    turned = [tensor[three] for tensor in (student, first, second, third)]
    torch.testing.assert_close(multi_view_queue_loss(*turned, queue1, queue2), loss)
    entropies = [
        labels_entropy(t, q, temperature=0.04) for t, q in ((first, queue1), (second, queue1), (third, queue2))
    ]
    assert loss.item() >= float(sum(entropies)) / 3 - 1e-12  # a divergence is not negative


def test_the_two_queues_are_not_interchangeable():
    student, first, second, third, queue1, queue2 = views(0)
    loss = multi_view_queue_loss(student, first, second, third, queue1, queue2)
    swapped = multi_view_queue_loss(student, first, second, third, queue2, queue1)
    assert abs(loss.item() - swapped.item()) > 1e-3


def test_merging_the_first_teachers_labels_leaves_loss_and_gradient():
    student, first, second, third, queue1, queue2 = views(0)
    student.requires_grad_()
    loss = multi_view_queue_loss(student, first, second, third, queue1, queue2)
    unit = torch.nn.functional.normalize
    merged = sum((unit(z) @ unit(queue1).T / 0.04).softmax(dim=1) for z in (first, second)) / 2
    guess = (unit(student) @ unit(queue1).T / 0.1).log_softmax(dim=1)
    other = relation_loss(student, third, queue2)
    again = (2 * -(merged * guess).sum(dim=1).mean() + other) / 3
    torch.testing.assert_close(again, loss)
    torch.testing.assert_close(torch.autograd.grad(again, student), torch.autograd.grad(loss, student))


def test_with_one_teacher_view_and_queue_it_is_ressl():
    student, teacher, queue = draw(0, 5, 4).float(), draw(1, 5, 4).float(), draw(2, 9, 4).float()
    relation = relation_loss(student, teacher, queue)
    torch.testing.assert_close(multi_view_queue_loss(student, teacher, teacher, teacher, queue, queue), relation)
    everything, nothing = torch.ones(9, dtype=torch.bool), torch.zeros(9, dtype=torch.bool)
    assert torch.equal(relation_loss(student, teacher, queue, valid=everything), relation)
    alone = 3 * multi_view_queue_loss(student, teacher, teacher, teacher, queue, queue, valid1=nothing)
    torch.testing.assert_close(alone, relation)


def test_embeddings_that_coincide_give_log_of_the_queue():
    same = torch.ones(4, 8)
    loss = multi_view_queue_loss(same, same, same, same, torch.ones(4096, 8), torch.ones(4096, 8))
    assert loss.item() == pytest.approx(8.318, abs=1e-3)
    assert labels_entropy(same, torch.ones(4096, 8), temperature=0.04).item() == pytest.approx(math.log(4096), abs=1e-4)


def test_the_ends_of_the_teachers_temperature():
    student, teacher, queue = draw(0, 5, 4), draw(1, 5, 4), draw(2, 9, 4)
    unit = torch.nn.functional.normalize
    guess = (unit(student) @ unit(queue).T / 0.1).log_softmax(dim=1)
    flat = relation_loss(student, teacher, queue, teacher_temperature=1e9)
    torch.testing.assert_close(flat, -guess.mean(dim=1).mean())
    hard = relation_loss(student, teacher, queue, teacher_temperature=1e-5)
    nearest = (unit(teacher) @ unit(queue).T).argmax(dim=1)
    torch.testing.assert_close(hard, torch.nn.functional.nll_loss(guess, nearest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masked", [False, True])
def test_the_divergence_of_equal_relations_is_exactly_zero(dtype, masked):
    student, queue = draw(0, 5, 4).to(dtype).requires_grad_(), draw(2, 9, 4).to(dtype)
    valid = draw(3, 5, 9) > 0 if masked else None
    loss = relation_loss(student, student, queue, student_temperature=0.07, teacher_temperature=0.07, valid=valid)
    assert loss.item() == labels_entropy(student, queue, temperature=0.07, valid=valid).item()
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < (1e-6 if dtype == torch.float32 else 1e-14)


def test_unusable_rows_reach_neither_loss_nor_gradient():
    student, teacher, queue = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4), draw(2, 5, 4)
    valid = torch.tensor([True, True, False, True, False])
    clean = relation_loss(student, teacher, queue[valid])
    queue[~valid] = torch.nan
    loss = relation_loss(student, teacher, queue, valid=valid)
    torch.testing.assert_close(loss, clean)
    torch.testing.assert_close(torch.autograd.grad(loss, student), torch.autograd.grad(clean, student))
    one = relation_loss(student, teacher, queue, valid=torch.arange(5) == 0)  # a single row is certain
    assert one.item() == 0


def test_without_valid_rows_the_loss_is_zero_with_a_graph():
    student, teacher, queue = draw(0, 3, 4).requires_grad_(), draw(1, 3, 4), torch.full((5, 4), torch.nan).double()
    nothing = torch.zeros(5, dtype=torch.bool)
    for loss in (
        relation_loss(student, teacher, queue, valid=nothing),
        relation_loss(student, teacher, queue, valid=nothing.expand(3, 5)),
        relation_loss(student, teacher, queue[:0]),
        multi_view_queue_loss(student, teacher, teacher, teacher, queue, queue, valid1=nothing, valid2=nothing),
    ):
        assert loss.requires_grad and loss.item() == 0
        (gradient,) = torch.autograd.grad(loss, student)
        assert not gradient.any()
    assert labels_entropy(teacher, queue, temperature=0.04, valid=nothing).item() == 0
    some = torch.zeros(3, 6, dtype=torch.bool)
    some[0] = True  # one image has rows, two have none
    queue = draw(2, 6, 4)
    third = relation_loss(student[:1], teacher[:1], queue) / 3
    torch.testing.assert_close(relation_loss(student, teacher, queue, valid=some), third)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_and_autocast_changes_nothing(dtype):
    tensors = [tensor.to(dtype) for tensor in views(0, 4, 64, 16)]
    loss = multi_view_queue_loss(*tensors)
    assert loss.dtype == torch.float32
    wide = multi_view_queue_loss(*(tensor.double() for tensor in tensors))
    assert wide.dtype == torch.float64 and loss.item() == pytest.approx(wide.item(), rel=1e-5)
    mixed = relation_loss(tensors[0], tensors[1].double(), tensors[4].float(), valid=draw(7, 64) > 0)
    assert mixed.isfinite()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(multi_view_queue_loss(*tensors), loss)


def test_vectors_without_length_give_finite_values_and_gradients():
    student = torch.zeros(3, 4, requires_grad=True)
    loss = relation_loss(student, torch.zeros(3, 4), torch.zeros(5, 4))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.item() == pytest.approx(math.log(5), abs=1e-6) and not gradient.any()
