"""`detect` and `segment-instances`: what the detector is shown, how it is built and trained, what is said of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.evaluate import detection, detectors
from scenewise.evaluate.detection_data import count_objects, read_photos, shown_images
from scenewise.evaluate.detection_matches import Detections, box_areas, mask_areas
from scenewise.evaluate.detection_training import SCHEDULES, Config, detect, measure_norms, pasted, train_detector
from scenewise.evaluate.detection_views import resized, seen_at, training_view
from scenewise.evaluate.exam import Exam
from scenewise.evaluate.protocols import load_protocol
from scenewise.sources.base import Instances
from scenewise.types import IMAGENET_MEAN, IMAGENET_STD

from .scenes import CLASSES, COLOURS, Rectangles

SHORT = Config(iterations=2, batch_size=2, width=16)


def make_exam(train=None, test=None, *, size=32, name="resnet18", **more):
    return Exam(
        backbone=create_backbone(name, seed=0),
        train=train or Rectangles("train", 4),
        test=test or Rectangles("test", 3, seed=1),
        size=size,
        resamples=20,
        **more,
    )


def perfect(lesson):
    """Return a detector that says what is there."""

    def predict(photo, image):
        objects = detection.learnt_objects(photo.objects, lesson)
        return Detections(objects.boxes, objects.classes, np.full(len(objects.boxes), 0.9), objects.masks)

    return predict


def silent(photo, image):
    return Detections(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))


def coloured(pixels, number):
    """Return where pixels (H, W, 3) have the colour of a class."""
    return np.abs(pixels.astype(int) - COLOURS[number]).max(axis=2) < 60


@pytest.mark.parametrize("masks", [False, True])
def test_perfect_detector_gets_one_and_a_silent_one_zero(masks):
    exam = make_exam(test=Rectangles("test", 12, seed=1, empty=(3,)))
    photos = {part: read_photos(exam, part, masks=masks, title="t") for part in ("train", "test")}
    lesson = detection.choose_lesson(exam, photos["train"], photos["test"])
    for predict, value in ((perfect(lesson), 1.0), (silent, 0.0)):
        matches = detection.find(exam, photos["test"], lesson, predict, title="t", masks=masks)
        outcome = detection.outcome_of(exam, photos["test"], lesson, matches, masks=masks)
        judged = {name: figure.value for name, figure in outcome.figures.items() if not name.endswith(("AR1", "AR10"))}
        assert {"AP", "AP50", "AP75", "APs", "AR100", "ARs", "AP/red", "AP50/voc", "AP50/11point"} <= judged.keys()
        assert ("mask/AP" in judged) == ("mask/AP/red" in judged) == masks
        assert judged == pytest.approx(dict.fromkeys(judged, value))
        assert "APl" not in judged
        assert any(note.startswith("no APl and no ARl") for note in outcome.notes)
        assert outcome.images == tuple(f"rectangles:test/{i}" for i in range(12))


@pytest.mark.parametrize("index", range(6))
def test_boxes_and_masks_follow_the_pixels(index):
    exam = make_exam(train=Rectangles("train", 6), size=96)
    photo = read_photos(exam, "train", masks=True, title="t")[index]
    for seed in range(4):
        image, target = training_view(
            photo,
            sides=(50, 77, 96),
            full=96,
            labels={0: 1, 1: 2, 2: 3},
            ignored=False,
            generator=np.random.default_rng(seed),
        )
        assert min(image.shape[1:]) in (50, 77, 96)
        assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
        pixels = image.permute(1, 2, 0).numpy()
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"].bool().numpy(), strict=True):
            assert coloured(pixels, int(label) - 1)[mask].mean() > 0.85
            rows, columns = np.nonzero(mask)
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert np.abs(drawn - box.numpy()).max() <= 1.5


def test_views_are_mirrored_half_of_the_time_and_take_every_side():
    photo = read_photos(make_exam(), "train", masks=False, title="t")[0]
    views = [
        training_view(
            photo, sides=(32, 40), full=64, labels={0: 1, 1: 2, 2: 3}, ignored=False, generator=np.random.default_rng(n)
        )
        for n in range(60)
    ]
    lefts = [round(float(target["boxes"][0, 0] / image.shape[2]), 2) for image, target in views]
    assert {min(image.shape[1:]) for image, _ in views} == {32, 40}
    assert len(set(lefts)) > 1
    assert 15 < lefts.count(max(set(lefts), key=lefts.count)) < 50


@pytest.mark.parametrize(
    ("size", "seen"), [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((200, 1000), (267, 1333))]
)
def test_photo_is_seen_at_detectron2s_size(size, seen):
    assert seen_at(size, 800, 800) == seen


def test_test_image_is_the_whole_photo():
    photos = read_photos(make_exam(size=64), "test", masks=False, title="t")
    for photo, image in shown_images(photos, 0):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), photo.decoded.pixels)
        assert resized(photo, (32, 40)).shape == (32, 40, 3)


def test_published_schedules():
    assert [SCHEDULES[name].epochs for name in ("voc", "coco")] == [23, 12]
    sides = {name: [round(800 * share) for share in SCHEDULES[name].sides] for name in SCHEDULES}
    assert sides == {"voc": list(range(480, 801, 32)), "coco": list(range(640, 801, 32))}


def test_anchors_at_full_size_are_torchvisions_before_rounding():
    sides = [(side,) for side in detectors.ANCHORS]
    ours = detectors._anchors(sides, 1.0)
    theirs = AnchorGenerator(tuple(sides), (detectors.RATIOS,) * 5)
    images = ImageList(torch.zeros(1, 3, 64, 96), [(64, 96)])
    maps = [torch.zeros(1, 1, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32, 64)]
    maps = [each if each.numel() else torch.zeros(1, 1, 1, 1) for each in maps]
    assert torch.equal(ours(images, maps)[0].round(), theirs(images, maps)[0].round())
    small = detectors._anchors([detectors.ANCHORS], 32 / 800)(images, maps[2:3])[0]
    assert (small[:, 2:] > small[:, :2]).all()


def test_region_is_pooled_from_where_it_is():
    ramps = {
        str(place): torch.arange(128 // stride)[None, None, None, :].expand(1, 1, 128 // stride, -1) * float(stride)
        + stride / 2
        for place, stride in enumerate((4, 8, 16, 32))
    }
    pool = detectors.RegionAlign((4, 8, 16, 32), 7)
    for side in (30.0, 60.0):
        box = torch.tensor([[40.0, 20.0, 40.0 + side, 90.0]])
        middles = 40 + side * (torch.arange(7) + 0.5) / 7
        assert torch.allclose(pool(ramps, [box], [(128, 128)])[0, 0, 3], middles, atol=0.2)


def test_region_of_224_pixels_is_pooled_at_stride_16():
    level_of = detectors.RegionAlign((4, 8, 16, 32), 7).level_of
    assert [level_of([torch.tensor([[0.0, 0, side, side]])]).item() for side in (20, 111, 112, 224, 448, 900)] == [
        *(0, 0, 1, 2, 3, 3)
    ]


@pytest.mark.parametrize("size", [32, 64, 128, 224, 320, 480, 800, 1000])
def test_every_anchor_is_as_many_strides_long_as_published_where_a_map_is_fine_enough(size):
    maps = detectors.sides_of_maps(size / 800)
    assert {side for sides in maps for side in sides} == set(detectors.ANCHORS)
    assert len({len(sides) for sides in maps}) == 1  # the maps share a head
    longest = [max(sides) * size / 800 / (4 * 2**place) for place, sides in enumerate(maps)]
    if size >= 64:
        assert all(8 / 1.5 < length < 8 * 1.5 for length in longest)
    if size == 800:
        assert maps == [(side,) for side in detectors.ANCHORS]


@pytest.mark.parametrize(
    ("architecture", "head", "masks"), [("fpn", "2fc", False), ("fpn", "4conv1fc", True), ("c4", "2fc", True)]
)
def test_every_weight_is_trained_and_the_backbone_stays_the_callers(architecture, head, masks):
    exam = make_exam(name="resnet10t" if architecture == "c4" else "resnet18")
    before = {name: value.clone() for name, value in exam.backbone.state_dict().items()}
    plan = detectors.Plan(
        architecture=architecture,
        head=head,
        classes=3,
        size=32,
        masks=masks,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        width=16,
    )
    network = detectors.make_detector(exam.backbone, plan, seed=0, device=exam.device)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    backbone_norms = sum(isinstance(module, nn.BatchNorm2d) for module in exam.backbone.modules())
    assert norms - backbone_norms == {("fpn", "2fc"): 8, ("fpn", "4conv1fc"): 16, ("c4", "2fc"): 1}[architecture, head]
    photo = read_photos(exam, "train", masks=True, title="t")[0]
    view = training_view(
        photo,
        sides=(32,),
        full=32,
        labels={0: 1, 1: 2, 2: 3},
        ignored=False,
        generator=np.random.default_rng(0),
    )
    with detectors.chance(0, "test", device=exam.device):
        losses = network([view[0]] * 2, [view[1]] * 2)
    assert ("loss_mask" in losses) == masks
    sum(losses.values()).backward()
    idle = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert idle == []
    found = network.eval()([view[0]])[0]
    assert found["boxes"].shape[1] == 4
    after = exam.backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_same_seed_same_detector_and_no_global_chance():
    weights = []
    for seed in (0, 0, 1):
        exam = make_exam(seed=seed)
        photos = read_photos(exam, "train", masks=False, title="t")
        lesson = detection.choose_lesson(exam, photos, photos)
        torch.manual_seed(len(weights))
        state = torch.random.get_rng_state()
        network, how = train_detector(exam, SHORT, photos, lesson, title="t", masks=False)
        assert "schedule voc" in how
        assert torch.equal(state, torch.random.get_rng_state())
        weights.append(network.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert any(not torch.equal(value, weights[2][name]) for name, value in weights[0].items())


def test_instances_are_segmented_and_counted():
    train = Rectangles("train", 5, empty=(1,), bad=(2,), classes=(0, 1))
    exam = make_exam(train=train, test=Rectangles("test", 4, seed=1, bad=(0,)))
    protocol = load_protocol("segment-instances")
    protocol.check(exam, SHORT)
    outcome = protocol.run(exam, dataclasses.replace(SHORT, score_threshold=0.0, head="4conv1fc"))
    assert {"AP", "mask/AP", "mask/AP50", "mask/AP/red"} <= outcome.figures.keys()
    assert "AP/blue" not in outcome.figures
    notes = "\n".join(outcome.notes)
    assert "left out, no object in the training part: blue" in notes
    assert "1 of 4 training images have no object to learn" in notes
    assert "train: 1 of 5 images were unreadable" in notes
    assert "head 4conv1fc" in notes and "schedule coco" in notes
    assert outcome.counts["train_images"] == 3
    assert outcome.counts["test_images"] == 3
    assert [skip.key for skip in outcome.skipped["train"]] == ["rectangles:train/2"]


@pytest.mark.parametrize(("spec", "learnt"), [("voc:photos", True), ("coco:photos", False)])
def test_ignored_objects_of_voc_alone_are_learnt(spec, learnt):
    train = Rectangles("train", 6, ignored=0.6)
    train.spec = spec
    exam = make_exam(train=train)
    photos = {part: read_photos(exam, part, masks=False, title="t") for part in ("train", "test")}
    lesson = detection.choose_lesson(exam, photos["train"], photos["test"])
    everything = sum(len(train.instances(index).classes) for index in range(6))
    odd = sum(int(train.instances(index).ignored.sum()) for index in range(6))
    assert odd > 0
    assert lesson.ignored == learnt
    assert lesson.objects == (everything if learnt else everything - odd)


def test_norms_are_measured_over_all_batches():
    norm = nn.BatchNorm2d(2)
    batches = [(number, torch.randn(4, 2, 3, 3) + number) for number in range(3)]
    measure_norms(norm, lambda batch: norm(batch[1]), iter(batches))
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for _, batch in batches]).mean(dim=0)
    spread = torch.stack([batch.var(dim=(0, 2, 3)) for _, batch in batches]).mean(dim=0)
    assert torch.allclose(norm.running_mean, means, atol=1e-6)
    assert torch.allclose(norm.running_var, spread, atol=1e-6)
    assert norm.momentum == 0.1


class Told(nn.Module):
    """A detector that answers what it was told, in pixels of the image it is shown."""

    def __init__(self, boxes, labels):
        super().__init__()
        self.weight, self.boxes, self.labels = nn.Parameter(torch.zeros(())), boxes, labels

    def forward(self, images):
        full = torch.ones(len(self.boxes), 1, 28, 28)
        return [{"boxes": self.boxes, "labels": self.labels, "scores": self.labels / 10, "masks": full}]


def test_detections_are_in_pixels_of_the_photo():
    exam = make_exam(test=Rectangles("test", 6, seed=1), size=160)
    for photo, image in shown_images(read_photos(exam, "test", masks=True, title="t"), 0):
        assert min(image.shape[1:]) == 160
        ratio = torch.tensor([image.shape[2] / photo.size[1], image.shape[1] / photo.size[0]] * 2)
        boxes = torch.from_numpy(photo.objects.boxes).float() * ratio
        labels = torch.from_numpy(photo.objects.classes) + 1
        found = detect(Told(boxes, labels), photo, image, masks=True)
        assert np.allclose(found.boxes, photo.objects.boxes, atol=1e-3)
        assert np.array_equal(found.classes, photo.objects.classes)
        assert all(tuple(mask["size"]) == photo.size for mask in found.masks)
        assert np.array_equal(mask_areas(found.masks), box_areas(photo.objects.boxes))


def test_mask_is_pasted_where_the_box_is():
    rows, columns = torch.meshgrid(torch.arange(28) + 0.5, torch.arange(28) + 0.5, indexing="ij")
    disc = ((rows - 14) ** 2 + (columns - 14) ** 2 < 14**2).float()
    box = torch.tensor([-10.3, 5.2, 40.1, 90.7])
    found = pasted(disc, box, (80, 100))
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    y, x = torch.meshgrid(torch.arange(80) + 0.5, torch.arange(100) + 0.5, indexing="ij")
    drawn = ((x - middle[0]) / half[0]) ** 2 + ((y - middle[1]) / half[1]) ** 2 < 1
    assert (found & drawn).sum() / (found | drawn).sum() > 0.95
    assert not pasted(disc, torch.tensor([120.0, 0, 130, 10]), (80, 100)).any()


class WrongMasks(Rectangles):
    """Masks one row short."""

    def instances(self, index, *, masks=False):
        right = super().instances(index, masks=masks)
        return Instances(right.boxes, right.classes, right.ignored, None if right.masks is None else right.masks[:, 1:])


def test_masks_of_another_size_are_named():
    with pytest.raises(UserError, match=r"test data: rectangles:wrong/0: its masks have \d+ x 63 pixels"):
        read_photos(make_exam(test=WrongMasks("wrong", 2)), "test", masks=True, title="t")


def test_nothing_in_common_to_learn_and_to_find():
    exam = make_exam(train=Rectangles("train", 4, classes=(0,)), test=Rectangles("test", 3, classes=(1,)))
    photos = {part: read_photos(exam, part, masks=False, title="t") for part in ("train", "test")}
    wrong = "no class has objects to learn and objects to find"
    with pytest.raises(UserError, match=wrong):
        detection.choose_lesson(exam, photos["train"], photos["test"])


def unread(source):
    """Return the source, none of whose images can be read."""
    source.bad = frozenset(range(len(source)))
    return source


@pytest.mark.parametrize("name", ["detect", "segment-instances"])
@pytest.mark.parametrize(
    ("train", "test", "more"),
    [
        (Rectangles("train", 4, classes=(0,)), Rectangles("test", 3, classes=(1,)), {}),
        (Rectangles("train", 4), Rectangles("test", 3), {"min_positives": 5}),
        (Rectangles("train", 4), Rectangles("test", 3, empty=(0, 1, 2)), {}),
        (Rectangles("train", 4), Rectangles("test", 3, ignored=1.0), {}),
        (Rectangles("train", 4, ignored=1.0), Rectangles("test", 3), {}),
    ],
)
def test_nothing_in_common_is_known_before_any_image_is_read(name, train, test, more):
    exam = dataclasses.replace(make_exam(train=unread(train), test=unread(test)), **more)
    with pytest.raises(UserError, match="no class has objects to learn and objects to find"):
        load_protocol(name).check(exam, Config())


def test_ignored_objects_that_are_learnt_are_enough_to_begin():
    train = unread(Rectangles("train", 4, ignored=1.0))
    train.spec = "voc:photos"
    load_protocol("detect").check(make_exam(train=train), Config())


def test_the_labels_count_what_the_photos_hold():
    exam = make_exam(train=Rectangles("train", 5, empty=(1,), ignored=0.4))
    for masks in (False, True):
        photos = read_photos(exam, "train", masks=masks, title="t")
        seen, learnable = count_objects(exam, "train", "masks" if masks else "boxes")
        assert np.array_equal(seen, photos.seen) and np.array_equal(learnable, photos.learnable)
        assert seen.sum() > learnable.sum()


@pytest.mark.parametrize(
    ("backbone", "config", "message"),
    [
        ({"name": "vit_tiny_patch16_224"}, {}, "has no maps at strides"),
        ({"name": "convnext_atto"}, {"architecture": "c4"}, "'c4' needs a ResNet"),
        ({"size": 16}, {}, "size 16 are too small"),
    ],
)
def test_bad_settings_are_named_before_any_image_is_read(backbone, config, message):
    exam = make_exam(**backbone)
    for name in ("detect", "segment-instances"):
        with pytest.raises(UserError, match=message):
            load_protocol(name).check(exam, Config(**config))


def test_source_without_objects_is_refused(make_source):
    exam = make_exam(train=make_source("train", 4, multi=True))
    with pytest.raises(UserError, match="has no labelled boxes"):
        load_protocol("detect").check(exam, Config())


def test_a_backbone_of_another_kind_is_refused(backbone):
    exam = dataclasses.replace(make_exam(), backbone=backbone)
    with pytest.raises(UserError, match="needs a backbone with a pyramid"):
        load_protocol("detect").check(exam, Config())


def test_scenes_have_the_classes_they_say():
    source = Rectangles("any", 5)
    assert source.classes == CLASSES
    for index in range(5):
        found = source.instances(index, masks=True)
        assert found.masks.any(axis=(1, 2)).all()
        pixels = source[index].read()
        for number, mask in zip(found.classes, found.masks, strict=True):
            assert coloured(pixels, number)[mask].all()
