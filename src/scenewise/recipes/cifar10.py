"""CIFAR-10 (train, 50,000 pictures of 32 px), ResNet-18 with a 3x3 stem and no max pool.

"kNN" is with k = 200 and temperature 0.1 on the features, "linear" a probe on them, of which some authors report the
best epoch on the test set. pc-cp/Benchmark-Methods-For-MNN is by MSVQ's first author.
"""

from __future__ import annotations

from dataclasses import replace

from scenewise.engine.config import BackboneConfig, OptimiserConfig
from scenewise.methods.byol import BYOL
from scenewise.methods.mocov2 import MoCoV2
from scenewise.methods.msf import MSF
from scenewise.methods.msvq import MSVQ
from scenewise.methods.ressl import ReSSL
from scenewise.methods.simclr import SimCLR
from scenewise.recipes.recipe import Recipe

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)  # MoCo's notebook, MSVQ's dataset/data.py

RESNET18 = BackboneConfig(name="resnet18", stem="cifar", norm="batch")
GROUPED = replace(RESNET18, batchnorm_group=32)  # 256 pictures in 8 groups: MSVQ's split batch norm

# pc-cp/MSVQ and pc-cp/Benchmark-Methods-For-MNN, on all their data sets
SGD = OptimiserConfig(
    name="sgd",
    lr=0.06,
    momentum=0.9,
    weight_decay=5e-4,
    exclude_norm_and_bias=False,
    schedule="cosine",
    warmup_epochs=5.0,
    warmup_start=0.0,
    final_lr=0.0,
)


def msvq_cifar10() -> Recipe[MSVQ.Config]:
    """MSVQ on CIFAR-10, 200 epochs: 91.46 % linear, 90.1 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe msvq-cifar10 --out RUN
    Hardware: one GPU (published: one). Time: 1 hour (estimate).
    Expected: linear 91.46 %, kNN 90.1 % at epoch 200.
    Source: pc-cp/MSVQ, README (command, linear) and its figure (kNN, read off: +-0.1); the rest from main.py.
    """
    return Recipe(
        method=MSVQ.Config(
            variant="msvq",
            momentum=0.99,
            second_momentum=0.95,
            temperature=0.1,
            teacher_temperature=0.04,
            hidden=2048,
            width=128,
            dictionary_size=4096,
            queue_start="random",
            mask_own_image=False,
            strong="msvq-strong",
            weak="msvq-weak",
            shuffle=True,
        ),
        backbone=GROUPED,
        optimiser=SGD,
        epochs=200,
        batch_size=256,
        size=32,
        mean=MEAN,
        std=STD,
    )


def msv_cifar10() -> Recipe[MSVQ.Config]:
    """MSV on CIFAR-10, MSVQ's ablation with one teacher and two weak views, 200 epochs: 89.3 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe msv-cifar10 --out RUN
    Hardware: one GPU (published: one). Time: 0.8 hours (estimate).
    Expected: kNN 89.3 % at epoch 200.
    Source: pc-cp/MSVQ, figure (read off: +-0.1); which terms are left is inferred from the names and the code.
    """
    whole = msvq_cifar10()
    return replace(whole, method=replace(whole.method, variant="msv"))


def mq_cifar10() -> Recipe[MSVQ.Config]:
    """MQ on CIFAR-10, MSVQ's ablation with two teachers and a weak view each, 200 epochs: 89.4 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe mq-cifar10 --out RUN
    Hardware: one GPU (published: one). Time: 0.8 hours (estimate).
    Expected: kNN 89.4 % at epoch 200.
    Source: pc-cp/MSVQ, figure (read off: +-0.1); which terms are left is inferred from the names and the code.
    """
    whole = msvq_cifar10()
    return replace(whole, method=replace(whole.method, variant="mq"))


def ressl_cifar10() -> Recipe[ReSSL.Config]:
    """ReSSL on CIFAR-10, 200 epochs: 89.97 % linear, 88.89 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe ressl-cifar10 --out RUN
    Hardware: one GPU (published: one). Time: 0.6 hours (estimate).
    Expected: linear 89.97 %, kNN 88.89 % (the ReSSL paper: linear 90.20 %).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (cifar10_4).
    """
    return Recipe(
        method=ReSSL.Config(
            momentum=0.99,
            temperature=0.1,
            teacher_temperature=0.04,
            hidden=2048,
            width=128,
            dictionary_size=4096,
            queue_start="random",
            mask_own_image=False,
            strong="msvq-strong",
            weak="msvq-weak",
            shuffle=True,
        ),
        backbone=GROUPED,
        optimiser=SGD,
        epochs=200,
        batch_size=256,
        size=32,
        mean=MEAN,
        std=STD,
    )


