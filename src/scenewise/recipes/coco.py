"""COCO train2017, ResNet-50, 224 px: the published settings of MLS and of the MoCo v2 it is compared with.

DATA is left to the command line: `scenewise pretrain COCO/train2017 --recipe mls-coco-400 --out RUN`.
Time: 400 epochs are 185,000 steps of 256 images; on one modern GPU about two days (not measured by us).
"""

from __future__ import annotations

from typing import Any


def mls_coco_400() -> dict[str, Any]:
    """MLS as published, 400 epochs; expected Mask R-CNN R50-FPN 1x 40.1 AP box, 36.2 AP mask (paper, Table 1)."""
    return {
        "method": {
            "name": "mls",
            "k": 20,
            "temperature": 0.2,
            "weight": 0.5,
            "reduction": "mean",
            "logit_bias": 0.0,
            "momentum": 0.995,
            "width": 256,
            "dictionary_size": 4096,
        },
        "backbone": {"name": "resnet50"},
        "data": {"size": 224},
        "optimiser": {"name": "sgd", "lr": 0.3, "weight_decay": 1e-4, "schedule": "cosine", "warmup_epochs": 0},
        "engine": {"epochs": 400, "batch_size": 256},
    }


def mls_coco_800() -> dict[str, Any]:
    """MLS as published, 800 epochs; expected Mask R-CNN R50-FPN 1x 40.5 AP box, 36.5 AP mask (paper, Table 1)."""
    tree = mls_coco_400()
    return tree | {"engine": {**tree["engine"], "epochs": 800}}


def mocov2_coco_800() -> dict[str, Any]:
    """MoCo v2 on COCO; expected Mask R-CNN R50-FPN 1x 38.5 AP box, 34.8 AP mask (MLS paper, Table 1)."""
    return {
        "method": {"name": "mocov2", "dictionary_size": 65536, "momentum": 0.999, "temperature": 0.2, "width": 128},
        "backbone": {"name": "resnet50"},
        "data": {"size": 224},
        "optimiser": {"name": "sgd", "lr": 0.3, "weight_decay": 1e-4, "schedule": "cosine", "warmup_epochs": 0},
        "engine": {"epochs": 800, "batch_size": 256},
    }
