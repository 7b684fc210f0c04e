"""Dilated copies: the same weights, finer maps, and equal to the plain network where nothing is dilated."""

from __future__ import annotations

import pytest
import torch

from scenewise.backbones import create_backbone
from scenewise.backbones.dilated import dilated, last_two_channels, last_two_maps
from scenewise.errors import UserError

NAMES = ["test_resnet", "test_convnext"]  # timm's own for tests


def images(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def settled(name: str, **options: str):
    """Return a backbone whose batch norms have statistics of their own."""
    backbone = create_backbone(name, seed=0, **options)
    with torch.no_grad():
        backbone(images())
    return backbone.eval()


@pytest.mark.parametrize("name", NAMES)
def test_without_dilation_the_maps_are_the_plain_ones(name: str) -> None:
    backbone = settled(name)
    copy = dilated(backbone, 32)
    with torch.no_grad():
        assert torch.equal(copy.feature_map(images()), backbone.feature_map(images()))
        for mine, plain in zip(last_two_maps(copy, images()), backbone.pyramid(images())[-2:], strict=True):
            assert torch.equal(mine, plain)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stride", [8, 16])
def test_every_weight_stays_and_the_last_map_is_finer(name: str, stride: int) -> None:
    backbone = settled(name)
    copy = dilated(backbone, stride)
    state, own = backbone.state_dict(), copy.state_dict()
    assert list(state) == list(own)
    assert all(torch.equal(state[key], own[key]) for key in state)
    assert not {p.data_ptr() for p in backbone.parameters()} & {p.data_ptr() for p in copy.parameters()}
    with torch.no_grad():
        before, last = last_two_maps(copy, images())
        assert torch.equal(last, copy.feature_map(images()))
    assert last.shape[-2:] == (64 // stride,) * 2 and before.shape[-2:] == (64 // min(16, stride),) * 2
    assert (before.shape[1], last.shape[1]) == last_two_channels(copy)
    assert (copy.weights, copy.name, copy.width) == (backbone.weights, backbone.name, backbone.width)


@pytest.mark.parametrize(
    ("name", "stride", "first"),  # timm centres ConvNeXt's 2x2 windows, which at stride 8 moves them by one place
    [("resnet18", 8, 0), ("resnet26", 16, 0), ("resnet26", 8, 0), ("convnext_atto", 16, 0), ("convnext_atto", 8, 1)],
)
def test_at_the_places_of_the_plain_map_the_finer_one_has_its_values(name: str, stride: int, first: int) -> None:
    """What a stride skipped is computed beside it: every second or fourth place sees exactly what it saw before."""
    backbone = settled(name)
    with torch.no_grad():
        plain, finer = backbone.feature_map(images()), dilated(backbone, stride).feature_map(images())
    step = 32 // stride
    torch.testing.assert_close(finer[..., first::step, first::step], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stem", "own"), [("cifar", 8), ("cifar-pool", 16)])
@pytest.mark.parametrize("stride", [8, 16])
def test_a_small_stem_is_dilated_only_below_its_own_stride(stem: str, own: int, stride: int) -> None:
    backbone = settled("resnet18", stem=stem)
    copy = dilated(backbone, stride)
    with torch.no_grad():
        last = copy.feature_map(images())
        assert last.shape[-1] == 64 // min(own, stride)
        if stride >= own:
            assert torch.equal(last, backbone.feature_map(images()))


def test_mode_precision_and_norm_are_kept_and_chance_is_left_alone() -> None:
    backbone = create_backbone("resnet18", norm="group", seed=3).double()
    state = torch.get_rng_state()
    copy = dilated(backbone, 8)
    assert torch.equal(torch.get_rng_state(), state)
    assert copy.training and next(copy.parameters()).dtype == torch.float64
    assert not dilated(backbone.eval(), 8).training


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "mobilenetv3_small_050"])
def test_other_architectures_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"backbone: '{name}' has no strides .* use a ResNet or ConvNeXt"):
        dilated(create_backbone(name, seed=0), 16)


def test_other_strides_are_refused() -> None:
    with pytest.raises(UserError, match="output_stride: 4 is not possible; allowed are 8, 16, 32"):
        dilated(create_backbone("resnet18", seed=0), 4)
