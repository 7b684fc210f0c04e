"""Strided convolutions over one pixel in bf16: the gradient of the weights is that of float32, and always the same."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from scenewise.backbones import create_backbone
from scenewise.engine.one_pixel import widen_one_pixel


def _fill_memory() -> None:
    """Leave numbers that are easily seen in the memory that the next tensors are made in."""
    for size in (1_000, 30_000, 100_000, 300_000):
        del [torch.full((size,), float("nan")) for _ in range(4)][:]


def _gradient(layer: nn.Module, images: Tensor, *, bf16: bool) -> tuple[Tensor, Tensor]:
    layer.zero_grad()
    _fill_memory()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = layer(images)
    output.float().sin().sum().backward()
    (weight,) = layer.parameters()
    assert weight.grad is not None
    return output.detach().float(), weight.grad.clone()


@pytest.mark.parametrize("kernel", [3, 5])
def test_the_gradient_reaches_the_middle_of_the_weights_only(kernel: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, kernel, stride=2, padding=kernel // 2, bias=False)
    images = torch.randn(16, 64, 1, 1)
    plain, expected = _gradient(layer, images, bf16=False)
    assert widen_one_pixel(layer) == 1
    for _ in range(4):
        output, gradient = _gradient(layer, images, bf16=True)
        middle = gradient[:, :, kernel // 2, kernel // 2]
        assert float((gradient.square().sum() - middle.square().sum()).abs()) <= 1e-5 * float(gradient.square().sum())
        torch.testing.assert_close(middle, expected[:, :, kernel // 2, kernel // 2], rtol=0.1, atol=0.1)
        torch.testing.assert_close(output, plain, rtol=0.05, atol=0.05)


def test_larger_maps_and_other_convolutions_are_left_alone() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    images = torch.randn(2, 3, 5, 1)
    before = layer(images)
    widen_one_pixel(layer)
    assert torch.equal(before, layer(images))
    others = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 2, stride=2))
    assert widen_one_pixel(others) == 0


def test_a_small_crop_of_a_resnet_gives_the_same_gradient_each_time() -> None:
    backbone = create_backbone("resnet18", seed=0)
    backbone.train()
    widen_one_pixel(backbone)
    images = torch.randn(8, 3, 14, 14, generator=torch.Generator().manual_seed(0))
    found = []
    for network in (copy.deepcopy(backbone), copy.deepcopy(backbone)):
        _fill_memory()
        with torch.autocast("cpu", torch.bfloat16):
            features = network(images)
        features.float().square().sum().backward()
        found.append({name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None})
    assert found[0]
    for name, gradient in found[0].items():
        assert torch.equal(gradient, found[1][name]), name
