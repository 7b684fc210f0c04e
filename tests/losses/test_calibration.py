"""The calibrated offset: predicted positives equal labelled ones, so nothing acts along what all rows share."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from scenewise.losses import calibrated_bias, multilabel_loss, pseudo_labels


def scores(seed: int, batch: int, queue: int, scale: float) -> torch.Tensor:
    return torch.randn(batch, queue, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 60), st.data(), st.sampled_from([0.01, 1.0, 5.0, 30.0]))
def test_it_is_the_root_that_a_solver_finds(seed: int, queue: int, data: st.DataObject, scale: float) -> None:
    k = data.draw(st.integers(1, queue - 1))
    logits = scores(seed, 3, queue, scale)
    found = calibrated_bias(logits, k=k)[:, 0].numpy()
    for row, bias in zip(logits.numpy(), found, strict=True):

        def excess(offset: float, row: np.ndarray = row) -> float:
            return float((0.5 * (1 + np.tanh((row + offset) / 2))).sum() - k)

        # between two far-apart logits the sum is flat, and any offset is a root: what counts is the sum
        assert abs(excess(bias)) < 1e-3
        assert abs(excess(brentq(excess, -1e3, 1e3, xtol=1e-12))) < 1e-3, "there is one"


def test_rows_that_do_not_count_are_left_out() -> None:
    logits = scores(0, 4, 20, 3.0)
    valid = torch.arange(20) < 12
    bias = calibrated_bias(logits, k=3, valid=valid)
    assert torch.allclose(bias, calibrated_bias(logits[:, :12], k=3))
    nothing = calibrated_bias(logits, k=3, valid=torch.zeros(20, dtype=torch.bool))
    assert torch.isfinite(nothing).all()
    assert torch.isfinite(calibrated_bias(logits, k=50)).all()


def test_with_it_the_gradient_has_no_part_along_a_shared_direction() -> None:
    generator = torch.Generator().manual_seed(1)
    shared = torch.zeros(16, dtype=torch.float64)
    shared[0] = 4.0
    dictionary = torch.nn.functional.normalize(
        torch.randn(200, 16, generator=generator, dtype=torch.float64) + shared, dim=1
    )
    query = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator, dtype=torch.float64) + shared, dim=1)
    labels = pseudo_labels(query, dictionary, k=5)
    bias = calibrated_bias(query @ dictionary.T / 0.2, k=5)

    def pull_away(offset: float | torch.Tensor) -> float:
        """Size of the force on the logits' common offset: sum over rows of (sigmoid - label), a query."""
        logits = (query @ dictionary.T / 0.2).requires_grad_()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits + offset, labels.double(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, logits)
        return float(gradient.sum(dim=1).abs().max())

    assert pull_away(0.0) > 100
    assert pull_away(bias) < 1e-3
    plain = multilabel_loss(query, dictionary, labels, temperature=0.2, reduction="sum", logit_bias=bias)
    assert torch.isfinite(plain)
