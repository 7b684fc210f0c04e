"""How other projects name the entries of a backbone, and how these names become timm's: one `Style` a project."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

Where = tuple[str, ...]
TEACHER: Where = ("teacher",)
WRAPPERS: tuple[Where, ...] = (
    (),
    ("state_dict",),
    ("model",),
    ("model_state_dict",),
    ("state_dict", "model"),
    ("model", "state_dict"),
    ("network",),
    ("net",),
)


def _as_it_is(key: str) -> str:
    return key


def _children(key: str) -> str:
    """Name an entry of `Sequential(*resnet.children())` of torchvision: ReLU and the max pool are numbers 2 and 3."""
    number, dot, rest = key.partition(".")
    return _CHILDREN.get(number, number) + dot + rest


_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}


def _lightly_children(key: str) -> str:
    """Name an entry of the Sequential that lightly makes of its own ResNet, which has no ReLU or pool among them."""
    number, dot, rest = key.partition(".")
    return _LIGHTLY_CHILDREN.get(number, number) + dot + rest.replace("shortcut.", "downsample.")


_LIGHTLY_CHILDREN = {"0": "conv1", "1": "bn1", "2": "layer1", "3": "layer2", "4": "layer3", "5": "layer4"}


def _openmmlab_vit(key: str) -> str:
    """Name an entry of mmpretrain's VisionTransformer (mmpretrain/models/backbones/vision_transformer.py)."""
    for pattern, ours in _OPENMMLAB_VIT:
        key = re.sub(pattern, ours, key)
    return key


_OPENMMLAB_VIT = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^(?:ln|norm)1\.", "norm."),
    (r"^layers\.(\d+)\.(?:ln|norm)([12])\.", r"blocks.\1.norm\2."),
    (r"^layers\.(\d+)\.ffn\.layers\.0\.0\.", r"blocks.\1.mlp.fc1."),
    (r"^layers\.(\d+)\.ffn\.layers\.1\.", r"blocks.\1.mlp.fc2."),
    (r"^layers\.", "blocks."),
)


@dataclass(frozen=True, slots=True)
class Style:
    """How a project names the entries of its backbone.

    name: of the project. prefixes: before each of the backbone's entries, one of them; `module.` of DataParallel and
    `_orig_mod.` of torch.compile are taken away before. where: the dicts around the entries, one of these ways.
    rename: from what follows the prefix to timm's name. signs: one of these begins some other entry, where several
    projects have the same prefix. encoder: which one this is where a file has several, the one that the project
    evaluates. model: the dict that holds the whole model, where the encoder's is one of several dicts in it; what lies
    in the others is left out, and told.
    """

    name: str
    prefixes: tuple[str, ...] = ("",)
    where: tuple[Where, ...] = WRAPPERS
    rename: Callable[[str], str] = _as_it_is
    signs: tuple[str, ...] = ()
    encoder: str = ""
    model: Where = ()


PLAIN = Style("timm and torchvision")
MOCO_V3 = Style("MoCo v3", ("base_encoder.",), encoder="the base encoder")
OPENMMLAB_VIT = Style(
    "mmpretrain and mmselfsup (ViT)", ("backbone.", ""), rename=_openmmlab_vit, encoder="the backbone"
)
LIGHTLY_OWN = Style("lightly (its own ResNet)", ("backbone.", ""), rename=_lightly_children)
WITH_BACKBONE = Style("a model with a backbone", ("backbone.", "backbone.vit.", "encoder."))
# The first that fits is taken, so those that name an encoder come before those that any file may have.
STYLES = (
    Style("SwAV", signs=("projection_head.", "prototypes.")),
    PLAIN,
    Style("MoCo v1 and v2", ("encoder_q.",), encoder="the query encoder"),
    MOCO_V3,
    Style("DINO", ("backbone.", ""), where=(TEACHER,), encoder="the teacher"),
    Style("DINO", ("teacher.backbone.", "teacher_backbone."), encoder="the teacher"),
    Style("DINO", ("backbone.", ""), where=(("student",),), encoder="the student, as there is no teacher"),
    Style("BYOL-pytorch", ("online_encoder.net.",), encoder="the online encoder"),
    Style(
        "PyTorch-BYOL",
        ("encoder.",),
        where=(("online_network_state_dict",),),
        rename=_children,
        encoder="the online network",
    ),
    Style(
        "VISSL",
        ("_feature_blocks.", "base_model._feature_blocks.", ""),
        where=(("classy_state_dict", "base_model", "model", "trunk"), ("model_state_dict",)),
        encoder="the trunk",
        model=("classy_state_dict", "base_model", "model"),
    ),
    Style(
        "lightly-train",
        tuple(
            f"{model}.{wrapper}.{part}."
            for model in ("teacher_embedding_model", "embedding_model")
            for wrapper in ("wrapped_model", "model_wrapper")
            for part in ("_features", "_model")
        ),
        encoder="the model that it exports",
    ),
    Style(
        "solo-learn", ("backbone.", "encoder."), signs=("projector.", "momentum_", "classifier."), encoder="the online"
    ),
    Style("lightly", ("backbone.", "backbone.vit."), signs=("projection_head.",), encoder="the online backbone"),
    Style(
        "OpenSelfSup, DenseCL, mmselfsup and mmpretrain",
        ("backbone.", "encoder_q.0.", "online_net.0."),
        signs=("neck.", "head.", "queue", "encoder_q.", "online_net."),
        encoder="the backbone (the query or online encoder)",
    ),
    WITH_BACKBONE,
    OPENMMLAB_VIT,
    Style(
        "lightly (a Sequential of torchvision's ResNet)", ("backbone.", "encoder.", "features.", ""), rename=_children
    ),
    LIGHTLY_OWN,
)
