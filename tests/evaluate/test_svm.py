"""The full SVM protocol: beside scikit-learn's own cross-validation, what labels mean, what is said and refused."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.svm import LinearSVC

from scenewise import keys
from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.linear_svm import GRIDS, MAX_ITERATIONS, compact, fit_planes, middle_cost, presence, unit_rows
from scenewise.evaluate.protocols import svm
from scenewise.evaluate.run import choose_protocols
from scenewise.evaluate.task import Part, Task

SHORT = svm.Config(costs=(1.0, 0.0625))


def make_task(seed=0, *, train=60, test=40, width=30, informative=1.0, multi=True, missing=0.0, share=0.4):
    """Features are noise plus a direction per class present, made positive as after a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(3, width, generator=generator)

    def part(images):
        if multi:
            labels = (torch.rand(images, 3, generator=generator) < share).to(torch.int8)
            means = labels.float() @ directions
            labels[torch.rand(images, 3, generator=generator) < missing] = -1
        else:
            labels = torch.randint(0, 3, (images,), generator=generator)
            means = directions[labels]
        return Part((torch.randn(images, width, generator=generator) + informative * means).relu(), labels)

    return Task(train=part(train), test=part(test), classes=("a", "b", "c"), multi_label=multi, resamples=10)


def published(cost, chance):
    """The classifier, written out from the published script."""
    return LinearSVC(
        C=cost,
        class_weight={1: 2, -1: 1},
        intercept_scaling=1.0,
        penalty="l2",
        loss="squared_hinge",
        tol=0.0001,
        dual=True,
        max_iter=2000,
        random_state=chance % 2**31,
    )


