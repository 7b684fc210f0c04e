"""The low-shot SVM protocol: what is drawn, who chooses C, the mean over the samples, beside a plain loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from sklearn.svm import LinearSVC

from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.features import Look
from scenewise.evaluate.linear_svm import presence, unit_rows
from scenewise.evaluate.metrics import mean_average_precision
from scenewise.evaluate.protocols import svm_lowshot as lowshot
from scenewise.evaluate.task import Part, Task

SHORT = lowshot.Config(k=(1, 2, 4), samples=2, negatives=3, costs=(1.0, 0.01), grid=0)


def make_task(seed=0, *, train=60, test=40, informative=1.0, multi=True, missing=0.0):
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(3, 24, generator=generator)

    def part(images):
        if multi:
            labels = (torch.rand(images, 3, generator=generator) < 0.3).to(torch.int8)
            means = labels.float() @ directions
            labels[torch.rand(images, 3, generator=generator) < missing] = -1
        else:
            labels = torch.randint(0, 3, (images,), generator=generator)
            means = directions[labels]
        return Part((torch.randn(images, 24, generator=generator) + informative * means).relu(), labels)

    return Task(train=part(train), test=part(test), classes=("a", "b", "c"), multi_label=multi, resamples=20)


@pytest.fixture
def assess(make_source, backbone):
    """Return a function that runs the protocol on features that are there already."""
    exam = Exam(backbone=backbone, train=make_source("train"), test=make_source("test"), size=32)

    def run(task, config):
        ready = dataclasses.replace(exam, tasks={Look(square=True, grid=config.grid): task})
        return lowshot.PROTOCOL.run(ready, config)

    return run


def test_a_sample_has_k_images_with_the_class_and_negatives_that_are_judged_absent():
    task = make_task(missing=0.2)
    present, judged = presence(task.train.labels, 3)
    seen = set()
    for number in range(5):
        rows = lowshot.draw(present[:, 1], judged[:, 1], 4, number, 1, negatives=3, seed=0)
        assert len(set(rows.tolist())) == len(rows) == 16 and (np.diff(rows) > 0).all()
        assert present[rows, 1].sum() == 4 and judged[rows, 1].all()
        again = lowshot.draw(present[:, 1], judged[:, 1], 4, number, 1, negatives=3, seed=0)
        assert np.array_equal(rows, again)
        seen.add(tuple(rows))
    assert len(seen) == 5
    all_there_are = lowshot.draw(present[:, 1], judged[:, 1], 4, 0, 1, negatives=1000, seed=0)
    assert (~present[all_there_are, 1]).sum() == (judged & ~present)[:, 1].sum()


@pytest.mark.parametrize("choose_c", ["train", "test"])
def test_figures_are_those_of_a_plain_loop(assess, choose_c):
    task, config = make_task(informative=0.6), dataclasses.replace(SHORT, choose_c=choose_c, k=(4,))
    present, judged = presence(task.train.labels, 3)
    rows, test = unit_rows(task.train.features), unit_rows(task.test.features)
    wanted = task.test.labels.numpy()
    judges = {cost: [] for cost in config.costs}
    figures = {cost: [] for cost in config.costs}
    for cost in config.costs:
        for number in range(2):
            scores = np.zeros((40, 3))
            for c in range(3):
                chosen = lowshot.draw(present[:, c], judged[:, c], 4, number, c, negatives=3, seed=0)
                model = LinearSVC(C=cost, class_weight={1: 2, -1: 1}, dual=True, max_iter=2000, random_state=0)
                model.fit(rows[chosen], np.where(present[chosen, c], 1, -1))
                scores[:, c] = model.decision_function(test)
                free = np.setdiff1d(np.arange(60), chosen)
                if choose_c == "train":
                    ranked = model.decision_function(rows[free])
                    judges[cost].append(average_precision_score(present[free, c], ranked))
            if choose_c == "test":
                judges[cost].append(
                    mean_average_precision(torch.from_numpy(scores), torch.from_numpy(wanted), form="area")
                )
            figures[cost].append(np.mean([average_precision_score(wanted[:, c], scores[:, c]) for c in range(3)]))
    best = max(config.costs, key=lambda cost: np.mean(judges[cost]))
    outcome = assess(task, config)
    assert outcome.figures["mAP/k=4"].value == pytest.approx(np.mean(figures[best]), abs=0.01)
    said = next(note for note in outcome.notes if note.startswith("svm-lowshot: k = 4: C = "))
    assert f"C = {best:g} of 2" in said and (("TEST" in said) == (choose_c == "test"))
    assert any(f"{100 * np.std(figures[best]):.2f}"[:3] in note for note in outcome.notes if "deviation" in note)


def test_the_figure_is_the_mean_inside_the_statistic(assess):
    task = make_task(informative=0.5)
    outcome = assess(task, SHORT)
    assert set(outcome.figures) == {f"{name}/k={k}" for name in ("mAP", "mAP/area") for k in (1, 2, 4)}
    for figure in outcome.figures.values():
        assert figure.low <= figure.high and 0 <= figure.value <= 1
    weights = torch.ones(1, 40, dtype=torch.long)
    assert float(outcome.statistic(weights)["mAP/k=2"][0]) == outcome.figures["mAP/k=2"].value


def test_the_test_part_chooses_nothing_unless_asked():
    task = make_task(informative=0.2)
    other = dataclasses.replace(task, test=Part(task.test.features, task.test.labels.flip(0)))
    present, judged = presence(task.train.labels, 3)
    for choose_c, same in (("train", True), ("test", False)):
        config = dataclasses.replace(SHORT, choose_c=choose_c, costs=(100.0, 1.0, 0.1, 1e-4), k=(1, 4))
        found = [lowshot.shoot(each, config, present, judged, [1, 4]) for each in (task, other)]
        assert all(torch.equal(found[0][k].scores, found[1][k].scores) for k in (1, 4)) == same


def test_the_published_choice_is_by_the_area_form():
    """Two rankings of seven images: positives first and last, or second and third; the two forms disagree."""
    labels = torch.tensor([[1], [1], [0], [0], [0], [0], [0]], dtype=torch.int8)
    split, middle = [7.0, 1.0, 6.0, 5.0, 4.0, 3.0, 2.0], [6.0, 5.0, 7.0, 4.0, 3.0, 2.0, 1.0]
    sample = lowshot.Sample(
        np.stack([split, middle], axis=1)[None], np.zeros((1, 2)), np.zeros((1, 7), dtype=np.bool_), 0
    )
    scores = [torch.tensor(each)[:, None] for each in (split, middle)]
    step, area = ([mean_average_precision(s, labels, form=form) for s in scores] for form in ("step", "area"))
    assert step[0] > step[1] and area[0] < area[1]
    task = Task(train=Part(torch.eye(7), labels), test=Part(torch.eye(7), labels), classes=("a",), multi_label=True)
    assert lowshot.choose_on_test([sample], np.eye(7), task)[0] == 1


@pytest.mark.parametrize("multi", [True, False])
def test_separable_data_is_separated_from_few_images(assess, multi):
    outcome = assess(make_task(informative=60.0, multi=multi, train=90), dataclasses.replace(SHORT, k=(8,)))
    assert outcome.figures["mAP/k=8" if multi else "top1/k=8"].value > 0.95


def test_a_k_that_the_data_cannot_hold_is_named(assess):
    task = make_task()
    labels = task.train.labels.clone()
    labels[:, 1] = 0
    labels[:3, 1] = 1
    rare = dataclasses.replace(task, train=Part(task.train.features, labels))
    outcome = assess(rare, dataclasses.replace(SHORT, k=(2, 4, 8)))
    assert {name.rpartition("=")[2] for name in outcome.figures} == {"2"}
    assert any(
        "without k = 4, 8, as class b has 3 positives among the training images" in note for note in outcome.notes
    )
    with pytest.raises(
        UserError, match=r"svm-lowshot\.k: class b has 3 positives among the training images; give a smaller k than 4"
    ):
        assess(rare, dataclasses.replace(SHORT, k=(4, 8)))
    outcome = assess(task, dataclasses.replace(SHORT, k=(2,), negatives=40))
    assert any("fewer than 40 k images without a class, all there are: k = 2" in note for note in outcome.notes)


def test_without_a_positive_outside_the_sample_the_middle_is_taken(assess):
    task = make_task()
    labels = torch.zeros_like(task.train.labels)
    labels[:2] = 1
    few = dataclasses.replace(task, train=Part(task.train.features, labels))
    outcome = assess(few, dataclasses.replace(SHORT, k=(2,), costs=(9.0, 3.0, 27.0)))
    assert any("k = 2: C = 9 of 3, not chosen" in note for note in outcome.notes)


def test_it_runs_on_grid_features_of_a_real_backbone(make_source):
    exam = Exam(
        backbone=create_backbone("resnet18", seed=0),
        train=make_source("train", 24, multi=True),
        test=make_source("test", 16, multi=True),
        size=32,
        resamples=10,
    )
    outcome = lowshot.PROTOCOL.run(exam, lowshot.Config(samples=2, costs=(1.0, 0.1)))
    assert "mAP/k=4" in outcome.figures and len(outcome.images) == 16


def test_c_is_not_chosen_on_images_that_all_have_the_class_or_all_lack_it():
    rows, present = np.eye(4), np.array([[True], [True], [False], [False]])
    weights, offsets = np.zeros((1, 4, 3)), np.zeros((1, 3))
    for outside in ([True, False, False, False], [False, False, True, True]):
        sample = lowshot.Sample(weights, offsets, np.array([outside]), 0)
        place, how = lowshot.choose_on_train([sample], rows, present, (1.0, 0.1, 0.01))
        assert place == 1 and how.startswith("not chosen")
