"""SwAV: its loss from the definition, when the queue joins, the freeze of the prototypes, the crops."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scenewise.engine.config import OptimiserConfig
from scenewise.engine.optim import make_optimiser
from scenewise.errors import UserError
from scenewise.methods import swav
from scenewise.methods.base import Method
from scenewise.methods.swav import SwAV
from scenewise.types import Batch
from scenewise.views.slots import Slot, scale_slots

Array = np.ndarray


def unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def slow_codes(scores: Array, *, epsilon: float, iterations: int) -> Array:
    """Return the authors' Sinkhorn-Knopp: prototypes to 1/P, images to 1/B, in turn; the last rows are the batch's."""
    plan = np.exp(scores / epsilon).T  # (P, B)
    plan /= plan.sum()
    for _ in range(iterations):
        plan *= (1 / plan.shape[0]) / plan.sum(axis=1, keepdims=True)
        plan *= (1 / plan.shape[1]) / plan.sum(axis=0, keepdims=True)
    return (plan / plan.sum(axis=0, keepdims=True)).T


def slow_loss(crops: Sequence[Array], past: Sequence[Array], prototypes: Array, config: SwAV.Config) -> float:
    """Return the average over the two large crops of the average over all other crops, an image at a time."""
    by_assigning = []
    for assigning in range(2):
        rows = np.concatenate([past[assigning], crops[assigning]])
        codes = slow_codes(rows @ prototypes.T, epsilon=config.epsilon, iterations=config.iterations)
        codes = codes[len(past[assigning]) :]
        by_crop = []
        for number, crop in enumerate(crops):
            if number != assigning:
                logits = crop @ prototypes.T / config.temperature
                images = [
                    -sum(q * (s - math.log(np.exp(row).sum())) for q, s in zip(code, row, strict=True))
                    for code, row in zip(codes, logits, strict=True)
                ]
                by_crop.append(sum(images) / len(images))
        by_assigning.append(sum(by_crop) / len(by_crop))
    return sum(by_assigning) / 2


def embedded(method: Method, batch: Batch) -> list[Array]:
    """Return the unit embeddings of every crop, one crop after another (there are no batch statistics)."""
    with torch.no_grad():
        crops = [crop for name in ("large", "small") if name in batch.views for crop in batch.views[name]]
        return [unit(method.head(method.backbone(crop)).double().numpy()) for crop in crops]


def without_batchnorm(method: Method) -> Method:
    """Take the one batch norm that is left, in the head, away."""
    method.head[1] = nn.Identity()
    return method


@pytest.mark.parametrize("small_crops", [0, 1, 6])
@pytest.mark.parametrize("filled", [0, 2, 3, 4])  # of three steps' rows
def test_the_loss_is_the_definition(lab, small_crops: int, filled: int) -> None:
    method = without_batchnorm(lab.method("swav", small_crops=small_crops, prototypes=7, dictionary_size=24))
    lab.run(method, range(filled))
    batch, full = lab.batch(method, 9), filled >= 3
    past = [queue.read().rows["projection"].double().numpy()[: 24 * full] for queue in method.queues]
    prototypes = method.prototypes.weight.detach().double().numpy()
    loss = method.step(batch, lab.progress(filled)).loss
    assert loss.item() == pytest.approx(slow_loss(embedded(method, batch), past, prototypes, method.config), rel=1e-4)
    if full:
        alone = slow_loss(embedded(method, batch), [rows[:0] for rows in past], prototypes, method.config)
        assert abs(loss.item() - alone) > 1e-3


@pytest.fixture
def assigned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to which the number of rows of every assignment is added."""
    rows: list[int] = []
    real = swav.prototype_codes

    def spy(scores: Tensor, *, epsilon: float, iterations: int) -> Tensor:
        rows.append(len(scores))
        return real(scores, epsilon=epsilon, iterations=iterations)

    monkeypatch.setattr(swav, "prototype_codes", spy)
    return rows


