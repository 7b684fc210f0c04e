"""The momentum copy, its update against the formula, and the shuffled pass."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scenewise.parts.batchnorm import group_batchnorm
from scenewise.parts.heads import Encoder, mlp_head
from scenewise.parts.momentum import (
    cosine_momentum,
    encode_shuffled,
    momentum_copy,
    momentum_update,
    shuffle_order,
)
from scenewise.types import Progress


class Pooled(nn.Module):
    """A convolution, a norm, the mean over places: a backbone of six channels."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), norm, nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps.mean(dim=(2, 3))


def encoder(norm: nn.Module) -> Encoder:
    torch.manual_seed(0)
    return Encoder(Pooled(norm), mlp_head(6, 5, 4))


def images(count: int, *, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))


def at(step: int, *, seed: int = 0) -> Progress:
    return Progress(step=step, steps=100, steps_per_epoch=10, seed=seed)


def test_the_copy_is_equal_takes_no_gradient_and_shares_no_memory() -> None:
    online = encoder(nn.BatchNorm2d(6))
    teacher = momentum_copy(online)
    state = teacher.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in online.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in online.parameters())
    places = {value.data_ptr() for value in online.state_dict().values()}
    assert places.isdisjoint(value.data_ptr() for value in state.values())


@settings(max_examples=20)
@given(momentum=st.floats(0, 1), steps=st.integers(1, 4))
def test_the_update_is_the_formula_for_parameters_and_leaves_buffers(momentum: float, steps: int) -> None:
    online, teacher = encoder(nn.BatchNorm2d(6)), momentum_copy(encoder(nn.BatchNorm2d(6)))
    expected = {name: value.double() for name, value in teacher.named_parameters()}
    buffers = {name: value.clone() for name, value in teacher.named_buffers()}
    generator = torch.Generator().manual_seed(steps)
    for _ in range(steps):
        with torch.no_grad():
            for name, parameter in online.named_parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
                expected[name] = momentum * expected[name] + (1 - momentum) * parameter.double()
        online(images(4))  # moves the online batch statistics
        momentum_update(teacher, online, momentum)
    for name, parameter in teacher.named_parameters():
        torch.testing.assert_close(parameter.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, buffers[name]) for name, value in teacher.named_buffers())


@pytest.mark.parametrize(("momentum", "like_online"), [(0.0, True), (1.0, False)])
def test_momentum_zero_copies_and_one_freezes_exactly(momentum: float, like_online: bool) -> None:
    online, teacher = encoder(nn.BatchNorm2d(6)), momentum_copy(encoder(nn.BatchNorm2d(6)))
    before = [parameter.clone() for parameter in teacher.parameters()]
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    momentum_update(teacher, online, momentum)
    expected = list(online.parameters()) if like_online else before
    assert all(torch.equal(new, old) for new, old in zip(teacher.parameters(), expected, strict=True))


@settings(max_examples=40)
@given(base=st.floats(0.0, 1.0), steps=st.integers(1, 10**5), share=st.floats(0.0, 1.0))
def test_the_cosine_momentum_rises_from_the_base_to_one(base: float, steps: int, share: float) -> None:
    step = min(steps - 1, round(share * steps))

    def momentum(number: int) -> float:
        return cosine_momentum(base, Progress(step=number, steps=steps, steps_per_epoch=10, seed=0))

    assert momentum(0) == pytest.approx(base, abs=1e-12)
    assert momentum(steps) == pytest.approx(1.0, abs=1e-12)
    published = 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2  # BYOL, section 3.3
    assert momentum(step) == pytest.approx(published, abs=1e-12)
    assert base - 1e-12 <= momentum(step) <= momentum(step + 1) + 1e-12 <= 1 + 2e-12


@pytest.mark.parametrize(("step", "expected"), [(0, 0.99), (25, 0.9914644661), (50, 0.995), (100, 1.0)])
def test_the_cosine_momentum_at_four_points(step: int, expected: float) -> None:
    assert cosine_momentum(0.99, at(step)) == pytest.approx(expected, abs=1e-9)


