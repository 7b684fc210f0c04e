"""Soft labels over a queue: a student reproduces how a teacher's embedding relates to it (ReSSL, MSVQ)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewise.losses.similarity import blank_rows, cosine_matrix, unit


@dataclass(frozen=True)
class Relation:
    """loss: the cross-entropy, with gradient to the student. entropy: of the soft labels, without; both in nats."""

    loss: Float[Tensor, ""]
    entropy: Float[Tensor, ""]


def relation_loss(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    queue: Float[Tensor, "queue dim"],
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
) -> Float[Tensor, ""]:
    """Return ReSSL's cross-entropy of two softmaxes over the queue, the mean over the batch.

    student (N, D) has gradient; teacher (N, D), row by row the same images, and queue (Q, D) have none. `valid` names
    the queue rows that count, for all images (Q,) or for each (N, Q); an image without any contributes 0, with a
    graph. It exceeds the divergence KL(teacher || student) by the labels' entropy, which trains nothing; with all
    embeddings equal it is log Q (ReSSL, arXiv 2107.09282; temperatures of its code and of MSVQ's).
    """
    related = relate(
        student,
        teacher,
        queue,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        valid=valid,
    )
    return related.loss


def relate(
    student: Float[Tensor, "batch dim"],
    teacher: Float[Tensor, "batch dim"],
    queue: Float[Tensor, "queue dim"],
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
) -> Relation:
    """Return `relation_loss` and, from the same similarities, the labels' entropy; arguments as there."""
    rows = unit(blank_rows(queue, valid))  # once for both
    predicted = _log_distribution(student, rows, student_temperature, valid)  # (N, Q)
    with torch.no_grad():
        logarithms = _log_distribution(teacher, rows, teacher_temperature, valid)
        labels = logarithms.exp()
        if valid is not None:
            labels = labels.masked_fill(~valid, 0.0)  # also where an image has no row at all
    return Relation(
        loss=-(labels * predicted).sum(dim=1).mean(),
        entropy=-(labels * logarithms).sum(dim=1).mean(),
    )


def _log_distribution(
    embeddings: Float[Tensor, "batch dim"],
    rows: Float[Tensor, "queue dim"],
    temperature: float,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None,
) -> Float[Tensor, "batch queue"]:
    """Return the log softmax over the rows; a row that does not count is low but finite: 0 times it is 0, not NaN."""
    logits = cosine_matrix(embeddings, rows) / temperature
    if valid is not None:
        logits = logits.masked_fill(~valid, torch.finfo(logits.dtype).min / 4)
    return logits.log_softmax(dim=1)


def multi_view_queue_loss(
    student: Float[Tensor, "batch dim"],
    teacher1_first: Float[Tensor, "batch dim"],
    teacher1_second: Float[Tensor, "batch dim"],
    teacher2: Float[Tensor, "batch dim"],
    queue1: Float[Tensor, "queue1 dim"],
    queue2: Float[Tensor, "queue2 dim"],
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    valid1: Bool[Tensor, " queue1"] | Bool[Tensor, "batch queue1"] | None = None,
    valid2: Bool[Tensor, " queue2"] | Bool[Tensor, "batch queue2"] | None = None,
) -> Float[Tensor, ""]:
    """Return MSVQ's loss: the mean of three `relation_loss`, the first of which is ReSSL's.

    student (N, D) has gradient; the first teacher's embeddings of two weak views, the second teacher's of a third one
    and the two teachers' queues (Q, D) have none. Two of the terms are over queue1, one is over queue2. `valid1` and
    `valid2` name the rows that count (MSVQ, arXiv 2305.05370, with the values of its code for CIFAR-10).
    """
    first, second, third = (
        relation_loss(
            student,
            teacher,
            queue,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
            valid=valid,
        )
        for teacher, queue, valid in (
            (teacher1_first, queue1, valid1),
            (teacher1_second, queue1, valid1),
            (teacher2, queue2, valid2),
        )
    )
    return (first + second + third) / 3
