"""DenseCL: a whole step against NumPy loops, its warm-up, and its global term, which is MoCo v2's."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scenewise.backbones import create_backbone
from scenewise.errors import UserError
from scenewise.methods.densecl import DenseCL

SMALL = {"width": 8, "dictionary_size": 20, "momentum": 0.9}


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def encoded(encoder: nn.Module, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return projection (B, D), cells of the backbone (B, S, G) and cells of the dense head (B, S, D), in float64.

    Made from the parts: the map, its mean, and each head applied as the linear layers it is.
    """
    with torch.no_grad():
        maps = encoder.backbone.feature_map(images).double().numpy()  # (B, G, rows, columns)
    cells = np.stack([maps[:, :, y, x] for y in range(maps.shape[2]) for x in range(maps.shape[3])], axis=1)

    def head(layers: nn.Module, inputs: np.ndarray) -> np.ndarray:
        first, second = (
            (layers[place].weight.detach().double().numpy(), layers[place].bias.detach().double().numpy())
            for place in (0, 2)
        )
        hidden = np.maximum(inputs @ first[0].reshape(len(first[1]), -1).T + first[1], 0)
        return hidden @ second[0].reshape(len(second[1]), -1).T + second[1]

    return head(encoder.head, cells.mean(axis=1)), cells, head(encoder.dense, cells)


def slow_info_nce(query: np.ndarray, key: np.ndarray, negatives: np.ndarray, temperature: float) -> float:
    """Return the InfoNCE of one query, one key and the negatives there are (0 without any)."""
    logits = [float(unit(query) @ unit(row)) / temperature for row in [key, *negatives]]
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[0]


