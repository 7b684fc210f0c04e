"""ReSSL: a whole step against NumPy, and its equality with MSVQ's first term, in which everything shared is shared."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scenewise.methods import Method
from scenewise.methods.ressl import ReSSL
from scenewise.types import Batch

SHARED = {"momentum": 0.9, "hidden": 24, "width": 12, "dictionary_size": 20, "teacher_temperature": 0.05}


def slow_distributions(rows: np.ndarray, queue: np.ndarray, usable: np.ndarray, temperature: float) -> list[np.ndarray]:
    """Return for each row its softmax over the usable queue rows, one at a time."""
    found = []
    for row, counts in zip(rows, usable, strict=True):
        scores = [float(row @ other) / np.linalg.norm(row) / np.linalg.norm(other) for other in queue[counts]]
        powers = np.array([math.exp(score / temperature) for score in scores])
        found.append(powers / powers.sum())
    return found


@settings(max_examples=15)
@given(
    steps=st.integers(1, 5),
    mask_own_image=st.booleans(),
    queue_start=st.sampled_from(["empty", "random"]),
    temperature=st.sampled_from([0.1, 0.3]),
    teacher_temperature=st.sampled_from([0.04, 0.1]),
)
def test_a_step_equals_a_loop(lab, steps: int, **choices) -> None:
    method = lab.trained("ressl", steps=steps, hidden=24, width=8, dictionary_size=20, **choices)
    old, batch = method.queue.read(), lab.batch(method, 9)
    if choices["mask_own_image"]:  # half of the images have an older crop in the queue
        batch = dataclasses.replace(batch, index=torch.cat([old.image[old.image >= 0][-4:], batch.index[4:]]))
    output = method.step(batch, lab.progress(9))
    with torch.no_grad():
        student = method.encoder(batch.views["strong"][0])[1].double().numpy()
        teacher = method.teacher(batch.views["weak"][0])[1].double().numpy()
    own = old.image.numpy()[None, :] == batch.index.numpy()[:, None]
    usable = np.broadcast_to(old.valid.numpy(), own.shape) & ~(own & choices["mask_own_image"])
    queue = old.rows["projection"].double().numpy()
    predicted = slow_distributions(student, queue, usable, choices["temperature"])
    labels = slow_distributions(teacher, queue, usable, choices["teacher_temperature"])
    pairs = list(zip(labels, predicted, strict=True))
    loss = np.mean([-(label * np.log(guess)).sum() for label, guess in pairs])
    divergence = np.mean([(label * np.log(label / guess)).sum() for label, guess in pairs])
    assert output.loss.item() == pytest.approx(loss, rel=1e-4)
    assert output.metrics["relation/kl"].item() == pytest.approx(divergence, rel=1e-3, abs=1e-4)
    share = loss / math.log(max(2, old.valid.sum().item()))
    assert output.metrics["relation/uniform_share"].item() == pytest.approx(share, rel=1e-4)
    np.testing.assert_allclose(output.targets.numpy(), teacher, rtol=1e-4, atol=1e-5)


def first_view_only(batch: Batch) -> Batch:
    """Return MSVQ's batch as ReSSL gets it: the strong view and the first weak one."""
    return dataclasses.replace(
        batch,
        views={"strong": batch.views["strong"], "weak": batch.views["weak"][:1]},
        boxes={"strong": batch.boxes["strong"], "weak": batch.boxes["weak"][:1]},
    )


