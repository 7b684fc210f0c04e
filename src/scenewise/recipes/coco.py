"""COCO train2017 (118,287 photos of scenes), ResNet-50 at 224 px. The evaluations named are Mask R-CNN R50-FPN 1x
(90,000 iterations), Faster R-CNN R50-C4 on VOC07+12, the VOC07 linear SVM.
"""

from __future__ import annotations

from dataclasses import replace

from scenewise.engine.config import BackboneConfig, OptimiserConfig
from scenewise.methods.byol import BYOL
from scenewise.methods.densecl import DenseCL
from scenewise.methods.mls import MLS
from scenewise.methods.mocov2 import MoCoV2
from scenewise.methods.s2r2 import S2R2
from scenewise.methods.simclr import SimCLR
from scenewise.methods.univip import UniVIP
from scenewise.recipes.recipe import Recipe
from scenewise.views.objects import Object
from scenewise.views.overlap import Overlap

RESNET50 = BackboneConfig(name="resnet50", stem="imagenet", norm="batch")  # statistics over the run (SyncBN)
GROUPED = replace(RESNET50, batchnorm_group=32)  # 256 photos on 8 GPUs, shuffled between them

# MoCo v2's, with ten times its ImageNet rate: configs/selfsup of WXinlong/DenseCL and Jiahao000/ORL
SGD = OptimiserConfig(
    name="sgd",
    lr=0.3,
    momentum=0.9,
    weight_decay=1e-4,
    exclude_norm_and_bias=False,
    schedule="cosine_epoch",
    warmup_epochs=0.0,
    warmup_start=0.0,
    final_lr=0.0,
)

# algorithm 1 of UniVIP (arXiv 2203.06965); its numbers as the re-implementation reports them
OVERLAP = Overlap(instances=4, tries=20, min_size=64.0, max_aspect=3.0, max_iou=0.5, pick="first")

# Obj-Obj+Dilate (OAC, arXiv 2112.00319) in the recommended geometry; `mean_area` is measured on the proposals
OBJECT = Object(
    min_side=32.0,
    max_aspect=4.0,
    limit=10,
    dilation=0.2,
    dilation_mode="image",
    geometry="recommended",
    context_scale=0.2,
    swap=0.5,
)


def mls_coco_400() -> Recipe[MLS.Config]:
    """MLS as published, 400 epochs: 40.1 AP box, 36.2 AP mask (Mask R-CNN R50-FPN).

    Command: scenewise pretrain COCO/train2017 --recipe mls-coco-400 --out RUN
    Hardware: one GPU (published: RTX 3090s, number not given). Time: 15 hours (estimate).
    Expected: Mask R-CNN R50-FPN 40.1 / 36.2, R50-C4 38.6 / 33.8 AP box / mask; VOC07 85.8 mAP, fine-tuned.
    Source: MLS (arXiv 2308.03286), section 4.1; figures from its Tables 1, 2 and 5.
    Open in the paper: batch size, schedule and SGD's momentum (here DenseCL's on COCO), the start of the dictionaries
    (here empty), the reduction of Eq. 9 (here as printed, a mean over the dictionary: docs/decisions/0002).
    """
    return Recipe(
        method=MLS.Config(
            k=20,
            temperature=0.2,
            weight=0.5,
            warmup=0.0,
            variant="bce",
            reduction="mean",
            label_source="feature",
            logit_source="projection",
            logit_bias=0.0,
            momentum=0.995,
            width=256,
            dictionary_size=4096,
            queue_start="empty",
            mask_own_image=False,
            augmentation="moco",
            shuffle=True,
        ),
        backbone=GROUPED,
        optimiser=SGD,
        epochs=400,
        batch_size=256,
        size=224,
    )


