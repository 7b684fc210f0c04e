"""DenseCL: MoCo v2, and the same contrast for each cell of the feature map against the matching cell of the other view.

Paper: Wang et al., "Dense Contrastive Learning for Self-Supervised Visual Pre-Training", arXiv 2011.09157;
WXinlong/DenseCL for what it leaves open.
Slots: one query view and one key view. State: teacher, a queue of global keys and one of averaged dense keys, in one
order.
Departures: as MoCo v2's (the queues start empty; the teacher moves after the optimiser step).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from scenewise import keys
from scenewise.distributed import gather, local_slice
from scenewise.losses import dense_info_nce, info_nce
from scenewise.losses.similarity import lift
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import dense_head, mlp_head
from scenewise.parts.momentum import encode_shuffled, momentum_copy, momentum_update
from scenewise.parts.queue import Queue, dictionary_figures, resolve_dictionary_size
from scenewise.settings import Count, CountOrZero, NotNegative, Positive, Share, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot


class DenseEncoder(nn.Module):
    """A backbone with a global head on its pooled features and a dense head on its feature map (section 3.2)."""

    def __init__(self, backbone: nn.Module, features: int, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = mlp_head(features, features, width)
        self.dense = dense_head(features, features, width)

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> tuple[
        Float[Tensor, "batch features"],
        Float[Tensor, "batch dim"],
        Float[Tensor, "batch cells features"],
        Float[Tensor, "batch cells dim"],
    ]:
        """Return pooled features, projection, the map's cells (B, S * S, G), and their projections (B, S * S, D)."""
        maps: Tensor = self.backbone.feature_map(images)  # type: ignore[operator]  # (B, G, S, S)
        cells = maps.flatten(2).transpose(1, 2)  # (B, S * S, G)
        maps = cells.transpose(1, 2).reshape(maps.shape)  # through the cells: there the terms' gradients meet
        features: Tensor = self.backbone.pool(maps)  # type: ignore[operator]  # (B, G)
        grid = self.dense(maps).flatten(2).transpose(1, 2)  # (B, S * S, D)
        return features, self.head(features), cells, grid


class DenseCL(Method):
    """Dense contrastive learning."""

    title = "DenseCL: MoCo v2 on whole views and on matching cells of their feature maps (softmax)"
    paper = "arXiv 2011.09157"
    batch_statistics = "groups"
    needs_feature_map = True
    training_defaults = Training(
        optimiser="sgd",
        lr=0.03,
        weight_decay=1e-4,
        warmup_epochs=0.0,
        exclude_norm_and_bias=False,
        schedule="cosine_epoch",
        origin="the authors' ImageNet code: as MoCo v2; on COCO they have 0.3 (recipe densecl-coco-800)",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the authors' ImageNet run unless said."""

        weight: Share = 0.5  # lambda, of the dense term; the global one has 1 - lambda (Eq. 3)
        # epochs of the global term alone (the authors' hook: 1,000 steps; off in their configs)
        warmup: NotNegative = 0.0
        momentum: Share = 0.999  # of the teacher
        temperature: Positive = 0.2  # of both terms
        width: Count = 128  # of both embeddings
        dictionary_size: CountOrZero | None = None  # 65536 rows of each kind, capped at a tenth of the data
        queue_start: Literal["empty", "random"] = "empty"  # "random": the authors'
        mask_own_image: bool = False  # leave the query's own image's older crops out of its negatives
        augmentation: AugmentationName = "moco"  # of both views
        shuffle: bool = True  # shuffled batch-norm groups in the key pass

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the dictionary's size"
        self.config = config
        self.encoder = DenseEncoder(backbone, features, config.width)
        self.teacher = momentum_copy(self.encoder)
        self.queue = Queue(
            config.dictionary_size,
            {"projection": config.width, "dense": config.width},
            random_rows=config.queue_start == "random",
            seed=keys.integer(seed, "queue"),
        )

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the dictionary's size; it must be larger than a batch."""
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=65536, images=images, written=batch_size)
        return dataclasses.replace(config, dictionary_size=size), notes

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """One query view and one key view, of the same kind."""
        return {"query": Slot(augmentation=config.augmentation), "key": Slot(augmentation=config.augmentation)}

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of the query, forward of the key."""
        return 4.0

    @property
    def backbone(self) -> nn.Module:
        """Return the online backbone."""
        return self.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """InfoNCE of views and of cells (Eq. 1 to 3) against the queues as they were.

        A cell's positive is the key cell whose backbone feature is the most similar; its negatives are averaged dense
        keys of past photos.
        """
        self.check_views(batch)
        config = self.config
        features, projection, cells, grid = self.encoder(batch.views["query"][0])
        joined = encode_shuffled(self.teacher, batch.views["key"][0], progress, shuffle=config.shuffle)
        _, all_projections, all_cells, all_grids = joined  # each (world * B, ...)
        dictionary = self.queue.read()
        usable = dictionary.usable(batch.index, mask_own=config.mask_own_image)
        contrast = info_nce(
            projection,
            local_slice(all_projections),
            dictionary.rows["projection"],
            temperature=config.temperature,
            valid=usable,
        )
        dense = dense_info_nce(
            grid,
            local_slice(all_grids),
            cells,
            local_slice(all_cells),
            dictionary.rows["dense"],
            temperature=config.temperature,
            valid=usable,
        )
        self.queue.push(
            {"projection": all_projections, "dense": lift(all_grids).mean(dim=1)},
            image=gather(batch.index),
            box=gather(batch.boxes["key"][0]),
            step=progress.step,
        )
        warm = progress.step >= config.warmup * progress.steps_per_epoch
        weight = config.weight if warm else 0.0  # times zero, not left out: data-parallel training waits for the head
        return StepOutput(
            loss=(1 - weight) * contrast + weight * dense,
            terms={"contrast": contrast, "dense": dense},
            embeddings=projection,
            targets=local_slice(all_projections),
            features=features,
            metrics={
                "weight/contrast": 1 - weight,
                "weight/dense": weight,
                **dictionary_figures(dictionary, progress.step),
            },
            shared=cells,
        )

    def after_update(self, progress: Progress) -> None:
        """Move the teacher."""
        momentum_update(self.teacher, self.encoder, self.config.momentum)


METHOD = DenseCL
