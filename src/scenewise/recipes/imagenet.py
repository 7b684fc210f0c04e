"""ImageNet (train, 1,281,167 photos), ResNet-50 at 224 px: the baselines as their authors published them.

"Linear" is the top-1 accuracy of a linear probe on the frozen features. On 8 GPUs:
`torchrun --nproc_per_node 8 -m scenewise pretrain ...`.
"""

from __future__ import annotations

from dataclasses import replace

from scenewise.engine.config import OptimiserConfig
from scenewise.methods.byol import BYOL
from scenewise.methods.densecl import DenseCL
from scenewise.methods.mocov2 import MoCoV2
from scenewise.methods.msf import MSF
from scenewise.methods.ressl import ReSSL
from scenewise.methods.simclr import SimCLR
from scenewise.methods.swav import SwAV
from scenewise.methods.univip import UniVIP
from scenewise.recipes.coco import GROUPED, RESNET50, densecl_coco_800, mocov2_coco_800, univip_coco_800
from scenewise.recipes.recipe import Recipe

# LARS of the large batches, 0.3 per 256 photos
LARS = OptimiserConfig(
    name="lars",
    lr=0.3,
    momentum=0.9,
    weight_decay=1e-6,
    exclude_norm_and_bias=True,
    schedule="cosine",
    warmup_epochs=10.0,
    warmup_start=0.0,
    final_lr=0.0,
)


def simclr_imagenet_1000() -> Recipe[SimCLR.Config]:
    """SimCLR on ImageNet, 1000 epochs: 69.1 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe simclr-imagenet-1000 --out RUN
    Hardware: 8 GPUs of 80 GB (published: TPU v3, 32 or more). Time: 74 hours on 8 (estimate).
    Expected: linear 69.1 to 69.3 %.
    Source: SimCLR (arXiv 2002.05709), section 2.1; figure and command of google-research/simclr's README (weight decay
    1e-6 in the paper, 1e-4 in a later README). Its pixels are in 0..1, without mean and deviation.
    """
    return Recipe(
        method=SimCLR.Config(temperature=0.1, hidden=2048, width=128, augmentation="simclr"),
        backbone=RESNET50,
        optimiser=LARS,
        epochs=1000,
        batch_size=4096,
        size=224,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )


def simclr_imagenet_200() -> Recipe[SimCLR.Config]:
    """SimCLR on ImageNet, 200 epochs: 68.3 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe simclr-imagenet-200 --out RUN
    Hardware: 8 GPUs of 80 GB. Time: 15 hours on 8 (estimate).
    Expected: linear 68.3 % (SimSiam's re-run, in MSF's table); 66.7 % in mmselfsup.
    Source: as simclr-imagenet-1000.
    """
    return replace(simclr_imagenet_1000(), epochs=200)


def mocov2_imagenet_200() -> Recipe[MoCoV2.Config]:
    """MoCo v2 on ImageNet, 200 epochs: 67.5 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe mocov2-imagenet-200 --out RUN
    Hardware: 8 GPUs (published: 8 V100). Time: 10 hours on 8 (estimate).
    Expected: linear 67.5 +- 0.1 %; VOC07+12 57.0 AP.
    Source: facebookresearch/moco, README and main_moco.py (--mlp --moco-t 0.2 --aug-plus --cos).
    """
    coco = mocov2_coco_800()
    return replace(coco, optimiser=replace(coco.optimiser, lr=0.03), epochs=200)


def mocov2_imagenet_800() -> Recipe[MoCoV2.Config]:
    """MoCo v2 on ImageNet, 800 epochs: 71.1 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe mocov2-imagenet-800 --out RUN
    Hardware: 8 GPUs (published: 8 V100). Time: 40 hours on 8 (estimate).
    Expected: linear 71.1 %; VOC07+12 57.4 AP.
    Source: facebookresearch/moco, README.
    """
    return replace(mocov2_imagenet_200(), epochs=800)


def byol_imagenet_1000() -> Recipe[BYOL.Config]:
    """BYOL on ImageNet, 1000 epochs: 74.3 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe byol-imagenet-1000 --out RUN
    Hardware: 8 GPUs of 80 GB (published: TPUs). Time: 99 hours on 8 (estimate).
    Expected: linear 74.3 %.
    Source: BYOL (arXiv 2006.07733), section 3.3; deepmind-research/byol: LARS 0.2, weight decay 1.5e-6, base 0.996.
    Departures: crops are resized bilinearly, theirs bicubically.
    """
    shorter = byol_imagenet_300()
    return replace(
        shorter,
        method=replace(shorter.method, momentum=0.996),
        optimiser=replace(shorter.optimiser, lr=0.2, weight_decay=1.5e-6),
        epochs=1000,
    )


