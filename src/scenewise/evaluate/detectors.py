"""Faster R-CNN and Mask R-CNN of torchvision on our backbones, with the norms and heads of the publications.

Two ways to stand on a backbone: `fpn`, a feature pyramid on its four maps (Lin et al., arXiv 1612.03144), and `c4`, a
ResNet up to layer3 with layer4 as the head of every region, followed by an extra batch norm (MoCo, arXiv 1911.05722,
appendix; its `detection/` folder). Regions are pooled and anchors laid out as in detectron2. Where we depart from it:
box losses are torchvision's smooth L1 (beta 1/9), detectron2's an L1; the sides of the anchors and the number of
regions trained on are in proportion to the test size, so that 800 pixels are as published; a feature pyramid is
narrower on a narrow backbone (`pyramid_width`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from timm.models import ResNet
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.poolers import LevelMapper

from scenewise.backbones import Backbone
from scenewise.errors import UserError
from scenewise.evaluate.training import chance, private_copy
from scenewise.types import Colour
from scenewise.views.collate import normalise

Architecture = Literal["fpn", "c4"]
Head = Literal["2fc", "4conv1fc"]

FULL_SIZE = 800  # shorter side in pixels of the publications
ANCHORS = (32, 64, 128, 256, 512)  # sides in pixels at full size: detectron2
RATIOS = (0.5, 1.0, 2.0)  # height over width: detectron2
REGIONS = 512  # of an image that the heads are trained on, at full size: detectron2
LEAST_REGIONS = 32  # ours, for small images
WIDTH = 256  # channels of a feature pyramid, four times as many of its fully connected layers: detectron2
LEAST_PADDED = 64  # pixels: a single image then still has statistics for a batch norm at stride 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What detector to make. size: shorter side of the images in a test, in pixels. classes: without the background."""

    architecture: Architecture
    head: Head
    classes: int
    size: int
    masks: bool
    mean: Colour
    std: Colour
    width: int | None = None
    score_threshold: float = 0.05

    @property
    def scale(self) -> float:
        """Return the size as a share of the published one."""
        return self.size / FULL_SIZE

    @property
    def regions(self) -> int:
        """Return how many regions of an image the heads are trained on."""
        return min(REGIONS, max(LEAST_REGIONS, round(REGIONS * self.scale)))


def pyramid_width(backbone: Backbone) -> int:
    """Return the channels of the feature pyramid: 256 for a ResNet-50, as published, else an eighth of the last map's.

    256 channels on a ResNet-18 need nearly three times as many multiplications as the backbone itself.
    """
    backbone.check_pyramid()
    assert backbone.pyramid_channels is not None
    return min(WIDTH, max(32, backbone.pyramid_channels[-1] // 8))


def check_backbone(backbone: nn.Module, architecture: Architecture) -> Backbone:
    """Return the backbone if the architecture can stand on it; UserError if not."""
    if not isinstance(backbone, Backbone):
        raise UserError("backbone: a detector needs a backbone with a pyramid of maps; use scenewise.load_backbone")
    backbone.check_pyramid()
    if architecture == "c4" and not isinstance(backbone.model, ResNet):
        raise UserError(f"architecture: 'c4' needs a ResNet, {backbone.name!r} is none; use 'fpn'")
    return backbone


def make_detector(backbone: nn.Module, plan: Plan, *, seed: int, device: torch.device) -> nn.Module:
    """Return a detector on a private copy of the backbone, in training mode; its new weights depend on the seed alone.

    In training it maps lists of uint8 images (3, H, W) and of targets (boxes (n, 4), labels (n,) from 1, and masks (n,
    H, W) where the plan has them) to losses by name; in eval mode images to a dict each: boxes (n, 4) in pixels of the
    image, labels from 1, scores, and masks (n, 1, 28, 28) in their boxes.
    """
    own = private_copy(check_backbone(backbone, plan.architecture), device)
    with chance(seed, "detect", "weights", device=torch.device("cpu")):
        network: FasterRCNN = _on_pyramid(own, plan) if plan.architecture == "fpn" else _on_c4(own, plan)
        predictor = network.roi_heads.box_predictor
        for layer, deviation in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):  # detectron2
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)
    network.transform = Padding(plan.mean, plan.std)
    return network.to(device).train()  # type: ignore[no-any-return]