@given(count=st.integers(1, 40), step=st.integers(0, 10**6), seed=st.integers(0, 2**40))
@settings(max_examples=40)
def test_the_order_is_a_permutation_that_belongs_to_seed_and_step(count: int, step: int, seed: int) -> None:
    order = shuffle_order(count, at(step, seed=seed))
    assert sorted(order.tolist()) == list(range(count))
    torch.manual_seed(0)
    assert torch.equal(order, shuffle_order(count, at(step, seed=seed)))


def test_other_steps_and_seeds_shuffle_otherwise() -> None:
    orders = {tuple(shuffle_order(16, at(step, seed=seed)).tolist()) for step in range(8) for seed in range(4)}
    assert len(orders) == 32


def test_the_passes_of_one_step_have_shuffles_of_their_own_and_the_first_is_the_usual_one() -> None:
    orders = {(step, view): shuffle_order(16, at(step), view=view) for step in range(4) for view in range(4)}
    assert len({tuple(order.tolist()) for order in orders.values()}) == 16
    assert all(sorted(order.tolist()) == list(range(16)) for order in orders.values())
    assert torch.equal(orders[2, 0], shuffle_order(16, at(2)))
    grouped, batch = group_batchnorm(encoder(nn.BatchNorm2d(6)), 4), images(12)
    usual, first, second = (
        encode_shuffled(grouped, batch, at(3), **view)[1] for view in ({}, {"view": 0}, {"view": 1})
    )
    assert torch.equal(usual, first)
    assert not torch.allclose(first, second, atol=1e-3), "others share the batch statistics"
    plain = encoder(nn.GroupNorm(2, 6))
    expected, found = plain(batch)[1], encode_shuffled(plain, batch, at(3), view=1)[1]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_shuffled_pass_restores_the_order_without_batch_statistics(channels_last: bool) -> None:
    model, batch = encoder(nn.GroupNorm(2, 6)), images(12)
    if channels_last:
        batch = batch.to(memory_format=torch.channels_last)
    plain, shuffled = model(batch), encode_shuffled(model, batch, at(3))
    for expected, found in zip(plain, shuffled, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        assert not found.requires_grad
        assert not torch.allclose(found, found.roll(1, 0))  # rows differ, so a wrong order would be seen


def test_shuffling_changes_who_shares_batch_statistics_and_nothing_else() -> None:
    batch = images(12)
    grouped = group_batchnorm(encoder(nn.BatchNorm2d(6)), 4)
    plain, shuffled, again, later = (
        encode_shuffled(grouped, batch, at(step), shuffle=shuffle)[1]
        for step, shuffle in ((3, False), (3, True), (3, True), (4, True))
    )
    assert not torch.allclose(shuffled, plain, atol=1e-3)
    assert not torch.allclose(shuffled, later, atol=1e-3)
    assert torch.equal(shuffled, again)
    order = shuffle_order(12, at(3))
    by_hand = torch.empty_like(plain)
    for group in order.split(4):  # each group of four keeps its own statistics
        by_hand[group] = grouped(batch[group])[1].detach()
    torch.testing.assert_close(shuffled, by_hand, rtol=1e-5, atol=1e-6)


def test_the_encoder_sees_the_images_in_their_own_memory_format() -> None:
    seen: list[bool] = []
    model = encoder(nn.GroupNorm(2, 6))
    model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    encode_shuffled(model, images(4).to(memory_format=torch.channels_last), at(0))
    encode_shuffled(model, images(4), at(0))
    assert seen == [True, False]


def test_the_head_is_mocos_and_the_encoder_returns_features_and_projection() -> None:
    head = mlp_head(6, 5, 4)
    assert [type(layer) for layer in head] == [nn.Linear, nn.ReLU, nn.Linear]
    assert {name: tuple(value.shape) for name, value in head.state_dict().items()} == {
        "0.weight": (5, 6),
        "0.bias": (5,),
        "2.weight": (4, 5),
        "2.bias": (4,),
    }
    model = encoder(nn.GroupNorm(2, 6))
    features, projection = model(images(3))
    assert torch.equal(features, model.backbone(images(3)))
    assert torch.equal(projection, model.head(features))