def first_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what of MSVQ's state ReSSL has: the encoder, teacher 1 and queue 1 under ReSSL's names."""
    renamed = {key.replace("teachers.0.", "teacher.").replace("queues.0.", "queue."): state[key] for key in state}
    return {key: value for key, value in renamed.items() if not key.startswith(("teachers.", "queues."))}


def gradients(method: Method, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(method.encoder.parameters()), retain_graph=True))


@pytest.mark.parametrize("norm", ["group", "grouped"])
@pytest.mark.parametrize("shared", [{}, {"queue_start": "random"}, {"mask_own_image": True, "shuffle": False}])
def test_it_is_the_first_term_of_msvq_bit_for_bit_at_every_state(lab, norm: str, shared: dict) -> None:
    """Value and gradient, with batch norm in shuffled groups too, along a run of MSVQ; and the same rows are pushed."""
    msvq = lab.method("msvq", norm=norm, **SHARED, **shared)
    ressl = lab.method("ressl", norm=norm, **SHARED, **shared)
    start = first_of(msvq.state_dict())
    assert start.keys() == ressl.state_dict().keys()
    assert all(torch.equal(value, start[key]) for key, value in ressl.state_dict().items()), "one seed, one start"
    optimiser = lab.optimiser(msvq)
    for number in range(5):
        ressl.load_state_dict(first_of(lab.state(msvq)))
        batch = lab.batch(msvq, number)
        single = ressl.step(first_view_only(batch), lab.progress(number))
        output = msvq.step(batch, lab.progress(number))
        term = output.terms["relation1"]
        assert torch.equal(single.loss, term)
        assert single.loss > 0 or (number == 0 and "queue_start" not in shared), "there are rows to compare with"
        ours, theirs = gradients(ressl, single.loss), gradients(msvq, term)
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
        for key, value in ressl.queue.state_dict().items():
            assert torch.equal(value, msvq.queues[0].state_dict()[key]), key
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        msvq.after_update(lab.progress(number))


@pytest.mark.parametrize("norm", ["group", "grouped"])
@pytest.mark.parametrize("variant", ["msv", "mq"])
def test_with_equal_weak_views_msvqs_ablations_train_as_it_does(lab, norm: str, variant: str) -> None:
    """Both terms are then equal, and so is their mean: encoder, teacher 1 and queue 1 go the same way.

    To rounding: autograd adds up the halves of the gradient in another order.
    """
    shared = SHARED | {"shuffle": False}
    ressl = lab.method("ressl", norm=norm, **shared)
    msvq = lab.method("msvq", norm=norm, variant=variant, second_momentum=SHARED["momentum"], **shared)
    optimisers = lab.optimiser(ressl), lab.optimiser(msvq)
    for number in range(6):
        batch = lab.batch(msvq, number)
        weak = {"weak": batch.views["weak"][:1].expand(2, *batch.views["weak"].shape[1:])}
        boxes = {"weak": batch.boxes["weak"][:1].expand(2, *batch.boxes["weak"].shape[1:])}
        batch = dataclasses.replace(batch, views={**batch.views, **weak}, boxes={**batch.boxes, **boxes})
        for method, optimiser, views in ((ressl, optimisers[0], first_view_only(batch)), (msvq, optimisers[1], batch)):
            output = method.step(views, lab.progress(number))
            optimiser.zero_grad()
            output.loss.backward()
            optimiser.step()
            method.after_update(lab.progress(number))
        state = first_of(msvq.state_dict())
        for key, value in ressl.state_dict().items():
            teachers_statistics = key.startswith("teacher") and ("running" in key or "tracked" in key)
            if variant == "msv" and teachers_statistics:
                continue  # of two passes a step; they play no part in training
            torch.testing.assert_close(
                value, state[key], rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}"
            )


def test_one_embedding_for_everything_is_seen_as_collapse(lab) -> None:
    method = lab.method("ressl", width=8, dictionary_size=40)
    with torch.no_grad():
        for encoder in (method.encoder, method.teacher):
            encoder.head[2].weight.zero_()
            encoder.head[2].bias.copy_(torch.arange(1.0, 9.0))
    for number, rows in enumerate((8, 16, 24, 32, 40, 40)):
        method.step(lab.batch(method, number), lab.progress(number))
        output = copy.deepcopy(method).step(lab.batch(method, 9), lab.progress(9))
        assert output.loss.item() == pytest.approx(math.log(rows), rel=1e-6)
        assert output.metrics["relation/uniform_share"].item() == pytest.approx(1.0, rel=1e-6)
        assert output.metrics["relation/kl"].item() == pytest.approx(0.0, abs=1e-6)


def test_equal_relations_have_no_divergence(lab) -> None:
    method = lab.trained("ressl", temperature=0.1, teacher_temperature=0.1)
    method.teacher.load_state_dict(method.encoder.state_dict())
    batch = lab.batch(method, 9)
    batch = dataclasses.replace(batch, views=dict.fromkeys(batch.views, batch.views["strong"]))
    output = method.step(batch, lab.progress(9))
    assert output.metrics["relation/kl"].item() == pytest.approx(0.0, abs=1e-5)
    (slope,) = torch.autograd.grad(output.loss, output.embeddings)
    assert slope.abs().max() < 1e-5


def test_the_student_sees_the_strong_view_and_the_teacher_the_weak_one(lab) -> None:
    method = lab.method("ressl", shuffle=False)
    seen: dict[str, list[Tensor]] = {"encoder": [], "teacher": []}
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen["encoder"].append(inputs[0]))
    method.teacher.register_forward_pre_hook(lambda _, inputs: seen["teacher"].append(inputs[0]))
    batch = lab.batch(method, 0)
    method.step(batch, lab.progress(0))
    assert [len(images) for images in seen.values()] == [1, 1]
    assert torch.equal(seen["encoder"][0], batch.views["strong"][0])
    assert torch.equal(seen["teacher"][0], batch.views["weak"][0])


def test_the_defaults_are_the_authors() -> None:
    config, notes = ReSSL.resolve(ReSSL.Config(), images=1_281_167 * 2, batch_size=256)
    assert notes == []
    assert (config.momentum, config.temperature, config.teacher_temperature) == (0.999, 0.1, 0.04)
    assert (config.hidden, config.width, config.dictionary_size) == (4096, 512, 131_072)
    slots = ReSSL.slots(config)
    assert {name: (slot.augmentation, slot.count) for name, slot in slots.items()} == {
        "strong": ("moco", 1),
        "weak": ("weak", 1),
    }


@pytest.mark.parametrize(("teacher_temperature", "said"), [(0.09, False), (0.1, True), (0.5, True)])
def test_a_teacher_that_does_not_sharpen_is_said(teacher_temperature: float, said: bool) -> None:
    config = ReSSL.Config(dictionary_size=64, teacher_temperature=teacher_temperature)
    _, notes = ReSSL.resolve(config, images=500, batch_size=8)
    assert any("may collapse" in note for note in notes) == said
