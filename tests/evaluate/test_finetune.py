"""Fine-tuning: it learns, repeats itself, leaves the caller's backbone alone, and says what it chose and left out."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.evaluate import finetuning, training_images
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.protocols import finetune
from scenewise.evaluate.run import evaluate_exam
from scenewise.evaluate.training import DivergedError, cosine
from scenewise.evaluate.training_images import Labelled, augmented_batches, labelled
from scenewise.views.augmentations import augmentation

QUICK = finetune.Config(iterations=40, epochs=None, batch_size=20, learning_rates=(0.1,), head_multipliers=(1.0,))


class Net(nn.Sequential):
    """(B, 3, S, S) -> (B, 8): one convolution with batch norm, and dropout, which draws from torch's global state."""

    def __init__(self, seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            super().__init__(
                nn.Conv2d(3, 8, 3, stride=2),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Dropout(0.1),
            )


def make_exam(make_source, *, multi=False, images=60, **more):
    settings = {"backbone": Net(), "size": 16, "resamples": 20, "cache": False}
    train, test = (make_source(name, count, multi=multi) for name, count in (("train", images), ("test", 40)))
    return Exam(**({"train": train, "test": test} | settings | more))


def values(outcome):
    return {name: figure.value for name, figure in outcome.figures.items()}


@pytest.mark.parametrize("multi", [True, False])
def test_colours_are_learnt_and_the_backbone_stays_as_it_was(make_source, multi):
    exam = make_exam(make_source, multi=multi)
    exam.backbone[0].weight.requires_grad_(False)  # a frozen layer is trained all the same, in the copy
    before = {name: value.clone() for name, value in exam.backbone.state_dict().items()}
    exam.backbone.eval()
    state = torch.random.get_rng_state()
    outcome = finetune.run(exam, QUICK)
    assert values(outcome)["mAP" if multi else "top1"] > 0.95
    assert set(values(outcome)) == (
        {"mAP", "mAP/area", "mAP/11point", "AP/red", "AP/green", "AP/blue"}
        if multi
        else {"top1", "accuracy/none", "accuracy/red", "accuracy/green", "accuracy/yellow"}
    )
    assert all(torch.equal(value, before[name]) for name, value in exam.backbone.state_dict().items())
    assert not exam.backbone.training and not exam.backbone[0].weight.requires_grad
    assert torch.equal(torch.random.get_rng_state(), state)  # dropout drew from a state of its own
    assert "finetune: learning rate 0.1, of the layer 0.1, weight decay 1e-05, as set" in outcome.notes
    assert outcome.counts["train_images"] == 60 and outcome.counts["test_images"] == 40


def test_labels_that_do_not_follow_from_the_pixels_give_about_the_prior(make_source):
    exam = make_exam(make_source, multi=True)
    for part in (exam.train, exam.test):
        part.labels()[:] = np.random.default_rng(len(part)).permutation(part.labels())
    value = finetune.run(exam, QUICK).figures["mAP"]
    assert value.low - 0.1 < (exam.test.labels() > 0).mean() < value.high + 0.1


def test_same_seed_same_figures_whatever_the_workers(make_source):
    config = dataclasses.replace(QUICK, iterations=5)
    exam = make_exam(make_source, multi=True)
    first = finetune.run(exam, config)
    torch.manual_seed(1)  # nobody draws from it
    again = finetune.run(make_exam(make_source, multi=True, workers=2), config)
    assert first.figures == again.figures and first.notes == again.notes
    problem = finetuning.Problem(labelled(exam, exam.task(), "train"), classes=3, width=8)
    (recipe,) = finetune.recipes(config)
    networks = [
        finetuning.fine_tune(dataclasses.replace(exam, seed=seed, workers=workers), problem, recipe, title="x")[0]
        for seed, workers in ((0, 0), (0, 2), (1, 0))
    ]
    weights = [torch.cat([value.flatten().double() for value in net.state_dict().values()]) for net in networks]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_views_depend_on_epoch_and_image_alone(make_source):
    source = make_source("train", 12)
    rows = Labelled(source, np.arange(2, 12), torch.from_numpy(source.labels()[2:]))

    def views(seed=0, batch=4, name="a", workers=0, images=rows):
        seen = {}
        for number, each in enumerate(
            augmented_batches(images, size=8, batch=batch, iterations=12, seed=seed, name=name, workers=workers)
        ):
            for row, view in zip(each.index.tolist(), each.views["image"][0], strict=True):
                seen.setdefault((number // math.ceil(len(images) / batch), int(images.index[row])), view)
        return seen

    first, small = views(), views(batch=2)
    assert {image for _, image in first} == set(range(2, 12)) and {epoch for epoch, _ in first} == {0, 1, 2, 3}
    both = first.keys() & small.keys()
    assert len(both) >= 20 and all(torch.equal(first[key], small[key]) for key in both)
    assert all(torch.equal(first[key], view) for key, view in views(workers=2).items())
    fewer = views(images=rows.only(torch.arange(10) % 2 == 0))
    assert all(torch.equal(first[key], fewer[key]) for key in first.keys() & fewer.keys())
    assert any(not torch.equal(first[0, image], first[1, image]) for image in range(2, 12))
    assert any(not torch.equal(first[key], view) for key, view in views(seed=1).items())


def test_the_loss_is_torchs_own_where_all_is_judged():
    generator = torch.Generator().manual_seed(0)
    logits, numbers = torch.randn(6, 4, generator=generator), torch.randint(0, 4, (6,), generator=generator)
    torch.testing.assert_close(finetuning.classification_loss(logits, numbers), F.cross_entropy(logits, numbers))
    several = torch.randint(0, 2, (6, 4), generator=generator).to(torch.int8)
    whole = F.binary_cross_entropy_with_logits(logits, several.float())
    torch.testing.assert_close(finetuning.classification_loss(logits, several), whole)
    hidden = several.clone()
    hidden[0], hidden[3, 2] = -1, -1
    judged = [(r, c) for r in range(1, 6) for c in range(4) if (r, c) != (3, 2)]
    each = [F.softplus(logits[r, c] if several[r, c] == 0 else -logits[r, c]) for r, c in judged]
    torch.testing.assert_close(finetuning.classification_loss(logits, hidden), torch.stack(each).mean())
    assert finetuning.classification_loss(logits, torch.full_like(several, -1)) == 0


def test_unreadable_images_are_left_out_and_counted(make_source):
    train, test = make_source("train", bad=range(0, 60, 7)), make_source("test", 40, bad=(0, 1, 20))
    exam = make_exam(make_source, train=train, test=test)
    outcome = finetune.run(exam, QUICK)
    assert values(outcome)["top1"] > 0.95
    assert outcome.counts["train_images"] == 51 and outcome.counts["test_images"] == 37
    assert len(outcome.skipped["train"]) == 9 and len(outcome.skipped["test"]) == 3
    assert any(note.startswith("test: 3 of 40 images were unreadable") for note in outcome.notes)


def test_labels_stay_with_their_images(make_source):
    """Some images unreadable, some without a label, one class too rare to learn: the rest are the right ones."""
    train, test = make_source("train", bad=(3, 4)), make_source("test", 40, bad=(7,))
    train.labels()[[5, 6]] = -1
    train.labels()[np.flatnonzero(train.labels() == 1)[2:]] = 0
    exam = make_exam(make_source, train=train, test=test, min_positives=3)
    task = exam.task()
    assert task.classes == ("none", "green", "yellow")
    for part, source in (("train", train), ("test", test)):
        found = labelled(exam, task, part)
        names = [source.classes[number] for number in source.labels()[found.index]]
        assert names == [task.classes[number] for number in found.labels.tolist()]
        assert not set(found.index.tolist()) & source.bad
    assert values(finetune.run(exam, dataclasses.replace(QUICK, iterations=3))).keys() >= {"top1", "accuracy/green"}


def test_an_image_that_fails_in_training_is_replaced_and_said(make_source, monkeypatch):
    exam = make_exam(make_source)
    exam.task()
    exam.train.bad = frozenset({11})
    outcome = finetune.run(exam, dataclasses.replace(QUICK, iterations=6))
    assert any(
        note == "finetune: 1 training images could not be read at times, others took their place: 11.png (truncated)"
        for note in outcome.notes
    )
    exam.test.bad = frozenset({2})
    with pytest.raises(UserError, match=r"1 images of colours:test could be read at first .* 2\.png \(truncated\)"):
        finetune.run(exam, dataclasses.replace(QUICK, iterations=1))


def test_test_images_that_are_also_training_images_are_said(make_source):
    train = make_source("train")
    test = make_source("test", 40)
    test.colours[:2] = train.colours[:2]
    outcome = finetune.run(make_exam(make_source, train=train, test=test), dataclasses.replace(QUICK, iterations=2))
    assert "2 of 40 test images are pixel for pixel also training images" in outcome.notes


@pytest.mark.parametrize("multi", [True, False])
def test_the_settings_are_chosen_on_held_out_training_images(make_source, multi):
    config = dataclasses.replace(QUICK, learning_rates=(1e-6, 0.1), iterations=10)
    exam = make_exam(make_source, multi=multi, images=40)
    outcome = finetune.run(exam, config)
    (note,) = [note for note in outcome.notes if note.startswith("finetune: ")]
    quantity = "mAP" if multi else "accuracy"
    assert note.startswith("finetune: learning rate 0.1, of the layer 0.1, weight decay 1e-05, best of 2 on ")
    assert f" of 40 training images ({quantity} " in note
    other = make_exam(make_source, multi=multi, images=40)
    other.test.labels()[:] = np.random.default_rng(0).permutation(other.test.labels())
    (same,) = [note for note in finetune.run(other, config).notes if note.startswith("finetune: ")]
    assert same == note  # the test labels choose nothing


def test_what_diverges_is_an_error_or_out_of_the_choice(make_source):
    exam = make_exam(make_source)
    wild = dataclasses.replace(QUICK, learning_rates=(1e30,))
    with pytest.raises(UserError, match=r"finetune: the (loss is|scores are) no longer"):
        finetune.run(exam, wild)
    both = finetune.run(exam, dataclasses.replace(QUICK, learning_rates=(1e30, 0.1), iterations=20))
    assert values(both)["top1"] > 0.8
    assert any(note.endswith("; 1 of them diverged") for note in both.notes)
    with pytest.raises(UserError, match="no longer a number at any of 2 settings"):
        finetune.run(exam, dataclasses.replace(QUICK, learning_rates=(1e30, 1e29)))
    assert issubclass(DivergedError, UserError)


def test_frozen_batch_norm_keeps_its_statistics(make_source):
    exam = make_exam(make_source)
    problem = finetuning.Problem(labelled(exam, exam.task(), "train"), classes=4, width=8)
    for kind in ("train", "frozen"):
        (recipe,) = finetune.recipes(dataclasses.replace(QUICK, batch_norm=kind, iterations=3))
        network, _ = finetuning.fine_tune(exam, problem, recipe, title="x")
        kept = torch.equal(network.trunk[1].running_mean, exam.backbone[1].running_mean)
        assert kept == (kind == "frozen")
        assert not torch.equal(network.trunk[1].weight, exam.backbone[1].weight)  # scales are learnt either way
        assert not network.training


def test_trunk_and_layer_have_their_own_rates(make_source):
    exam = make_exam(make_source)
    problem = finetuning.Problem(labelled(exam, exam.task(), "train"), classes=4, width=8)
    recipe = finetuning.Recipe(
        learning_rate=1e-12, head_learning_rate=0.1, weight_decay=0.0, batch_size=20, epochs=None, iterations=2,
        schedule=cosine,
    )  # fmt: skip
    start = finetuning.fine_tune(exam, problem, dataclasses.replace(recipe, head_learning_rate=1e-12), title="x")[0]
    network = finetuning.fine_tune(exam, problem, recipe, title="x")[0]
    torch.testing.assert_close(network.trunk[0].weight, exam.backbone[0].weight)
    assert (network.head.weight - start.head.weight).abs().max() > 1e-3
    assert float(start.head.weight.detach().std()) == pytest.approx(0.01, rel=0.4)
    assert start.head.bias.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_resnets_and_vits(make_source, name):
    exam = make_exam(make_source, images=12, backbone=create_backbone(name, seed=0, size=32), size=32)
    outcome = finetune.run(exam, finetune.Config(iterations=2, epochs=None, batch_size=6))
    assert 0 <= values(outcome)["top1"] <= 1


def test_wrong_settings_are_all_said_before_any_image_is_read(make_source):
    exam = make_exam(make_source)
    options = {
        "batch_size": 2, "learning_rates": (), "head_multipliers": (-1.0,), "weight_decay": -1.0, "momentum": 1.0,
        "held_out": 1.0, "epochs": None, "iterations": None,
    }  # fmt: skip
    with pytest.raises(UserError) as caught:
        evaluate_exam(exam, protocols=["finetune"], options={"finetune": options})
    assert len(caught.value.problems) == 7
    assert exam.train.read_count == exam.test.read_count == 0


def test_one_training_image_is_too_few(make_source):
    exam = make_exam(make_source, multi=True, images=1)
    exam.train.labels()[:] = 1
    with pytest.raises(UserError, match="1 training image is too few"):
        finetune.run(exam, QUICK)


def test_training_crops_are_plain_crops_and_mirrors():
    drawn = augmentation(training_images.AUGMENTATION)
    assert (drawn.flip, drawn.jitter, drawn.grey, drawn.blur, drawn.solarise) == (0.5, 0, 0, 0, 0)
    assert training_images.SCALE == (0.08, 1.0) and drawn.ratio == (3 / 4, 4 / 3)
