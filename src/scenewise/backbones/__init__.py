"""Backbones: timm's architectures as modules that give pooled features, and the files that hold their weights."""

from __future__ import annotations

from scenewise.backbones.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, WeightsInfo
from scenewise.backbones.create import BackboneSummary, backbone_names, backbone_summaries, create_backbone
from scenewise.backbones.subjects import Subject, load_subject
from scenewise.backbones.weights import WEIGHTS_FILE, load_backbone, save_backbone

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "WEIGHTS_FILE",
    "Backbone",
    "BackboneSummary",
    "Subject",
    "WeightsInfo",
    "backbone_names",
    "backbone_summaries",
    "create_backbone",
    "load_backbone",
    "load_subject",
    "save_backbone",
]
