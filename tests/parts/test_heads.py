"""The heads layer by layer as published, against NumPy, and what takes their norms' place."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scenewise.parts.batchnorm import group_batchnorm
from scenewise.parts.heads import Encoder, dense_head, mlp_head, normed_head, simclr_head

LINEAR, NORM, RELU = nn.Linear, nn.BatchNorm1d, nn.ReLU
Head = Callable[..., nn.Sequential]


def randomised(module: nn.Sequential, seed: int = 0) -> nn.Sequential:
    """Return the head in float64 with every parameter drawn, so that none is a 0 or 1 that hides its absence."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
    return module


def slow(head: nn.Sequential, rows: np.ndarray) -> np.ndarray:
    """Return the head's output in training, from the definition of each layer."""
    for layer in head:
        values = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
        if isinstance(layer, NORM):
            rows = (rows - rows.mean(axis=0)) / np.sqrt(rows.var(axis=0) + 1e-5)
            rows = rows * values["weight"] + values.get("bias", 0.0)
        elif isinstance(layer, LINEAR):
            rows = rows @ values["weight"].T + values.get("bias", 0.0)
        else:
            rows = np.maximum(rows, 0)
    return rows


@pytest.mark.parametrize(
    ("head", "layers", "biases"),
    [
        (mlp_head, [LINEAR, RELU, LINEAR], ["0", "2"]),
        (normed_head, [LINEAR, NORM, RELU, LINEAR], ["0", "1", "3"]),
        (simclr_head, [LINEAR, NORM, RELU, LINEAR, NORM], ["1"]),
    ],
)
def test_the_layers_and_their_biases(head: Head, layers: list[type], biases: list[str]) -> None:
    module = randomised(head(5, 7, 3))
    assert [type(layer) for layer in module] == layers
    assert [name.split(".")[0] for name, _ in module.named_parameters() if name.endswith("bias")] == biases
    widths = [tuple(layer.weight.shape) for layer in module if isinstance(layer, LINEAR)]
    assert widths == [(7, 5), (3, 7)]
    rows = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    np.testing.assert_allclose(module(rows).detach().numpy(), slow(module, rows.numpy()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("head", "count"),
    [
        (mlp_head(2048, 2048, 128), 2048 * 2048 + 2048 + 2048 * 128 + 128),  # MoCo v2
        (simclr_head(2048, 2048, 128), 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128),
        (normed_head(2048, 2048, 128), 2048 * 2048 + 3 * 2048 + 2048 * 128 + 128),  # SwAV
        (normed_head(2048, 4096, 256, output_bias=False), 9_449_472),  # BYOL
        (dense_head(2048, 2048, 128), 2048 * 2048 + 2048 + 2048 * 128 + 128),  # DenseCL
    ],
    ids=["mocov2", "simclr", "swav", "byol", "densecl"],
)
def test_the_number_of_parameters_on_resnet50(head: nn.Sequential, count: int) -> None:
    assert sum(parameter.numel() for parameter in head.parameters()) == count


def test_simclrs_embeddings_are_centred_and_nothing_can_move_them() -> None:
    head = simclr_head(5, 7, 3)
    embeddings = head(torch.randn(64, 5))
    torch.testing.assert_close(embeddings.mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    assert head[-1].bias is None
    assert set(dict(head[-1].named_parameters())) == {"weight"}


def test_a_norm_without_offset_survives_copies_states_evaluation_and_groups() -> None:
    head = randomised(simclr_head(5, 7, 3)).float()
    rows = torch.randn(8, 5)
    for _ in range(3):
        head(rows)
    other = simclr_head(5, 7, 3)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.eval()(rows), copy.deepcopy(head).eval()(rows))
    grouped = group_batchnorm(copy.deepcopy(head), 4)
    assert grouped.state_dict().keys() == head.state_dict().keys()
    torch.testing.assert_close(grouped(rows), torch.cat([head(rows[:4]), head(rows[4:])]))


def test_the_dense_head_is_the_global_one_at_every_place() -> None:
    dense, flat = dense_head(5, 7, 3), mlp_head(5, 7, 3)
    flat.load_state_dict(
        {name: value.flatten(1) if value.ndim == 4 else value for name, value in dense.state_dict().items()}
    )
    maps = torch.randn(2, 5, 3, 4)
    expected = flat(maps.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(dense(maps), expected)


def test_an_encoder_returns_features_and_their_projection() -> None:
    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))

    encoder = Encoder(Mean(), mlp_head(3, 7, 2))
    images = torch.randn(4, 3, 5, 5)
    features, projection = encoder(images)
    torch.testing.assert_close(features, images.mean(dim=(2, 3)))
    torch.testing.assert_close(projection, encoder.head(features))
