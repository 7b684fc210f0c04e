"""ReSSL: a student that sees a strong view learns the teacher's similarities of a weak view to a queue of past keys.

Paper: Zheng et al., "ReSSL: Relational Self-Supervised Learning with Weak Augmentation", arXiv 2107.09282;
KyleZheng1997/ReSSL for what it leaves open.
Slots: one strong view (student), one weak view (teacher). State: teacher, queue.
Departures: the queue starts empty and only written rows count (`queue_start: random` is the authors' way); the teacher
moves after the optimiser step instead of before the next key pass (the same sequence).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from scenewise import keys
from scenewise.distributed import gather, local_slice
from scenewise.losses import relate
from scenewise.methods.base import AugmentationName, Method, Training
from scenewise.parts.heads import Encoder, mlp_head
from scenewise.parts.momentum import encode_shuffled, momentum_copy, momentum_update, sharpening_notes
from scenewise.parts.queue import Queue, dictionary_figures, resolve_dictionary_size, uniform_share
from scenewise.settings import Count, CountOrZero, Positive, Share, check_fields
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import Slot


class ReSSL(Method):
    """Relational self-supervised learning."""

    title = "ReSSL: a teacher's similarities to a queue as soft labels (cross-entropy)"
    paper = "arXiv 2107.09282"
    batch_statistics = "groups"
    training_defaults = Training(
        optimiser="sgd",
        lr=0.05,
        weight_decay=1e-4,
        warmup_epochs=5.0,
        exclude_norm_and_bias=True,
        origin="the authors' ImageNet code: SGD, batch 256, cosine per step, no decay of norms and biases",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the authors' ImageNet code unless said."""

        momentum: Share = 0.999  # of the teacher
        temperature: Positive = 0.1  # of the student
        teacher_temperature: Positive = 0.04  # sharper than the student's, or the trivial solution is as good
        hidden: Count = 4096  # of the head
        width: Count = 512  # of the embedding
        dictionary_size: CountOrZero | None = None  # 131072, capped at a tenth of the data
        queue_start: Literal["empty", "random"] = "empty"  # "random": the authors'
        mask_own_image: bool = False  # leave the query's own image's older crops out of the distributions
        strong: AugmentationName = "moco"  # augmentation of the student's view
        weak: AugmentationName = "weak"  # of the teacher's
        shuffle: bool = True  # shuffled batch-norm groups in the teacher's pass

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the dictionary's size"
        self.config = config
        self.encoder = Encoder(backbone, mlp_head(features, config.hidden, config.width))
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
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=131_072, images=images, written=batch_size)
        notes += sharpening_notes(student=config.temperature, teacher=config.teacher_temperature)
        return dataclasses.replace(config, dictionary_size=size), notes

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """One strong and one weak view."""
        return {"strong": Slot(augmentation=config.strong), "weak": Slot(augmentation=config.weak)}

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of the strong view, forward of the weak one."""
        return 4.0

    @property
    def backbone(self) -> nn.Module:
        """Return the online backbone."""
        return self.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Cross-entropy of the two distributions over the queue as it was (Eq. 2 to 4), then push the weak keys."""
        self.check_views(batch)
        config = self.config
        features, projection = self.encoder(batch.views["strong"][0])  # (B, G), (B, D)
        _, all_keys = encode_shuffled(self.teacher, batch.views["weak"][0], progress, shuffle=config.shuffle)
        keys_here = local_slice(all_keys)  # (B, D)
        dictionary = self.queue.read()
        rows = dictionary.rows["projection"]
        usable = dictionary.usable(batch.index, mask_own=config.mask_own_image)
        related = relate(
            projection,
            keys_here,
            rows,
            student_temperature=config.temperature,
            teacher_temperature=config.teacher_temperature,
            valid=usable,
        )
        self.queue.push(
            {"projection": all_keys},
            image=gather(batch.index),
            box=gather(batch.boxes["weak"][0]),
            step=progress.step,
        )
        return StepOutput(
            loss=related.loss,
            terms={"relation": related.loss},
            embeddings=projection,
            targets=keys_here,
            features=features,
            metrics={
                "relation/kl": related.loss.detach() - related.entropy,
                "relation/uniform_share": uniform_share(related.loss, dictionary.valid.sum()),
                **dictionary_figures(dictionary, progress.step),
            },
        )

    def after_update(self, progress: Progress) -> None:
        """Move the teacher (section 3.2)."""
        momentum_update(self.teacher, self.encoder, self.config.momentum)


METHOD = ReSSL