def mls_coco_800() -> Recipe[MLS.Config]:
    """MLS as published, 800 epochs: 40.5 AP box, 36.5 AP mask (Mask R-CNN R50-FPN).

    Command: scenewise pretrain COCO/train2017 --recipe mls-coco-800 --out RUN
    Hardware: one GPU (published: RTX 3090s, number not given). Time: 29 hours (estimate).
    Expected: Mask R-CNN R50-FPN 40.5 / 36.5 AP box / mask; VOC07+12 55.0 AP.
    Source: MLS (arXiv 2308.03286), section 4.1; figures from its Tables 1 and 4. Open in it: see mls-coco-400.
    """
    return replace(mls_coco_400(), epochs=800)


def mocov2_coco_400() -> Recipe[MoCoV2.Config]:
    """MoCo v2 with MLS's teacher and dictionary, its ablation's baseline, 400 epochs: 38.8 AP box, 35.5 AP mask.

    Command: scenewise pretrain COCO/train2017 --recipe mocov2-coco-400 --out RUN
    Hardware: one GPU (published: RTX 3090s, number not given). Time: 15 hours (estimate).
    Expected: Mask R-CNN R50-FPN 38.8 / 35.5 AP box / mask.
    Source: MLS (arXiv 2308.03286), Table 6, the row without a second loss. Open in it: see mls-coco-400.
    """
    stock = mocov2_coco_800()
    method = replace(stock.method, momentum=0.995, dictionary_size=4096, width=256, queue_start="empty")
    return replace(stock, method=method, epochs=400)


def mocov2_coco_800() -> Recipe[MoCoV2.Config]:
    """MoCo v2 on COCO, 800 epochs: 38.5 AP box, 34.8 AP mask (Mask R-CNN R50-FPN).

    Command: scenewise pretrain COCO/train2017 --recipe mocov2-coco-800 --out RUN
    Hardware: one GPU (published: 8). Time: 29 hours (estimate).
    Expected: Mask R-CNN R50-FPN 38.5 / 34.8 AP box / mask; VOC07+12 54.7 AP; VOC07 SVM 82.2 mAP.
    Source: Jiahao000/ORL, configs/selfsup/moco/coco/r50_v2.py, the same as DenseCL's baseline (WXinlong/DenseCL);
    figures from the DenseCL and ORL papers, the first also in MLS, Table 1.
    """
    return Recipe(
        method=MoCoV2.Config(
            momentum=0.999,
            temperature=0.2,
            width=128,
            dictionary_size=65536,
            queue_start="random",
            mask_own_image=False,
            augmentation="moco",
            shuffle=True,
        ),
        backbone=GROUPED,
        optimiser=SGD,
        epochs=800,
        batch_size=256,
        size=224,
    )


def densecl_coco_800() -> Recipe[DenseCL.Config]:
    """DenseCL on COCO, 800 epochs: 39.6 AP box, 35.7 AP mask (Mask R-CNN R50-FPN).

    Command: scenewise pretrain COCO/train2017 --recipe densecl-coco-800 --out RUN
    Hardware: one GPU (published: 8). Time: 29 hours (estimate).
    Expected: Mask R-CNN R50-FPN 39.6 / 35.7 AP box / mask; VOC07+12 56.7 AP; VOC segmentation 67.5 mIoU.
    Source: WXinlong/DenseCL, configs/selfsup/densecl/densecl_coco_800ep.py and README; the first from MLS, Table 1.
    """
    return Recipe(
        method=DenseCL.Config(
            weight=0.5,
            warmup=0.0,
            momentum=0.999,
            temperature=0.2,
            width=128,
            dictionary_size=65536,
            queue_start="random",
            mask_own_image=False,
            augmentation="moco",
            shuffle=True,
        ),
        backbone=GROUPED,
        optimiser=SGD,
        epochs=800,
        batch_size=256,
        size=224,
    )


