"""The linear probe: gradients, what it separates, how it chooses, and that it never looks at the test part."""

from __future__ import annotations

import dataclasses
import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from scenewise.errors import UserError
from scenewise.evaluate import linear_recipes
from scenewise.evaluate.batched_precision import batched_precision_statistic
from scenewise.evaluate.held_out import hold_out
from scenewise.evaluate.linear_recipes import RECIPES
from scenewise.evaluate.metrics import average_precision, mean_average_precision
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
    held = hold_out(part.labels, share=0.2, seed=0)
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
    held = hold_out(labels, share=0.2, seed=0)
    assert labels[held].bincount(minlength=5).tolist() == [10, 4, 0, 1, 0]
    assert torch.equal(held, hold_out(labels, share=0.2, seed=0))
    assert not torch.equal(held, hold_out(labels, share=0.2, seed=1))
    assert int(hold_out(torch.zeros(50, 3, dtype=torch.int8), share=0.2, seed=0).sum()) == 10


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


def test_the_default_length_is_twenty_epochs_and_at_least_a_thousand_iterations():
    assert linear._iterations(100, 50, linear.Config()) == 1000
    assert linear._iterations(50_000, 256, linear.Config()) == 3920
    assert linear._iterations(100, 50, linear.Config(epochs=3)) == 6
    assert linear._iterations(100, 50, linear.Config(iterations=7)) == 7


def test_every_recipe_is_a_setting_and_the_other_way_round():
    assert set(get_args(get_type_hints(linear.Config)["recipe"])) == {"grid", *RECIPES}


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"simsiam-lars"}))  # LARC moves too little in 90 steps
def test_every_recipe_learns_what_there_is(name, multi):
    task, config = make_task(informative=3.0, multi=multi), linear.Config(recipe=name)
    outcome = linear.run(task, config)
    blind = make_task(informative=0.0, multi=multi)
    main, prior = ("mAP", 0.4) if multi else ("top1", 1 / 3)
    assert outcome.figures[main].value > prior + 0.25
    assert abs(linear.run(blind, config).figures[main].value - prior) < 0.25
    assert any(note.startswith(f"linear: recipe {name}: ") and "nothing was chosen" in note for note in outcome.notes)
    assert any("also crops and flips" in note for note in outcome.notes)


def replay(part, recipe, batches, rates, *, seed):
    """The recipe in plain PyTorch: the published loop with autograd, momentum and decay written out."""
    features, labels = part.features, part.labels
    if recipe.standardised:
        features = features / features.norm(dim=1, keepdim=True)
        features = (features - features.mean(dim=0)) / (features.var(dim=0) + 1e-5).sqrt()
    values = [value.clone() for value in linear_recipes.start(recipe.start, features.shape[1], 3, seed=seed)]
    speeds = [torch.zeros_like(value) for value in values]
    for rows, rate in zip(batches, rates, strict=True):
        leaves = [value.clone().requires_grad_() for value in values]
        logits = features[rows] @ leaves[0] + leaves[1]
        if labels.dim() == 2:
            loss = F.binary_cross_entropy_with_logits(logits, labels[rows].float())
        else:
            loss = F.cross_entropy(logits, labels[rows])
        for value, speed, slope in zip(values, speeds, torch.autograd.grad(loss, leaves), strict=True):
            if recipe.lars and value.norm() > 0:
                slope = slope * 0.001 * value.norm() / (slope.norm() + 1e-8)
            slope = slope + recipe.weight_decay * value
            speed.mul_(0.9).add_(slope)
            value.sub_(rate * (slope + 0.9 * speed if recipe.nesterov else speed))
    return features @ values[0] + values[1]


