"""The linear probe: gradients, what it separates, how it chooses, and that it never looks at the test part."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from scenewise.evaluate.metrics import average_precision
from scenewise.evaluate.protocols import linear
from scenewise.evaluate.task import Part, Task

QUICK = linear.Config(iterations=150, epochs=1)


def make_task(seed=0, *, train=120, test=60, classes=3, informative=1.0, multi=True, missing=0.0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(classes, 12, generator=generator)

    def part(images):
        if multi:
            labels = (torch.rand(images, classes, generator=generator) < 0.4).to(torch.int8)
            means = labels.float() @ directions
            labels[torch.rand(images, classes, generator=generator) < missing] = -1
        else:
            labels = torch.randint(0, classes, (images,), generator=generator)
            means = directions[labels]
        return Part(5 + 3 * torch.randn(images, 12, generator=generator) + 3 * informative * means, labels)

    names = tuple(f"c{number}" for number in range(classes))
    return Task(train=part(train), test=part(test), classes=names, multi_label=multi, resamples=20)


@pytest.mark.parametrize("multi", [True, False])
def test_one_step_is_the_gradient_of_the_loss(multi):
    """From zero weights one step of plain SGD moves by the gradient that autograd finds for the loss it names."""
    part = make_task(multi=multi, missing=0.3).train
    config = linear.Config(iterations=1, epochs=1, batch_size=len(part.labels), momentum=0.0)
    layers = linear.fit(part, [(0.5, 0.0), (2.0, 0.1)], 3, seed=0, config=config)
    weight, bias = torch.zeros(12, 3, requires_grad=True), torch.zeros(3, requires_grad=True)
    logits = linear.Standardise.fit(part.features)(part.features) @ weight + bias
    if multi:
        each = F.binary_cross_entropy_with_logits(logits, part.labels.clamp_min(0).float(), reduction="none")
        loss = (each * (part.labels >= 0)).sum(dim=1).mean()
    else:
        loss = F.cross_entropy(logits, part.labels)
    slopes = torch.autograd.grad(loss, (weight, bias))
    for number, rate in enumerate((0.5, 2.0)):
        columns = slice(3 * number, 3 * number + 3)
        torch.testing.assert_close(layers.weight[:, columns], -rate * slopes[0], rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(layers.bias[columns], -rate * slopes[1], rtol=1e-4, atol=1e-7)


def test_grid_points_do_not_touch_one_another():
    part = make_task().train
    grid = [(0.3, 0.0), (3.0, 1e-3), (30.0, 0.0)]
    together = linear.fit(part, grid, 3, seed=0, config=QUICK)(part.features)
    for number, point in enumerate(grid):
        alone = linear.fit(part, [point], 3, seed=0, config=QUICK)(part.features)[0]
        torch.testing.assert_close(together[number], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("multi", [True, False])
def test_separable_data_is_separated(multi):
    task = make_task(informative=30.0, multi=multi)
    outcome = linear.run(task, QUICK)
    assert outcome.figures["mAP" if multi else "top1"].value == pytest.approx(1)
    assert outcome.figures["AP/c0" if multi else "accuracy/c0"].value == pytest.approx(1)


def test_features_without_information_give_about_the_prior():
    task = make_task(informative=0.0, train=300, test=300)
    value = linear.run(task, QUICK).figures["mAP"]
    assert value.low - 0.05 < 0.4 < value.high + 0.05


def test_it_finds_what_a_converged_solver_finds():
    """The minimum of the regularised loss, in the weights themselves, as L-BFGS finds it."""
    part, decay = make_task(train=200, classes=2).train, 1e-2
    config = linear.Config(iterations=3000, batch_size=200)
    layers = linear.fit(part, [(3.0, decay)], 2, seed=0, config=config)
    inputs = linear.Standardise.fit(part.features)(part.features).numpy()
    for number in range(2):
        solver = LogisticRegression(C=1 / (decay * 200), tol=1e-10, max_iter=1000)
        solver.fit(inputs, part.labels[:, number].numpy())
        np.testing.assert_allclose(layers.weight[:, number].numpy(), solver.coef_[0], atol=2e-3)
        np.testing.assert_allclose(layers.bias[number].numpy(), solver.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("multi", [True, False])
def test_the_test_part_chooses_nothing(multi):
    task = make_task(multi=multi)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    other = dataclasses.replace(task, test=Part(task.test.features, task.test.labels[order]))
    (first, chosen), (second, chosen_too) = linear.probe(task, QUICK), linear.probe(other, QUICK)
    assert torch.equal(first, second) and chosen == chosen_too
    assert linear.run(task, QUICK).figures != linear.run(other, QUICK).figures


@pytest.mark.parametrize("multi", [True, False])
def test_the_choice_is_the_best_on_the_held_out_images(multi):
    part = make_task(multi=multi, informative=0.3).train
    grid = [(rate, decay) for decay in (0.0, 1e-2) for rate in (0.01, 1.0, 30.0)]
    point, note = linear.choose(part, grid, 3, seed=0, config=QUICK)
    held = linear.hold_out(part.labels, share=0.2, seed=0)
    judged = {}
    for each in grid:
        layers = linear.fit(Part(part.features[~held], part.labels[~held]), [each], 3, seed=0, config=QUICK)
        scores, labels = layers(part.features[held])[0], part.labels[held]
        if multi:
            judged[each] = np.mean([average_precision(scores[:, c], labels[:, c]) for c in range(3)])
        else:
            judged[each] = float((scores.argmax(dim=1) == labels).float().mean())
    assert judged[point] >= max(judged.values()) - 0.02
    assert f"learning rate {point[0]:g}, weight decay {point[1]:g}, best of 6 on" in note


def test_labels_that_are_not_judged_do_not_count():
    part = make_task(missing=0.3).train
    layers = linear.fit(part, [(1.0, 0.0)], 3, seed=0, config=QUICK)
    hidden = Part(part.features, torch.cat([part.labels[:, :2], torch.full((120, 1), -1, dtype=torch.int8)], dim=1))
    blind = linear.fit(hidden, [(1.0, 0.0)], 3, seed=0, config=QUICK)
    torch.testing.assert_close(blind.weight[:, :2], layers.weight[:, :2])
    assert not blind.weight[:, 2].any() and not blind.bias[2]


def test_a_fifth_of_each_class_is_held_out():
    labels = torch.tensor([0] * 50 + [1] * 20 + [3] * 5 + [4])
    held = linear.hold_out(labels, share=0.2, seed=0)
    assert labels[held].bincount(minlength=5).tolist() == [10, 4, 0, 1, 0]
    assert torch.equal(held, linear.hold_out(labels, share=0.2, seed=0))
    assert not torch.equal(held, linear.hold_out(labels, share=0.2, seed=1))
    assert int(linear.hold_out(torch.zeros(50, 3, dtype=torch.int8), share=0.2, seed=0).sum()) == 10


def test_without_anything_to_choose_on_the_middle_is_taken_and_said():
    part = Part(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(30, 2, dtype=torch.int8))
    point, note = linear.choose(part, [(0.1, 0.0), (1.0, 0.0), (10.0, 0.0)], 2, seed=0, config=QUICK)
    assert point == (1.0, 0.0) and "not chosen: no positive was held out" in note


def test_features_that_never_vary_are_harmless():
    task = make_task(informative=30.0)
    wide = [
        Part(torch.cat([p.features, torch.full((len(p.features), 2), 7.0)], 1), p.labels)
        for p in (task.train, task.test)
    ]
    padded = dataclasses.replace(task, train=wide[0], test=wide[1])
    assert linear.probe(padded, QUICK)[0].isfinite().all()
    assert linear.run(padded, QUICK).figures["mAP"].value == pytest.approx(1)


def test_same_seed_same_scores():
    task = make_task(train=300)
    scores = linear.probe(task, QUICK)[0]
    assert torch.equal(scores, linear.probe(task, QUICK)[0])
    assert not torch.equal(scores, linear.probe(dataclasses.replace(task, seed=1), QUICK)[0])