@pytest.mark.parametrize("width", [8, 200])
def test_planes_are_scikit_learns_in_the_features_themselves(width):
    task = make_task(width=width)
    rows, present = unit_rows(task.train.features), task.train.labels[:, 0].numpy() > 0
    learnt, other = compact(rows, unit_rows(task.test.features))
    planes = fit_planes(learnt, present, [0.01, 1.0, 10.0], chance=5)
    for place, cost in enumerate([0.01, 1.0, 10.0]):
        model = published(cost, 5).fit(rows, np.where(present, 1, -1))
        np.testing.assert_allclose(planes(learnt)[:, place], model.decision_function(rows), atol=1e-9)
        expected = model.decision_function(unit_rows(task.test.features))
        np.testing.assert_allclose(planes(other)[:, place], expected, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(images=st.integers(1, 12), width=st.integers(1, 12), seed=st.integers(0, 10**6))
def test_compact_keeps_every_dot_product(images, width, seed):
    chance = np.random.default_rng(seed)
    learnt, other = chance.normal(size=(images, width)), chance.normal(size=(3, width))
    learnt[-1] = learnt[0]  # so that the rows do not span all there are
    first, second = compact(learnt, other)
    assert first.shape[1] == min(images, width)
    np.testing.assert_allclose(first @ first.T, learnt @ learnt.T, atol=1e-10)
    np.testing.assert_allclose(second @ first.T, other @ learnt.T, atol=1e-10)


def test_rows_are_divided_by_their_norm_and_a_little():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(unit_rows(features), [[3 / 5.00001, 4 / 5.00001], [0, 0]])
    assert features.tolist() == [[3, 4], [0, 0]]


@pytest.mark.parametrize("column", [0, 2])
def test_c_is_what_scikit_learns_cross_validation_ranks_first(column):
    task, grid = make_task(informative=0.3, train=50), (1.0, 10.0, 0.0625, 0.001)
    rows, present = unit_rows(task.train.features), task.train.labels[:, column].numpy() > 0
    place, folds, unfinished = svm.choose_cost(rows, present, grid, folds=3, seed=4, number=column)
    splitter = StratifiedKFold(3, shuffle=True, random_state=keys.integer(4, "svm", "folds", column) % 2**31)
    signs = np.where(present, 1, -1)
    means = [
        cross_val_score(published(cost, 0), rows, signs, cv=splitter, scoring="average_precision").mean()
        for cost in grid
    ]
    assert (place, folds, unfinished) == (int(np.argmax(means)), 3, 0)


def test_scores_are_of_a_fit_on_all_training_images_with_the_chosen_c():
    task = make_task(informative=0.3)
    scores, notes = svm.classify(task, SHORT)
    rows = unit_rows(task.train.features)
    for column in range(3):
        present = task.train.labels[:, column].numpy() > 0
        place, *_ = svm.choose_cost(rows, present, (1.0, 0.0625), folds=3, seed=0, number=column)
        model = published((1.0, 0.0625)[place], 0).fit(rows, np.where(present, 1, -1))
        expected = model.decision_function(unit_rows(task.test.features))
        np.testing.assert_allclose(scores[:, column].numpy(), expected, atol=1e-3)  # to the solver's tolerance
    assert notes[0].startswith("svm: C of each class by 3-fold average precision on the training images, from 2 values")


@pytest.mark.parametrize("multi", [True, False])
def test_separable_data_is_separated_and_noise_gives_the_prior(multi):
    task = make_task(informative=40.0, multi=multi, width=60)
    figures = task.outcome(svm.classify(task, SHORT)[0]).figures
    assert figures["mAP" if multi else "top1"].value == pytest.approx(1)
    task = make_task(informative=0.0, multi=multi, train=100, test=200)
    figure = task.outcome(svm.classify(task, SHORT)[0]).figures["mAP" if multi else "top1"]
    assert abs(figure.value - (0.4 if multi else 1 / 3)) < 0.1


def test_not_judged_trains_as_negative_unless_left_out_and_never_tests():
    task = make_task(informative=0.5, missing=0.3)
    absent = dataclasses.replace(task, train=Part(task.train.features, task.train.labels.clamp_min(0)))
    unjudged = int((task.train.labels < 0).sum())
    scores, notes = svm.classify(task, SHORT)
    assert torch.equal(scores, svm.classify(absent, SHORT)[0])
    assert f"svm: {unjudged} training labels that are not judged count as absent (published)" in notes
    without, notes = svm.classify(task, dataclasses.replace(SHORT, difficult_as_negative=False))
    assert f"svm: {unjudged} training labels that are not judged are left out" in notes
    judged = (task.train.labels[:, 1] >= 0).numpy()
    one = dataclasses.replace(
        task, train=Part(task.train.features[judged], task.train.labels[judged].clamp_min(0)), test=task.test
    )
    alone, _ = svm.classify(one, SHORT)
    torch.testing.assert_close(without[:, 1], alone[:, 1], atol=1e-3, rtol=0)
    ap = task.outcome(scores).figures["AP/b"].value
    kept = task.test.labels[:, 1] >= 0
    expected = average_precision_score(task.test.labels[kept, 1].numpy(), scores[kept, 1].numpy())
    assert ap == pytest.approx(expected)


def test_the_test_part_chooses_nothing_and_the_seed_fixes_everything():
    task = make_task(informative=0.3)
    other = dataclasses.replace(task, test=Part(task.test.features, task.test.labels.flip(0)))
    (first, notes), (second, same) = svm.classify(task, SHORT), svm.classify(other, SHORT)
    assert torch.equal(first, second) and notes == same


def test_too_few_positives_for_the_folds_is_said():
    task = make_task(train=40)
    labels = task.train.labels.clone()
    labels[:, :2] = 0
    labels[0, 0], labels[:2, 1] = 1, 1
    rare = dataclasses.replace(task, train=Part(task.train.features, labels))
    _, notes = svm.classify(rare, svm.Config(costs=(1.0, 0.5, 100.0)))
    assert "svm: too few training images with or without the class for 3 folds, 2 folds: b" in notes
    assert any(note.endswith("the middle C, 1, not chosen: a") for note in notes)
    assert middle_cost((10.0, 100.0, 1.0)) == 0


def test_without_any_class_for_the_folds_wanted_no_such_number_is_told():
    task = make_task(train=40)
    labels = torch.zeros_like(task.train.labels)
    labels[:4, :2] = 1
    labels[0, 2] = 1
    rare = dataclasses.replace(task, train=Part(task.train.features, labels))
    _, notes = svm.classify(rare, dataclasses.replace(SHORT, folds=9))
    assert notes[0].startswith("svm: C of each class by 4-fold average precision")
    assert "svm: too few training images with or without the class for 9 folds, 4 folds: a, b" in notes
    labels[1:4] = 0
    lone = dataclasses.replace(task, train=Part(task.train.features, labels))
    _, notes = svm.classify(lone, SHORT)
    assert not any("-fold" in note for note in notes)
    assert any(note.endswith("the middle C, 1, not chosen: a, b, c") for note in notes)


def test_one_class_an_image_with_fewer_images_than_folds_is_said():
    task = make_task(multi=False, train=40)
    labels = torch.tensor([0] * 30 + [1] * 8 + [2] * 2)
    task = dataclasses.replace(task, train=Part(task.train.features, labels))
    _, notes = svm.classify(task, dataclasses.replace(SHORT, folds=3))
    assert "svm: fewer training images than the 3 folds, so in some folds only: c" in notes
    _, notes = svm.classify(task, dataclasses.replace(SHORT, folds=35))
    assert "svm: 30 folds instead of 35: no class has more training images" in notes
    assert "svm: fewer training images than the 30 folds, so in some folds only: b, c" in notes
    assert not any("folds" in note for note in svm.classify(task, dataclasses.replace(SHORT, folds=2))[1])


def test_more_folds_than_training_images_are_refused_before_any_is_read(make_source):
    train, test = make_source("train", 24, multi=True), make_source("test", multi=True)
    exam = Exam(backbone=create_backbone("resnet18", seed=0), train=train, test=test, size=32, limit=20)
    svm.PROTOCOL.check(exam, svm.Config(folds=20))
    with pytest.raises(UserError, match=r"svm\.folds: 21 is more than the 20 training images; allowed are 2\.\.20"):
        svm.PROTOCOL.check(exam, svm.Config(folds=21))
    assert train.read_count == 0


def test_a_class_that_all_training_images_have_scores_nothing():
    task = make_task()
    labels = task.train.labels.clone()
    labels[:, 1] = 1
    scores, notes = svm.classify(dataclasses.replace(task, train=Part(task.train.features, labels)), SHORT)
    assert not scores[:, 1].any() and scores[:, 0].any()
    assert "svm: every training image has the class, so all test images score 0: b" in notes


def test_fits_that_do_not_converge_are_counted_not_printed(monkeypatch):
    monkeypatch.setattr("scenewise.evaluate.linear_svm.MAX_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        _, notes = svm.classify(make_task(informative=0.1), svm.Config(costs=(100.0,)))
    assert any(note.startswith("svm: 3 of 3 SVM fits had not converged after 1 iterations") for note in notes)
    assert MAX_ITERATIONS == 2000


def test_the_published_grids():
    for costs in ("vissl", [1, 10.0]):
        ((_, config),) = choose_protocols(["svm"], {"svm": {"costs": costs}}).protocols.values()
        assert config.costs == (costs if costs == "vissl" else (1.0, 10.0))
    assert len(GRIDS["openselfsup"]) == 19 and GRIDS["openselfsup"][:4] == (1, 10, 100, 1 / 16)
    assert GRIDS["openselfsup"][-1] == GRIDS["fair"][-1] == 2.0**-19 and len(GRIDS["fair"]) == 18
    assert GRIDS["vissl"] == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)


def test_it_runs_on_grid_features_of_a_real_backbone(make_source):
    backbone = create_backbone("resnet18", seed=0)
    sources = {"train": make_source("train", 24, multi=True), "test": make_source("test", 16, multi=True)}
    exam = Exam(backbone=backbone, **sources, size=32, resamples=10)
    outcome = svm.PROTOCOL.run(exam, svm.Config())
    assert exam.tasks[next(iter(exam.tasks))].train.features.shape == (24, 512 * 4)
    assert {"mAP", "mAP/area", "mAP/11point", "AP/red"} <= set(outcome.figures)
    assert outcome.figures["mAP/area"].value >= outcome.figures["mAP"].value
    assert any("the published tool reports the area form (mAP/area)" in note for note in outcome.notes)


def test_one_class_an_image_takes_one_c_by_accuracy():
    task = make_task(multi=False)
    scores, notes = svm.classify(task, svm.Config())
    assert sum("for all classes, of 19 values, by 3-fold accuracy" in note for note in notes) == 1
    rows, present = unit_rows(task.train.features), presence(task.train.labels, len(task.classes))[0]
    place, parts, _ = svm.choose_common_cost(rows, present, GRIDS["openselfsup"], folds=3, seed=task.seed)
    alone, _ = svm.classify(task, svm.Config(costs=(GRIDS["openselfsup"][place],)))
    assert parts == 3
    torch.testing.assert_close(scores, alone, rtol=1e-6, atol=1e-6)


def test_a_backbone_without_a_map_is_refused_before_any_image_is_read(make_source):
    train, test = make_source("train", multi=True), make_source("test", multi=True)
    exam = Exam(backbone=create_backbone("vit_tiny_patch16_224", seed=0, size=32), train=train, test=test, size=32)
    with pytest.raises(UserError, match=r"svm: backbone: 'vit_tiny_patch16_224' .*; or set svm.grid=0"):
        svm.PROTOCOL.check(exam, svm.Config())
    svm.PROTOCOL.check(exam, svm.Config(grid=0))