@pytest.mark.parametrize("multi", [True, False])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_is_its_published_loop(name, multi):
    """Ten epochs of one batch: the rates are those of the published schedule, shrunk to ten epochs."""
    part, recipe = make_task(multi=multi).train, RECIPES[name]
    scorer, how = linear_recipes.train(part, recipe, 3, seed=2, epochs=10)
    batch = min(120, recipe.batch)
    rate = {"moco": 30, "swav": 0.3, "ressl": 0.3, "msf": 0.01}.get(name) or {
        "simsiam-lars": 0.1 * 120 / 256,
        "simclr": 0.1 * 120 / 256,
        "byol": 0.2 * 120 / 256,
    }[name]
    if name in ("moco", "msf"):
        drops = {"moco": (6, 8), "msf": (3.75, 7.5)}[name]
        rates = [rate * 0.1 ** sum(epoch >= drop for drop in drops) for epoch in range(10)]
    else:
        rates = [rate * 0.5 * (1 + math.cos(math.pi * epoch / 10)) for epoch in range(10)]
    expected = replay(part, recipe, [torch.arange(120)] * 10, rates, seed=2)
    torch.testing.assert_close(scorer(part.features), expected, rtol=2e-3, atol=2e-3)
    assert f"learning rate {rate:g}, batch {batch}, 10 iterations" in how


def test_msf_standardises_unit_features_with_a_little_in_the_root():
    bank = torch.tensor([[3.0, 4.0], [4.0, 3.0], [0.6, 0.8]])  # first of unit length: 0.6, 0.8, 0.6
    got = linear_recipes.standardise(bank)(bank)[:, 0]
    firsts = np.array([0.6, 0.8, 0.6])
    expected = (firsts - firsts.mean()) / np.sqrt(firsts.var(ddof=1) + 1e-5)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)
    assert not linear_recipes.standardise(torch.ones(3, 2))(torch.ones(1, 2)).any()


def test_lars_moves_a_tensor_by_a_share_of_its_own_length():
    weight, gradient = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1e-6])
    for scale in (1.0, 1e3):
        step = linear_recipes.lars_factor(weight, scale * gradient) * scale * gradient
        assert float(step.norm()) == pytest.approx(0.005, rel=0.02)
    assert float(linear_recipes.lars_factor(torch.zeros(2), gradient)) == 1
    assert float(linear_recipes.lars_factor(weight, torch.zeros(2))) == 1


def test_a_cosine_by_epoch_stays_within_the_epoch():
    swav, ressl = (linear_recipes._schedule(RECIPES[name], 40, per_epoch=4) for name in ("swav", "ressl"))
    assert [swav(step) for step in (4, 5, 6, 7)] == [pytest.approx(0.5 * (1 + math.cos(math.pi / 10)))] * 4
    assert ressl(5) == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 40)))


def test_initial_weights():
    weights = {kind: linear_recipes.start(kind, 400, 50, seed=0) for kind in ("zero", "normal", "torch", "haiku")}
    assert not weights["zero"][0].any()
    assert weights["normal"][0].std() == pytest.approx(0.01, rel=0.05) and not weights["normal"][1].any()
    assert weights["torch"][0].abs().max() <= 0.05 and weights["torch"][0].std() == pytest.approx(
        0.05 / 3**0.5, rel=0.05
    )
    assert weights["torch"][1].any() and not weights["haiku"][1].any()
    assert weights["haiku"][0].abs().max() <= 0.1 and weights["haiku"][0].std() == pytest.approx(0.88 * 0.05, rel=0.05)
    torch.manual_seed(0)
    again = linear_recipes.start("normal", 400, 50, seed=0)[0]
    assert torch.equal(again, weights["normal"][0])
    assert not torch.equal(again, linear_recipes.start("normal", 400, 50, seed=1)[0])


def test_recipes_leave_out_labels_that_are_not_judged():
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, 0, -1, 0]] * 3 + [[-1, -1, 1, 0]] * 3, dtype=torch.int8)
    judged = labels >= 0
    expected = F.binary_cross_entropy_with_logits(logits[judged], labels[judged].float())
    torch.testing.assert_close(linear_recipes.classification_loss(logits, labels), expected)
    nothing = linear_recipes.classification_loss(logits, torch.full_like(labels, -1))
    assert float(nothing) == 0