def densecl_coco_1600() -> Recipe[DenseCL.Config]:
    """DenseCL on COCO, 1600 epochs: 57.2 AP (Faster R-CNN R50-C4 on VOC07+12).

    Command: scenewise pretrain COCO/train2017 --recipe densecl-coco-1600 --out RUN
    Hardware: one GPU (published: 8). Time: 58 hours (estimate).
    Expected: VOC07+12 57.2 AP; VOC segmentation 68.0 mIoU.
    Source: WXinlong/DenseCL, README; the configuration is that of 800 epochs.
    """
    return replace(densecl_coco_800(), epochs=1600)


def simclr_coco_800() -> Recipe[SimCLR.Config]:
    """SimCLR on COCO, 800 epochs: 78.1 mAP (VOC07 SVM).

    Command: scenewise pretrain COCO/train2017 --recipe simclr-coco-800 --out RUN
    Hardware: one GPU of 80 GB (published: 8 of 64 photos each). Time: 44 hours (estimate).
    Expected: VOC07 SVM 78.1 mAP.
    Source: Jiahao000/ORL, configs/selfsup/simclr/coco/r50_bs512_ep800.py (LARS 0.6 at 512 photos is 0.3 at 256); figure
    from the ORL paper.
    Departures: their cosine is counted from the first epoch, ours from the end of the warm-up.
    """
    return Recipe(
        method=SimCLR.Config(temperature=0.1, hidden=2048, width=128, augmentation="simclr"),
        backbone=RESNET50,
        optimiser=OptimiserConfig(
            name="lars",
            lr=0.3,
            momentum=0.9,
            weight_decay=1e-6,
            exclude_norm_and_bias=True,
            schedule="cosine_epoch",
            warmup_epochs=10.0,
            warmup_start=0.0001,
            final_lr=0.0,
        ),
        epochs=800,
        batch_size=512,
        size=224,
    )


