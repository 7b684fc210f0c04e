"""MLS: a crop of a scene is a multi-label sample; its labels are its nearest rows in a dictionary of past crops.

Paper: Zhu, Fu, Wu, "Multi-Label Self-Supervised Learning with Scene Images", ICCV 2023, arXiv 2308.03286. The equations
named are its own.
Slots: one query view and one key view, both with the `moco` augmentation. State: teacher, a paired dictionary of
backbone features and projections in one order.
Departures: see docs/decisions (the reduction of the binary cross-entropy); the dictionary starts empty and only written
rows count.
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
from scenewise.losses import calibrated_bias, info_nce, knn_softmax, multilabel_loss, pseudo_labels
from scenewise.losses.similarity import cosine_matrix
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import Encoder, mlp_head
from scenewise.parts.momentum import encode_shuffled, momentum_copy, momentum_update
from scenewise.parts.queue import Queue, Snapshot, dictionary_figures, resolve_dictionary_size
from scenewise.settings import Count, CountOrZero, NotNegative, Positive, Share, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot

Space = Literal["feature", "projection"]


class MLS(Method):
    """Multi-label self-supervised learning."""

    title = "MLS: multi-label pseudo-labels over two dictionaries (binary cross-entropy) beside MoCo v2's loss"
    paper = "arXiv 2308.03286"
    batch_statistics = "groups"
    training_defaults = Training(
        optimiser="sgd",
        lr=0.1,
        weight_decay=1e-4,
        warmup_epochs=0.0,
        exclude_norm_and_bias=False,
        origin="measured on 5,415 photos (docs/decisions/0002); the paper has 0.3 for COCO, the recipes keep it",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the paper's section 4.1 unless said; "measured" ones are from docs/decisions/0002."""

        k: CountOrZero | None = None  # positives of a query: 20 (Table 8), at most a fiftieth of the dictionary
        temperature: Positive = 0.2
        weight: NotNegative = 0.2  # lambda of Eq. 10; measured (the paper's 0.5 is for its unpublished reduction)
        warmup: NotNegative = 0.0  # epochs of InfoNCE alone before the term counts
        variant: Literal["bce", "bce_pos", "knn_softmax", "none"] = "bce"  # Table 6
        reduction: Literal["mean", "sum", "balanced", "per_positive"] = "per_positive"  # measured
        softmax_form: Literal["each_positive", "supervised_contrastive"] = "each_positive"  # of knn_softmax
        label_source: Space = "feature"  # which dictionary the labels come from (Table 7)
        logit_source: Space = "projection"  # which dictionary is the classifier (Table 7)
        logit_bias: float | Literal["calibrated"] = (
            "calibrated"  # added to every logit; measured (the paper names none)
        )
        term_temperature: Positive | None = None  # of the extra term; None: the shared temperature
        momentum: Share = 0.995  # of the teacher
        width: Count = 256  # of the projection
        dictionary_size: CountOrZero | None = None  # 4096, capped at a tenth of the data
        queue_start: Literal["empty", "random"] = "empty"  # "random": as MoCo
        mask_own_image: bool = False  # leave the query's own image's older crops out of labels and negatives
        augmentation: AugmentationName = "moco"  # of both views
        shuffle: bool = True  # shuffled batch-norm groups in the key pass, as MoCo v2

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the dictionary's size"
        assert config.k is not None, "resolve() decides the number of positives"
        self.config, self.k = config, config.k
        self.encoder = Encoder(backbone, mlp_head(features, features, config.width))
        self.teacher = momentum_copy(self.encoder)
        self.queue = Queue(
            config.dictionary_size,
            {"projection": config.width, "feature": features},
            random_rows=config.queue_start == "random",
            seed=keys.integer(seed, "queue"),
        )

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the dictionary's size; it must be larger than a batch and hold at least k rows."""
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=4096, images=images, written=batch_size)
        k = min(20, max(1, size // 50)) if config.k is None else config.k
        if k > size:
            raise UserError(f"method.k: {k} must be at most the dictionary's {size} rows")
        if config.k is None and k < 20:
            notes.append(f"method.k is {k} instead of the paper's 20: a fiftieth of the {size} dictionary rows")
        return dataclasses.replace(config, dictionary_size=size, k=k), notes

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
        """InfoNCE plus `weight` times the multi-label term, on one snapshot of the dictionaries (Eq. 1, 7-10)."""
        self.check_views(batch)
        query, key = batch.views["query"][0], batch.views["key"][0]  # (B, 3, S, S)
        query_features, query_projection = self.encoder(query)  # (B, G), (B, D)
        joined = encode_shuffled(self.teacher, key, progress, shuffle=self.config.shuffle)
        all_features, all_projections = joined  # (world * B, G), (world * B, D)
        dictionary = self.queue.read()
        usable = dictionary.usable(batch.index, mask_own=self.config.mask_own_image)
        contrast = info_nce(
            query_projection,
            local_slice(all_projections),
            dictionary.rows["projection"],
            temperature=self.config.temperature,
            valid=usable,
        )
        online = {"feature": query_features, "projection": query_projection}
        labels = self.labels(online, dictionary, usable)  # (B, Q)
        warm = progress.step >= self.config.warmup * progress.steps_per_epoch
        counts = warm and self.config.weight != 0
        with torch.set_grad_enabled(counts):  # before it counts the term is only watched
            term = self._term(online, dictionary, labels, usable)
        teacher = {"feature": local_slice(all_features), "projection": local_slice(all_projections)}
        metrics: dict[str, Tensor | float] = {
            "weight/multilabel": self.config.weight if counts else 0.0,
            **dictionary_figures(dictionary, progress.step),
            **self._label_figures(batch, labels, self.labels(teacher, dictionary, usable), dictionary),
        }
        self.queue.push(
            {"projection": all_projections, "feature": all_features},
            image=gather(batch.index),
            box=gather(batch.boxes["key"][0]),
            step=progress.step,
        )
        return StepOutput(
            loss=contrast + self.config.weight * term if counts else contrast,
            terms={"contrast": contrast, "multilabel": term},
            embeddings=query_projection,
            targets=local_slice(all_projections),
            features=query_features,
            metrics=metrics,
        )

    def labels(self, encoded: Mapping[str, Tensor], dictionary: Snapshot, usable: Tensor) -> Tensor:
        """Return the pseudo-labels (B, Q): the k most similar usable rows of each query (Eq. 7)."""
        source = self.config.label_source
        return pseudo_labels(encoded[source], dictionary.rows[source], k=self.k, valid=usable)

    def _term(self, online: Mapping[str, Tensor], dictionary: Snapshot, labels: Tensor, usable: Tensor) -> Tensor:
        """Return the extra loss of weight 1 (Eq. 8 and 9, and the variants of Table 6)."""
        config = self.config
        query, rows = online[config.logit_source], dictionary.rows[config.logit_source]
        temperature = config.temperature if config.term_temperature is None else config.term_temperature
        if config.variant == "none":
            return query.new_zeros(())
        if config.variant == "knn_softmax":
            return knn_softmax(query, rows, labels, temperature=temperature, form=config.softmax_form, valid=usable)
        return multilabel_loss(
            query,
            rows,
            labels,
            temperature=temperature,
            reduction=config.reduction,
            valid=usable,
            logit_bias=self._bias(query, rows, temperature, usable),
            positives_only=config.variant == "bce_pos",
        )

    @torch.no_grad()
    def _bias(self, query: Tensor, rows: Tensor, temperature: float, usable: Tensor) -> float | Tensor:
        """Return the constant offset of the logits, or the calibrated one of each query (B, 1)."""
        if self.config.logit_bias != "calibrated":
            return self.config.logit_bias
        return calibrated_bias(cosine_matrix(query, rows) / temperature, k=self.k, valid=usable)

    @torch.no_grad()
    def _label_figures(
        self, batch: Batch, labels: Tensor, teacher_labels: Tensor, dictionary: Snapshot
    ) -> dict[str, Tensor]:
        """Return what the labels are like, on this step.

        labels/new_share: share of the pseudo-labels that the teacher's feature of the other view would not have given.
        labels/own_image_share: share that are older crops of the query's own image.
        """
        count = labels.sum().clamp(min=1)
        own = labels & (dictionary.image[None, :] == batch.index[:, None])
        return {
            "labels/new_share": (labels & ~teacher_labels).sum() / count,
            "labels/own_image_share": own.sum() / count,
        }

    def after_update(self, progress: Progress) -> None:
        """Move the teacher by the constant momentum (section 3.2)."""
        momentum_update(self.teacher, self.encoder, self.config.momentum)


METHOD = MLS
