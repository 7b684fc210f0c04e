"""MoCo v2: its loss against a loop over the written rows, its queue's start, its masks."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scenewise.methods import method_class
from scenewise.methods.mocov2 import MoCoV2
from scenewise.parts.queue import Queue, Snapshot
from scenewise.types import Batch, View


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slow_contrast(query: Tensor, key: Tensor, dictionary: Snapshot, batch: Batch, *, temperature: float, mask: bool):
    """Return MoCo's Eq. 1, one query and one row at a time."""
    queries, positives = unit(query.detach().double().numpy()), unit(key.double().numpy())
    rows = dictionary.rows["projection"].double().numpy()
    total = 0.0
    for b in range(len(queries)):
        positive = math.exp(float(queries[b] @ positives[b]) / temperature)
        everything = positive
        for j in range(len(rows)):
            own = int(dictionary.image[j]) == int(batch.index[b])
            if bool(dictionary.valid[j]) and not (mask and own):
                everything += math.exp(float(queries[b] @ rows[j]) / temperature)
        total -= math.log(positive / everything)
    return total / len(queries)


@pytest.mark.parametrize("queue_start", ["empty", "random"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("filled", [0, 1, 3, 5])
def test_the_loss_is_the_formula_on_the_rows_that_count(lab, queue_start: str, mask: bool, filled: int) -> None:
    method = lab.trained("mocov2", steps=filled, queue_start=queue_start, mask_own_image=mask, dictionary_size=30)
    batch, old = lab.batch(method, 9), method.queue.read()
    if filled:  # half of the queries meet an older crop of their own image
        index = torch.cat([old.image[old.valid][-4:], batch.index[4:]])
        batch = dataclasses.replace(batch, index=index)
    output = method.step(batch, lab.progress(9))
    expected = slow_contrast(output.embeddings, output.targets, old, batch, temperature=0.2, mask=mask)
    assert output.loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    if queue_start == "empty" and filled == 0:
        assert output.loss.item() == 0.0
    if mask and filled:
        unmasked = slow_contrast(output.embeddings, output.targets, old, batch, temperature=0.2, mask=False)
        assert output.loss.item() < unmasked - 1e-4


def test_query_and_key_are_encoded_by_the_online_encoder_and_the_teacher(lab) -> None:
    method = lab.trained("mocov2", momentum=0.5, dictionary_size=40)
    batch = lab.batch(method, 3)
    output = method.step(batch, lab.progress(3))
    with torch.no_grad():
        features, query = method.encoder(batch.views["query"][0])
        _, key = method.teacher(batch.views["key"][0])
        _, untaught = method.encoder(batch.views["key"][0])
    torch.testing.assert_close(output.embeddings, query)
    torch.testing.assert_close(output.features, features)
    torch.testing.assert_close(output.targets, key)
    assert not torch.allclose(key, untaught)
    stored = method.queue.read().rows["projection"][method.queue.step == 3]
    torch.testing.assert_close(stored, nn.functional.normalize(key, dim=1))


def test_the_rows_carry_image_step_and_the_keys_box(lab) -> None:
    method = lab.method("mocov2", dictionary_size=20)
    batches = [lab.batch(method, number) for number in range(3)]
    for number, batch in enumerate(batches):
        method.step(batch, lab.progress(number))
    snapshot = method.queue.read()  # 24 rows into 20: the oldest four are gone
    order = torch.cat([torch.arange(4, 20), torch.arange(0, 4)])
    assert torch.equal(snapshot.image[order], torch.cat([batch.index for batch in batches])[4:])
    assert torch.equal(snapshot.box[order], torch.cat([batch.boxes["key"][0] for batch in batches])[4:])
    assert snapshot.step[order].tolist() == [0] * 4 + [1] * 8 + [2] * 8


def test_the_first_weights_of_the_teacher_are_the_online_ones(lab) -> None:
    method = lab.method("mocov2")
    pairs = list(zip(method.encoder.state_dict().values(), method.teacher.state_dict().values(), strict=True))
    assert all(torch.equal(online, teacher) for online, teacher in pairs)


def test_the_papers_settings_are_the_defaults() -> None:
    config = MoCoV2.Config()
    assert (config.momentum, config.temperature, config.width, config.queue_start) == (0.999, 0.2, 128, "empty")
    decided, notes = MoCoV2.resolve(config, images=1_281_167, batch_size=256)
    assert (decided.dictionary_size, notes) == (65536, [])
    small, notes = MoCoV2.resolve(config, images=5000, batch_size=64)
    assert small.dictionary_size == 500
    assert "instead of the paper's 65536" in notes[0]


def test_random_rows_are_those_of_the_seed(lab) -> None:
    first, again, other = (lab.method("mocov2", queue_start="random", seed=seed) for seed in (0, 0, 1))
    rows = [method.queue.read().rows["projection"] for method in (first, again, other)]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])


def test_shuffling_matters_for_batch_statistics_only(lab) -> None:
    for norm, matters in (("group", False), ("grouped", True)):
        losses = []
        for shuffle in (True, False):
            method = lab.trained("mocov2", norm=norm, shuffle=shuffle)
            losses.append(method.step(lab.batch(method, 3), lab.progress(3)).loss.item())
        assert (abs(losses[0] - losses[1]) > 1e-3) == matters


def test_a_method_of_this_name_is_this_class() -> None:
    assert method_class("mocov2") is MoCoV2
    assert isinstance(MoCoV2(MoCoV2.Config(dictionary_size=4), nn.Linear(2, 2), 2).queue, Queue)