def byol_cifar10() -> Recipe[BYOL.Config]:
    """BYOL on CIFAR-10, 200 epochs: 89.54 % linear, 87.54 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe byol-cifar10 --out RUN
    Hardware: one GPU (published: one). Time: 1.2 hours (estimate).
    Expected: linear 89.54 %, kNN 87.54 % (its author warns that they are somewhat high).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (cifar10_3). Its loss is the mean of
    the two directions, ours the sum as in the paper: half its rate (0.06) and twice its weight decay (5e-4) are the
    same steps.
    Departures: their batch norm is split in 8, ours is over the batch; their heads' last layers have biases.
    """
    return Recipe(
        method=BYOL.Config(
            momentum=0.99,
            momentum_schedule="constant",
            hidden=2048,
            width=128,
            first_augmentation="msvq-strong",
            second_augmentation="msvq-strong",
        ),
        backbone=RESNET18,
        optimiser=replace(SGD, lr=0.03, weight_decay=1e-3),
        epochs=200,
        batch_size=256,
        size=32,
        mean=MEAN,
        std=STD,
    )


def msf_cifar10() -> Recipe[MSF.Config]:
    """MSF on CIFAR-10, symmetric, 200 epochs: 89.60 % linear, 87.86 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe msf-cifar10 --out RUN
    Hardware: one GPU (published: one). Time: 1.2 hours (estimate).
    Expected: linear 89.60 %, kNN 87.86 % (a later run of the same code: 89.94 %, 88.24 %).
    Source: pc-cp/Benchmark-Methods-For-MNN, README and main_pretrain_evaluation.sh (cifar10_6): five neighbours and the
    target itself, searched before the batch is written.
    Departures: their batch norm is split in 8, ours is over the batch.
    """
    return Recipe(
        method=MSF.Config(
            momentum=0.99,
            k=5,
            hidden=2048,
            width=128,
            dictionary_size=4096,
            queue_start="random",
            search="before",
            symmetric=True,
            query="msvq-strong",
            key="msvq-weak",
        ),
        backbone=RESNET18,
        optimiser=SGD,
        epochs=200,
        batch_size=256,
        size=32,
        mean=MEAN,
        std=STD,
    )


def simclr_cifar10() -> Recipe[SimCLR.Config]:
    """SimCLR on CIFAR-10, 1000 epochs: about 91 % linear.

    Command: scenewise pretrain cifar10:PATH --recipe simclr-cifar10 --out RUN
    Hardware: one GPU (published: one). Time: 5 hours (estimate).
    Expected: linear about 91 %.
    Source: google-research/simclr, README: LARS 1.0 per 256 pictures (the code scales it to the batch of 512), weight
    decay 1e-4, temperature 0.5, no blur, colour strength 0.5; 10 epochs of warm-up by default; pixels in 0..1.
    """
    return Recipe(
        method=SimCLR.Config(temperature=0.5, hidden=512, width=128, augmentation="simclr-cifar"),
        backbone=RESNET18,
        optimiser=OptimiserConfig(
            name="lars",
            lr=1.0,
            momentum=0.9,
            weight_decay=1e-4,
            exclude_norm_and_bias=True,
            schedule="cosine",
            warmup_epochs=10.0,
            warmup_start=0.0,
            final_lr=0.0,
        ),
        epochs=1000,
        batch_size=512,
        size=32,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def mocov2_cifar10() -> Recipe[MoCoV2.Config]:
    """MoCo on CIFAR-10, the authors' notebook, 200 epochs: 82.6 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe mocov2-cifar10 --out RUN
    Hardware: one GPU (published: one V100). Time: 0.6 hours (estimate).
    Expected: kNN 82.6 % (86.3 % after 400 epochs, 88.7 % after 800: `--epochs 800`).
    Source: facebookresearch/moco, colab/moco_cifar10_demo.ipynb, asymmetric; SGD 0.06 at 512 pictures is 0.03 at 256,
    and batch norm is split in 8.
    """
    return Recipe(
        method=MoCoV2.Config(
            momentum=0.99,
            temperature=0.1,
            width=128,
            dictionary_size=4096,
            queue_start="random",
            mask_own_image=False,
            augmentation="moco-cifar",
            shuffle=True,
            head="linear",
            symmetric=False,
        ),
        backbone=replace(RESNET18, batchnorm_group=64),
        optimiser=replace(SGD, lr=0.03, schedule="cosine_epoch", warmup_epochs=0.0),
        epochs=200,
        batch_size=512,
        size=32,
        mean=MEAN,
        std=STD,
    )


def mocov2_cifar10_symmetric() -> Recipe[MoCoV2.Config]:
    """MoCo on CIFAR-10, the authors' notebook with both views as queries, 200 epochs: 85.3 % kNN.

    Command: scenewise pretrain cifar10:PATH --recipe mocov2-cifar10-symmetric --out RUN
    Hardware: one GPU (published: one V100). Time: 1.2 hours (estimate).
    Expected: kNN 85.3 % (88.5 % after 400 epochs, 89.7 % after 800: `--epochs 800`).
    Source: facebookresearch/moco, colab/moco_cifar10_demo.ipynb, symmetric; the rest as mocov2-cifar10.
    """
    asymmetric = mocov2_cifar10()
    return replace(asymmetric, method=replace(asymmetric.method, symmetric=True))
