"""The same network with finer last maps: strides of its last stages become dilations, no weight changes."""

from __future__ import annotations

import timm
import torch
from jaxtyping import Float
from timm.models import is_model_in_modules
from torch import Tensor

from scenewise.backbones.backbone import Backbone
from scenewise.backbones.create import model_options, use_small_stem, wrap
from scenewise.errors import UserError

FAMILIES = ("resnet", "convnext")  # of timm, whose constructors take an output stride
OUTPUT_STRIDES = (8, 16, 32)
STEM_STRIDES = {"imagenet": 4, "cifar": 1, "cifar-pool": 2}  # of everything before the first stage


def check_dilated(backbone: Backbone, output_stride: int) -> None:
    """Raise UserError unless `dilated` works."""
    if output_stride not in OUTPUT_STRIDES:
        allowed = ", ".join(map(str, OUTPUT_STRIDES))
        raise UserError(f"output_stride: {output_stride} is not possible; allowed are {allowed}")
    if not is_model_in_modules(backbone.name, list(FAMILIES)):
        raise UserError(
            f"backbone: {backbone.name!r} has no strides that could become dilations, which this protocol needs; "
            "use a ResNet or ConvNeXt, for example 'resnet50'"
        )


def dilated(backbone: Backbone, output_stride: int) -> Backbone:
    """Return a copy of the backbone whose last map is at most `output_stride` times smaller than the image.

    output_stride: 8, 16 or 32. A stage that would go below it keeps its input's grid, and its convolutions, and those
    after it, step over as many pixels as they did before (Chen et al. 2017, arXiv 1706.05587, section 3.2), its first
    block over those of the stage before, as in torchvision and mmsegmentation. Parameters, their names and their values
    are those of the backbone, which shares none of them; device, precision and mode are its own too. A network that is
    fine enough by itself (a CIFAR stem) stays as it is. Raises UserError for another architecture than a ResNet or
    ConvNeXt.
    """
    check_dilated(backbone, output_stride)
    stride = min(output_stride * STEM_STRIDES["imagenet"] // STEM_STRIDES[backbone.stem], max(OUTPUT_STRIDES))
    options = model_options(backbone.name, norm=backbone.norm, size=backbone.weights.size)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # the random weights are replaced at once
        model = timm.create_model(backbone.name, pretrained=False, num_classes=0, output_stride=stride, **options)
        if backbone.stem != "imagenet":
            use_small_stem(model, backbone.stem)
    model.load_state_dict(backbone.model.state_dict(), strict=True)
    own = wrap(
        model,
        name=backbone.name,
        stem=backbone.stem,
        norm=backbone.norm,
        size=backbone.weights.size,
        weights=backbone.weights,
    )
    first = next(backbone.parameters())
    return own.to(first.device, first.dtype).train(backbone.training)


def last_two_maps(
    backbone: Backbone, images: Float[Tensor, "batch 3 height width"]
) -> tuple[Float[Tensor, "batch channels rows columns"], Float[Tensor, "batch wide rows_last columns_last"]]:
    """Return the maps of the last stage but one and of the last, in the network's precision."""
    before, last = backbone.model.forward_intermediates(images, indices=2, intermediates_only=True)  # type: ignore[operator]
    return before, last


def last_two_channels(backbone: Backbone) -> tuple[int, int]:
    """Return the channels of the maps of `last_two_maps`."""
    before, last = backbone.model.feature_info[-2:]  # type: ignore[index]
    return int(before["num_chs"]), int(last["num_chs"])
