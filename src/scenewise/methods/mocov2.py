"""MoCo v2: contrast of a query with its key and a queue of past keys.

Paper: Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive Learning", arXiv 2003.04297; MoCo:
arXiv 1911.05722.
Slots: one query view and one key view, both with the `moco` augmentation. State: teacher, queue.
Departures: the queue starts empty and only written rows are negatives (`queue_start: random` is the authors' way); the
teacher moves after the optimiser step instead of before the next key pass (the same sequence); without a recipe the
rate is the measured one and its cosine falls each step (theirs each epoch), as MLS's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scenewise import keys
from scenewise.distributed import gather, local_slice
from scenewise.losses import info_nce
from scenewise.methods.base import Method, Training
from scenewise.parts.heads import Encoder, mlp_head
from scenewise.parts.momentum import encode_shuffled, momentum_copy, momentum_update
from scenewise.parts.queue import Queue, Snapshot, dictionary_figures, resolve_dictionary_size
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
        head: Literal["mlp", "linear"] = "mlp"  # "linear": MoCo v1's and the CIFAR notebook's
        symmetric: bool = False  # both views as queries, at twice the cost (an option of the CIFAR notebook)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the dictionary's size"
        self.config = config
        linear = config.head == "linear"
        head = nn.Linear(features, config.width) if linear else mlp_head(features, features, config.width)
        self.encoder = Encoder(backbone, head)
        self.teacher = momentum_copy(self.encoder)
        self.queue = Queue(
            config.dictionary_size,
            {"projection": config.width},
            random_rows=config.queue_start == "random",
            seed=keys.integer(seed, "queue"),
        )

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the dictionary's size; it must be larger than what a step writes: a batch, or both its views."""
        written = 2 * batch_size if config.symmetric else batch_size
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=65536, images=images, batch_size=written)
        return dataclasses.replace(config, dictionary_size=size), notes

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """One query view and one key view, of the same kind."""
        return {"query": Slot(augmentation=config.augmentation), "key": Slot(augmentation=config.augmentation)}

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of the query, forward of the key; twice when symmetric."""
        return 8.0 if config.symmetric else 4.0

    @property
    def backbone(self) -> nn.Module:
        """Return the online backbone."""
        return self.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """InfoNCE of the queries against their keys and the queue as it was (MoCo Eq. 1).

        Symmetric: the sum of both directions on the same old queue, both views' keys pushed (the CIFAR notebook).
        """
        self.check_views(batch)
        query, key = batch.views["query"][0], batch.views["key"][0]  # (B, 3, S, S)
        dictionary = self.queue.read()
        usable = dictionary.usable(batch.index, mask_own=self.config.mask_own_image)
        query_features, query_projection = self.encoder(query)  # (B, G), (B, D)
        all_keys = self._keys(key, progress, view=0)  # (world * B, D)
        contrast = self._contrast(query_projection, all_keys, dictionary, usable)
        pushed, boxes = [all_keys], [gather(batch.boxes["key"][0])]
        if self.config.symmetric:
            swapped = self._keys(query, progress, view=1)
            contrast = contrast + self._contrast(self.encoder(key)[1], swapped, dictionary, usable)
            pushed.append(swapped)
            boxes.append(gather(batch.boxes["query"][0]))
        self.queue.push(
            {"projection": torch.cat(pushed)},
            image=gather(batch.index).repeat(len(pushed)),
            box=torch.cat(boxes),
            step=progress.step,
        )
        return StepOutput(
            loss=contrast,
            terms={"contrast": contrast},
            embeddings=query_projection,
            targets=local_slice(all_keys),
            features=query_features,
            metrics=dictionary_figures(dictionary, progress.step),
        )

    def _keys(self, images: Tensor, progress: Progress, *, view: int) -> Tensor:
        """Return the teacher's projections of the joined batch (world * B, D)."""
        return encode_shuffled(self.teacher, images, progress, shuffle=self.config.shuffle, view=view)[1]

    def _contrast(self, query: Tensor, all_keys: Tensor, dictionary: Snapshot, usable: Tensor) -> Tensor:
        """Return InfoNCE of one direction."""
        rows, temperature = dictionary.rows["projection"], self.config.temperature
        return info_nce(query, local_slice(all_keys), rows, temperature=temperature, valid=usable)

    def after_update(self, progress: Progress) -> None:
        """Move the teacher (MoCo Eq. 2)."""
        momentum_update(self.teacher, self.encoder, self.config.momentum)


METHOD = MoCoV2
