"""Semi-supervised fine-tuning: which images are chosen, which recipe, and what the figures are called."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scenewise.errors import UserError
from scenewise.evaluate.evaluation import CLASS_PREFIXES
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.protocols import finetune, semi
from scenewise.evaluate.run import evaluate_exam

QUICK = semi.Config(iterations=30, epochs=None)


def make_exam(make_source, *, multi=False, images=120, **more):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    train, test = (make_source(name, count, multi=multi) for name, count in (("train", images), ("test", 40)))
    settings = {"backbone": net, "size": 16, "resamples": 20, "cache": False, "train": train, "test": test}
    return Exam(**(settings | more))


@pytest.mark.parametrize("multi", [True, False])
def test_figures_of_each_share(make_source, multi):
    outcome = semi.run(make_exam(make_source, multi=multi), QUICK)
    kinds = ("mAP", "mAP/area", "mAP/11point") if multi else ("top1",)
    assert set(outcome.figures) == {f"{share}/{kind}" for share in ("1%", "10%") for kind in kinds}
    assert not any(name.startswith(CLASS_PREFIXES) for name in outcome.figures)
    assert all(0 <= f.low <= f.high <= 1 for f in outcome.figures.values())
    assert outcome.figures[f"10%/{kinds[0]}"].value > 0.6  # 12 images of a plain problem; the prior is 0.3 to 0.5
    said = [note for note in outcome.notes if note.startswith("semi 1%: 8 of 120 training images (")]
    assert [note.split("), ")[1] for note in said] == ["raised from 1: at least one for each class and 8 in all"]
    assert "semi 1%: learning rate 0.02, of the layer 5, weight decay 0, as set" in outcome.notes
    assert "semi 10%: learning rate 0.01, of the layer 0.2, weight decay 0, as set" in outcome.notes


def test_all_images_are_what_fine_tuning_sees(make_source):
    """With every image the choice is no choice, and the run is that of `finetune` with the same recipe."""
    exam = make_exam(make_source, images=30)
    (recipe,), _ = semi.recipes(QUICK, 1.0)
    both = finetune.Config(
        learning_rates=(recipe.learning_rate,), head_multipliers=(20.0,), weight_decay=0.0, batch_size=256,
        epochs=None, iterations=1,
    )  # fmt: skip
    assert recipe.head_learning_rate == pytest.approx(20 * recipe.learning_rate)
    whole = semi.run(exam, dataclasses.replace(QUICK, fractions=(1.0,), iterations=1))
    assert whole.figures["100%/top1"] == finetune.run(exam, both).figures["top1"]  # one step: no schedule yet


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(2, 12), st.floats(0.001, 1), st.integers(0, 5))
def test_classes_are_as_equal_as_possible(images, classes, fraction, seed):
    rng = np.random.default_rng(images)
    labels = torch.from_numpy(rng.integers(0, classes, images) * rng.integers(0, 2, images))  # 0 is common
    chosen = semi.few(labels, fraction=fraction, classes=classes, seed=seed)
    wanted = min(images, max(round(fraction * images), classes, 8))
    assert int(chosen.sum()) == wanted
    have, taken = labels.bincount(minlength=classes), labels[chosen].bincount(minlength=classes)
    for number in range(classes):  # a class that has images left is at most one behind any other
        if taken[number] < have[number]:
            assert taken[number] >= taken.max() - 1
    assert torch.equal(chosen, semi.few(labels, fraction=fraction, classes=classes, seed=seed))
    more = semi.few(labels, fraction=min(1.0, 2 * fraction), classes=classes, seed=seed)
    assert bool((more | ~chosen).all())  # the smaller choice is part of the larger


@settings(max_examples=40)
@given(st.integers(1, 200), st.integers(1, 12), st.floats(0.001, 1), st.integers(0, 5))
def test_every_class_keeps_a_positive(images, classes, fraction, seed):
    rng = np.random.default_rng(images)
    labels = torch.from_numpy(rng.choice([-1, 0, 1], (images, classes), p=(0.2, 0.75, 0.05))).to(torch.int8)
    chosen = semi.few(labels, fraction=fraction, classes=classes, seed=seed)
    assert int(chosen.sum()) == min(images, max(round(fraction * images), classes, 8))
    assert torch.equal((labels[chosen] > 0).any(dim=0), (labels > 0).any(dim=0))
    more = semi.few(labels, fraction=min(1.0, 2 * fraction), classes=classes, seed=seed)
    assert bool((more | ~chosen).all())


def test_another_seed_is_another_choice():
    labels = torch.arange(400) % 4
    first, other = (semi.few(labels, fraction=0.1, classes=4, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, other) and labels[first].bincount().tolist() == [10] * 4
    common = torch.zeros(1000, 2, dtype=torch.int8)
    common[:500, 0] = 1  # far from any cover, the choice is plain: about half of it has the common class
    chosen = semi.few(common, fraction=0.2, classes=2, seed=0)
    assert abs(int(common[chosen, 0].sum()) - 100) < 25


def test_the_published_grid_is_chosen_from_training_images(make_source):
    config = semi.Config(recipe="openselfsup", fractions=(0.5,), iterations=3, epochs=None)
    grid, usual = semi.recipes(config, 0.5)
    assert len(grid) == 9 and str(usual) in map(str, grid)
    assert {(r.learning_rate, round(r.head_learning_rate / r.learning_rate)) for r in grid} == {
        (rate, factor) for rate in (0.001, 0.01, 0.1) for factor in (1, 10, 100)
    }
    assert {r.weight_decay for r in grid} == {5e-4}
    factors = [usual.schedule(20)(step) for step in range(20)]
    assert factors == pytest.approx([1.0] * 12 + [0.2] * 4 + [0.04] * 4)
    outcome = semi.run(make_exam(make_source, images=40), config)
    assert any("best of 9 on" in note and note.startswith("semi 50%: learning rate") for note in outcome.notes)


def test_too_few_to_choose_on_takes_the_usual_optimum(make_source):
    config = semi.Config(recipe="openselfsup", fractions=(0.01,), iterations=2, epochs=None)
    outcome = semi.run(make_exam(make_source, images=60), config)  # 8 images of 4 classes: a fifth of 2 is none
    assert (
        "semi 1%: learning rate 0.01, of the layer 1, weight decay 0.0005, not chosen: too few training images to "
        "hold some out" in outcome.notes
    )


def test_the_default_rates_go_with_the_share():
    rates = [semi.recipes(semi.Config(), share)[1].head_learning_rate for share in (0.005, 0.01, 0.03, 0.05, 0.1, 0.5)]
    assert rates == [5.0, 5.0, 5.0, 0.2, 0.2, 0.2]
    assert [semi.share_name(share) for share in (0.01, 0.1, 0.005, 1.0, 0.07)] == ["1%", "10%", "0.5%", "100%", "7%"]


def test_wrong_settings_are_said_before_any_image_is_read(make_source):
    exam = make_exam(make_source)
    for bad, words in (
        ({"fractions": ()}, r"semi.fractions: \(\) must be a longer list"),
        ({"fractions": (0.0,)}, r"semi.fractions: 0.0 must be more than 0 and at most 1"),
        ({"fractions": (0.1, 0.1)}, "names a share twice"),
        ({"batch_size": 1}, r"semi.batch_size: 1 must be at least 3"),
        ({"held_out": 0.0}, r"semi.held_out: 0.0 must be more than 0 and below 1"),
        ({"recipe": "swaw"}, "semi.recipe"),
    ):
        with pytest.raises(UserError, match=words):
            evaluate_exam(exam, protocols=["semi"], options={"semi": bad})
    assert exam.train.read_count == exam.test.read_count == 0