class Padding(nn.Module):
    """In place of torchvision's transform: images are normalised and padded to one size, a multiple of 32 pixels."""

    def __init__(self, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.mean, self.std = mean, std

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[ImageList, list[dict[str, Tensor]] | None]:
        """Return the images (B, 3, H, W) with their sizes; the targets as they are."""
        sizes = [(int(image.shape[1]), int(image.shape[2])) for image in images]
        height, width = (max(LEAST_PADDED, 32 * math.ceil(max(each) / 32)) for each in zip(*sizes, strict=True))
        padded = images[0].new_zeros(len(images), 3, height, width, dtype=torch.float32)
        for place, (image, (rows, columns)) in enumerate(zip(images, sizes, strict=True)):
            padded[place, :, :rows, :columns] = normalise(image, mean=self.mean, std=self.std)
        return ImageList(padded, sizes), targets

    def postprocess(
        self, found: list[dict[str, Tensor]], sizes: list[tuple[int, int]], original: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return the detections as they are: in pixels of the image given."""
        return found


class Pyramid(nn.Module):
    """(B, 3, H, W) -> maps "0" to "3" at strides 4 to 32 and "pool" at 64, all of the same width, each after a norm."""

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        assert backbone.pyramid_channels is not None
        self.backbone = backbone
        self.out_channels = width
        self.pyramid = FeaturePyramidNetwork(
            list(backbone.pyramid_channels), width, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
        )

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Return the maps by name."""
        maps = OrderedDict((str(place), each) for place, each in enumerate(self.backbone.pyramid(images)))
        found: dict[str, Tensor] = self.pyramid(maps)
        return found


class UpToLayer3(nn.Module):
    """(B, 3, H, W) -> the map of a ResNet's layer3, at stride 16."""

    def __init__(self, model: nn.Module, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3")
        self.body = nn.Sequential(OrderedDict((name, model.get_submodule(name)) for name in names))

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> dict[str, Tensor]:
        """Return the map, named "0"."""
        return {"0": self.body(images)}


class OnFinestMaps(nn.Module):
    """A region proposal network that sees only the finest maps of a pyramid."""

    def __init__(self, proposals: nn.Module, maps: int) -> None:
        super().__init__()
        self.proposals, self.maps = proposals, maps

    def forward(
        self, images: ImageList, features: dict[str, Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the proposed regions of each image (n, 4) and, in training, the losses by name."""
        finest = dict(list(features.items())[: self.maps])
        found: tuple[list[Tensor], dict[str, Tensor]] = self.proposals(images, finest, targets)
        return found


class RegionAlign(nn.Module):
    """RoIAlign as detectron2 has it (aligned, as many samples as a bin has pixels), from the map that fits.

    A region with a side of 224 pixels is pooled at stride 16 (arXiv 1612.03144, equation 1), whatever the test size.
    """

    def __init__(self, strides: tuple[int, ...], output: int) -> None:
        super().__init__()
        self.strides, self.output_size = strides, (output, output)
        levels = int(math.log2(strides[0])), int(math.log2(strides[-1]))
        self.level_of = LevelMapper(*levels, canonical_scale=224, canonical_level=4)

    def forward(
        self, features: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Float[Tensor, "regions channels rows columns"]:
        """Return the pooled regions of all images (boxes: (n, 4) of each image, in pixels)."""
        maps = [features[str(place)] for place in range(len(self.strides))]
        image = torch.cat([box.new_full((len(box), 1), place) for place, box in enumerate(boxes)])
        regions = torch.cat([image, torch.cat(boxes)], dim=1)  # (n, 5)
        level = self.level_of(boxes)
        pooled = regions.new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        for place, (each, stride) in enumerate(zip(maps, self.strides, strict=True)):
            rows = (level == place).nonzero()[:, 0]
            pooled[rows] = roi_align(each, regions[rows], self.output_size, 1 / stride, sampling_ratio=0, aligned=True)
        return pooled


def _on_pyramid(backbone: Backbone, plan: Plan) -> FasterRCNN:
    width = plan.width or pyramid_width(backbone)
    head: nn.Module = TwoMLPHead(width * 7 * 7, 4 * width)
    if plan.head == "4conv1fc":
        head = FastRCNNConvFCHead((width, 7, 7), [width] * 4, [4 * width], norm_layer=nn.BatchNorm2d)
    sides = sides_of_maps(plan.scale)
    network = FasterRCNN(
        Pyramid(backbone, width),
        rpn_anchor_generator=_anchors(sides, plan.scale),
        rpn_post_nms_top_n_train=1000,  # detectron2: of an image, 2000 being of each map
        box_head=head,
        box_predictor=FastRCNNPredictor(4 * width, plan.classes + 1),
        box_batch_size_per_image=plan.regions,
        box_score_thresh=plan.score_threshold,
    )
    network.rpn = OnFinestMaps(network.rpn, len(sides))
    network.roi_heads.box_roi_pool = RegionAlign((4, 8, 16, 32), 7)
    if plan.masks:
        norm = nn.BatchNorm2d if plan.head == "4conv1fc" else None
        network.roi_heads.mask_roi_pool = RegionAlign((4, 8, 16, 32), 14)
        network.roi_heads.mask_head = MaskRCNNHeads(width, (width,) * 4, 1, norm_layer=norm)
        network.roi_heads.mask_predictor = MaskRCNNPredictor(width, width, plan.classes + 1)
    return network


def _on_c4(backbone: Backbone, plan: Plan) -> FasterRCNN:
    """Return the detector with layer4 for a head; masks are predicted from the same layer4, before its mean.

    detectron2 runs layer4 once and picks the objects' regions; here it runs again on these, in training with their own
    batch statistics.
    """
    assert backbone.pyramid_channels is not None
    base, last = backbone.pyramid_channels[2:]
    stage = nn.Sequential(backbone.model.get_submodule("layer4"), nn.BatchNorm2d(last))
    network = FasterRCNN(
        UpToLayer3(backbone.model, base),
        rpn_anchor_generator=_anchors([ANCHORS], plan.scale),
        rpn_pre_nms_top_n_train=12000,  # detectron2's for a single map, as the next
        rpn_pre_nms_top_n_test=6000,
        box_head=nn.Sequential(stage, nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        box_predictor=FastRCNNPredictor(last, plan.classes + 1),
        box_batch_size_per_image=plan.regions,
        box_score_thresh=plan.score_threshold,
    )
    network.roi_heads.box_roi_pool = RegionAlign((16,), 14)
    if plan.masks:
        network.roi_heads.mask_roi_pool = RegionAlign((16,), 14)
        network.roi_heads.mask_head = stage
        network.roi_heads.mask_predictor = MaskRCNNPredictor(last, WIDTH, plan.classes + 1)
    return network


def sides_of_maps(scale: float) -> list[tuple[int, ...]]:
    """Return the anchors' sides, in pixels at full size, for each map that has some, finest map first.

    At full size each map has one side, eight strides long. Each halving of the test size moves every side to the next
    finer map; as there is none finer than stride 4, a map then keeps the smaller sides too, and the coarsest has none.
    """
    halvings = min(len(ANCHORS) - 1, max(0, round(math.log2(1 / scale))))
    return [ANCHORS[place : place + halvings + 1] for place in range(len(ANCHORS) - halvings)]


def _anchors(sides: list[tuple[int, ...]], scale: float) -> AnchorGenerator:
    """Return anchors of these sides for each map, not rounded to whole pixels as torchvision's are."""
    scaled = tuple(tuple(side * scale for side in each) for each in sides)
    generator = AnchorGenerator(scaled, (RATIOS,) * len(scaled))
    generator.cell_anchors = [_cell(each) for each in scaled]
    return generator


def _cell(sides: tuple[float, ...]) -> Float[Tensor, "anchors 4"]:
    shapes = [(side / math.sqrt(ratio) / 2, side * math.sqrt(ratio) / 2) for ratio in RATIOS for side in sides]
    return torch.tensor([(-wide, -tall, wide, tall) for wide, tall in shapes])
