"""Soft labels over a queue: a student reproduces how a teacher's embedding relates to it (ReSSL, MSVQ)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from scenewise.losses.similarity import blank_rows, cosine_matrix


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
    graph. It exceeds the divergence KL(teacher || student) by `relation_entropy`, which trains nothing; with all
    embeddings equal it is log Q (ReSSL, arXiv 2107.09282; temperatures of its code and of MSVQ's).
    """
    rows = blank_rows(queue, valid)
    predicted = cosine_matrix(student, rows) / student_temperature  # (N, Q)
    labels = cosine_matrix(teacher.detach(), rows) / teacher_temperature  # (N, Q)
    if valid is not None:  # the student's logits stay finite, so that a label of 0 times their logarithm is 0, not NaN
        predicted = predicted.masked_fill(~valid, torch.finfo(predicted.dtype).min / 4)
        labels = labels.masked_fill(~valid, -torch.inf)
    labels = labels.softmax(dim=1)
    if valid is not None:
        labels = labels.masked_fill(~valid, 0.0)  # a row without any valid entry came out as NaN
    return -(labels * predicted.log_softmax(dim=1)).sum(dim=1).mean()


@torch.no_grad()
def relation_entropy(
    teacher: Float[Tensor, "batch dim"],
    queue: Float[Tensor, "queue dim"],
    *,
    temperature: float,
    valid: Bool[Tensor, " queue"] | Bool[Tensor, "batch queue"] | None = None,
) -> Float[Tensor, ""]:
    """Return the entropy of the teacher's soft labels in nats, the mean over the batch, without gradient.

    teacher (N, D), queue (Q, D) and `valid` as in `relation_loss`, whose value less this one is the divergence. It is
    that loss of the teacher against itself, so the difference of equal distributions is 0 to the last bit.
    """
    return relation_loss(
        teacher, teacher, queue, student_temperature=temperature, teacher_temperature=temperature, valid=valid
    )


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
