"""Neighbours of single objects: which boxes, what is seen of them, and the figures against a loop."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from scenewise.errors import UserError
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.metrics import recall_at_k
from scenewise.evaluate.object_features import (
    ObjectFeatures,
    Objects,
    crop,
    find_objects,
    neighbours_of,
    object_features,
)
from scenewise.evaluate.protocols import objects
from scenewise.evaluate.run import evaluate_exam
from scenewise.sources.base import Instances

from .scenes import CLASSES, COLOURS, Rectangles


def make_exam(backbone, train=None, test=None, **more):
    chosen = {"size": 8, "resamples": 20, "cache": False} | more
    return Exam(backbone=backbone, train=train or Rectangles("train", 20), test=test or Rectangles("test", 8), **chosen)


def made(seed, count, *, images, classes=3, informative=1.0):
    """Return objects with features around a direction per class."""
    chance = np.random.default_rng([seed, count])
    directions = np.random.default_rng(99).normal(size=(classes, 6))
    labels = chance.integers(0, classes, count)
    image = np.sort(chance.integers(0, images, count))
    boxes = chance.uniform(0, 50, (count, 4)).astype(np.float32)
    features = torch.from_numpy(chance.normal(size=(count, 6)) + informative * directions[labels])
    return ObjectFeatures(Objects(image, boxes, labels), features, image.astype(np.uint64))


def every(count):
    return torch.ones(1, count, dtype=torch.long)


def figures_of(train, test, weights=None, **config):
    owners, first = objects._owners(test)
    found = objects.hits(train, test, config=objects.Config(**config), classes=3)
    statistic = objects.box_statistic(found, torch.from_numpy(test.objects.labels), owners, CLASSES)
    weights = every(len(first)) if weights is None else weights
    return {name: float(value) for name, value in statistic(weights).items()}


# Figures


def test_the_figures_equal_the_loop():
    train, test = made(0, 60, images=20), made(1, 40, images=12)
    got = figures_of(train, test, k=7, temperature=0.2)
    bank, asked = (each.features.numpy() / np.linalg.norm(each.features, axis=1)[:, None] for each in (train, test))
    right = {name: [] for name in ("recall@1", "recall@5", "recall@10", "top1")}
    for query, label in zip(asked, test.objects.labels, strict=True):
        similar = bank @ query
        order = np.argsort(-similar)
        for k in (1, 5, 10):
            right[f"recall@{k}"].append(label in train.objects.labels[order[:k]])
        votes = [
            sum(math.exp(similar[row] / 0.2) for row in order[:7] if train.objects.labels[row] == c) for c in range(3)
        ]
        right["top1"].append(np.argmax(votes) == label)
    expected = {name: np.mean(hits) for name, hits in right.items()}
    for number, name in enumerate(CLASSES):
        expected[f"accuracy/{name}"] = np.array(right["top1"])[test.objects.labels == number].mean()
    assert got == pytest.approx(expected)
    for k in (1, 5, 10):
        labels = (torch.from_numpy(each.objects.labels) for each in (test, train))
        assert got[f"recall@{k}"] == pytest.approx(recall_at_k(test.features, train.features, *labels, k=k))


def test_a_perfect_predictor_gets_one_and_a_constant_one_the_share_of_its_class():
    train, test = made(0, 60, images=20, informative=1000.0), made(1, 40, images=12, informative=1000.0)
    assert set(figures_of(train, test).values()) == {1.0}
    blind = dataclasses.replace(test, features=torch.ones_like(test.features))
    common = figures_of(dataclasses.replace(train, features=torch.ones_like(train.features)), blind, k=60)
    winner = np.bincount(train.objects.labels).argmax()
    assert common["top1"] == pytest.approx((test.objects.labels == winner).mean())
    assert common["recall@1"] == pytest.approx((test.objects.labels == train.objects.labels[0]).mean())


def test_counting_an_image_twice_is_having_its_boxes_twice():
    train, test = made(0, 60, images=20), made(1, 40, images=12)
    images = np.unique(test.objects.image)
    times = np.random.default_rng(0).integers(0, 3, len(images))
    weighted = figures_of(train, test, torch.from_numpy(times)[None])
    rows = np.repeat(np.arange(40), times[np.searchsorted(images, test.objects.image)])
    repeated = ObjectFeatures(
        Objects(np.arange(len(rows)), test.objects.boxes[rows], test.objects.labels[rows]),
        test.features[torch.from_numpy(rows)],
        test.digest[rows],
    )
    assert weighted == pytest.approx(figures_of(train, repeated))


def test_the_neighbours_of_an_object_are_named_with_image_box_and_cosine():
    train, test = made(0, 30, images=9), made(1, 20, images=5)
    found = neighbours_of(test, [3, 17], train, count=4)
    assert [len(each) for each in found] == [4, 4]
    bank = train.features.numpy() / np.linalg.norm(train.features, axis=1)[:, None]
    for row, neighbours in zip((3, 17), found, strict=True):
        query = test.features[row].numpy() / np.linalg.norm(test.features[row])
        for place, neighbour in zip(np.argsort(-(bank @ query))[:4], neighbours, strict=True):
            assert neighbour.image == train.objects.image[place] and neighbour.label == train.objects.labels[place]
            assert neighbour.box == pytest.approx(tuple(train.objects.boxes[place]))
            assert neighbour.cosine == pytest.approx(bank[place] @ query)
    assert [len(each) for each in neighbours_of(test, [0], train, count=99)] == [30]
    assert neighbours_of(test, [], train, count=3) == []


# Boxes and crops


class Placed(Rectangles):
    """One image with boxes of all sorts."""

    def instances(self, index, *, masks=False):
        boxes = [[0, 0, 20, 20], [5, 5, 20, 21], [-30, 0, 17, 40], [10, 10, 30, 30], [40, 0, 40, 9]]
        ignored = [False, False, False, True, False]
        return Instances(np.array(boxes, np.float32), np.arange(5) % 3, np.array(ignored))


def test_boxes_are_clipped_and_small_or_ignored_ones_counted():
    found = find_objects(Placed("x", 2), np.array([0, 1]), min_side=16)
    assert found.boxes.tolist() == 2 * [[0, 0, 20, 20], [0, 0, 17, 40]]
    assert found.image.tolist() == [0, 0, 1, 1] and found.labels.tolist() == [0, 2, 0, 2]
    assert (found.ignored, found.small) == (2, 4)
    assert len(find_objects(Placed("x", 1), np.array([0]), min_side=0)) == 3  # the empty one is never seen


def test_a_crop_shows_the_object_and_with_a_margin_what_is_around_it():
    source = Rectangles("train", 12)
    for number in range(12):
        found = source.instances(number)
        record = source[number]
        tight = crop(record, record.read(), found.boxes[-1:], size=8, margin=0.0)[0]
        assert tight.shape == (8, 8, 3)
        assert np.abs(tight.astype(int) - COLOURS[found.classes[-1]]).max() <= 1  # nothing is before the last one
        wide = crop(record, record.read(), found.boxes[-1:], size=8, margin=1.0)[0]
        assert np.abs(wide.astype(int) - COLOURS[found.classes[-1]]).max() > 50


def test_an_image_is_read_once_for_all_its_boxes_and_not_without_any(backbone):
    reads = []

    class Counted(Rectangles):
        def read(self, index):
            reads.append(index)
            return super().read(index)

    source = Counted("train", 20, empty=(3, 4))
    found = object_features(make_exam(backbone, source), "train", margin=0.0, min_side=1.0, key=None)
    assert reads == [number for number in range(20) if number not in (3, 4)]
    assert len(found.objects) == sum(len(source.instances(number).classes) for number in range(20))
    assert backbone.training and not any(training or grad for _, training, grad in backbone.calls)


@pytest.mark.parametrize("batch_size", [1, 7, 128])
def test_features_follow_their_boxes_whatever_the_batches(backbone, batch_size):
    source = Rectangles("train", 12, bad=(2, 5), ignored=0.3)
    exam = make_exam(backbone, source, batch_size=batch_size)
    found = object_features(exam, "train", margin=0.0, min_side=4.0, key=None)
    assert [skip.index for skip in found.skipped] == [2, 5]
    assert len(found.objects) == len(found.features) == len(found.digest) and found.objects.ignored > 0
    for row in range(len(found.objects)):
        record = source[int(found.objects.image[row])]
        seen = crop(record, record.read(), found.objects.boxes[row : row + 1], size=8, margin=0.0)
        values = (torch.from_numpy(seen).float() / 255 - torch.tensor(exam.mean)) / torch.tensor(exam.std)
        expected = backbone(values.permute(0, 3, 1, 2))[0].detach()
        torch.testing.assert_close(found.features[row], expected, rtol=1e-4, atol=1e-4)
    assert max(count for count, training, grad in backbone.calls if not grad) <= batch_size


def test_kept_features_are_those_computed(backbone):
    exam = make_exam(backbone, Rectangles("train", 12, bad=(2,)))
    first, again = (object_features(exam, "train", margin=0.0, min_side=4.0, key="k") for _ in range(2))
    calls = len(backbone.calls)
    assert torch.equal(first.features, again.features) and first.skipped == again.skipped
    assert np.array_equal(first.objects.boxes, again.objects.boxes) and np.array_equal(first.digest, again.digest)
    object_features(exam, "train", margin=0.1, min_side=4.0, key="k")
    assert len(backbone.calls) > calls  # another margin is another crop


# The protocol


def test_objects_of_one_colour_find_each_other(backbone):
    result = evaluate_exam(make_exam(backbone), protocols=["objects"])
    figures = result.protocols["objects"]
    assert set(figures) == {"recall@1", "recall@5", "recall@10", "top1", *(f"accuracy/{name}" for name in CLASSES)}
    assert figures["recall@1"].value > 0.9 and figures["top1"].value > 0.9
    boxes = sum(len(Rectangles("test", 8).instances(i).classes) for i in range(8))
    assert result.counts["test_boxes"] + result.counts["test_boxes_small"] == boxes
    assert len(result.outcomes["objects"].images) == result.counts["test_images"] <= 8
    assert any(note.startswith(f"objects: {result.counts['test_boxes']} boxes among") for note in result.notes)


def test_what_is_left_out_is_counted_and_said(backbone):
    train = Rectangles("train", 30, classes=(0, 1), bad=(4,), ignored=0.2)
    test = Rectangles("test", 12, bad=(0, 3), ignored=0.2)
    result = evaluate_exam(make_exam(backbone, train, test), protocols=["objects"])
    assert result.counts["train_skipped"] == 1 and result.counts["test_skipped"] == 2
    assert result.counts["train_boxes_ignored"] > 0 and result.counts["test_boxes_ignored"] > 0
    assert "objects: left out, no positive among the training images: blue" in result.notes
    assert "accuracy/blue" not in result.protocols["objects"] and result.counts["classes"] == 2
    assert any(
        re.match(r"test: 2 of \d+ images were unreadable and left out: rectangles:test/0", note)
        for note in result.notes
    )


def test_recall_at_more_than_there_are_is_left_out_and_said(backbone):
    exam = make_exam(backbone, Rectangles("train", 4))
    result = evaluate_exam(exam, protocols=["objects"], options={"objects": {"k": 1}})
    assert result.counts["train_boxes"] < 10
    assert "recall@10" not in result.protocols["objects"] and "recall@1" in result.protocols["objects"]
    assert any("too few training boxes for recall@10" in note for note in result.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"objects\.k: 0 must be at least 1"),
        ({"k": 999}, r"objects\.k: 999 is not possible with \d+ training boxes; allowed are 1\.\."),
        ({"min_side": 500}, r"train data: no labelled box .* is left: 0 are ignored, \d+ have a side under 500 px"),
    ],
)
def test_settings_that_do_not_fit_are_refused(backbone, options, message, monkeypatch):
    monkeypatch.setattr(objects, "object_features", None)  # no image is read before
    with pytest.raises(UserError, match=message):
        evaluate_exam(make_exam(backbone), protocols=["objects"], options={"objects": options})


def test_nothing_readable_is_an_error(backbone):
    with pytest.raises(UserError, match="train data: none of 5 images could be read; truncated"):
        objects.run(make_exam(backbone, Rectangles("train", 5, bad=range(5))), objects.Config())
