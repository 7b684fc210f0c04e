"""Figures of detections against pycocotools and faster-coco-eval, against VOC's rule in plain loops, and by weights."""

from __future__ import annotations

import contextlib
import io

import faster_coco_eval as faster
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from scenewise.evaluate.detection_figures import detection_statistic, voc_statistic
from scenewise.evaluate.detection_matches import Detections, Objects, box_areas, encode, mask_areas, match_image

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
SIDE = 160
CLASSES = ("cat", "dog", "bird")


def draw_boxes(chance, count):
    corners = chance.uniform(0, SIDE * 0.7, (count, 2))
    sides = chance.uniform(4, SIDE * 0.6, (count, 2)) * chance.choice([0.2, 1.0], (count, 1))
    return np.concatenate([corners, np.minimum(corners + sides, SIDE)], axis=1)


def draw_mask(box, chance):
    """Return an ellipse in the box, perhaps without its left half."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    (left, top, right, bottom) = box
    inside = ((columns - (left + right) / 2) * 2 / (right - left)) ** 2 + (
        (rows - (top + bottom) / 2) * 2 / (bottom - top)
    ) ** 2 <= 1
    return inside & ((columns > (left + right) / 2) | (chance.random() < 0.8))


def draw_image(chance, *, classes=3, ties=True, crowds=0.2, masks=False):
    """Return objects and detections: jittered copies of the objects, some doubled, and some of nothing."""
    count = int(chance.integers(0, 5))
    boxes, kinds = draw_boxes(chance, count), chance.integers(0, classes, count)
    copies = boxes[chance.integers(0, count, 2 * count)] if count else boxes
    shifted = copies + chance.normal(0, 2.5, copies.shape)
    guesses = np.concatenate([shifted, draw_boxes(chance, int(chance.integers(0, 4)))])
    low, high = np.minimum(guesses[:, :2], guesses[:, 2:]), np.maximum(guesses[:, :2], guesses[:, 2:])
    guesses = np.concatenate([low, high + 1], axis=1)
    guessed = chance.integers(0, classes, len(guesses))
    if count:
        same = ((boxes[:, None] - guesses[None]) ** 2).sum(axis=2).argmin(axis=0)
        guessed = np.where(chance.random(len(guesses)) < 0.8, kinds[same], guessed)
    scores = chance.random(len(guesses))
    scores = np.round(scores, 1) if ties else scores
    shapes = encode(np.array([draw_mask(b, chance) for b in boxes], bool).reshape(-1, SIDE, SIDE)) if masks else []
    seen = encode(np.array([draw_mask(b, chance) for b in guesses], bool).reshape(-1, SIDE, SIDE)) if masks else []
    areas = mask_areas(shapes) if masks else box_areas(boxes)
    objects = Objects(boxes, kinds, chance.random(count) < crowds, areas, tuple(shapes))
    return objects, Detections(guesses, guessed, scores, tuple(seen))


def draw_images(seed, images, **more):
    chance = np.random.default_rng(seed)
    return [draw_image(chance, **more) for _ in range(images)]


def matched(images, shape="box", classes=3):
    return [match_image(*image, classes=classes, shape=shape) for image in images]


def figures(statistic, weights=None, images=None):
    weights = torch.ones(1, images, dtype=torch.long) if weights is None else weights
    return {name: float(value[0]) for name, value in statistic(weights).items()}


def as_coco(images):
    """Return the ground truth and the detections as COCO's dictionaries."""
    annotations, results = [], []
    for number, (objects, found) in enumerate(images, start=1):
        for place, (left, top, right, bottom) in enumerate(objects.boxes):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(objects.classes[place]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(objects.areas[place]),
                    "iscrowd": int(objects.ignored[place]),
                }
                | ({"segmentation": objects.masks[place]} if objects.masks else {})
            )
        for place, (left, top, right, bottom) in enumerate(found.boxes):
            results.append(
                {
                    "image_id": number,
                    "category_id": int(found.classes[place]) + 1,
                    "score": float(found.scores[place]),
                }
                | (
                    {"segmentation": found.masks[place]}
                    if found.masks
                    else {"bbox": [left, top, right - left, bottom - top]}
                )
            )
    truth = {
        "info": {},
        "images": [{"id": number + 1, "height": SIDE, "width": SIDE} for number in range(len(images))],
        "categories": [{"id": number + 1, "name": name} for number, name in enumerate(CLASSES)],
        "annotations": annotations,
    }
    return truth, results


def library(images, shape, tables=COCO, judge=COCOeval):
    truth, results = as_coco(images)
    with contextlib.redirect_stdout(io.StringIO()):
        coco = tables()
        coco.dataset = truth
        coco.createIndex()
        run = judge(coco, coco.loadRes(results), {"box": "bbox", "mask": "segm"}[shape])
        run.evaluate()
        run.accumulate()
        run.summarize()
    whole = dict(zip(NAMES, run.stats[:12], strict=True))
    precision = run.eval["precision"][:, :, :, 0, -1]  # (T, R, C)
    per_class = {f"AP/{name}": precision[:, :, number] for number, name in enumerate(CLASSES)}
    return whole | {name: values.mean() if (values > -1).any() else -1 for name, values in per_class.items()}