def test_the_symmetric_loss_is_the_sum_of_both_directions_on_the_same_old_queue(lab) -> None:
    both = lab.trained("mocov2", symmetric=True, images=3000)
    forwards, backwards = (lab.method("mocov2", images=3000) for _ in range(2))
    for one in (forwards, backwards):
        one.load_state_dict(both.state_dict())
    batch = lab.batch(both, 3)
    swapped = dataclasses.replace(batch, views={"query": batch.views["key"], "key": batch.views["query"]})
    expected = [one.step(given, lab.progress(3)).loss for one, given in ((forwards, batch), (backwards, swapped))]
    torch.testing.assert_close(both.step(batch, lab.progress(3)).loss, expected[0] + expected[1])
    queue = both.queue.read()
    assert (queue.step == 3).sum() == 2 * len(batch.index)
    keys = forwards.queue.read().rows["projection"][forwards.queue.read().step == 3]
    assert torch.equal(queue.rows["projection"][queue.step == 3][: len(keys)], keys)


def test_a_linear_head_is_one_layer(lab) -> None:
    method = lab.method("mocov2", head="linear", width=5)
    assert [tuple(value.shape) for value in method.encoder.head.parameters()] == [(5, 16), (5,)]


def with_kinds(batch: Batch, query: list[int], key: list[int]) -> Batch:
    """Return the batch with a kind for each view, repeated over its rows."""
    count = len(batch.index)
    kinds = {
        slot: torch.tensor((kind * count)[:count], dtype=torch.int8)[None]
        for slot, kind in (("query", query), ("key", key))
    }
    return dataclasses.replace(batch, kinds=kinds)


OBJECT, CONTEXT, SCENE = int(View.OBJECT), int(View.CONTEXT), int(View.SCENE)


@pytest.mark.parametrize("mask", [False, True])
def test_with_dual_heads_a_key_and_its_negatives_come_from_one_head(lab, mask: bool) -> None:
    """Against MoCo's formula, row by row, on the queue of the head that the row's key went through."""
    method = lab.method("mocov2", heads="dual", dictionary_size=30, mask_own_image=mask)
    kinds = [OBJECT, CONTEXT, SCENE, CONTEXT], [CONTEXT, OBJECT, SCENE, OBJECT]
    for number in range(3):
        method.step(with_kinds(lab.batch(method, number), *kinds), lab.progress(number))
    batch = with_kinds(lab.batch(method, 9), *kinds)
    queues = {True: method.object_queue.read(), False: method.queue.read()}
    assert {key: int(queue.valid.sum()) for key, queue in queues.items()} == {True: 12, False: 12}
    batch = dataclasses.replace(batch, index=torch.cat([queues[True].image[:4], batch.index[4:]]))
    query, key = batch.views["query"][0], batch.views["key"][0]
    output = method.step(batch, lab.progress(9))
    losses = []
    for row in range(len(batch.index)):
        shows = {slot: bool(batch.kinds[slot][0, row] == OBJECT) for slot in ("query", "key")}
        place = 0 if shows["query"] else 1
        torch.testing.assert_close(output.embeddings[row], method.encoder(query)[1][row, place], rtol=1e-4, atol=1e-5)
        one = dataclasses.replace(batch, index=batch.index[row : row + 1])
        losses.append(
            slow_contrast(
                output.embeddings[row : row + 1],
                output.targets[row : row + 1],
                queues[shows["key"]],
                one,
                temperature=0.2,
                mask=mask,
            )
        )
    assert output.loss.item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert key.shape == query.shape


def test_with_dual_heads_each_head_learns_from_its_own_rows(lab) -> None:
    method = lab.method("mocov2", heads="dual", dictionary_size=30)
    method.step(with_kinds(lab.batch(method, 0), [OBJECT, CONTEXT], [OBJECT, CONTEXT]), lab.progress(0))
    for kind, silent in ((OBJECT, method.encoder.head.scenes), (CONTEXT, method.encoder.head.objects)):
        method.zero_grad()
        method.step(with_kinds(lab.batch(method, 1), [kind], [OBJECT, CONTEXT]), lab.progress(1)).loss.backward()
        assert all(parameter.grad is None or not parameter.grad.any() for parameter in silent.parameters())
        speaking = method.encoder.head.objects if kind == OBJECT else method.encoder.head.scenes
        assert all(parameter.grad.any() for parameter in speaking.parameters())


def test_a_step_with_dual_heads_never_waits_for_the_device(lab) -> None:
    """How many keys are whose is known on the device alone."""
    method = lab.method("mocov2", norm="batch", heads="dual", symmetric=True)
    batch = with_kinds(lab.batch(method, 9), [OBJECT, CONTEXT], [SCENE, OBJECT])
    method.step(batch, lab.progress(8))
    lab.step_without_values(method, batch, lab.progress(9))


def test_with_dual_heads_keys_go_to_the_queue_of_their_head(lab) -> None:
    method = lab.method("mocov2", heads="dual", dictionary_size=30, symmetric=True)
    batch = with_kinds(lab.batch(method, 0), [OBJECT, CONTEXT], [CONTEXT, CONTEXT, SCENE, OBJECT])
    method.step(batch, lab.progress(0))
    for queue, shown in ((method.object_queue, True), (method.queue, False)):
        expected = torch.cat([batch.index[(batch.kinds[slot][0] == OBJECT) == shown] for slot in ("key", "query")])
        found = queue.read()
        assert found.image[found.valid].tolist() == expected.tolist()