@pytest.mark.parametrize(
    ("size", "epochs", "joins"),
    [(16, 0.0, 2), (20, 0.0, 3), (24, 0.0, 3), (24, 0.5, 5), (24, 0.2, 3), (None, 0.4, 4), (0, 0.0, None)],
)
def test_the_queue_joins_once_it_is_full_and_its_time_has_come(
    lab, assigned: list[int], size: int | None, epochs: float, joins: int | None
) -> None:
    """An epoch has ten steps of eight images; None is a tenth of 300 images."""
    method = lab.method("swav", dictionary_size=size, queue_epochs=epochs, small_crops=0)
    lab.run(method, range(7))
    length = 30 if size is None else size
    expected = [8 + (length if joins is not None and step >= joins else 0) for step in range(7)]
    assert assigned == [rows for rows in expected for _ in range(2)]


def test_each_large_crop_has_a_queue_of_its_own_unit_embeddings(lab) -> None:
    method = without_batchnorm(lab.method("swav", dictionary_size=20))
    batches = [lab.batch(method, number) for number in range(3)]
    expected = [embedded(method, batch) for batch in batches]
    for number, batch in enumerate(batches):
        method.step(batch, lab.progress(number))
    order = torch.cat([torch.arange(4, 20), torch.arange(0, 4)])
    for crop in range(2):
        snapshot = method.queues[crop].read()  # 24 rows into 20: the oldest four are gone
        rows = np.concatenate([crops[crop] for crops in expected])[4:]
        np.testing.assert_allclose(snapshot.rows["projection"][order].numpy(), rows, rtol=1e-4, atol=1e-6)
        assert torch.equal(snapshot.image[order], torch.cat([batch.index for batch in batches])[4:])
        assert torch.equal(snapshot.box[order], torch.cat([batch.boxes["large"][crop] for batch in batches])[4:])


def options(name: str) -> OptimiserConfig:
    return OptimiserConfig(
        name=name, lr=0.6, weight_decay=1e-2, exclude_norm_and_bias=False,
        schedule="constant", warmup_epochs=0.0, warmup_start=0.0, final_lr=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["lars", "sgd", "adam", "adamw"])
def test_prototypes_are_frozen_bit_for_bit_then_trained_and_always_of_length_1(lab, name: str) -> None:
    method = lab.method("swav", freeze_epochs=0.3)  # three steps
    optimiser = make_optimiser(options(name), method, 0.6 if name in ("lars", "sgd") else 1e-3)
    start = method.prototypes.weight.detach().clone()
    head = method.head[0].weight.detach().clone()
    for step in range(5):
        output = method.step(lab.batch(method, step), lab.progress(step))
        optimiser.zero_grad()
        output.loss.backward()
        assert (method.prototypes.weight.grad.abs().max() == 0) == (step < 3)
        optimiser.step()
        method.after_update(lab.progress(step))
        assert torch.equal(method.prototypes.weight, start) == (step < 3)
        torch.testing.assert_close(method.prototypes.weight.norm(dim=1), torch.ones(30))
    assert not torch.equal(method.head[0].weight, head)


def test_codes_have_no_gradient_and_every_crop_is_predicted(lab) -> None:
    """The loss is linear in the codes, so a gradient through them would show in that of the prototypes' scores."""
    method = lab.method("swav", small_crops=2)
    batch = lab.batch(method, 0)
    views = {name: view.clone().requires_grad_() for name, view in batch.views.items()}
    method.step(dataclasses.replace(batch, views=views), lab.progress(0)).loss.backward()
    for view in views.values():
        assert all(crop.abs().max() > 0 for crop in view.grad)


def test_crops_of_one_size_share_batch_statistics_and_all_share_the_heads(lab) -> None:
    method = lab.method("swav", norm="batch")
    batch = lab.batch(method, 0)
    method.step(batch, lab.progress(0))
    assert method.backbone.layers[1].num_batches_tracked == 2
    assert method.head[1].num_batches_tracked == 1
    with torch.no_grad():
        maps = [method.backbone.layers[0](batch.views[name].flatten(0, 1)) for name in ("large", "small")]
    expected = torch.zeros(8)
    for part in maps:
        expected = 0.9 * expected + 0.1 * part.mean(dim=(0, 2, 3))
    torch.testing.assert_close(method.backbone.layers[1].running_mean, expected)


