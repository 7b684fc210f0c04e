"""MSVQ: ReSSL with several weak views, two teachers of different momentum and a queue for each: three soft labels.

Paper: Chen et al., "Self-Supervised Learning with Multiple Sample Views and Queues", arXiv 2305.05370; pc-cp/MSVQ for
what it leaves open.
Slots: one strong view (student), three weak views (two for teacher 1, one for teacher 2). State: two teachers, two
queues.
Departures: the queues start empty and only written rows count (`queue_start: random` is the authors' way); the teachers
move after the optimiser step instead of before the next pass (the same sequence); batch-norm groups are runs of the
(randomly ordered) batch, the authors' are strided; a replaced stem starts as the other convolutions do (theirs: torch's
default); the queue is a true ring, theirs loses the end of a batch that meets the wrap-around.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
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


class MSVQ(Method):
    """Multiple sample views and queues."""

    title = "MSVQ: three soft labels from two teachers, three weak views and two queues (cross-entropy)"
    paper = "arXiv 2305.05370"
    batch_statistics = "groups"
    training_defaults = Training(
        optimiser="sgd",
        lr=0.06,
        weight_decay=5e-4,
        warmup_epochs=5.0,
        exclude_norm_and_bias=False,
        origin="the authors' code, all four data sets: SGD, batch 256, cosine per step, everything decays",
    )

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Config:
        """Defaults of the authors' STL-10 and Tiny ImageNet runs (100,000 images); recipes have all four."""

        variant: Literal["msvq", "msv", "mq"] = "msvq"  # all three labels; teacher 1's; one of each
        momentum: Share = 0.996  # of teacher 1, the slow one
        second_momentum: Share = 0.99  # of teacher 2, the fast one
        temperature: Positive = 0.1  # of the student
        teacher_temperature: Positive = 0.04  # sharper than the student's, or the trivial solution is as good
        hidden: Count = 2048  # of the head
        width: Count = 128  # of the embedding
        dictionary_size: CountOrZero | None = None  # rows of each queue: 16384, capped at a tenth of the data
        queue_start: Literal["empty", "random"] = "empty"  # "random": the authors'
        mask_own_image: bool = False  # leave the query's own image's older crops out of the distributions
        strong: AugmentationName = "moco"  # augmentation of the student's view
        weak: AugmentationName = "weak"  # of the teachers' (the authors on small images: msvq-weak)
        shuffle: bool = True  # shuffled batch-norm groups in the teachers' passes

        def __post_init__(self) -> None:
            check_fields("method", self)

    def __init__(self, config: Config, backbone: nn.Module, features: int, *, seed: int = 0) -> None:
        super().__init__()
        assert config.dictionary_size is not None, "resolve() decides the dictionary's size"
        self.config = config
        self.encoder = Encoder(backbone, mlp_head(features, config.hidden, config.width))
        self.teachers = nn.ModuleList(momentum_copy(self.encoder) for _ in range(self.banks(config)))
        self.queues = nn.ModuleList(
            Queue(
                config.dictionary_size,
                {"projection": config.width},
                random_rows=config.queue_start == "random",
                seed=keys.integer(seed, "queue", *([number] if number else [])),  # the first as ReSSL's
            )
            for number in range(self.banks(config))
        )

    @staticmethod
    def banks(config: Config) -> int:
        """Return the number of teachers, and of queues."""
        return 1 if config.variant == "msv" else 2

    @staticmethod
    def labels(config: Config) -> tuple[int, ...]:
        """Return for each weak view the teacher it goes through, in the order of the terms."""
        return {"msvq": (0, 0, 1), "msv": (0, 0), "mq": (0, 1)}[config.variant]

    @classmethod
    def resolve(cls, config: Config, *, images: int, batch_size: int) -> tuple[Config, list[str]]:
        """Decide the queues' size; it must be larger than a batch."""
        size, notes = resolve_dictionary_size(config.dictionary_size, paper=16_384, images=images, written=batch_size)
        notes += sharpening_notes(student=config.temperature, teacher=config.teacher_temperature)
        return dataclasses.replace(config, dictionary_size=size), notes

    @classmethod
    def slots(cls, config: Config) -> Mapping[str, Slot]:
        """One strong view and a weak one for each soft label."""
        return {
            "strong": Slot(augmentation=config.strong),
            "weak": Slot(augmentation=config.weak, count=len(cls.labels(config))),
        }

    @classmethod
    def passes(cls, config: Config) -> float:
        """Forward and backward of the strong view, forward of each weak one."""
        return 3.0 + len(cls.labels(config))

    @property
    def backbone(self) -> nn.Module:
        """Return the online backbone."""
        return self.encoder.backbone

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """Cross-entropy with each soft label, on the queues as they were; then push one view's keys into each.

        Of teacher 1's two views only the first is enqueued (the authors' code).
        """
        self.check_views(batch)
        config, weak, teacher_of = self.config, batch.views["weak"], self.labels(self.config)
        features, projection = self.encoder(batch.views["strong"][0])  # (B, G), (B, D)
        all_keys = [
            encode_shuffled(self.teachers[teacher], weak[view], progress, shuffle=config.shuffle, view=view)[1]
            for view, teacher in enumerate(teacher_of)
        ]  # each (world * B, D)
        dictionaries = [self._queue(number).read() for number in range(self.banks(config))]
        related = []
        for keys_of_view, teacher in zip(all_keys, teacher_of, strict=True):
            target, rows = local_slice(keys_of_view), dictionaries[teacher].rows["projection"]
            usable = dictionaries[teacher].usable(batch.index, mask_own=config.mask_own_image)
            related.append(
                relate(
                    projection,
                    target,
                    rows,
                    student_temperature=config.temperature,
                    teacher_temperature=config.teacher_temperature,
                    valid=usable,
                )
            )
        loss = torch.stack([relation.loss for relation in related]).mean()
        entropy = torch.stack([relation.entropy for relation in related]).mean()
        for number in range(self.banks(config)):
            view = teacher_of.index(number)
            self._queue(number).push(
                {"projection": all_keys[view]},
                image=gather(batch.index),
                box=gather(batch.boxes["weak"][view]),
                step=progress.step,
            )
        return StepOutput(
            loss=loss,
            terms={f"relation{number}": relation.loss for number, relation in enumerate(related, start=1)},
            embeddings=projection,
            targets=local_slice(all_keys[0]),
            features=features,
            metrics={
                "relation/kl": loss.detach() - entropy,
                "relation/uniform_share": uniform_share(loss, dictionaries[0].valid.sum()),
                **dictionary_figures(dictionaries[0], progress.step),
            },
        )

    def _queue(self, number: int) -> Queue:
        queue = self.queues[number]
        assert isinstance(queue, Queue)
        return queue

    def after_update(self, progress: Progress) -> None:
        """Move each teacher by its own constant momentum."""
        momenta = (self.config.momentum, self.config.second_momentum)
        for teacher, momentum in zip(self.teachers, momenta, strict=False):  # MSV has the first only
            momentum_update(teacher, self.encoder, momentum)


METHOD = MSVQ