@pytest.mark.parametrize(("tables", "judge"), [(COCO, COCOeval), (faster.COCO, faster.COCOeval_faster)])
@pytest.mark.parametrize("shape", ["box", "mask"])
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_equal_the_libraries(seed, shape, tables, judge):
    images = draw_images(seed, 25, masks=shape == "mask")
    ours = figures(detection_statistic(matched(images, shape), CLASSES), images=len(images))
    theirs = library(images, shape, tables, judge)
    assert ours.keys() == theirs.keys()
    assert any(0.05 < value < 0.95 for value in ours.values())
    for name, value in theirs.items():
        assert np.isnan(ours[name]) if value == -1 else abs(ours[name] - value) < 1e-9, name


def plain_voc(images, number, *, eleven):
    """Return VOC's average precision of a class by the development kit's loop over all detections."""
    rows = [
        (found.scores[place], image, found.boxes[place])
        for image, (_, found) in enumerate(images)
        for place in np.flatnonzero(found.classes == number)
    ]
    taken, right, wrong = set(), [], []
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        objects = images[image][0]
        overlaps = [
            (plain_iou(box, other), place)
            for place, other in enumerate(objects.boxes)
            if objects.classes[place] == number
        ]
        best, place = max(overlaps, key=lambda pair: pair[0], default=(0.0, -1))
        if best > 0.5 and objects.ignored[place]:
            continue
        right.append(best > 0.5 and (image, place) not in taken)
        wrong.append(not right[-1])
        taken.add((image, place) if best > 0.5 else None)
    total = sum(((o.classes == number) & ~o.ignored).sum() for o, _ in images)
    if not total:
        return np.nan
    recall, precision = np.cumsum(right) / total, np.cumsum(right) / (np.cumsum(right) + np.cumsum(wrong))
    if eleven:
        return np.mean([max(precision[recall >= t], default=0.0) for t in np.arange(0, 1.1, 0.1)])
    ends = np.unique(recall)
    return sum((end - start) * precision[recall >= end].max() for start, end in zip([0, *ends[:-1]], ends, strict=True))


def plain_iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    inner = sides.prod() if (sides > 0).all() else 0.0
    return inner / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner)


@pytest.mark.parametrize("seed", range(2))
def test_voc_figures_equal_the_development_kit(seed):
    images = draw_images(seed, 20, ties=False)
    ours = figures(voc_statistic(matched(images), CLASSES), images=len(images))
    for name, eleven in (("AP50/voc", False), ("AP50/11point", True)):
        theirs = np.nanmean([plain_voc(images, number, eleven=eleven) for number in range(len(CLASSES))])
        assert ours[name] == pytest.approx(theirs, abs=1e-12)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), weights=st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_weight_is_the_number_of_copies(seed, weights):
    matches = matched(draw_images(seed, 6, ties=False))
    copies = [match for match, times in zip(matches, weights, strict=True) for _ in range(times)]
    if not copies:
        return
    for make in (detection_statistic, voc_statistic):
        weighted = figures(make(matches, CLASSES), torch.tensor([weights]))
        copied = figures(make(copies, CLASSES), images=len(copies))
        assert weighted == pytest.approx(copied, abs=1e-12, nan_ok=True)


def test_samples_do_not_touch_each_other():
    matches = matched(draw_images(3, 8))
    statistic = detection_statistic(matches, CLASSES)
    weights = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (5, 8)))
    together = statistic(weights)
    for row in range(5):
        alone = figures(statistic, weights[row : row + 1])
        assert {name: float(value[row]) for name, value in together.items()} == pytest.approx(alone, nan_ok=True)


@pytest.mark.parametrize("shape", ["box", "mask"])
def test_perfect_detections_get_one_and_none_get_zero(shape):
    images = draw_images(5, 12, masks=True)
    perfect = [(o, Detections(o.boxes, o.classes, np.full(len(o.boxes), 0.9), o.masks)) for o, _ in images]
    none = [(o, Detections(np.zeros((0, 4)), o.classes[:0], np.zeros(0))) for o, _ in images]
    for predicted, value in ((perfect, 1.0), (none, 0.0)):
        ours = figures(detection_statistic(matched(predicted, shape), CLASSES), images=len(images))
        whole = {name: v for name, v in ours.items() if name not in ("AR1", "AR10") and not np.isnan(v)}
        assert whole == pytest.approx(dict.fromkeys(whole, value))
    assert figures(voc_statistic(matched(perfect), CLASSES), images=12) == pytest.approx(
        {"AP50/voc": 1.0, "AP50/11point": 1.0}
    )


def test_class_without_an_object_has_no_figure_and_does_not_count_in_the_mean():
    images = draw_images(0, 10, classes=2)
    three = figures(detection_statistic(matched(images), CLASSES), images=10)
    two = figures(detection_statistic(matched(images, classes=2), CLASSES[:2]), images=10)
    assert np.isnan(three["AP/bird"])
    assert three["AP"] == two["AP"]


def test_ignored_object_neither_rewards_nor_punishes():
    box, other = np.array([[10.0, 10, 60, 60]]), np.array([[80.0, 80, 150, 150]])
    both, kinds = np.concatenate([box, other]), np.zeros(2, np.int64)
    objects = Objects(both, kinds, np.array([False, True]), box_areas(both))
    found = Detections(both, kinds, np.array([0.5, 0.9]))
    only = Detections(other, kinds[:1], np.array([0.9]))
    for make, name in ((detection_statistic, "AP"), (voc_statistic, "AP50/voc")):
        assert figures(make(matched([(objects, found)], classes=1), ("a",)), images=1)[name] == pytest.approx(1)
        assert figures(make(matched([(objects, only)], classes=1), ("a",)), images=1)[name] == 0
