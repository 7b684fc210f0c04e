"""Optimisers against NumPy, the schedule's shape, and the scaling rules."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scenewise.engine.config import OptimiserConfig
from scenewise.engine.optim import LARS, learning_rate, make_optimiser, peak_learning_rate
from scenewise.engine.step import Stepper


def options(**changed: Any) -> OptimiserConfig:
    usual = {
        "name": "sgd", "lr": 0.3, "weight_decay": 1e-4, "exclude_norm_and_bias": False,
        "schedule": "cosine", "warmup_epochs": 0.0, "warmup_start": 0.0, "final_lr": 0.0,
    }  # fmt: skip
    return OptimiserConfig(**(usual | changed))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    lr=st.floats(0.01, 2.0),
    momentum=st.floats(0.0, 0.99),
    decay=st.floats(0.0, 0.1),
    trust=st.floats(1e-4, 0.1),
    adapt=st.booleans(),
)
def test_lars_is_the_formula(seed: int, lr: float, momentum: float, decay: float, trust: float, adapt: bool) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(3, 4))
    parameter = nn.Parameter(torch.tensor(weight))
    groups = [{"params": [parameter], "weight_decay": decay, "adapt": adapt}]
    optimiser = LARS(groups, lr=lr, momentum=momentum, trust=trust)
    velocity = np.zeros_like(weight)
    for _ in range(4):
        gradient = generator.normal(size=weight.shape)
        parameter.grad = torch.tensor(gradient)
        optimiser.step()
        step = gradient + decay * weight
        scale = trust * math.sqrt((weight**2).sum()) / math.sqrt((step**2).sum()) if adapt else 1.0
        velocity = momentum * velocity + scale * step
        weight = weight - lr * velocity
        np.testing.assert_allclose(parameter.detach().numpy(), weight, rtol=1e-9, atol=1e-12)


def test_lars_moves_a_weight_of_zeros() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.ones(3)
    LARS([parameter], lr=1.0).step()
    assert torch.equal(parameter.detach(), -torch.ones(3))
    parameter.grad = torch.zeros(3)
    LARS([parameter], lr=1.0).step()
    assert parameter.isfinite().all()


def test_lars_resumes_from_its_state() -> None:
    gradients = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))

    def steps(parameter: nn.Parameter, optimiser: LARS, chosen: range) -> None:
        for number in chosen:
            parameter.grad = gradients[number].clone()
            optimiser.step()

    whole = nn.Parameter(torch.ones(5))
    steps(whole, LARS([whole], lr=0.5), range(4))
    first = nn.Parameter(torch.ones(5))
    before = LARS([first], lr=0.5)
    steps(first, before, range(2))
    second = nn.Parameter(first.detach().clone())
    after = LARS([second], lr=0.5)
    after.load_state_dict(before.state_dict())
    steps(second, after, range(2, 4))
    assert torch.equal(whole, second)


@settings(max_examples=50)
@given(
    batch=st.integers(1, 65536),
    lr=st.floats(1e-6, 10.0),
)
def test_the_peak_follows_the_batch(batch: int, lr: float) -> None:
    assert peak_learning_rate(options(lr=lr), batch) == pytest.approx(lr * batch / 256)
    assert peak_learning_rate(options(lr=lr, scaling="sqrt"), batch) == pytest.approx(lr * math.sqrt(batch / 256))
    assert peak_learning_rate(options(lr=lr, scaling="none"), batch) == lr


@settings(max_examples=50)
@given(
    per_epoch=st.integers(1, 50),
    epochs=st.integers(1, 20),
    warmup=st.floats(0.0, 25.0),
    final=st.floats(0.0, 1.0),
    peak=st.floats(1e-3, 10.0),
)
def test_the_schedule_rises_to_the_peak_and_falls_to_the_end(
    per_epoch: int, epochs: int, warmup: float, final: float, peak: float
) -> None:
    steps = per_epoch * epochs
    config = options(warmup_epochs=warmup, final_lr=final)
    rates = [
        learning_rate(config, peak=peak, step=step, steps=steps, steps_per_epoch=per_epoch) for step in range(steps)
    ]
    rise = min(round(warmup * per_epoch), steps)
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)
    assert rates[0] == (0 if rise else peak)
    assert all(a < b for a, b in pairwise(rates[:rise]))
    assert all(a >= b for a, b in pairwise(rates[rise:]))
    if rise < steps:
        assert rates[rise] == pytest.approx(peak)
        middle = peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (steps - 1 - rise) / (steps - rise))))
        assert rates[-1] == pytest.approx(middle)


def test_a_constant_schedule_stays_at_the_peak() -> None:
    config = options(schedule="constant", warmup_epochs=1.0)
    rates = [learning_rate(config, peak=2.0, step=step, steps=8, steps_per_epoch=2) for step in range(8)]
    assert rates == [0.0, 1.0] + [2.0] * 6


def test_a_warm_up_may_start_above_zero_and_a_cosine_stand_still_within_an_epoch() -> None:
    config = options(schedule="cosine_epoch", warmup_epochs=1.0, warmup_start=0.25)
    rates = [learning_rate(config, peak=2.0, step=step, steps=12, steps_per_epoch=4) for step in range(12)]
    assert rates[:4] == pytest.approx([0.5, 0.875, 1.25, 1.625])
    assert rates[4:] == pytest.approx([2.0] * 4 + [1.0] * 4)


def test_norms_and_biases_are_left_out_of_weight_decay_where_asked() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    module[2].requires_grad_(False)
    one = make_optimiser(options(), module, 0.1)
    assert [len(group["params"]) for group in one.param_groups] == [4]
    two = make_optimiser(options(name="lars", exclude_norm_and_bias=True), module, 0.1)
    assert [(len(group["params"]), group["weight_decay"]) for group in two.param_groups] == [(1, 1e-4), (3, 0.0)]
    assert [group["adapt"] for group in two.param_groups] == [True, False]
    assert isinstance(make_optimiser(options(name="adamw"), module, 0.1), torch.optim.AdamW)
    assert one.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
def test_a_restored_optimiser_counts_its_steps_where_its_device_wants_them(kind: type[torch.optim.Adam]) -> None:
    """A fused step on a GPU takes no counts from the processor; the meta device stands for the GPU."""
    before = nn.Linear(2, 2)
    saved = kind(before.parameters(), lr=0.1, fused=False)
    before(torch.ones(1, 2)).sum().backward()
    saved.step()
    stepper: Stepper = object.__new__(Stepper)
    stepper.optimiser = kind(nn.Linear(2, 2, device="meta").parameters(), lr=0.1)
    stepper.optimiser.param_groups[0]["fused"] = True
    stepper.restore(saved.state_dict())
    states = list(stepper.optimiser.state.values())
    assert {value.device.type for state in states for value in state.values()} == {"meta"}
    assert len(states) == 2


def test_a_restored_optimiser_computes_as_its_own_device_does() -> None:
    module = nn.Linear(2, 2)
    stepper: Stepper = object.__new__(Stepper)
    stepper.optimiser = torch.optim.SGD(module.parameters(), lr=0.1, fused=False)
    stepper.restore(torch.optim.SGD(module.parameters(), lr=0.3, fused=True).state_dict())
    assert stepper.optimiser.param_groups[0]["fused"] is False
    assert stepper.optimiser.param_groups[0]["lr"] == 0.3
