"""MoCo v2: contrast of a query with its key and a queue of past keys.

Paper: Chen, Fan, Girshick, He, "Improved Baselines with Momentum Contrastive Learning", arXiv 2003.04297; MoCo:
arXiv 1911.05722.
Slots: one query view and one key view, both with the `moco` augmentation. State: teacher, queue (with dual heads, which
are object-aware cropping's, arXiv 2112.00319, one of each head).
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
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import DualHead, Encoder, mlp_head, of_kind
from scenewise.parts.momentum import encode_shuffled, momentum_copy, momentum_update
from scenewise.parts.queue import Queue, dictionary_figures, resolve_dictionary_size
from scenewise.settings import Count, CountOrZero, Positive, Share, check_fields
from scenewise.types import Batch, Progress, StepOutput, View
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

        momentum: Share = 0.999  # of the teacher
        temperature: Positive = 0.2
        width: Count = 128  # of the embedding
        dictionary_size: CountOrZero | None = None  # 65536, capped at a tenth of the data
        queue_start: Literal["empty", "random"] = "empty"  # "random": the authors'
        mask_own_image: bool = False  # leave the query's own image's older crops out of its negatives
        augmentation: AugmentationName = "moco"  # of both views
        shuffle: bool = True  # shuffled batch-norm groups in the key pass (MoCo 3.3)
        head: Literal["mlp", "linear"] = "mlp"  # "linear": MoCo v1's and the CIFAR notebook's
        # dual: one for views of objects, one for all others, each with a queue of `dictionary_size` (OAC's paper; its
        # code shares one); of use with crops that show objects
        heads: Literal["shared", "dual"] = "shared"
        symmetric: bool = False  # both views as queries, at twice the cost (an option of the CIFAR notebook)

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the dictionary's size"
        self.config = config
        dual = config.heads == "dual"
        head = DualHead(self._head(features), self._head(features)) if dual else self._head(features)
        self.encoder = Encoder(backbone, head)
        self.teacher = momentum_copy(self.encoder)
        self.queue = self._queue(seed, "queue")
        self.object_queue = self._queue(seed, "object queue") if dual else None

    def _head(self, features: int) -> nn.Module:
        width = self.config.width
        return nn.Linear(features, width) if self.config.head == "linear" else mlp_head(features, features, width)

    def _queue(self, seed: int, name: str) -> Queue:
        config = self.config
        assert config.dictionary_size is not None
        return Queue(
            config.dictionary_size,
            {"projection": config.width},
            random_rows=config.queue_start == "random",
            seed=keys.integer(seed, name),
        )

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the dictionary's size; it must be larger than what a step writes: a batch, or both its views."""
        written = 2 * batch_size if config.symmetric else batch_size
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=65536, images=images, written=written)
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
        directions = [("query", "key"), ("key", "query")] if self.config.symmetric else [("query", "key")]
        features, queries, all_keys, contrasts = [], [], [], []
        for view, (query, key) in enumerate(directions):
            found, projections = self.encoder(batch.views[query][0])  # (B, G), (B, D) or (B, 2, D)
            features.append(found)
            queries.append(self._own(projections, self._objects(batch, query)))
            objects = self._objects(batch, key)
            joined = encode_shuffled(
                self.teacher, batch.views[key][0], progress, shuffle=self.config.shuffle, view=view
            )[1]
            all_keys.append(self._own(joined, None if objects is None else gather(objects)))  # (world * B, D)
            contrasts.append(self._contrast(queries[view], all_keys[view], batch.index, objects))
        metrics = self._figures(progress.step)
        for (_, key), pushed in zip(directions, all_keys, strict=True):
            self._push(pushed, batch, key, progress.step)
        contrast = torch.stack(contrasts).sum()
        return StepOutput(
            loss=contrast,
            terms={"contrast": contrast},
            embeddings=queries[0],
            targets=local_slice(all_keys[0]),
            features=features[0],
            metrics=metrics,
        )

    def _objects(self, batch: Batch, slot: str) -> Tensor | None:
        """Return which views of a slot (B,) belong to the head of objects; None with a shared head."""
        return None if self.object_queue is None else batch.kinds[slot][0] == View.OBJECT

    def _own(self, projections: Tensor, objects: Tensor | None) -> Tensor:
        return projections if objects is None else of_kind(projections, objects)

    def _contrast(self, query: Tensor, all_keys: Tensor, index: Tensor, objects: Tensor | None) -> Tensor:
        """Return InfoNCE of one direction; the negatives of a query come from the head of its key."""
        past = self.queue.read()
        rows, usable = past.rows["projection"], past.usable(index, mask_own=self.config.mask_own_image)
        if self.object_queue is not None and objects is not None:
            others = self.object_queue.read()
            shown = others.usable(index, mask_own=self.config.mask_own_image)
            rows = torch.cat([rows, others.rows["projection"]])
            usable = torch.cat([usable & ~objects[:, None], shown & objects[:, None]], dim=1)  # (B, Q) each
        return info_nce(query, local_slice(all_keys), rows, temperature=self.config.temperature, valid=usable)

    def _push(self, all_keys: Tensor, batch: Batch, slot: str, step: int) -> None:
        """Write the keys of a slot into their heads' queues."""
        image, box = gather(batch.index), gather(batch.boxes[slot][0])
        found = self._objects(batch, slot)
        if self.object_queue is None or found is None:
            self.queue.push({"projection": all_keys}, image=image, box=box, step=step)
            return
        objects = gather(found)
        for queue, among in ((self.object_queue, objects), (self.queue, ~objects)):
            queue.push_some({"projection": all_keys}, among, image=image, box=box, step=step)

    def _figures(self, step: int) -> dict[str, Tensor]:
        figures = dictionary_figures(self.queue.read(), step)
        if self.object_queue is not None:
            objects = dictionary_figures(self.object_queue.read(), step)
            figures |= {name.replace("queue/", "queue/object_"): value for name, value in objects.items()}
        return figures

    def after_update(self, progress: Progress) -> None:
        """Move the teacher (MoCo Eq. 2)."""
        momentum_update(self.teacher, self.encoder, self.config.momentum)


METHOD = MoCoV2
