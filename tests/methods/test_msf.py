"""MSF: the search against pushing first and searching then, asymmetric BYOL at one neighbour, its variants by loops."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenewise.errors import UserError
from scenewise.losses import cosine_regression
from scenewise.methods.msf import MSF
from scenewise.parts.queue import Queue
from scenewise.types import Batch

SMALL = {"hidden": 24, "width": 8, "dictionary_size": 20}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embedded(method: MSF, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit predictions and targets of a view in float64."""
    with torch.no_grad():
        prediction, target = method.predictor(method.encoder(images)[1]), method.teacher(images)[1]
    return unit(prediction.double().numpy()), unit(target.double().numpy())


def slow_mean_shift(predictions: np.ndarray, targets: np.ndarray, bank: list[np.ndarray], k: int) -> float:
    """Return the mean of 2 - 2 cos over the k bank entries nearest to each target, found by sorting."""
    total = 0.0
    for prediction, target in zip(predictions, targets, strict=True):
        nearest = sorted(bank, key=lambda row, target=target: -float(row @ target))[:k]
        total += np.mean([2 - 2 * float(prediction @ row) for row in nearest])
    return total / len(predictions)


@pytest.mark.parametrize(("changes", "copies"), [({}, 1), ({"symmetric": True}, 2), ({"search": "before"}, 1)])
def test_a_step_copies_the_bank_once_for_each_search(
    lab, changes: dict[str, Any], copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Queue.after, list[int]()
    monkeypatch.setattr(Queue, "after", lambda self, rows: calls.append(1) or real(self, rows))
    method = lab.method("msf", k=2, momentum=0.9, **SMALL, **changes)
    method.step(lab.batch(method, 0), lab.progress(0))
    assert len(calls) == copies


@pytest.mark.parametrize("k", [1, 3, 12])
def test_the_search_equals_the_authors_push_and_search(lab, k: int) -> None:
    """Batches of 8 into a bank of 20: the oldest rows are overwritten first, the current targets are there."""
    method = lab.method("msf", k=k, momentum=0.9, **SMALL)
    optimiser = lab.optimiser(method)
    bank: list[np.ndarray] = []
    for number in range(6):
        batch = lab.batch(method, number)
        predictions, _ = embedded(method, batch.views["query"][0])
        _, targets = embedded(method, batch.views["key"][0])
        bank = (bank + list(targets))[-20:]  # the authors' order: enqueue, then search
        output = method.step(batch, lab.progress(number))
        assert output.loss.item() == pytest.approx(slow_mean_shift(predictions, targets, bank, k), rel=1e-4)
        held = method.queue.read()
        found = held.rows["projection"][held.valid].double().numpy()
        assert sorted(map(tuple, np.round(found, 4))) == sorted(map(tuple, np.round(bank, 4)))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        method.after_update(lab.progress(number))


def test_a_row_about_to_be_overwritten_is_no_neighbour(lab) -> None:
    """A trap: the targets themselves stand in the oldest rows; only a search that still sees those finds them twice."""
    method = lab.trained("msf", k=2, **(SMALL | {"dictionary_size": 16}))
    batch = lab.batch(method, 9)
    _, targets = embedded(method, batch.views["key"][0])
    predictions, _ = embedded(method, batch.views["query"][0])
    place = int(method.queue.pointer)
    rows = method.queue.get_buffer("rows_projection")
    rows[place : place + 8] = torch.from_numpy(targets).float()
    kept = [row for number, row in enumerate(rows.double().numpy()) if not place <= number < place + 8]
    output = method.step(batch, lab.progress(9))
    expected = slow_mean_shift(predictions, targets, kept + list(targets), 2)
    trapped = slow_mean_shift(predictions, targets, kept + 2 * list(targets), 2)
    assert output.loss.item() == pytest.approx(expected, rel=1e-4)
    assert abs(expected - trapped) > 1e-3


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_one_neighbour_is_asymmetric_byol_in_value_and_gradient(lab, steps: int) -> None:
    method = lab.trained("msf", k=1, steps=steps, **SMALL)
    batch = lab.batch(method, 9)
    with torch.no_grad():
        target = method.teacher(batch.views["key"][0])[1]
    expected = cosine_regression(method.predictor(method.encoder(batch.views["query"][0])[1]), target)
    output = method.step(batch, lab.progress(9))
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    pairs = zip(torch.autograd.grad(output.loss, trainable), torch.autograd.grad(expected, trainable), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_more_neighbours_are_not_byol(lab) -> None:
    method = lab.trained("msf", k=5, **SMALL)
    output = method.step(lab.batch(method, 9), lab.progress(9))
    assert abs(output.loss.item() - cosine_regression(output.embeddings, output.targets).item()) > 1e-3


@settings(max_examples=15)
@given(steps=st.integers(0, 4), k=st.integers(1, 12), queue_start=st.sampled_from(["empty", "random"]))
def test_a_search_before_the_push_has_the_target_as_one_more_term(lab, steps: int, k: int, queue_start: str) -> None:
    """1 + k terms of equal weight; fewer while the bank holds fewer than k rows, none but the target at the start."""
    method = lab.trained("msf", search="before", k=k, steps=steps, queue_start=queue_start, **SMALL)
    held = method.queue.read()
    past = list(held.rows["projection"][held.valid].double().numpy())
    batch = lab.batch(method, 9)
    predictions, _ = embedded(method, batch.views["query"][0])
    _, targets = embedded(method, batch.views["key"][0])
    total = 0.0
    for prediction, target in zip(predictions, targets, strict=True):
        nearest = sorted(past, key=lambda row, target=target: -float(row @ target))[:k]
        total += np.mean([2 - 2 * float(prediction @ row) for row in [target, *nearest]])
    assert method.step(batch, lab.progress(9)).loss.item() == pytest.approx(total / 8, rel=1e-4)


def swapped(batch: Batch) -> Batch:
    views, boxes = batch.views, batch.boxes
    return dataclasses.replace(
        batch,
        views={"query": views["key"], "key": views["query"]},
        boxes={"query": boxes["key"], "key": boxes["query"]},
    )


@pytest.mark.parametrize("search", ["joined", "before"])
def test_the_symmetric_loss_is_the_mean_of_both_directions_on_one_old_bank(lab, search: str) -> None:
    method = lab.trained("msf", search=search, symmetric=True, k=4, **SMALL)
    forwards, backwards = (copy.deepcopy(method) for _ in range(2))
    for one in (forwards, backwards):
        one.config = dataclasses.replace(method.config, symmetric=False)
    batch = lab.batch(method, 9)
    output = method.step(batch, lab.progress(9))
    there = forwards.step(batch, lab.progress(9)).loss
    back = backwards.step(swapped(batch), lab.progress(9)).loss
    assert output.loss.item() == pytest.approx((there.item() + back.item()) / 2, rel=1e-5)
    assert abs(there.item() - back.item()) > 1e-4
    for key, value in method.queue.state_dict().items():  # the keys alone are pushed, once
        torch.testing.assert_close(value, forwards.queue.state_dict()[key], msg=key)


def test_the_heads_are_the_published_ones_for_resnet_50(lab) -> None:
    """Projector d -> 2d -> d/4, predictor d/4 -> 2d -> d/4 (d = 2048), each Linear, norm, ReLU, Linear."""
    method = lab.method("msf", features=2048)
    for head, width in ((method.encoder.head, 2048), (method.predictor, 512), (method.teacher.head, 2048)):
        assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        assert {name: tuple(value.shape) for name, value in head.named_parameters()} == {
            "0.weight": (4096, width), "0.bias": (4096,), "1.weight": (4096,), "1.bias": (4096,),
            "3.weight": (512, 4096), "3.bias": (512,),
        }  # fmt: skip
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())


def test_the_momentum_is_constant(lab) -> None:
    method = lab.method("msf", **SMALL)
    for step in (0, 99):
        start = [parameter.clone() for parameter in method.teacher.parameters()]
        method.step(lab.batch(method, step), lab.progress(step))
        with torch.no_grad():
            for parameter in method.encoder.parameters():
                parameter.add_(0.1)
        method.after_update(lab.progress(step))
        for old, online, teacher in zip(start, method.encoder.parameters(), method.teacher.parameters(), strict=True):
            torch.testing.assert_close(teacher, 0.99 * old + 0.01 * online)


def test_the_defaults_are_the_authors_and_the_weak_target_is_a_name_away() -> None:
    config, notes = MSF.resolve(MSF.Config(), images=1_281_167, batch_size=256)
    assert notes == []
    assert (config.momentum, config.k, config.dictionary_size) == (0.99, 5, 128_000)
    assert (config.search, config.symmetric, config.hidden, config.width) == ("joined", False, None, None)
    slots = MSF.slots(MSF.Config(key="weak"))
    assert {name: slot.augmentation for name, slot in slots.items()} == {"query": "moco", "key": "weak"}


@pytest.mark.parametrize(("k", "problem"), [(0, "at least 1"), (21, "at most the bank's 20 rows")])
def test_more_neighbours_than_rows_are_refused(k: int, problem: str) -> None:
    with pytest.raises(UserError, match=rf"method\.k: {k} must be {problem}"):
        MSF.resolve(MSF.Config(k=k, dictionary_size=20), images=500, batch_size=8)