def test_the_order_in_which_a_batch_names_its_slots_does_not_matter(lab) -> None:
    losses = []
    for turned in (False, True):
        method = lab.trained("swav", norm="batch")
        batch = lab.batch(method, 3)
        views = dict(reversed(batch.views.items())) if turned else batch.views
        losses.append(method.step(dataclasses.replace(batch, views=views), lab.progress(3)).loss)
    assert torch.equal(*losses)


def test_a_collapsed_encoder_is_seen(lab) -> None:
    """All embeddings alike: every code is uniform and the loss the logarithm of the prototypes (SwAV's README)."""
    method = lab.method("swav", prototypes=9, small_crops=0, temperature=1e4)
    output = method.step(lab.batch(method, 0), lab.progress(0))
    assert output.loss.item() == pytest.approx(math.log(9), rel=1e-3)
    assert output.metrics["codes/uniform_share"].item() == pytest.approx(1.0, rel=1e-3)


def test_the_crops_are_those_of_multi_crop() -> None:
    slots = SwAV.slots(SwAV.Config())
    assert slots == {
        "large": Slot(augmentation="simclr", size=224, count=2, scale=(0.14, 1.0)),
        "small": Slot(augmentation="simclr", size=96, count=6, scale=(0.05, 0.14)),
    }
    assert {name: slot.size for name, slot in scale_slots(slots, 112).items()} == {"large": 112, "small": 48}
    pair = SwAV.slots(SwAV.Config(small_crops=0))
    assert pair == {"large": Slot(augmentation="simclr", size=224, count=2, scale=(0.08, 1.0))}
    assert SwAV.passes(SwAV.Config(small_crops=0)) == 6.0
    assert SwAV.passes(SwAV.Config()) == pytest.approx(6 + 18 * (96 * 96) / (224 * 224))


def test_the_authors_settings_are_the_defaults() -> None:
    config, notes = SwAV.resolve(SwAV.Config(), images=1_281_167, batch_size=256)
    assert notes == []
    assert (config.prototypes, config.dictionary_size, config.queue_epochs, config.freeze_epochs) == (3000, 3840, 15, 1)
    assert (config.temperature, config.epsilon, config.iterations) == (0.1, 0.05, 3)
    assert (config.hidden, config.width, config.small_crops) == (None, 128, 6)  # None: as wide as the features
    assert round(config.freeze_epochs * 1_281_167 / 256) == 5005
    training = SwAV.training_defaults
    assert (training.optimiser, training.lr, training.weight_decay, training.warmup_epochs) == ("lars", 0.6, 1e-6, 0)
    assert training.lr * training.final_lr == pytest.approx(0.0006)
    assert not training.exclude_norm_and_bias
    assert SwAV.batch_statistics == "run"


def test_few_images_get_fewer_prototypes_and_it_is_said() -> None:
    config, notes = SwAV.resolve(SwAV.Config(), images=5000, batch_size=64)
    assert (config.prototypes, config.dictionary_size) == (500, 500)
    assert any("method.prototypes is 500 instead of the paper's 3000" in note for note in notes)
    assert SwAV.resolve(SwAV.Config(prototypes=3000), images=5000, batch_size=64)[0].prototypes == 3000
    assert SwAV.resolve(SwAV.Config(), images=12, batch_size=4)[0].prototypes == 2


@pytest.mark.parametrize("prototypes", [1, 0, -3])
def test_fewer_than_two_prototypes_are_refused(prototypes: int) -> None:
    with pytest.raises(UserError, match=rf"method\.prototypes: {prototypes} must be at least 2"):
        SwAV.resolve(SwAV.Config(prototypes=prototypes), images=300, batch_size=8)


def test_a_negative_number_of_crops_or_rows_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.small_crops: -1 must be 0 to 64"):
        SwAV.resolve(SwAV.Config(small_crops=-1), images=300, batch_size=8)
    with pytest.raises(UserError, match=r"method\.dictionary_size: -1 must be 0 or more"):
        SwAV.resolve(SwAV.Config(dictionary_size=-1), images=300, batch_size=8)


def test_without_a_queue_there_is_none(lab) -> None:
    method = lab.trained("swav", dictionary_size=0)
    assert lab.queues(method) == []
    assert method.config.dictionary_size == 0
    assert method.step(lab.batch(method, 3), lab.progress(3)).loss.isfinite()
