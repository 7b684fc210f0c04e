"""MSF: the online network predicts the neighbours a slow teacher finds for the other view in a bank of past targets.

Paper: Koohpayegani, Tejankar, Pirsiavash, "Mean Shift for Self-Supervised Learning", arXiv 2105.07269; UMBCvision/MSF
for what it leaves open.
Slots: one query view and one key view. State: teacher, bank.
Departures: the bank starts empty and only written rows are searched (`queue_start: random` is the authors' way). The
authors push the current targets before the search; here the search sees the bank as it will be once they are pushed,
and the push follows (the same neighbours). Batch statistics are the run's, so there is nothing to shuffle.
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
from scenewise.errors import UserError
from scenewise.losses import mean_shift_loss
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import Encoder, normed_head
from scenewise.parts.momentum import momentum_copy, momentum_update
from scenewise.parts.queue import Joined, Queue, dictionary_figures, resolve_dictionary_size
from scenewise.settings import Count, CountOrZero, Share, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot


class MSF(Method):
    """Mean shift for self-supervised learning."""

    title = "MSF: predict a slow teacher's nearest neighbours of the other view (no negatives)"
    paper = "arXiv 2105.07269"
    batch_statistics = "run"
    training_defaults = Training(
        optimiser="sgd",
        lr=0.05,
        weight_decay=1e-4,
        warmup_epochs=0.0,
        exclude_norm_and_bias=False,
        schedule="cosine_epoch",
        origin="the authors' code (train_msf.py): SGD, batch 256, cosine per epoch, no warm-up",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the authors' code (run_msf.sh) unless said."""

        momentum: Share = 0.99  # of the teacher
        k: Count = 5  # neighbours, the target itself among them (paper; the README's command has 10)
        hidden: Count | None = None  # of projector and predictor; None: twice the features (4096 of ResNet-50)
        width: Count | None = None  # of the embedding; None: a quarter of the features (512 of ResNet-50)
        dictionary_size: CountOrZero | None = None  # 128000 (README; run_msf.sh 1024000), capped at a tenth of the data
        queue_start: Literal["empty", "random"] = "empty"  # "random": the authors'
        search: Literal["joined", "before"] = (
            "joined"  # "before": past targets only, the target itself as a 1 + k-th term
        )
        mask_own_image: bool = False  # leave older targets of the query's own image out of its neighbours
        symmetric: bool = False  # both views as queries ("before" and this: the small-data code of MSVQ's first author)
        query: AugmentationName = "moco"  # augmentation of the query view
        key: AugmentationName = "moco"  # of the key view; "weak" is the paper's weak/strong variant

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the bank's size"
        self.config = config
        hidden, width = config.hidden or 2 * features, config.width or max(1, features // 4)
        self.encoder = Encoder(backbone, normed_head(features, hidden, width))
        self.predictor = normed_head(width, hidden, width)
        self.teacher = momentum_copy(self.encoder)
        self.queue = Queue(
            config.dictionary_size,
            {"projection": width},
            random_rows=config.queue_start == "random",
            seed=keys.integer(seed, "queue"),
        )

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the bank's size; it must be larger than a batch and hold the neighbours."""
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=128_000, images=images, written=batch_size)
        if config.k > size:
            raise UserError(f"method.k: {config.k} must be at most the bank's {size} rows")
        return dataclasses.replace(config, dictionary_size=size), notes

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """One query view and one key view."""
        return {"query": Slot(augmentation=config.query), "key": Slot(augmentation=config.key)}

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of the query, forward of the key; twice when symmetric."""
        return 8.0 if config.symmetric else 4.0

    @property
    def backbone(self) -> nn.Module:
        """Return the online backbone."""
        return self.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Distance of each prediction to its target's neighbours (Eq. 1); both directions see the same old bank."""
        self.check_views(batch)
        query, key = batch.views["query"][0], batch.views["key"][0]  # (B, 3, S, S)
        features, prediction = self._predict(query)  # (B, G), (B, D)
        all_targets = self._target(key)  # (world * B, D)
        joined = self.queue.after({"projection": all_targets})
        loss = self._loss(prediction, all_targets, joined, batch.index)
        if self.config.symmetric:
            others = self._target(query)
            after = self.queue.after({"projection": others})
            loss = (loss + self._loss(self._predict(key)[1], others, after, batch.index)) / 2
        dictionary = self.queue.read()
        self.queue.become(
            joined,
            image=gather(batch.index),
            box=gather(batch.boxes["key"][0]),
            step=progress.step,
        )
        return StepOutput(
            loss=loss,
            terms={"mean_shift": loss},
            embeddings=prediction,
            targets=local_slice(all_targets),
            features=features,
            metrics=dictionary_figures(dictionary, progress.step),
        )

    def _predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features (B, G) and the prediction (B, D) of a view."""
        features, projection = self.encoder(images)
        return features, self.predictor(projection)

    @torch.no_grad()
    def _target(self, images: Tensor) -> Tensor:
        """Return the teacher's projections of the joined batch (world * B, D)."""
        return gather(self.teacher(images)[1])

    def _loss(self, prediction: Tensor, all_targets: Tensor, joined: Joined, index: Tensor) -> Tensor:
        """Return the mean distance to the k neighbours in the bank; joined: the bank with these targets."""
        config, targets, past = self.config, local_slice(all_targets), self.queue.read()
        usable = past.usable(index, mask_own=config.mask_own_image)  # (Q,), or (B, Q)
        if config.search == "joined":
            bank = joined.rows["projection"]
            valid = joined.fresh | usable & joined.valid
            return mean_shift_loss(prediction, targets, bank, neighbours=config.k, valid=valid)
        bank = torch.cat([past.rows["projection"], targets])
        own = torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        valid = torch.cat([usable.expand(len(targets), -1), own], dim=1)  # the target is the nearest to itself
        return mean_shift_loss(prediction, targets, bank, neighbours=config.k + 1, valid=valid)

    def after_update(self, progress: Progress) -> None:
        """Move the teacher by the constant momentum."""
        momentum_update(self.teacher, self.encoder, self.config.momentum)


METHOD = MSF
