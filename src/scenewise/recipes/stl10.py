"""STL-10 (96 px), ResNet-18: MSVQ on 64-pixel crops of train and unlabeled together, S2R2 on unlabeled at 96."""

from __future__ import annotations

from dataclasses import replace

from scenewise.engine.config import BackboneConfig, OptimiserConfig
from scenewise.methods.msvq import MSVQ
from scenewise.methods.s2r2 import S2R2
from scenewise.recipes.recipe import Recipe
from scenewise.recipes.tinyimagenet import msvq_tinyimagenet

MEAN, STD = (0.4408, 0.4279, 0.3867), (0.2682, 0.2610, 0.2686)  # MSVQ's dataset/data.py


def msvq_stl10() -> Recipe[MSVQ.Config]:
    """MSVQ on STL-10 (105,000 pictures), 200 epochs: 90.36 % linear.

    Command: scenewise pretrain "stl10:PATH?split=train+unlabeled" --recipe msvq-stl10 --out RUN
    Hardware: one GPU (published: one). Time: 2 hours (estimate).
    Expected: linear 90.36 %, trained on the 5,000 labelled pictures and tested at 96 px: evaluate with --size 96.
    Source: pc-cp/MSVQ, README (until September 2023 its command left the queues at 4096 rows).
    """
    return replace(msvq_tinyimagenet(), mean=MEAN, std=STD)


def s2r2_stl10() -> Recipe[S2R2.Config]:
    """S2R2 on STL-10 (unlabeled), 4 views for 100 epochs: no figure was published; compare with simclr.

    Command: scenewise pretrain "stl10:PATH?split=unlabeled" --recipe s2r2-stl10 --out RUN
    Hardware: one GPU. Time: 1.1 hours (estimate).
    Expected: unknown. The paper (arXiv 2010.07258, abstract) claims more than SimCLR; `--method simclr --epochs 200`
    with 256 pictures a step sees as many views.
    Source: our recommendation, the paper's values are unknown: Adam 3e-4 at 512 views, Smooth-AP with temperature 0.05
    (`method.relaxation=hist` is the other form); augmentation, stem and pixels in 0..1 from the first author's code for
    STL10 (alivaramesh/MIXEM).
    """
    return Recipe(
        method=S2R2.Config(
            views=4,
            small_views=0,
            relaxation="smooth",
            temperature=0.05,
            bins=10,
            width=128,
            augmentation="stl10",
        ),
        backbone=BackboneConfig(name="resnet18", stem="imagenet", norm="batch"),
        optimiser=OptimiserConfig(
            name="adam",
            lr=6e-4,  # 3e-4 for a step of 128 pictures
            weight_decay=1e-6,
            exclude_norm_and_bias=False,
            schedule="cosine",
            warmup_epochs=10.0,
            warmup_start=0.0,
            final_lr=0.0,
        ),
        epochs=100,
        batch_size=128,
        size=96,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
