"""Fully convolutional networks for semantic segmentation (Long et al. 2015, arXiv 1411.4038) and their predictions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64, UInt8
from torch import Tensor, nn

from scenewise import keys
from scenewise.backbones import Backbone
from scenewise.backbones.dilated import dilated, last_two_channels, last_two_maps
from scenewise.hardware import computes_in_bf16
from scenewise.sources.base import NOT_JUDGED
from scenewise.types import Size

BAND_ENTRIES = 1 << 22  # logits of the whole photo that are held at once: 16 MB
HEAD_DEVIATION = 0.01  # of the classifying layer's first weights (mmsegmentation's decode_head.py)


@dataclass(frozen=True, kw_only=True, slots=True)
class Design:
    """What stands on the backbone.

    output_stride: of the backbone's last map. channels: of the head's convolutions, None for a quarter of the map's.
    dilation: of the head's first two convolutions. joined: a third one sees their output beside the map itself.
    dropout: share of channels that are dropped before the classifying layer. auxiliary: weight in the loss of a second
    head, one convolution of a quarter of the channels on the last stage but one; 0 for none. corners: resizing of
    logits aligns the centres of the corner pixels rather than their edges (torch's `align_corners`).
    """

    output_stride: int
    channels: int | None
    dilation: int
    joined: bool
    dropout: float
    auxiliary: float
    corners: bool


class Head(nn.Module):
    """3x3 convolutions with batch norm, then one 1x1: a map (B, C, h, w) -> logits (B, K, h, w) in float32."""

    def __init__(
        self, width: int, classes: int, *, channels: int, convolutions: int, dilation: int, joined: bool, dropout: float
    ) -> None:
        super().__init__()
        widths = (width, *([channels] * convolutions))
        self.convolutions = nn.Sequential(
            *(_convolution(before, after, dilation) for before, after in itertools.pairwise(widths))
        )
        self.join = _convolution(width + channels, channels, 1) if joined else None
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(channels, classes, kernel_size=1)
        nn.init.normal_(self.classify.weight, std=HEAD_DEVIATION)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch classes rows columns"]:
        """Return the logits."""
        hidden = self.convolutions(features)
        if self.join is not None:
            hidden = self.join(torch.cat([features, hidden], dim=1))
        logits: Tensor = self.classify(self.dropout(hidden))
        return logits.float()


def _convolution(before: int, after: int, dilation: int) -> nn.Sequential:
    layer = nn.Conv2d(before, after, kernel_size=3, padding=dilation, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class FCN(nn.Module):
    """A dilated copy of a backbone with its head, and perhaps an auxiliary one that only training sees."""

    def __init__(self, trunk: Backbone, head: Head, auxiliary: Head | None, design: Design) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.auxiliary = auxiliary
        self.design = design

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes rows columns"]:
        """Return the logits (B, K, H / stride, W / stride) of normalised images."""
        _, last = last_two_maps(self.trunk, images)
        logits: Tensor = self.head(last)
        return logits

    def loss(
        self, images: Float[Tensor, "batch 3 height width"], target: UInt8[Tensor, "batch height width"]
    ) -> Float[Tensor, ""]:
        """Return the pixels' cross-entropy, plus the auxiliary head's by its weight.

        In bfloat16 on a GPU that computes in it.
        """
        half = images.device.type == "cuda" and computes_in_bf16("cuda")
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=half):
            before, last = last_two_maps(self.trunk, images)
            logits = self.head(last)
            second = None if self.auxiliary is None else self.auxiliary(before)
        value = pixel_loss(logits, target, corners=self.design.corners)
        if second is None:
            return value
        return value + self.design.auxiliary * pixel_loss(second, target, corners=self.design.corners)


def make_fcn(backbone: Backbone, design: Design, *, classes: int, seed: int, device: torch.device) -> FCN:
    """Return the network to be trained, on a copy of the backbone; heads depend on (seed, "segment", "head") alone.

    classes: background included. First weights as in mmsegmentation. Raises UserError for a backbone without strides
    that could become dilations.
    """
    trunk = dilated(backbone, design.output_stride)
    before, last = last_two_channels(trunk)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(keys.integer(seed, "segment", "head"))
        head = Head(
            last,
            classes,
            channels=design.channels or last // 4,
            convolutions=2,
            dilation=design.dilation,
            joined=design.joined,
            dropout=design.dropout,
        )
        auxiliary = None
        if design.auxiliary > 0:
            auxiliary = Head(
                before,
                classes,
                channels=before // 4,
                convolutions=1,
                dilation=1,
                joined=False,
                dropout=design.dropout,
            )
    return FCN(trunk, head, auxiliary, design).to(device).train().requires_grad_(True)


def pixel_loss(
    logits: Float[Tensor, "batch classes rows columns"], target: UInt8[Tensor, "batch height width"], *, corners: bool
) -> Float[Tensor, ""]:
    """Return the cross-entropy of the logits, resized to the target; the mean over all pixels, 0 for those not judged.

    mmsegmentation 0.x, of both publications, divides by the pixels that are not judged too (`avg_non_ignore` off).
    """
    large = F.interpolate(logits, target.shape[-2:], mode="bilinear", align_corners=corners)
    return F.cross_entropy(large, target.long(), ignore_index=NOT_JUDGED, reduction="sum") / target.numel()


def count_pixels(
    logits: Float[Tensor, "classes rows columns"],
    truth: UInt8[Tensor, "height width"],
    *,
    corners: bool,
) -> Int64[Tensor, "3 classes"]:
    """Return, of the pixels that are judged, how many are rightly each class, are it, and are predicted to be it.

    These are the diagonal, row sums and column sums of the confusion matrix, all that IoU and accuracy need. truth:
    class of each pixel of the photo, 255 not judged. The prediction is the class of the highest logit, resized.
    """
    classes = len(logits)
    counts = torch.zeros(3, classes, dtype=torch.long, device=logits.device)
    for rows, predicted in predict(logits, (truth.shape[0], truth.shape[1]), corners=corners):
        judged = truth[rows] != NOT_JUDGED
        known, guess = truth[rows][judged].long(), predicted[judged]
        for place, numbers in enumerate((known[known == guess], known, guess)):
            counts[place] += numbers.bincount(minlength=classes)
    return counts


def predict(
    logits: Float[Tensor, "classes rows columns"], size: Size, *, corners: bool
) -> Iterator[tuple[slice, Int[Tensor, "band width"]]]:
    """Yield, for bands of rows of a photo of that size, their slice and the class with the highest resized logit.

    In bands, so that a photo of 100 million pixels needs no 8 GB of logits.
    """
    height, width = size
    left, right, across = _between(logits.shape[2], width, corners=corners, like=logits)
    wide = torch.lerp(logits[:, :, left], logits[:, :, right], across)  # (K, h, W)
    above, below, down = _between(logits.shape[1], height, corners=corners, like=logits)
    band = max(1, BAND_ENTRIES // (len(logits) * width))
    for start in range(0, height, band):
        rows = slice(start, min(start + band, height))
        yield rows, torch.lerp(wide[:, above[rows]], wide[:, below[rows]], down[rows, None]).argmax(dim=0)


def _between(
    source: int, target: int, *, corners: bool, like: Tensor
) -> tuple[Int64[Tensor, " target"], Int64[Tensor, " target"], Float[Tensor, " target"]]:
    """Return the two neighbours of each of `target` places among `source` ones, and how far it is from the first."""
    place = torch.arange(target, dtype=torch.float64, device=like.device)
    if corners:
        place = place * ((source - 1) / max(1, target - 1))
    else:
        place = ((place + 0.5) * (source / target) - 0.5).clamp(0, source - 1)
    first = place.floor().long().clamp(max=source - 1)
    return first, (first + 1).clamp(max=source - 1), (place - first).to(like.dtype)
