"""Tiny ImageNet (train, 100,000 pictures of 64 px), ResNet-18 with a 3x3 stem and the max pool."""

from __future__ import annotations

from dataclasses import replace

from scenewise.methods.byol import BYOL
from scenewise.methods.msf import MSF
from scenewise.methods.msvq import MSVQ
from scenewise.methods.ressl import ReSSL
from scenewise.recipes.cifar10 import byol_cifar10, msf_cifar10, msvq_cifar10, ressl_cifar10
from scenewise.recipes.recipe import Recipe

MEAN, STD = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)  # MSVQ's dataset/data.py


def msvq_tinyimagenet() -> Recipe[MSVQ.Config]:
    """MSVQ on Tiny ImageNet, 200 epochs: 48.09 % linear.

    Command: scenewise pretrain tinyimagenet:PATH --recipe msvq-tinyimagenet --out RUN
    Hardware: one GPU (published: one). Time: 2 hours (estimate).
    Expected: linear 48.09 %.
    Source: pc-cp/MSVQ, README (until September 2023 its command left the queues at 4096 rows).
    """
    other = msvq_cifar10()
    return replace(
        other,
        method=replace(
            other.method, momentum=0.996, second_momentum=0.99, teacher_temperature=0.04, dictionary_size=16384
        ),
        backbone=replace(other.backbone, stem="cifar-pool"),
        size=64,
        mean=MEAN,
        std=STD,
    )


def ressl_tinyimagenet() -> Recipe[ReSSL.Config]:
    """ReSSL on Tiny ImageNet, 200 epochs: 46.38 % linear, 37.14 % kNN.

    Command: scenewise pretrain tinyimagenet:PATH --recipe ressl-tinyimagenet --out RUN
    Hardware: one GPU (published: one). Time: 1.2 hours (estimate).
    Expected: linear 46.38 %, kNN 37.14 % (the ReSSL paper: linear 46.60 %).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (tin_4).
    """
    other = ressl_cifar10()
    return replace(
        other,
        method=replace(other.method, momentum=0.996, dictionary_size=16384),
        backbone=replace(other.backbone, stem="cifar-pool"),
        size=64,
        mean=MEAN,
        std=STD,
    )


def byol_tinyimagenet() -> Recipe[BYOL.Config]:
    """BYOL on Tiny ImageNet, 200 epochs: 45.29 % linear, 37.65 % kNN.

    Command: scenewise pretrain tinyimagenet:PATH --recipe byol-tinyimagenet --out RUN
    Hardware: one GPU (published: one). Time: 2.5 hours (estimate).
    Expected: linear 45.29 %, kNN 37.65 % (its author warns that they are somewhat high).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (tin_3).
    Departures: see byol-cifar10.
    """
    other = byol_cifar10()
    return replace(
        other,
        method=replace(other.method, momentum=0.996),
        backbone=replace(other.backbone, stem="cifar-pool"),
        size=64,
        mean=MEAN,
        std=STD,
    )


def msf_tinyimagenet() -> Recipe[MSF.Config]:
    """MSF on Tiny ImageNet, symmetric, 200 epochs: 42.52 % linear, 34.79 % kNN.

    Command: scenewise pretrain tinyimagenet:PATH --recipe msf-tinyimagenet --out RUN
    Hardware: one GPU (published: one). Time: 2.5 hours (estimate).
    Expected: linear 42.52 %, kNN 34.79 % (a later run of the same code: 42.68 %, 35.29 %).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (tin_6).
    Departures: see msf-cifar10.
    """
    other = msf_cifar10()
    return replace(
        other,
        method=replace(other.method, momentum=0.996, dictionary_size=16384),
        backbone=replace(other.backbone, stem="cifar-pool"),
        size=64,
        mean=MEAN,
        std=STD,
    )
