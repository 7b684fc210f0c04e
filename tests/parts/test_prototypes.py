"""Prototypes: unit length, scores, and the freeze, which no optimiser's weight decay breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from scenewise.parts.prototypes import Prototypes

OPTIMISERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.5, momentum=0.9, weight_decay=0.1),
    "adam": lambda parameters: Adam(parameters, lr=0.1, weight_decay=0.1),
    "adamw": lambda parameters: AdamW(parameters, lr=0.1, weight_decay=0.1),
}


def embeddings(count: int = 6, width: int = 4, *, seed: int = 0) -> Tensor:
    rows = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def step(prototypes: Prototypes, optimiser: Optimizer, *, frozen: bool) -> None:
    scores = prototypes(embeddings(), frozen=frozen)
    optimiser.zero_grad()
    scores.square().sum().backward()
    optimiser.step()
    prototypes.settle(frozen=frozen)


@settings(max_examples=20)
@given(count=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_scores_are_cosines(count: int, width: int, seed: int) -> None:
    prototypes, rows = Prototypes(count, width), embeddings(5, width, seed=seed)
    expected = torch.nn.functional.cosine_similarity(rows[:, None], prototypes.weight[None], dim=2)
    torch.testing.assert_close(prototypes(rows), expected, rtol=1e-5, atol=1e-6)


def test_scores_are_float32_under_autocast() -> None:
    prototypes = Prototypes(3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        scores = prototypes(embeddings().bfloat16())
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, prototypes(embeddings().bfloat16().float()))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_every_prototype_has_length_1_after_every_update(name: str) -> None:
    prototypes = Prototypes(3, 4)
    optimiser = OPTIMISERS[name](prototypes.parameters())
    for _ in range(3):
        before = prototypes.weight.detach().clone()
        step(prototypes, optimiser, frozen=False)
        torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(3))
        assert not torch.allclose(prototypes.weight, before, atol=1e-4)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_frozen_prototypes_stay_bit_for_bit_and_move_afterwards(name: str) -> None:
    prototypes = Prototypes(3, 4)
    start = prototypes.weight.detach().clone()
    optimiser = OPTIMISERS[name](prototypes.parameters())
    for _ in range(3):
        step(prototypes, optimiser, frozen=True)
        assert torch.equal(prototypes.weight, start)
    step(prototypes, optimiser, frozen=False)
    assert not torch.allclose(prototypes.weight, start, atol=1e-4)


def test_a_frozen_pass_gives_the_same_scores_and_gradient_to_the_embeddings_alone() -> None:
    prototypes, gradients, scores = Prototypes(3, 4), [], []
    for frozen in (True, False):
        rows = embeddings().requires_grad_()
        prototypes.zero_grad()
        scores.append(prototypes(rows, frozen=frozen))
        scores[-1].square().sum().backward()
        gradients.append(rows.grad)
        assert prototypes.weight.grad is not None, "data-parallel training waits for every parameter"
        assert (prototypes.weight.grad.abs().max() == 0) == frozen
    assert torch.equal(*scores)
    assert torch.equal(*gradients)


def test_the_start_is_in_the_state() -> None:
    """A run that is resumed while they are frozen holds them where the first one did."""
    first, second = Prototypes(3, 4), Prototypes(3, 4)
    second.load_state_dict(first.state_dict())
    second.weight.data += 1.0
    second.settle(frozen=True)
    assert torch.equal(second.weight, first.weight)