@settings(max_examples=15)
@given(
    steps=st.integers(0, 5),
    weight=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    temperature=st.sampled_from([0.2, 0.5]),
    mask_own_image=st.booleans(),
    queue_start=st.sampled_from(["empty", "random"]),
)
def test_a_step_equals_loops_over_images_and_cells(lab, steps: int, weight: float, **choices) -> None:
    method = lab.trained("densecl", steps=steps, weight=weight, **SMALL, **choices)
    old, batch = method.queue.read(), lab.batch(method, 9)
    if choices["mask_own_image"]:  # some images have an older crop in the queue
        known = old.image[old.image >= 0][-4:]
        batch = dataclasses.replace(batch, index=torch.cat([known, batch.index[len(known) :]]))
    projection, cells, grid = encoded(method.encoder, batch.views["query"][0])
    key_projection, key_cells, key_grid = encoded(method.teacher, batch.views["key"][0])
    output = method.step(batch, lab.progress(9))

    own = old.image.numpy()[None, :] == batch.index.numpy()[:, None]
    usable = np.broadcast_to(old.valid.numpy(), own.shape) & ~(own & choices["mask_own_image"])
    rows = {name: column.double().numpy() for name, column in old.rows.items()}
    contrast, dense = [], []
    for b in range(8):
        contrast.append(
            slow_info_nce(projection[b], key_projection[b], rows["projection"][usable[b]], choices["temperature"])
        )
        for s in range(cells.shape[1]):
            cosines = [float(unit(cells[b, s]) @ unit(other)) for other in key_cells[b]]
            positive = key_grid[b, int(np.argmax(cosines))]
            dense.append(slow_info_nce(grid[b, s], positive, rows["dense"][usable[b]], choices["temperature"]))
    assert cells.shape[1] == 9
    assert output.terms["contrast"].item() == pytest.approx(np.mean(contrast), rel=1e-4, abs=1e-5)
    assert output.terms["dense"].item() == pytest.approx(np.mean(dense), rel=1e-4, abs=1e-5)
    expected = (1 - weight) * np.mean(contrast) + weight * np.mean(dense)
    assert output.loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    new = method.queue.read()
    written = np.flatnonzero(new.step.numpy() == 9)
    assert len(written) == 8
    for place in written:
        b = batch.index.tolist().index(int(new.image[place]))
        found = {name: column[place].numpy() for name, column in new.rows.items()}
        np.testing.assert_allclose(found["projection"], unit(key_projection[b]), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found["dense"], unit(key_grid[b].mean(axis=0)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", ["group", "grouped"])
@pytest.mark.parametrize("shared", [{}, {"queue_start": "random"}, {"mask_own_image": True, "shuffle": False}])
@pytest.mark.parametrize("silenced", [{"weight": 0.0}, {"warmup": 5.0}])
def test_without_its_dense_term_it_is_moco_v2_bit_for_bit(lab, norm: str, shared: dict, silenced: dict) -> None:
    moco = lab.method("mocov2", norm=norm, **SMALL, **shared)
    method = lab.method("densecl", norm=norm, **SMALL, **shared, **silenced)
    if "queue_start" in shared:  # one column more is drawn after the same first one
        assert torch.equal(method.queue.read().rows["projection"], moco.queue.read().rows["projection"])
    for one, other in zip(lab.run(method, range(6)), lab.run(moco, range(6)), strict=True):
        assert torch.equal(one, other)
    state = method.state_dict()
    for name, value in moco.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert {name.split(".dense")[0] for name in set(state) - set(moco.state_dict())} == {
        "encoder", "teacher", "queue.rows_dense",
    }  # fmt: skip


def test_the_global_term_is_moco_v2s_with_the_same_weights(lab) -> None:
    method = lab.trained("densecl", steps=4, norm="grouped", **SMALL)
    moco = lab.method("mocov2", norm="grouped", **SMALL)
    state = method.state_dict()
    moco.load_state_dict({name: state[name] for name in moco.state_dict()})
    batch = lab.batch(method, 9)
    ours, theirs = (one.step(batch, lab.progress(9)) for one in (method, moco))
    assert torch.equal(ours.terms["contrast"], theirs.loss)
    assert torch.equal(ours.embeddings, theirs.embeddings)
    assert torch.equal(ours.features, theirs.features)


@pytest.mark.parametrize(("warmup", "first"), [(0.0, 0), (1.0, 10), (0.5, 5)])
def test_before_the_term_counts_its_head_has_a_gradient_of_zero(lab, warmup: float, first: int) -> None:
    method = lab.trained("densecl", warmup=warmup, weight=0.25, **SMALL)
    for step in {max(0, first - 1), first}:
        method.zero_grad()
        output = method.step(lab.batch(method, 9), lab.progress(step))
        output.loss.backward()
        counts = step >= first
        weight = 0.25 if counts else 0.0
        assert (output.metrics["weight/contrast"], output.metrics["weight/dense"]) == (1 - weight, weight)
        contrast, dense = output.terms["contrast"].item(), output.terms["dense"].item()
        assert dense > 0
        assert output.loss.item() == pytest.approx((1 - weight) * contrast + weight * dense, rel=1e-6)
        for name, parameter in method.encoder.dense.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()) == counts, name


def test_with_all_the_weight_on_the_dense_term_the_global_head_has_a_gradient_of_zero(lab) -> None:
    method = lab.trained("densecl", weight=1.0, **SMALL)
    method.zero_grad()
    method.step(lab.batch(method, 9), lab.progress(9)).loss.backward()
    assert all(not parameter.grad.any() for parameter in method.encoder.head.parameters())
    assert all(parameter.grad.any() for parameter in method.encoder.dense.parameters())
    assert all(parameter.grad.any() for parameter in method.backbone.parameters())


def test_no_gradient_goes_through_the_matching(lab) -> None:
    """The dense term reaches the cells through the dense head alone."""
    method = lab.trained("densecl", **SMALL)
    grids = []
    method.encoder.dense.register_forward_hook(lambda module, inputs, output: grids.append(output))
    output = method.step(lab.batch(method, 9), lab.progress(9))
    (to_grid,) = torch.autograd.grad(output.terms["dense"], grids[0], retain_graph=True)
    (through_head,) = torch.autograd.grad(grids[0], output.shared, to_grid, retain_graph=True)
    (whole,) = torch.autograd.grad(output.terms["dense"], output.shared)
    torch.testing.assert_close(whole, through_head)
    assert whole.abs().max() > 0


def test_the_features_are_the_backbones_and_the_heads_the_published_ones() -> None:
    backbone = create_backbone("resnet18", norm="group", seed=0)
    config, _ = DenseCL.resolve(DenseCL.Config(dictionary_size=32), images=500, batch_size=8)
    method = DenseCL(config, backbone, backbone.width)
    images = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, projection, cells, grid = method.encoder(images)
        torch.testing.assert_close(features, backbone(images))
        maps = backbone.feature_map(images)
    assert (projection.shape, cells.shape, grid.shape) == ((2, 128), (2, 6, 512), (2, 6, 128))
    torch.testing.assert_close(cells[:, 3], maps[:, :, 1, 1])  # row by row, two columns
    assert [type(layer) for layer in method.encoder.dense] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert {name: tuple(value.shape) for name, value in method.encoder.dense.state_dict().items()} == {
        "0.weight": (512, 512, 1, 1), "0.bias": (512,), "2.weight": (128, 512, 1, 1), "2.bias": (128,),
    }  # fmt: skip


def test_a_backbone_without_a_map_is_refused(lab) -> None:
    backbone = create_backbone("vit_tiny_patch16_224", seed=0, size=32)
    method = lab.method("densecl", backbone=backbone, features=backbone.width)
    with pytest.raises(UserError, match="no convolutional feature map, which this method needs"):
        method.step(lab.batch(method, 0), lab.progress(0))


def test_the_defaults_are_the_authors() -> None:
    config, notes = DenseCL.resolve(DenseCL.Config(), images=1_281_167, batch_size=256)
    assert notes == []
    assert (config.weight, config.warmup, config.momentum, config.temperature) == (0.5, 0.0, 0.999, 0.2)
    assert (config.width, config.dictionary_size) == (128, 65_536)


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_that_leaves_the_global_term_no_share_is_refused(weight: float) -> None:
    with pytest.raises(UserError, match=rf"method\.weight: {weight} must be 0 to 1"):
        DenseCL.resolve(DenseCL.Config(weight=weight, dictionary_size=32), images=500, batch_size=8)
