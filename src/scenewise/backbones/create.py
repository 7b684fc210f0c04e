"""Make a backbone with random weights, by timm's name and a seed; the network is never asked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import timm
import torch
from timm.layers import GroupNorm
from timm.models import ResNet, is_model_in_modules
from torch import nn

from scenewise import keys
from scenewise.backbones.backbone import NORMS, STEMS, Backbone, WeightsInfo
from scenewise.errors import UserError, unknown_name

GROUPS = 32  # Wu & He 2018, Group Normalization, section 4: the default there
DEFAULT_SIZE = 224  # ImageNet's, for architectures that name no size of their own

# What fits the methods here and is commonly published; every other timm name works too.
CURATED = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "wide_resnet50_2",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "vit_tiny_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
)


@dataclass(frozen=True, slots=True)
class BackboneSummary:
    """One line of `scenewise backbones`: timm's name, number of pooled features, number of parameters."""

    name: str
    width: int
    parameters: int


def create_backbone(
    name: str, *, stem: str = "imagenet", norm: str = "batch", seed: int, size: int | None = None
) -> Backbone:
    """Return the architecture `name` with random weights that depend on (seed, "weights") alone, in training mode.

    The residual branches of a ResNet do not start at zero: so start torchvision's models, which MoCo v2, DenseCL and
    MLS trained (timm's own default does zero them, and then half the layers see no gradient in the first step).

    size: side in pixels of the images; a ViT gets position embeddings for it (default: the architecture's own size).
    Raises UserError for an unknown name, a size that is no multiple of a ViT's patch, a `stem` or `norm` the
    architecture does not have.
    """
    check_options(name, stem=stem, norm=norm)
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(keys.integer(seed, "weights"))  # torch.manual_seed would reseed the GPUs
        model = timm.create_model(name, pretrained=False, num_classes=0, **model_options(name, norm=norm, size=size))
        if stem != "imagenet":
            use_small_stem(model, stem)
    return wrap(model, name=name, stem=stem, norm=norm, size=size)


def check_name(name: str) -> None:
    """Raise UserError unless timm has an architecture (and, after a dot, a set of weights) of this name."""
    if not timm.is_model(name) or ":" in name:
        raise UserError(unknown_name("backbone", name, timm.list_models()))
    if "." in name and name not in timm.list_models(pretrained=True):
        architecture = name.split(".")[0]
        raise UserError(unknown_name("backbone", name, timm.list_models(f"{architecture}.*", pretrained=True)))


def check_options(name: str, *, stem: str, norm: str) -> None:
    """Raise UserError for an unknown name, stem or norm, or one that the architecture does not have."""
    check_name(name)
    problems = []
    for option, value, allowed in (("stem", stem, STEMS), ("norm", norm, NORMS)):
        if value not in allowed:
            problems.append(unknown_name(f"backbone.{option}", value, allowed))
        elif value != allowed[0] and not is_resnet(name):
            problems.append(
                f"backbone.{option}: {value!r} is for ResNets, {name!r} allows {allowed[0]!r} only (its own)"
            )
    if norm == "group" and not problems:
        problems += _ungroupable(name)
    if problems:
        raise UserError(*problems)


def _ungroupable(name: str) -> list[str]:
    """Return the problem with an architecture whose channels 32 groups do not divide; no weights are made."""
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.num_features % GROUPS:
            return [
                f"backbone.norm: 'group' makes {GROUPS} groups, and {name!r} has a layer of {layer.num_features} "
                "channels; use 'batch', or an architecture such as 'resnet18'"
            ]
    return []


def is_resnet(name: str) -> bool:
    """Return whether the architecture is one of timm's ResNets (ResNeXt and wide ResNets included)."""
    return bool(is_model_in_modules(name, ["resnet"]))


def model_options(name: str, *, norm: str, size: int | None) -> dict[str, Any]:
    """Return the keyword arguments that timm's constructor needs beyond the name."""
    options: dict[str, Any] = {}
    if is_resnet(name):
        options["zero_init_last"] = False
        if norm == "group":
            options["norm_layer"] = partial(GroupNorm, num_groups=GROUPS)
    if is_model_in_modules(name, ["vision_transformer"]):
        options["dynamic_img_size"] = True  # other multiples of the patch are read too: small crops, other test sizes
    if size is not None and pretrained_config(name).fixed_input_size:
        options["img_size"] = size
    return options


def wrap(
    model: nn.Module, *, name: str, stem: str, norm: str, size: int | None, weights: WeightsInfo | None = None
) -> Backbone:
    """Return a timm model as a Backbone, its size checked; without `weights` they are said to be random."""
    info = weights or WeightsInfo(size=size or default_size(name))
    backbone = Backbone(model, name=name, stem=stem, norm=norm, weights=info)
    backbone.check_size(info.size)
    return backbone


def default_size(name: str) -> int:
    """Return the side in pixels that timm names for the architecture."""
    sides = pretrained_config(name).input_size
    return int(sides[-1]) if sides else DEFAULT_SIZE


def pretrained_config(name: str) -> Any:
    """Return timm's record of the architecture's usual size, mean, std and published weights."""
    return timm.get_pretrained_cfg(name)


def backbone_names() -> tuple[str, ...]:
    """Return the suggested backbones; any name of `timm.list_models()` works too."""
    return CURATED


def backbone_summaries() -> tuple[BackboneSummary, ...]:
    """Return width and number of parameters of each suggested backbone (no weights are made)."""
    summaries = []
    for name in CURATED:
        with torch.device("meta"):
            model = timm.create_model(name, pretrained=False, num_classes=0)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        summaries.append(BackboneSummary(name, int(model.head_hidden_size), parameters))
    return tuple(summaries)


def use_small_stem(model: nn.Module, stem: str) -> None:
    """Replace the 7x7 stride-2 convolution by a 3x3 one of stride 1, and drop the max pool unless the stem keeps it.

    "cifar": SimCLR, appendix B.9. "cifar-pool": ReSSL's and MSVQ's code for STL-10 and Tiny ImageNet at 64 px.
    """
    if not isinstance(model, ResNet) or not isinstance(model.conv1, nn.Conv2d):
        raise UserError(f"backbone.stem: {stem!r} needs a ResNet with a plain stem, for example 'resnet18'")
    channels = model.conv1.out_channels
    model.conv1 = nn.Conv2d(3, channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if stem == "cifar":
        model.maxpool = nn.Identity()