def byol_imagenet_300() -> Recipe[BYOL.Config]:
    """BYOL on ImageNet, 300 epochs: 72.9 % linear in a re-implementation.

    Command: scenewise pretrain IMAGENET/train --recipe byol-imagenet-300 --out RUN
    Hardware: 8 GPUs of 80 GB (published: TPUs). Time: 30 hours on 8 (estimate).
    Expected: linear 72.9 % (mmselfsup); 71.8 % with 256 photos a step (MSF's table).
    Source: deepmind-research/byol, the run of 300 epochs: LARS 0.3, weight decay 1e-6, base 0.99.
    Departures: crops are resized bilinearly, theirs bicubically.
    """
    return Recipe(
        method=BYOL.Config(
            momentum=0.99,
            momentum_schedule="cosine",
            hidden=4096,
            width=256,
            first_augmentation="byol-first",
            second_augmentation="byol-second",
        ),
        backbone=RESNET50,
        optimiser=LARS,
        epochs=300,
        batch_size=4096,
        size=224,
    )


def swav_imagenet_800() -> Recipe[SwAV.Config]:
    """SwAV on ImageNet with multi-crop, 800 epochs: 75.3 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe swav-imagenet-800 --out RUN
    Hardware: 8 GPUs of 80 GB (published: 64 V100). Time: 92 hours on 8 (estimate).
    Expected: linear 75.3 % (74.6 % after 400 epochs, 73.9 % after 200, 72.1 % after 100).
    Source: facebookresearch/swav, scripts/swav_800ep_pretrain.sh and README: LARS 4.8 at 4096 photos, from 0.3, to
    0.0048; prototypes frozen for 313 steps; no queue.
    """
    return Recipe(
        method=SwAV.Config(
            small_crops=6,
            prototypes=3000,
            freeze_epochs=313 / 312,  # 312 steps an epoch
            temperature=0.1,
            epsilon=0.05,
            iterations=3,
            dictionary_size=0,
            hidden=2048,
            width=128,
            augmentation="simclr",
        ),
        backbone=RESNET50,
        optimiser=replace(LARS, exclude_norm_and_bias=False, warmup_start=0.3 / 4.8, final_lr=0.001),
        epochs=800,
        batch_size=4096,
        size=224,
    )


def swav_imagenet_400_two_crops() -> Recipe[SwAV.Config]:
    """SwAV on ImageNet with two crops, 400 epochs: 70.1 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe swav-imagenet-400-two-crops --out RUN
    Hardware: 8 GPUs of 80 GB (published: 64 V100). Time: 30 hours on 8 (estimate).
    Expected: linear 70.1 %.
    Source: facebookresearch/swav, scripts/swav_400ep_2x224_pretrain.sh and README.
    """
    multi = swav_imagenet_800()
    return replace(multi, method=replace(multi.method, small_crops=0), epochs=400)


def swav_imagenet_small_batch_200() -> Recipe[SwAV.Config]:
    """SwAV on ImageNet with multi-crop, 256 photos a step and a queue, 200 epochs: 72.7 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe swav-imagenet-small-batch-200 --out RUN
    Hardware: 4 or 8 GPUs (published: 4 V100). Time: 23 hours on 8 (estimate).
    Expected: linear 72.7 %; 70.5 % in mmselfsup.
    Source: facebookresearch/swav, scripts/swav_200ep_bs256_pretrain.sh and README: LARS 0.6 to 0.0006, no warm-up,
    prototypes frozen for 5005 steps, a queue of 3840 from epoch 15.
    """
    large = swav_imagenet_800()
    return replace(
        large,
        method=replace(
            large.method,
            freeze_epochs=5005 / 5004,  # 5004 steps an epoch
            dictionary_size=3840,
            queue_epochs=15.0,
        ),
        optimiser=replace(large.optimiser, lr=0.6, warmup_epochs=0.0, warmup_start=0.0),
        epochs=200,
        batch_size=256,
    )


def swav_imagenet_small_batch_400() -> Recipe[SwAV.Config]:
    """SwAV on ImageNet with multi-crop, 256 photos a step and a queue, 400 epochs: 74.3 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe swav-imagenet-small-batch-400 --out RUN
    Hardware: 4 or 8 GPUs (published: 4 V100). Time: 46 hours on 8 (estimate).
    Expected: linear 74.3 %.
    Source: facebookresearch/swav, scripts/swav_400ep_bs256_pretrain.sh and README.
    """
    return replace(swav_imagenet_small_batch_200(), epochs=400)


def densecl_imagenet_200() -> Recipe[DenseCL.Config]:
    """DenseCL on ImageNet, 200 epochs: 58.7 AP (Faster R-CNN R50-C4 on VOC07+12), 63.3 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe densecl-imagenet-200 --out RUN
    Hardware: 8 GPUs (published: 8). Time: 10 hours on 8 (estimate).
    Expected: VOC07+12 58.7 AP; VOC segmentation 69.4 mIoU; linear 63.3 to 63.6 %.
    Source: WXinlong/DenseCL, configs/selfsup/densecl/densecl_imagenet_200ep.py and README; linear from mmselfsup.
    """
    coco = densecl_coco_800()
    return replace(coco, optimiser=replace(coco.optimiser, lr=0.03), epochs=200)


