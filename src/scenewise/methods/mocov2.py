"""MoCo v2: contrast of a query with its key and a queue of past keys.

Paper: Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive Learning", arXiv 2003.04297; MoCo:
arXiv 1911.05722.
Slots: one query view and one key view, both with the `moco` augmentation. State: teacher, queue.
Departures: the queue starts empty and only written rows are negatives (`queue_start: random` is the authors' way); the
teacher moves after the optimiser step instead of before the next key pass (the same sequence).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from scenewise import keys
from scenewise.distributed import gather, local_slice
from scenewise.errors import UserError
from scenewise.losses import info_nce
from scenewise.methods.base import Method, Training
from scenewise.parts.heads import Encoder, mlp_head
from scenewise.parts.momentum import encode_shuffled, momentum_copy, momentum_update
from scenewise.parts.queue import Queue, dictionary_figures, resolve_dictionary_size
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot


class MoCoV2(Method):
    """Momentum contrast, version 2."""

    title = "MoCo v2: one positive against a queue of past keys (softmax)"
    paper = "arXiv 2003.04297"
    batch_statistics = "groups"
    training_defaults = Training(
        optimiser="sgd",
        lr=0.1,
        weight_decay=1e-4,
        warmup_epochs=0.0,
        exclude_norm_and_bias=False,
        origin="measured on 5,415 photos (docs/decisions/0002); DenseCL has 0.3 on COCO, MoCo 0.03 on ImageNet",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the authors' ImageNet run (facebookresearch/moco) unless said."""

        momentum: float = 0.999  # of the teacher
        temperature: float = 0.2
        width: int = 128  # of the embedding
        dictionary_size: int | None = None  # 65536, capped at a tenth of the data
        queue_start: Literal["empty", "random"] = "empty"  # "random": the authors'
        mask_own_image: bool = False  # leave the query's own image's older crops out of its negatives
        augmentation: str = "moco"  # of both views
        shuffle: bool = True  # shuffled batch-norm groups in the key pass (MoCo 3.3)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the dictionary's size"
        self.config = config
        self.encoder = Encoder(backbone, mlp_head(features, features, config.width))
        self.teacher = momentum_copy(self.encoder)
        self.queue = Queue(
            config.dictionary_size,
            {"projection": config.width},
            random_rows=config.queue_start == "random",
            seed=keys.integer(seed, "queue"),
        )

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the dictionary's size; it must be larger than a batch."""
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=65536, images=images, batch_size=batch_size)
        if size <= batch_size:
            raise UserError(f"method.dictionary_size: {size} must be larger than the batch size {batch_size}")
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
        """InfoNCE of the queries against their keys and the queue as it was (MoCo Eq. 1)."""
        query, key = batch.views["query"][0], batch.views["key"][0]  # (B, 3, S, S)
        query_features, query_projection = self.encoder(query)  # (B, G), (B, D)
        _, all_projections = encode_shuffled(self.teacher, key, progress, shuffle=self.config.shuffle)  # (world * B, D)
        dictionary = self.queue.read()
        usable = dictionary.usable(batch.index, mask_own=self.config.mask_own_image)
        contrast = info_nce(
            query_projection,
            local_slice(all_projections),
            dictionary.rows["projection"],
            temperature=self.config.temperature,
            valid=usable,
        )
        self.queue.push(
            {"projection": all_projections},
            image=gather(batch.index),
            box=gather(batch.boxes["key"][0]),
            step=progress.step,
        )
        return StepOutput(
            loss=contrast,
            terms={"contrast": contrast},
            embeddings=query_projection,
            targets=local_slice(all_projections),
            features=query_features,
            metrics=dictionary_figures(dictionary, progress.step),
        )

    def after_update(self, progress: Progress) -> None:
        """Move the teacher (MoCo Eq. 2)."""
        momentum_update(self.teacher, self.encoder, self.config.momentum)


METHOD = MoCoV2
