"""Semantic segmentation: the network, its views and its figures against slow references; the protocol as a whole."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.evaluate import fcn
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.intervals import bootstrap
from scenewise.evaluate.metrics import mean_iou
from scenewise.evaluate.protocols import segment
from scenewise.evaluate.run import evaluate_exam
from scenewise.evaluate.segmentation_data import read_scenes, training_batches
from scenewise.evaluate.segmentation_views import Cut, Scene, distort, fitted, training_view, whole_view
from scenewise.views.decode import Decoded

from .scenes import CLASSES, COLOURS, Rectangles

NAMES = ("background", *CLASSES)
TINY = "test_resnet"  # timm's own for tests: four stages of one block each
CUT = Cut(size=32, distort=False, fullest=1.0, fill=(0.5, 0.5, 0.5))


def make_exam(train=None, test=None, **more):
    chosen = {"backbone": create_backbone(TINY, seed=0), "size": 32, "resamples": 20} | more
    return Exam(train=train or Rectangles("train", 12), test=test or Rectangles("test", 6), **chosen)


def scene_of(source, index):
    pixels = source[index].read()
    return Scene(index, pixels.shape[:2], Decoded(pixels), source.class_map(index), 0)


def random_maps(seed, images=5, classes=4):
    """Return, for each image, a class map with pixels that are not judged, and a prediction that is often right."""
    chance = np.random.default_rng(seed)
    pairs = []
    for _ in range(images):
        shape = chance.integers(3, 9, 2)
        truth = chance.integers(0, classes, shape).astype(np.uint8)
        guess = np.where(chance.random(shape) < 0.6, truth, chance.integers(0, classes, shape))
        truth[chance.random(shape) < 0.2] = 255
        pairs.append((truth, guess))
    return pairs


def counts_of(pairs, classes=4):
    """Return count_pixels of logits that are 1 for the prediction."""
    return torch.stack(
        [
            fcn.count_pixels(
                F.one_hot(torch.from_numpy(guess).long(), classes).permute(2, 0, 1).float(),
                torch.from_numpy(truth),
                corners=False,
            )
            for truth, guess in pairs
        ]
    )


def every(count):
    return torch.ones(1, count, dtype=torch.long)


# Figures


@pytest.mark.parametrize("seed", range(3))
def test_the_figures_are_those_of_one_confusion_matrix_over_all_pixels(seed):
    pairs = random_maps(seed)
    got = segment.iou_statistic(counts_of(pairs), NAMES)(every(len(pairs)))
    confusion = np.zeros((4, 4))
    for truth, guess in pairs:
        for row in range(truth.shape[0]):
            for column in range(truth.shape[1]):
                if truth[row, column] != 255:
                    confusion[truth[row, column], guess[row, column]] += 1
    for number, name in enumerate(NAMES):
        union = confusion[number].sum() + confusion[:, number].sum() - confusion[number, number]
        assert float(got[f"IoU/{name}"]) == pytest.approx(confusion[number, number] / union)
    assert float(got["pixel accuracy"]) == pytest.approx(np.trace(confusion) / confusion.sum())
    flat = (torch.from_numpy(np.concatenate([each[side].ravel() for each in pairs])).long() for side in (1, 0))
    assert float(got["mIoU"]) == pytest.approx(mean_iou(*flat, classes=4))


def test_counting_an_image_twice_is_having_it_twice():
    pairs = random_maps(7)
    weighted = segment.iou_statistic(counts_of(pairs), NAMES)(torch.tensor([[1, 2, 1, 0, 3]]))
    repeated = [pairs[place] for place in (0, 1, 1, 2, 4, 4, 4)]
    expected = segment.iou_statistic(counts_of(repeated), NAMES)(every(7))
    assert {name: float(value) for name, value in weighted.items()} == pytest.approx(
        {name: float(value) for name, value in expected.items()}
    )


def test_a_perfect_prediction_gets_one_and_a_constant_one_the_share_of_its_class():
    pairs = random_maps(3)
    perfect = [(truth, np.where(truth == 255, 0, truth)) for truth, _ in pairs]
    figures = bootstrap(segment.iou_statistic(counts_of(perfect), NAMES), 5, seed=0, resamples=20)
    assert {(f.value, f.low, f.high) for f in figures.values()} == {(1.0, 1.0, 1.0)}
    blind = segment.iou_statistic(counts_of([(truth, np.zeros_like(truth)) for truth, _ in pairs]), NAMES)(every(5))
    judged = np.concatenate([truth[truth != 255] for truth, _ in pairs])
    share = (judged == 0).mean()
    assert float(blind["IoU/background"]) == pytest.approx(share) == float(blind["pixel accuracy"])
    assert float(blind["mIoU"]) == pytest.approx(share / 4)  # the other three occur, and are never found


def test_a_class_that_does_not_occur_has_no_figure_unless_it_is_predicted():
    truth = np.zeros((4, 4), np.uint8)
    quiet = bootstrap(segment.iou_statistic(counts_of([(truth, truth)]), NAMES), 1, seed=0, resamples=5)
    assert set(quiet) == {"mIoU", "IoU/background", "pixel accuracy"} and quiet["mIoU"].value == 1
    guess = truth.copy()
    guess[0] = 2
    loud = bootstrap(segment.iou_statistic(counts_of([(truth, guess)]), NAMES), 1, seed=0, resamples=5)
    assert loud["IoU/green"].value == 0 and loud["mIoU"].value == pytest.approx(0.75 / 2)


# The network


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(37, 50), (5, 3), (1, 90), (4, 6)])
def test_predictions_in_bands_are_the_highest_resized_logits(corners, size, monkeypatch):
    monkeypatch.setattr(fcn, "BAND_ENTRIES", 3 * size[1] * 2)  # two rows at a time
    logits = torch.randn(3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bands = list(fcn.predict(logits, size, corners=corners))
    assert [rows.start for rows, _ in bands] == list(range(0, size[0], 2))
    whole = F.interpolate(logits[None], size, mode="bilinear", align_corners=corners)[0]
    assert torch.equal(torch.cat([classes for _, classes in bands]), whole.argmax(dim=0))


@pytest.mark.parametrize("corners", [False, True])
def test_the_loss_is_the_mean_over_all_pixels_of_the_judged_ones_cross_entropy(corners):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 2, 3, dtype=torch.float64, generator=generator)
    target = torch.randint(0, 3, (2, 8, 9), generator=generator).to(torch.uint8)
    target[:, :3] = 255
    large = F.interpolate(logits, (8, 9), mode="bilinear", align_corners=corners).numpy()
    total = 0.0
    for image, row, column in np.argwhere(target.numpy() != 255):
        at = large[image, :, row, column]
        total += np.log(np.exp(at).sum()) - at[target[image, row, column]]
    assert float(fcn.pixel_loss(logits, target, corners=corners)) == pytest.approx(total / target.numel())
    nothing = torch.full_like(target, 255)
    assert float(fcn.pixel_loss(logits, nothing, corners=corners)) == 0


def test_the_networks_are_the_published_ones():
    with torch.device("meta"):  # no weights
        made = {name: fcn.Head(2048, 21, **_head(each.design)) for name, each in segment.SETTINGS.items()}
    shapes = {name: [m.weight.shape for m in head.modules() if isinstance(m, nn.Conv2d)] for name, head in made.items()}
    assert shapes["A"] == [(512, 2048, 3, 3), (512, 512, 3, 3), (512, 2560, 3, 3), (21, 512, 1, 1)]
    assert shapes["B"] == [(256, 2048, 3, 3), (256, 256, 3, 3), (21, 256, 1, 1)]
    assert {m.dilation for m in made["B"].modules() if isinstance(m, nn.Conv2d)} == {(6, 6), (1, 1)}
    ends = {name: each.schedule(30_000)(29_999) * each.learning_rate for name, each in segment.SETTINGS.items()}
    assert ends["A"] == pytest.approx(1e-4, rel=0.02) and ends["B"] == pytest.approx(3e-5)
    step = segment.SETTINGS["B"].schedule(30_000)
    assert [step(at) for at in (20_999, 21_000, 26_999, 27_000)] == pytest.approx([1, 0.1, 0.1, 0.01])


def _head(design):
    return {
        "channels": design.channels or 512,
        "convolutions": 2,
        "dilation": design.dilation,
        "joined": design.joined,
        "dropout": design.dropout,
    }


@pytest.mark.parametrize("variant", ["A", "B"])
def test_every_parameter_learns_and_the_heads_depend_on_the_seed_alone(variant):
    design = segment.SETTINGS[variant].design
    backbone = create_backbone(TINY, seed=0)

    def made(seed):
        return fcn.make_fcn(backbone, design, classes=4, seed=seed, device=torch.device("cpu"))

    state = torch.get_rng_state()
    network, again, other = made(0), made(0), made(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network.head.classify.weight, again.head.classify.weight)
    assert not torch.equal(network.head.classify.weight, other.head.classify.weight)
    assert (network.auxiliary is not None) == (variant == "A")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    target = torch.randint(0, 4, (2, 64, 64), generator=generator).to(torch.uint8)
    assert network(images).shape == (2, 4, 64 // design.output_stride, 64 // design.output_stride)
    network.loss(images, target).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
    assert not any(parameter.grad is not None for parameter in backbone.parameters())


def test_the_auxiliary_loss_counts_by_its_weight():
    backbone = create_backbone(TINY, seed=0)
    design = dataclasses.replace(segment.SETTINGS["A"].design, dropout=0.0)
    network = fcn.make_fcn(backbone, design, classes=4, seed=0, device=torch.device("cpu")).eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target = torch.zeros(2, 64, 64, dtype=torch.uint8)
    with torch.no_grad():
        before, last = fcn.last_two_maps(network.trunk, images)
        main, second = (
            fcn.pixel_loss(head(maps), target, corners=False)
            for head, maps in ((network.head, last), (network.auxiliary, before))
        )
        assert float(network.loss(images, target)) == pytest.approx(float(main + 0.4 * second), rel=1e-5)


# Views


@settings(max_examples=40)
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(8, 600))
def test_a_photo_keeps_its_aspect_and_is_never_longer_than_four_sides(height, width, side):
    rows, columns = fitted((height, width), side)
    assert min(rows, columns) <= side + 0.5 and max(rows, columns) <= 4 * side + 0.5
    scale = min(side / min(height, width), 4 * side / max(height, width))
    assert abs(rows - scale * height) <= 1 and abs(columns - scale * width) <= 1
    assert fitted((375, 500), 513) == (513, 684)


@pytest.mark.parametrize("index", range(4))
def test_in_a_training_view_each_pixel_has_the_class_of_its_colour(index):
    source = Rectangles("train", 4, side=96)
    scene, right, judged = scene_of(source, index), 0, 0
    for epoch in range(6):
        image, target = training_view(scene, CUT, np.random.default_rng(epoch))
        assert image.shape == (32, 32, 3) and target.shape == (32, 32)
        palette = np.concatenate([[[120, 120, 120]], COLOURS])
        nearest = ((image[:, :, None].astype(int) - palette) ** 2).sum(axis=3).argmin(axis=2)
        outside = target == 255
        right += (nearest == target)[~outside].sum()
        judged += (~outside).sum()
        rows, columns = (~outside).any(axis=1).sum(), (~outside).any(axis=0).sum()
        assert not outside[:rows, :columns].any() and outside.sum() == 32 * 32 - rows * columns
        assert (image[outside] == 128).all()
    assert right / judged > 0.93  # but for the mixed pixels of the edges


def test_scales_positions_and_mirrors_vary():
    source = Rectangles("train", 1, side=64)
    scene = scene_of(source, 0)
    views = [training_view(scene, CUT, np.random.default_rng(each)) for each in range(60)]
    sides = [min((target != 255).any(axis=1).sum(), (target != 255).any(axis=0).sum()) for _, target in views]
    assert min(sides) < 20 and max(sides) == 32 and np.mean(np.array(sides) < 32) == pytest.approx(1 / 3, abs=0.2)
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (64, 64, 3)).copy()
    sloped = dataclasses.replace(scene, size=(64, 64), photo=Decoded(ramp), class_map=np.zeros((64, 64), np.uint8))
    seen = [training_view(sloped, CUT, np.random.default_rng(each))[0][:16, :16, 0].astype(int) for each in range(60)]
    mirrored = np.mean([(np.diff(each, axis=1).sum() < 0) for each in seen])
    assert 0.3 < mirrored < 0.7


def test_a_crop_that_one_class_fills_is_drawn_again():
    class_map = np.zeros((64, 64), np.uint8)
    class_map[:, 48:] = 1
    scene = Scene(0, (64, 64), Decoded(np.zeros((64, 64, 3), np.uint8)), class_map, 0)

    def filled(fullest):
        cut = dataclasses.replace(CUT, fullest=fullest)
        targets = [training_view(scene, cut, np.random.default_rng(each))[1] for each in range(40)]
        return np.mean([max((t[t != 255] == k).mean() for k in (0, 1)) >= 0.75 for t in targets])

    assert filled(0.75) < filled(1.0) - 0.2


def test_colours_change_in_four_ways_each_half_of_the_time():
    chance = np.random.default_rng(5)
    view = chance.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    drawn = [distort(view, chance) for _ in range(1000)]
    assert all(each.shape == view.shape and each.dtype == np.uint8 for each in drawn)
    assert np.mean([np.array_equal(each, view) for each in drawn]) == pytest.approx(1 / 16, abs=0.03)
    grey = np.full((4, 4, 3), 100, np.uint8)
    dull = [distort(grey, chance) for _ in range(1000)]
    assert all(np.ptp(each, axis=2).max() == 0 for each in dull)  # it has no hue to turn
    levels = np.array([each[0, 0, 0] for each in dull])
    assert levels.min() < 50 and levels.max() > 160 and np.mean(levels == 100) == pytest.approx(0.25, abs=0.05)


def test_the_test_view_is_the_whole_photo():
    source = Rectangles("test", 1, side=96)
    scene = scene_of(source, 0)
    view = whole_view(scene, size=48)
    assert view.shape == (*fitted(scene.size, 48), 3)
    assert np.abs(view.mean(axis=(0, 1)) - scene.photo.pixels.mean(axis=(0, 1))).max() < 1


def test_batches_depend_on_seed_and_epoch_and_not_on_memory_or_workers():
    exam = make_exam(Rectangles("train", 5, bad=(3,)))

    def drawn(seed=0, keep=0, workers=0):
        scenes = read_scenes(exam, "train", side=64, keep=keep)
        return list(training_batches(scenes, CUT, batch=2, iterations=4, seed=seed, workers=workers))

    first = drawn()
    assert [len(images) for images, _ in first] == [2, 2, 2, 2]
    for more in ({"keep": 20_000}, {"keep": 1 << 20}, {"workers": 1}):
        for one, other in zip(first, drawn(**more), strict=True):
            assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    assert not torch.equal(first[0][0], drawn(seed=1)[0][0])
    both = [
        {image.numpy().tobytes() for batch, _ in first[half] for image in batch} for half in (slice(2), slice(2, 4))
    ]
    assert not both[0] & both[1] and len(both[0]) == len(both[1]) == 4


def test_photos_in_memory_are_not_read_again():
    source = Rectangles("train", 3)
    scenes = read_scenes(make_exam(source), "train", side=64, keep=1 << 20)
    kept = scenes[1]
    source.bad = frozenset(range(3))
    assert scenes[1] is kept
    empty = read_scenes(make_exam(Rectangles("train", 3)), "train", side=64)
    empty.source.bad = frozenset(range(3))
    with pytest.raises(UserError, match="data: rectangles:train/1: truncated"):
        empty[1]


# The protocol


def test_coloured_rectangles_are_learnt():
    exam = make_exam(Rectangles("train", 24), Rectangles("test", 8), size=64)
    options = {"segment": {"iterations": 60, "learning_rate": 0.05}}
    before = {name: value.clone() for name, value in exam.backbone.state_dict().items()}
    state = torch.get_rng_state()
    result = evaluate_exam(exam, protocols=["segment"], options=options)
    figures = result.protocols["segment"]
    assert set(figures) == {"mIoU", "pixel accuracy", *(f"IoU/{name}" for name in NAMES)}
    background = np.mean([(exam.test.class_map(i) == 0).mean() for i in range(8)])
    assert figures["mIoU"].value > background / 4 + 0.1  # what is nothing but background gets
    assert result.counts["train_images"] == 24 and result.counts["test_images"] == 8
    assert "segment: variant B, 60 iterations of 3 images, learning rate 0.009375 (0.05 for 16 images)" in result.notes
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in exam.backbone.state_dict().items())


@pytest.mark.parametrize("variant", ["A", "B"])
def test_the_same_seed_gives_the_same_network(variant):
    def trained(seed, **more):
        exam = make_exam(seed=seed, **more)
        scenes = read_scenes(exam, "train", side=64)
        network, _ = segment.train_network(exam, segment.Config(variant=variant, iterations=3), scenes)
        assert not network.training
        return network.state_dict()

    first, other = trained(0), trained(1)
    torch.rand(7)  # what others draw in between plays no part
    again = trained(0)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not any(torch.equal(value, other[name]) for name, value in first.items() if name.endswith("conv1.weight"))


def test_lengths_follow_the_images():
    exam, done = make_exam(), []
    exam = dataclasses.replace(exam, progress=lambda title, step, steps: done.append((title, step, steps)))
    evaluate_exam(exam, protocols=["segment"], epochs=1)
    titles = {title: steps for title, _, steps in done}
    assert titles["segment"] == 6  # 12 images in batches of 2
    assert titles["segment: testing"] == 6 and titles["segment: reading the train images"] == 12
    assert [segment.batch_size(images, 16) for images in (1, 2, 10, 40, 127, 128, 10_000)] == [1, 2, 2, 5, 15, 16, 16]


def test_images_that_cannot_be_read_are_left_out_and_named():
    exam = make_exam(Rectangles("train", 12, bad=(2, 5)), Rectangles("test", 6, bad=(0,)))
    result = evaluate_exam(exam, protocols=["segment"], iterations=1)
    assert result.counts["train_images"] == 10 and result.counts["test_skipped"] == 1
    assert [skip.index for skip in result.skipped["train"]] == [2, 5]
    assert "test: 1 of 6 images were unreadable and left out: rectangles:test/0 (truncated)" in result.notes


def test_classes_without_a_pixel_are_named():
    exam = make_exam(Rectangles("train", 12, classes=(0, 1)), Rectangles("test", 6, classes=(1, 2)))
    notes = evaluate_exam(exam, protocols=["segment"], iterations=1).notes
    assert "segment: no pixel in the training images: blue" in notes
    assert "segment: no pixel in the test images: red" in notes


def test_a_network_that_learnt_nothing_is_named():
    pairs = random_maps(0)
    (note,) = segment._constant(counts_of([(truth, np.zeros_like(truth)) for truth, _ in pairs]), NAMES)
    assert note.startswith("segment: every test pixel is predicted to be background: ")
    assert segment._constant(counts_of(pairs), NAMES) == []


class Faulty(Rectangles):
    """Class maps that do not fit: too small, or of a class that does not exist."""

    def class_map(self, index):
        found = super().class_map(index)
        return {1: found[:-1], 2: np.full_like(found, 9)}.get(index, found)


def test_class_maps_that_do_not_fit_are_named_before_training():
    wrong = r"data: rectangles:x/1: its class map has \d+ x 63 pixels, the photo \d+ x 64\n"
    wrong += r".* data: rectangles:x/2: its class map holds 9, allowed are 0\.\.3 and 255 \(not judged\)"
    started = []
    for parts in ({"train": Faulty("x", 4)}, {"test": Faulty("x", 4)}):
        exam = make_exam(progress=lambda title, step, steps: started.append(title), **parts)
        with pytest.raises(UserError, match=wrong):
            segment.run(exam, segment.Config())
    assert "segment" not in started


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"size": 31}, {}, "size: 31 px gives segment's network a map of one pixel; at least 32"),
        ({"backbone": create_backbone("vit_tiny_patch16_224", seed=0)}, {}, "use a ResNet or ConvNeXt"),
        ({"backbone": nn.Identity()}, {}, "backbone: segment needs one with feature maps"),
        ({}, {"learning_rate": 0}, r"segment\.learning_rate: 0 must be more than 0"),
        ({}, {"variant": "C"}, r"segment\.variant: 'C' must be 'A' or 'B'"),
        (
            {"train": Rectangles("train", 3, unlabelled=range(3))},
            {},
            "none of the 3 images .* has masks of its objects",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_any_image_is_read(more, options, message):
    exam = make_exam(**more)
    exam.test.bad = exam.train.bad = frozenset(range(12))
    with pytest.raises(UserError, match=message):
        evaluate_exam(exam, protocols=["segment"], options={"segment": options})


def test_nothing_readable_and_nothing_but_training_images():
    with pytest.raises(UserError, match="train data: none of 12 images could be read; truncated"):
        segment.run(make_exam(Rectangles("train", 12, bad=range(12))), segment.Config())
    same = make_exam(Rectangles("train", 4), Rectangles("train", 4))
    with pytest.raises(UserError, match="each of the 4 test images is also a training image"):
        segment.run(same, segment.Config())
