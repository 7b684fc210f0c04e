"""SimCLR: the loss over the joined views, the symmetry of the two, the published settings."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scenewise.methods.simclr import SimCLR
from scenewise.types import Batch
from scenewise.views.slots import REFERENCE_SIZE, Slot


def slow_contrast(first: Tensor, second: Tensor, *, temperature: float) -> float:
    """Return the paper's algorithm 1, one anchor and one other view at a time."""
    views = torch.stack([first, second], dim=1).flatten(0, 1).detach().double().numpy()  # 2k and 2k + 1 are of image k
    views = views / np.linalg.norm(views, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(views)):
        j = i + 1 if i % 2 == 0 else i - 1
        others = sum(math.exp(views[i] @ views[k] / temperature) for k in range(len(views)) if k != i)
        total -= math.log(math.exp(views[i] @ views[j] / temperature) / others)
    return total / len(views)


def exchanged(batch: Batch) -> Batch:
    return dataclasses.replace(batch, views={"first": batch.views["second"], "second": batch.views["first"]})


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_the_formula_over_all_views_of_the_batch(lab, temperature: float) -> None:
    method = lab.trained("simclr", temperature=temperature, norm="batch")
    batch = lab.batch(method, 3)
    output = method.step(batch, lab.progress(3))
    first, second = output.embeddings, output.targets
    assert output.loss.item() == pytest.approx(slow_contrast(first, second, temperature=temperature), rel=1e-5)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_views_may_be_exchanged(lab, norm: str) -> None:
    """Both views share the batch statistics of backbone and head, so neither the loss nor its gradient tells them."""
    gradients, losses = [], []
    for turn in (False, True):
        method = lab.trained("simclr", norm=norm)
        batch = lab.batch(method, 3)
        output = method.step(exchanged(batch) if turn else batch, lab.progress(3))
        method.zero_grad()
        output.loss.backward()
        losses.append(output.loss.detach())
        gradients.append([parameter.grad for parameter in method.parameters()])
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_batch_statistics_are_those_of_both_views_together(lab) -> None:
    method = lab.method("simclr", norm="batch")
    norm = method.backbone.layers[1]
    batch = lab.batch(method, 0)
    method.step(batch, lab.progress(0))
    with torch.no_grad():
        maps = method.backbone.layers[0](torch.cat([batch.views["first"][0], batch.views["second"][0]]))
    torch.testing.assert_close(norm.running_mean, 0.1 * maps.mean(dim=(0, 2, 3)))
    assert norm.num_batches_tracked == 1


def test_gradient_flows_through_both_views(lab) -> None:
    method = lab.method("simclr", norm="group")
    batch = lab.batch(method, 0)
    views = {name: view.clone().requires_grad_() for name, view in batch.views.items()}
    method.step(dataclasses.replace(batch, views=views), lab.progress(0)).loss.backward()
    assert all(view.grad is not None and view.grad.abs().max() > 0 for view in views.values())


def test_one_image_alone_has_no_negatives_and_a_loss_of_zero(lab) -> None:
    method = lab.method("simclr")
    batch = lab.batch(method, 0, count=1)
    assert method.step(batch, lab.progress(0)).loss.item() == pytest.approx(0.0, abs=1e-6)


def test_the_papers_settings_are_the_defaults() -> None:
    config = SimCLR.Config()
    assert (config.temperature, config.hidden, config.width) == (0.1, None, 128)  # None: as wide as the features
    assert SimCLR.resolve(config, images=1_281_167, batch_size=4096) == (config, [])
    (note,) = SimCLR.resolve(config, images=5000, batch_size=32)[1]
    assert "62 negatives of a batch of 32" in note
    assert SimCLR.slots(config) == {
        name: Slot(augmentation="simclr", size=REFERENCE_SIZE) for name in ("first", "second")
    }
    training = SimCLR.training_defaults
    assert (training.optimiser, training.lr, training.weight_decay, training.warmup_epochs) == ("lars", 0.3, 1e-6, 10)
    assert training.exclude_norm_and_bias
    assert training.schedule == "cosine"
    assert SimCLR.batch_statistics == "run"
