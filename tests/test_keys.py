"""Keyed randomness: a number depends on its seed and key alone, and on all of them."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from scenewise import keys

PARTS = st.one_of(st.integers(0, 2**40), st.text("abcxyz", min_size=1, max_size=6))
KEYS = st.lists(PARTS, min_size=1, max_size=4).map(tuple)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**63 - 1), key=KEYS)
def test_the_same_key_gives_the_same_stream_whatever_was_drawn_before(seed: int, key: tuple[int | str, ...]) -> None:
    first, number = keys.generator(seed, *key).random(4), keys.integer(seed, *key)
    np.random.seed(7)
    torch.manual_seed(7)
    keys.generator(seed, "another").random(3)
    assert (keys.generator(seed, *key).random(4) == first).all()
    assert keys.integer(seed, *key) == number
    assert 0 <= number < 2**63


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**40),
    others=st.lists(KEYS, min_size=2, max_size=6, unique_by=lambda key: tuple(map(str, key))),
)
def test_other_keys_and_other_seeds_give_other_numbers(seed: int, others: list[tuple[int | str, ...]]) -> None:
    numbers = {keys.integer(base, *key) for base in (seed, seed + 1) for key in others}
    assert len(numbers) == 2 * len(others)


@settings(max_examples=50)
@given(seed=st.integers(0, 2**63 - 1), key=KEYS, count=st.integers(1, 30), fewer=st.integers(1, 30))
def test_uniforms_belong_to_their_key(seed: int, key: tuple[int | str, ...], count: int, fewer: int) -> None:
    found = keys.uniforms(seed, *key, count=count)
    assert found.shape == (count,) and (found >= 0).all() and (found < 1).all()
    assert len(set(found.tolist())) == count
    assert (found[:fewer] == keys.uniforms(seed, *key, count=min(fewer, count))).all()
    assert not np.isin(found, keys.uniforms(seed, *key, "more", count=count)).any()


def test_uniforms_are_uniform() -> None:
    found = np.sort(np.concatenate([keys.uniforms(3, "uniform", number, count=14) for number in range(3000)]))
    places = (np.arange(found.size) + 0.5) / found.size
    assert abs(found - places).max() < 1.95 / found.size**0.5  # Kolmogorov and Smirnov at 0.1 %
    pairs = np.stack([keys.uniforms(3, "uniform", number, count=14) for number in range(3000)])
    correlations = np.corrcoef(pairs.T) - np.eye(14)
    assert abs(correlations).max() < 4.5 / 3000**0.5


def test_the_parts_of_a_key_are_kept_apart() -> None:
    alike = [(1, 23), (12, 3), (123,), ("1", "2", "3"), ("12", "3x")]
    assert len({keys.integer(4, *key) for key in alike}) == len(alike)
    assert keys.integer(1, 23) != keys.integer(12, 3)


def test_neighbouring_keys_are_uncorrelated_and_uniform() -> None:
    draws = np.stack([keys.generator(0, "pixels", 0, image, "query", 0).random(256) for image in range(64)])
    assert abs(draws.mean() - 0.5) < 5 / np.sqrt(12 * draws.size)  # five standard errors of a uniform mean
    correlations = [abs(np.corrcoef(first, second)[0, 1]) for first, second in itertools.pairwise(draws)]
    assert max(correlations) < 5 / np.sqrt(256)


def test_the_numbers_of_a_key_never_change_between_versions() -> None:
    """A published run names its seed: these values were computed once and must stay."""
    assert keys.integer(0, "weights") == 5312850314062254913
    assert keys.generator(0, "order", 3).integers(0, 1000, 5).tolist() == [19, 639, 914, 415, 675]