def byol_coco_800() -> Recipe[BYOL.Config]:
    """BYOL on COCO, 800 epochs: 84.5 mAP (VOC07 SVM).

    Command: scenewise pretrain COCO/train2017 --recipe byol-coco-800 --out RUN
    Hardware: one GPU of 80 GB (published: 8 of 64 photos each). Time: 58 hours (estimate).
    Expected: VOC07 SVM 84.5 mAP; Mask R-CNN R50-FPN 38.8 / 35.0 AP box / mask.
    Source: Jiahao000/ORL, configs/selfsup/orl/coco/stage1/r50_bs512_ep800.py (SGD 0.4 at 512 photos is 0.2 at 256);
    figures from the ORL paper and from MLS, Table 1.
    Departures: their cosine is counted from the first epoch, ours from the end of the warm-up.
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
        optimiser=replace(SGD, lr=0.2, warmup_epochs=4.0, warmup_start=0.0001),
        epochs=800,
        batch_size=512,
        size=224,
    )


def s2r2_coco() -> Recipe[S2R2.Config]:
    """S2R2 on COCO, 4 views for 100 epochs: no figure was published; compare with simclr at equal forwards.

    Command: scenewise pretrain COCO/train2017 --recipe s2r2-coco --out RUN
    Hardware: one GPU. Time: 11 hours (estimate).
    Expected: unknown. The paper (arXiv 2010.07258, abstract) claims more than SimCLR and SwAV; `--method simclr
    --epochs 200` sees as many views.
    Source: our recommendation, the paper's values are unknown: SGD 0.03 per 256 of the 512 views, a start for a sweep
    by factors of 3. Smooth-AP with temperature 0.05 (`method.relaxation=hist` is the other form).
    """
    return Recipe(
        method=S2R2.Config(
            views=4,
            small_views=0,
            relaxation="smooth",
            temperature=0.05,
            bins=10,
            width=128,
            augmentation="simclr",
        ),
        backbone=RESNET50,
        optimiser=replace(SGD, lr=0.12, schedule="cosine", warmup_epochs=10.0),  # 0.06 for a step of 128 photos
        epochs=100,
        batch_size=128,
        size=224,
    )


def univip_coco_800() -> Recipe[UniVIP.Config]:
    """UniVIP on COCO, 800 epochs: 60.2 % linear on ImageNet.

    Proposals: scenewise propose COCO/train2017 --out proposals.arrow --generator selective-search
    Command: scenewise pretrain COCO/train2017 --recipe univip-coco-800 --proposals proposals.arrow --out RUN
    Hardware: one GPU of 80 GB (published: not given). Time: 80 hours (estimate).
    Expected: ImageNet linear 60.2 % (BYOL 57.8 %, ORL 59.0 %, MoCo v2 55.1 % in the same table).
    Source: UniVIP (arXiv 2203.06965): batch, epochs and figures from its table, terms from its equations; optimiser and
    momentum of Jiahao000/ORL (SGD 0.4 at 512 photos is 0.2 at 256), the instances as utkutpcgl/UniVIP reports them.
    Open in the paper: the solver's numbers (here OTA's), the augmentation of the instances (here ORL's pairs), the
    projector (here BYOL's), the scale of the loss (here as printed, half of BYOL's at the same rate).
    Departures: the marginals of the transport are rescaled to one mass; the cosine starts at the end of the warm-up;
    the boxes are the propose default's, in its order, and the first that fit are taken (nearer to what is published,
    and slower: --mode fast --working-size 0; docs/decisions/0005-proposals.md compares them); views are resized
    bilinearly, not bicubically.
    """
    return Recipe(
        method=UniVIP.Config(
            instances=4,
            scene_instance_weight=1.0,
            instance_weight=1.0,
            instance_head="linear",
            instance_aug="independent",
            regression="neg_cosine",
            marginal_norm="sum1",
            marginal_features="raw",
            epsilon=0.1,
            iterations=50,
            momentum=0.99,
            momentum_schedule="cosine",
            hidden=4096,
            width=256,
            first_augmentation="byol-first",
            second_augmentation="byol-second",
        ),
        backbone=RESNET50,
        optimiser=byol_coco_800().optimiser,
        epochs=800,
        batch_size=512,
        size=224,
        crops=OVERLAP,
    )


def univip_coco_plus_800() -> Recipe[UniVIP.Config]:
    """UniVIP on COCO+ (train2017 and unlabeled2017, 241,690 photos), 800 epochs: 63.0 % linear on ImageNet.

    Proposals: scenewise propose COCO_PLUS --out proposals.arrow --generator selective-search
    Command: scenewise pretrain COCO_PLUS --recipe univip-coco-plus-800 --proposals proposals.arrow --out RUN
    Hardware: 8 GPUs (published: not given). Time: 20 hours on 8 (estimate).
    Expected: ImageNet linear 63.0 % (BYOL 59.6 %, ORL 60.7 % in the same table).
    Source: UniVIP (arXiv 2203.06965), its table; everything else as univip-coco-800. COCO_PLUS is a folder that holds
    both folders of photos.
    """
    return univip_coco_800()


def oac_coco_200() -> Recipe[MoCoV2.Config]:
    """MoCo v2 with object-aware crops on COCO, 200 epochs: no figure could be found.

    Proposals: scenewise propose COCO/train2017 --out proposals.arrow --generator bing --bing-model MODELS
    Command: scenewise pretrain COCO/train2017 --recipe oac-coco-200 --proposals proposals.arrow --out RUN
    Hardware: one GPU. Time: 7 hours (estimate).
    Expected: more than the same with `--crops scene`, in COCO detection and segmentation (the paper's claim).
    Source: OAC (arXiv 2112.00319), whose COCO settings could not be found: those of oac-openimages-200, at MoCo v2's
    0.03 for 256 photos.
    Departures: the paper adds the 5,000 photos of val2017; here they stay unseen.
    """
    stock = mocov2_coco_800()
    return replace(stock, optimiser=replace(stock.optimiser, lr=0.03), epochs=200, crops=OBJECT)
