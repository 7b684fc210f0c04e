"""CIFAR-100 (train, 50,000 pictures of 32 px): CIFAR-10's settings, other colours, and what MSVQ tuned for it."""

from __future__ import annotations

from dataclasses import replace

from scenewise.methods.byol import BYOL
from scenewise.methods.msf import MSF
from scenewise.methods.msvq import MSVQ
from scenewise.methods.ressl import ReSSL
from scenewise.recipes.cifar10 import byol_cifar10, msf_cifar10, msvq_cifar10, ressl_cifar10
from scenewise.recipes.recipe import Recipe

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)  # MSVQ's dataset/data.py


def msvq_cifar100() -> Recipe[MSVQ.Config]:
    """MSVQ on CIFAR-100, 200 epochs: 66.28 % linear, 60.4 % kNN.

    Command: scenewise pretrain cifar100:PATH --recipe msvq-cifar100 --out RUN
    Hardware: one GPU (published: one). Time: 1 hour (estimate).
    Expected: linear 66.28 %, kNN 60.4 % at epoch 200.
    Source: pc-cp/MSVQ, README (command, linear) and its figure (kNN, read off: +-0.1).
    """
    other = msvq_cifar10()
    method = replace(other.method, second_momentum=0.93, teacher_temperature=0.03)
    return replace(other, method=method, mean=MEAN, std=STD)


def msv_cifar100() -> Recipe[MSVQ.Config]:
    """MSV on CIFAR-100, MSVQ's ablation with one teacher and two weak views, 200 epochs: 59.1 % kNN.

    Command: scenewise pretrain cifar100:PATH --recipe msv-cifar100 --out RUN
    Hardware: one GPU (published: one). Time: 0.8 hours (estimate).
    Expected: kNN 59.1 % at epoch 200.
    Source: pc-cp/MSVQ, figure (read off: +-0.1); which terms are left is inferred from the names and the code.
    """
    whole = msvq_cifar100()
    return replace(whole, method=replace(whole.method, variant="msv"))


def mq_cifar100() -> Recipe[MSVQ.Config]:
    """MQ on CIFAR-100, MSVQ's ablation with two teachers and a weak view each, 200 epochs: 60.1 % kNN.

    Command: scenewise pretrain cifar100:PATH --recipe mq-cifar100 --out RUN
    Hardware: one GPU (published: one). Time: 0.8 hours (estimate).
    Expected: kNN 60.1 % at epoch 200.
    Source: pc-cp/MSVQ, figure (read off: +-0.1); which terms are left is inferred from the names and the code.
    """
    whole = msvq_cifar100()
    return replace(whole, method=replace(whole.method, variant="mq"))


def ressl_cifar100() -> Recipe[ReSSL.Config]:
    """ReSSL on CIFAR-100, 200 epochs: 63.82 % linear, 57.48 % kNN.

    Command: scenewise pretrain cifar100:PATH --recipe ressl-cifar100 --out RUN
    Hardware: one GPU (published: one). Time: 0.6 hours (estimate).
    Expected: linear 63.82 %, kNN 57.48 % (the ReSSL paper: linear 63.79 %; others got 61 %).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (cifar100_4).
    """
    return replace(ressl_cifar10(), mean=MEAN, std=STD)


def byol_cifar100() -> Recipe[BYOL.Config]:
    """BYOL on CIFAR-100, 200 epochs: 63.16 % linear, 57.24 % kNN.

    Command: scenewise pretrain cifar100:PATH --recipe byol-cifar100 --out RUN
    Hardware: one GPU (published: one). Time: 1.2 hours (estimate).
    Expected: linear 63.16 %, kNN 57.24 % (its author warns that they are somewhat high).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (cifar100_3).
    Departures: see byol-cifar10.
    """
    return replace(byol_cifar10(), mean=MEAN, std=STD)


def msf_cifar100() -> Recipe[MSF.Config]:
    """MSF on CIFAR-100, symmetric, 200 epochs: 59.84 % linear, 51.29 % kNN.

    Command: scenewise pretrain cifar100:PATH --recipe msf-cifar100 --out RUN
    Hardware: one GPU (published: one). Time: 1.2 hours (estimate).
    Expected: linear 59.84 %, kNN 51.29 % (a later run of the same code: 59.94 %, 52.32 %).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (cifar100_6).
    Departures: see msf-cifar10.
    """
    return replace(msf_cifar10(), mean=MEAN, std=STD)