def ressl_imagenet_200() -> Recipe[ReSSL.Config]:
    """ReSSL on ImageNet, one student crop, 200 epochs: 69.9 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe ressl-imagenet-200 --out RUN
    Hardware: 8 GPUs (published: 8 of 32 photos each). Time: 10 hours on 8 (estimate).
    Expected: linear 69.9 %; VOC07 SVM 86.31 mAP.
    Source: ReSSL (arXiv 2107.09282); KyleZheng1997/ReSSL, README and ressl.py; SVM from SCE's README.
    """
    return Recipe(
        method=ReSSL.Config(
            momentum=0.999,
            temperature=0.1,
            teacher_temperature=0.04,
            hidden=4096,
            width=512,
            dictionary_size=131_072,
            queue_start="random",
            mask_own_image=False,
            strong="moco",
            weak="weak",
            shuffle=True,
        ),
        backbone=GROUPED,
        optimiser=OptimiserConfig(
            name="sgd",
            lr=0.05,
            momentum=0.9,
            weight_decay=1e-4,
            exclude_norm_and_bias=True,
            schedule="cosine",
            warmup_epochs=5.0,
            warmup_start=0.0,
            final_lr=0.0,
        ),
        epochs=200,
        batch_size=256,
        size=224,
    )


def msf_imagenet_200() -> Recipe[MSF.Config]:
    """MSF on ImageNet, 200 epochs: 71.4 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe msf-imagenet-200 --out RUN
    Hardware: 4 or 8 GPUs (published: 4 RTX 6000, 140 hours). Time: 10 hours on 8 (estimate, without the search).
    Expected: linear 71.4 %, 1-NN 60.6 %, 20-NN 64.0 %; VOC07+12 56.7 AP.
    Source: MSF (arXiv 2105.07269); UMBCvision/MSF, run_msf.sh (k = 5, a bank of 1,024,000: 2 GB).
    Departures: their batch norm is per GPU and shuffled, ours is over the run.
    """
    return Recipe(
        method=MSF.Config(
            momentum=0.99,
            k=5,
            hidden=4096,
            width=512,
            dictionary_size=1_024_000,
            queue_start="random",
            search="joined",
            symmetric=False,
            query="moco",
            key="moco",
        ),
        backbone=RESNET50,
        optimiser=OptimiserConfig(
            name="sgd",
            lr=0.05,
            momentum=0.9,
            weight_decay=1e-4,
            exclude_norm_and_bias=False,
            schedule="cosine_epoch",
            warmup_epochs=0.0,
            warmup_start=0.0,
            final_lr=0.0,
        ),
        epochs=200,
        batch_size=256,
        size=224,
    )


def msf_imagenet_200_weak() -> Recipe[MSF.Config]:
    """MSF on ImageNet with a weak target view, 200 epochs: 72.4 % linear.

    Command: scenewise pretrain IMAGENET/train --recipe msf-imagenet-200-weak --out RUN
    Hardware: 4 or 8 GPUs (published: 4 RTX 6000, 140 hours). Time: 10 hours on 8 (estimate, without the search).
    Expected: linear 72.4 %, 1-NN 62.0 %, 20-NN 64.9 %; VOC07+12 56.6 AP.
    Source: as msf-imagenet-200, w/s in the paper's tables (the README's command has k = 10 and a bank of 128,000).
    """
    strong = msf_imagenet_200()
    return replace(strong, method=replace(strong.method, key="weak"))


def univip_imagenet_200() -> Recipe[UniVIP.Config]:
    """UniVIP on ImageNet, 200 epochs: 73.1 % linear.

    Proposals: scenewise propose IMAGENET/train --out proposals.arrow --generator selective-search
    Command: scenewise pretrain IMAGENET/train --recipe univip-imagenet-200 --proposals proposals.arrow --out RUN
    Hardware: 8 GPUs of 80 GB (published: not given). Time: 27 hours on 8 (estimate).
    Expected: linear 73.1 % (BYOL 70.6 % in the same table).
    Source: UniVIP (arXiv 2203.06965), batch, epochs and figure from its table.
    Open in the paper: the optimiser on ImageNet (here BYOL's, as open-mmlab/mmselfsup has it: LARS 4.8 at 4096 photos);
    the rest as univip-coco-800.
    """
    return replace(univip_coco_800(), optimiser=LARS, epochs=200, batch_size=4096)


def univip_imagenet_300() -> Recipe[UniVIP.Config]:
    """UniVIP on ImageNet, 300 epochs: 74.2 % linear.

    Proposals: scenewise propose IMAGENET/train --out proposals.arrow --generator selective-search
    Command: scenewise pretrain IMAGENET/train --recipe univip-imagenet-300 --proposals proposals.arrow --out RUN
    Hardware: 8 GPUs of 80 GB (published: not given). Time: 41 hours on 8 (estimate).
    Expected: linear 74.2 %.
    Source: as univip-imagenet-200.
    """
    return replace(univip_imagenet_200(), epochs=300)
