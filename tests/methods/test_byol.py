"""BYOL: the range of its loss, its views' own batch statistics, the teacher's momentum, the published heads."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenewise.methods.byol import BYOL
from scenewise.parts.momentum import cosine_momentum
from scenewise.types import Progress
from scenewise.views.slots import Slot


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def slow_regression(prediction: Tensor, target: Tensor) -> float:
    """Return Eq. 2, the squared distance of unit vectors, one image at a time."""
    pairs = zip(prediction.detach().double().numpy(), target.detach().double().numpy(), strict=True)
    return float(np.mean([((p / np.linalg.norm(p) - t / np.linalg.norm(t)) ** 2).sum() for p, t in pairs]))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_loss_is_the_formula_in_both_directions(lab, norm: str) -> None:
    method = lab.trained("byol", norm=norm, momentum=0.5)
    batch = lab.batch(method, 3)
    output = method.step(batch, lab.progress(3))
    first, second = batch.views["first"][0], batch.views["second"][0]
    with torch.no_grad():  # each view alone: its batch statistics are its own
        predictions = [method.core.predictor(method.core.encoder(view)[1]) for view in (first, second)]
        targets = [method.core.teacher(view)[1] for view in (first, second)]
    expected = slow_regression(predictions[0], targets[1]) + slow_regression(predictions[1], targets[0])
    assert output.loss.item() == pytest.approx(expected, rel=1e-5)
    assert 0 <= output.loss.item() <= 8
    torch.testing.assert_close(output.embeddings, predictions[0])
    torch.testing.assert_close(output.targets, targets[1])
    assert not torch.allclose(targets[1], method.core.encoder(second)[1], atol=1e-4), "the teacher is another network"


def test_the_views_may_be_exchanged(lab) -> None:
    losses = []
    for names in (("first", "second"), ("second", "first")):
        method = lab.trained("byol", norm="batch")
        batch = lab.batch(method, 3)
        views = dict(zip(("first", "second"), (batch.views[name] for name in names), strict=True))
        losses.append(method.step(dataclasses.replace(batch, views=views), lab.progress(3)).loss)
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 0.0), (-1.0, 8.0)])
def test_the_loss_ends_at_0_and_8(lab, sign: float, expected: float) -> None:
    """A predictor that changes nothing, or the sign, between two equal networks and two equal views."""
    method = lab.method("byol")
    method.core.predictor = nn.Linear(256, 256, bias=False)
    method.core.predictor.weight.data = sign * torch.eye(256)
    batch = lab.batch(method, 0)
    same = dataclasses.replace(batch, views=dict.fromkeys(("first", "second"), batch.views["first"]))
    assert method.step(same, lab.progress(0)).loss.item() == pytest.approx(expected, abs=1e-5)


def test_the_other_view_does_not_touch_a_views_batch_statistics(lab) -> None:
    """With statistics over both views together the first prediction would change with the second view."""
    predictions, counts = [], []
    for factor in (1.0, 7.0):
        method = lab.method("byol", norm="batch")
        batch = lab.batch(method, 0)
        views = {"first": batch.views["first"], "second": factor * batch.views["second"] + factor}
        predictions.append(method.step(dataclasses.replace(batch, views=views), lab.progress(0)).embeddings)
        counts.append(method.backbone.layers[1].num_batches_tracked.item())
    assert torch.equal(*predictions)
    assert counts == [2, 2], "one pass a view"


def test_the_teacher_has_batch_statistics_of_its_own_passes(lab) -> None:
    method = lab.method("byol", norm="batch", momentum=1.0, momentum_schedule="constant")
    optimiser = lab.optimiser(method, lr=0.5)
    lab.run(method, range(3), optimiser=optimiser)
    online, teacher = method.backbone.layers[4], method.core.teacher.backbone.layers[4]
    assert teacher.num_batches_tracked == online.num_batches_tracked == 6
    assert not torch.allclose(online.running_var, teacher.running_var)


@settings(max_examples=30)
@given(base=st.floats(0.0, 1.0), steps=st.integers(1, 10**6), at=st.floats(0.0, 1.0))
def test_the_momentum_rises_from_its_base_to_1(base: float, steps: int, at: float) -> None:
    def momentum(step: int) -> float:
        return cosine_momentum(base, Progress(step=step, steps=steps, steps_per_epoch=1, seed=0))

    assert momentum(0) == pytest.approx(base)
    assert momentum(steps) == pytest.approx(1.0)
    if steps % 2 == 0:
        assert momentum(steps // 2) == pytest.approx((1 + base) / 2)
    step = int(at * (steps - 1))
    assert base - 1e-12 <= momentum(step) <= momentum(step + 1) <= 1.0
    assert momentum(step) == pytest.approx(1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2)


@pytest.mark.parametrize(
    ("schedule", "step", "momentum"),
    [("cosine", 0, 0.9), ("cosine", 50, 0.95), ("cosine", 100, 1.0), ("constant", 0, 0.9), ("constant", 50, 0.9)],
)
def test_the_teacher_moves_by_the_momentum_of_the_step_that_was_taken(
    lab, schedule: str, step: int, momentum: float
) -> None:
    method = lab.method("byol", momentum=0.9, momentum_schedule=schedule)  # of 100 steps
    for parameter in method.core.encoder.parameters():
        parameter.data += 1.0
    before = [parameter.clone() for parameter in method.core.teacher.parameters()]
    method.after_update(lab.progress(step))
    for old, new, online in zip(
        before, method.core.teacher.parameters(), method.core.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * online.detach())


def test_the_teacher_is_the_encoder_without_a_predictor(lab) -> None:
    method = lab.method("byol")
    assert method.core.teacher.state_dict().keys() == method.core.encoder.state_dict().keys()
    pairs = zip(method.core.encoder.state_dict().values(), method.core.teacher.state_dict().values(), strict=True)
    assert all(torch.equal(online, teacher) for online, teacher in pairs)


def test_the_heads_have_the_published_sizes() -> None:
    """On ResNet-50's features: 2048 -> 4096 -> 256 -> 4096 -> 256, a bias and a norm inside, no bias at the end."""
    with torch.device("meta"):
        method = BYOL(BYOL.Config(), nn.Identity(), 2048)
    assert size(method.core.encoder.head) == 2048 * 4096 + 4096 + 2 * 4096 + 4096 * 256
    assert size(method.core.predictor) == 256 * 4096 + 4096 + 2 * 4096 + 4096 * 256
    for head in (method.core.encoder.head, method.core.predictor):
        assert [type(layer) for layer in head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
        assert head[3].bias is None


def test_the_authors_settings_are_the_defaults() -> None:
    config = BYOL.Config()
    assert (config.momentum, config.momentum_schedule, config.hidden, config.width) == (0.99, "cosine", 4096, 256)
    assert BYOL.resolve(config, images=1_281_167, batch_size=4096) == (config, [])
    assert BYOL.slots(config) == {"first": Slot(augmentation="byol-first"), "second": Slot(augmentation="byol-second")}
    training = BYOL.training_defaults
    assert (training.optimiser, training.lr, training.weight_decay, training.warmup_epochs) == ("lars", 0.3, 1e-6, 10)
    assert training.exclude_norm_and_bias
    assert BYOL.batch_statistics == "run"