def oac_figure(scores, labels, batch):
    """The published loop: AverageMeter over the batches' mAP, classes without a positive left out."""
    total, count = 0.0, 0
    for begin in range(0, len(scores), batch):
        own, truth = scores[begin : begin + batch], labels[begin : begin + batch]
        figures = []
        for c in range(scores.shape[1]):
            relevant = truth[np.argsort(-own[:, c]), c] == 1
            if relevant.sum() > 0:
                precision = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
                figures.append((precision * relevant).sum() / relevant.sum())
        if figures:
            total += np.mean(figures) * len(own)
            count += len(own)
    return total / count


@pytest.mark.parametrize("batch", [1, 7, 20, 60, 500])
def test_the_mean_of_mini_batches_is_the_published_loop(batch):
    task = make_task(informative=0.2)
    scores = torch.randn(60, 3, generator=torch.Generator().manual_seed(3))
    labels = task.test.labels.clone()
    labels[14:28] = 0  # a batch of 7 without any positive
    weights = torch.ones(1, 60, dtype=torch.long)
    figures = batched_precision_statistic(scores, labels, batch=batch)(weights)
    assert list(figures) == [f"mAP/batches of {batch}"]
    (value,) = figures.values()
    assert float(value) == pytest.approx(oac_figure(scores.double().numpy(), labels.numpy(), batch))
    if batch >= 60:
        assert float(value) == pytest.approx(mean_average_precision(scores, labels))


def test_a_weight_is_as_many_copies_in_the_same_batch():
    generator = torch.Generator().manual_seed(1)
    scores, labels = torch.randn(12, 2, generator=generator), torch.randint(0, 2, (12, 2), generator=generator)
    weights = torch.tensor([[2, 0, 1, 1, 1, 1, 1, 3, 0, 1, 1, 0], [1] * 6 + [0] * 6])
    got = batched_precision_statistic(scores, labels, batch=6)(weights)["mAP/batches of 6"]
    for row, value in zip(weights, got, strict=True):
        parts = [torch.arange(b, b + 6).repeat_interleave(row[b : b + 6]) for b in (0, 6)]
        figures = [(mean_average_precision(scores[p], labels[p]), len(p)) for p in parts if len(p)]
        expected = sum(figure * size for figure, size in figures) / sum(size for _, size in figures)
        assert float(value) == pytest.approx(expected)


@pytest.mark.parametrize("recipe", ["grid", "moco"])
def test_the_compatibility_figure_stands_beside_the_whole_sets(recipe):
    task = make_task(informative=0.1)
    config = linear.Config(recipe=recipe, iterations=20)
    plain, both = linear.run(task, config), linear.run(task, dataclasses.replace(config, batch_map=10))
    assert both.figures["mAP/batches of 10"].value > both.figures["mAP"].value
    assert {name: both.figures[name] for name in plain.figures} == plain.figures
    assert any("reads higher than mAP" in note for note in both.notes) and "mAP/batches of 10" not in plain.figures


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"linear\.batch_map: is for data with several classes"):
        linear.run(make_task(multi=False), linear.Config(batch_map=256))
    with pytest.raises(UserError, match=r"linear\.batch_size: 64 has no effect on recipe moco") as raised:
        linear.Config(recipe="moco", batch_size=64, weight_decays=(1.0,))
    assert len(raised.value.problems) == 2


def test_a_recipe_has_the_same_scores_for_the_same_seed_and_another_length_when_told():
    task = make_task(train=300)
    config = linear.Config(recipe="swav", epochs=3)
    first, said, _ = linear.published(task, config)
    assert torch.equal(first, linear.published(task, config)[0])
    assert not torch.equal(first, linear.published(dataclasses.replace(task, seed=1), config)[0])
    assert "6 iterations" in said and "published: batch 256, 100 epochs, on ImageNet 500,500 iterations" in said
    moved = dataclasses.replace(task, test=Part(task.test.features, task.test.labels.flip(0)))
    assert torch.equal(first, linear.published(moved, config)[0])
