import subprocess
import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scenewise.backbones import backbone_names, backbone_summaries, create_backbone
from scenewise.backbones.backbone import STEMS
from scenewise.errors import UserError

ARCHITECTURES = ["resnet18", "resnet50", "convnext_atto", "vit_tiny_patch16_224", "mobilenetv3_small_050"]


def images(size: int = 64, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_features_are_timms_own(name: str) -> None:
    backbone = create_backbone(name, seed=0, size=64).eval()
    expected = timm.create_model(name, num_classes=0, **({"img_size": 64} if "vit" in name else {})).eval()
    expected.load_state_dict(backbone.model.state_dict())
    with torch.no_grad():
        features = backbone(images())
        torch.testing.assert_close(features, expected(images()), rtol=0, atol=1e-6)
    assert features.shape == (2, backbone.width)
    assert features.dtype == torch.float32


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_pooling_a_feature_map_is_the_forward(name: str) -> None:
    backbone = create_backbone(name, seed=0).eval()
    with torch.no_grad():
        last_map = backbone.feature_map(images())
        assert last_map.shape == (2, backbone.width, 2, 2)
        assert torch.equal(backbone.pool(last_map), backbone(images()))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_no_feature_map_without_convolutions(name: str) -> None:
    size = 224 if "swin" in name else 32
    with pytest.raises(UserError, match="no convolutional feature map"):
        create_backbone(name, seed=0, size=size).feature_map(images(size))


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_pooling_under_bf16_is_done_in_float32(name: str) -> None:
    backbone = create_backbone(name, seed=0, size=64).eval()
    last = []
    forward_features = backbone.model.forward_features

    def keep(batch: torch.Tensor) -> torch.Tensor:
        last.append(forward_features(batch))
        return last[-1]

    backbone.model.forward_features = keep
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        features = backbone(images())
    assert features.dtype == torch.float32
    exact = last[0].double()
    pooled = exact.mean((2, 3)) if exact.ndim == 4 else exact[:, 0]
    torch.testing.assert_close(features.double(), pooled, rtol=1e-6, atol=1e-6)  # bf16 pooling is off by 1e-3


def test_float64_stays_float64() -> None:
    assert create_backbone("resnet18", seed=0).double()(images().double()).dtype == torch.float64


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**31), stem=st.sampled_from(STEMS), norm=st.sampled_from(["batch", "group"]))
def test_weights_are_a_function_of_the_seed_and_global_state_is_left_alone(seed: int, stem: str, norm: str) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = create_backbone("resnet18", seed=seed, stem=stem, norm=norm).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(8)
    second = create_backbone("resnet18", seed=seed, stem=stem, norm=norm).state_dict()
    other = create_backbone("resnet18", seed=seed + 1, stem=stem, norm=norm).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["model.conv1.weight"], other["model.conv1.weight"])


@pytest.mark.parametrize(
    ("stem", "size", "side"),
    [("cifar", 32, 4), ("cifar-pool", 64, 4), ("cifar-pool", 96, 6), ("imagenet", 64, 2), ("imagenet", 96, 3)],
)
def test_the_stem_decides_the_last_map(stem: str, size: int, side: int) -> None:
    backbone = create_backbone("resnet18", seed=0, stem=stem).eval()
    with torch.no_grad():
        assert backbone.feature_map(images(size)).shape == (2, 512, side, side)
        assert backbone(images(size)).shape == (2, 512)
    assert (backbone.name, backbone.stem, backbone.norm) == ("resnet18", stem, "batch")
    kernel, parameters = (7, 11_176_512) if stem == "imagenet" else (3, 11_168_832)
    assert backbone.model.conv1.weight.shape == (64, 3, kernel, kernel)
    assert sum(parameter.numel() for parameter in backbone.parameters()) == parameters


def test_the_stems_for_small_images_differ_in_the_max_pool_alone() -> None:
    plain, pooled = (create_backbone("resnet18", seed=0, stem=stem).eval() for stem in ("cifar", "cifar-pool"))
    assert all(torch.equal(value, pooled.state_dict()[key]) for key, value in plain.state_dict().items())
    plain.model.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
    with torch.no_grad():
        assert torch.equal(plain(images()), pooled(images()))


def test_group_norm_has_no_batch_statistics() -> None:
    backbone = create_backbone("resnet18", seed=0, norm="group")
    kinds = {type(module) for module in backbone.modules()}
    assert not any(issubclass(kind, nn.modules.batchnorm._BatchNorm) for kind in kinds)
    groups = {module.num_groups for module in backbone.modules() if isinstance(module, nn.GroupNorm)}
    assert groups == {32}
    joined = backbone(images(count=4))
    apart = torch.cat([backbone(half) for half in images(count=4).split(2)])
    torch.testing.assert_close(joined, apart, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient_in_the_first_step() -> None:
    backbone = create_backbone("resnet18", seed=0)
    backbone(images()).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in backbone.parameters())


def test_vision_transformer_reads_other_multiples_of_its_patch() -> None:
    backbone = create_backbone("vit_tiny_patch16_224", seed=0, size=96)
    assert backbone.model.pos_embed.shape[1] == 1 + 6 * 6
    assert backbone(images(48)).shape == (2, 192)
    with pytest.raises(UserError, match="100 px is not divisible by the patch of 16"):
        backbone(images(100))


@pytest.mark.parametrize(("size", "nearest"), [(100, "96 and 112"), (10, "valid: 16"), (223, "208 and 224")])
def test_size_that_is_no_multiple_of_the_patch(size: int, nearest: str) -> None:
    with pytest.raises(UserError, match=rf"{size} px .*patch of 16 px .*vit_tiny_patch16_224.*{nearest}"):
        create_backbone("vit_tiny_patch16_224", seed=0, size=size)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet5", {}, "backbone: unknown name 'resnet5'.*Did you mean 'resnet50'"),
        ("resnet18.a1_in2k", {}, "Did you mean 'resnet18.a1_in1k'"),
        ("hf-hub:timm/resnet18", {}, "backbone: unknown name"),
        ("", {}, "backbone: unknown name ''"),
        ("resnet18", {"stem": "cifr"}, "backbone.stem: .*Did you mean 'cifar'"),
        ("resnet18", {"norm": "layer"}, "backbone.norm: .*batch, group"),
        ("resnet18", {"stem": "cifar-pol"}, "backbone.stem: .*Did you mean 'cifar-pool'"),
        ("resnet18d", {"stem": "cifar"}, "'cifar' needs .*plain stem"),
        ("resnet18d", {"stem": "cifar-pool"}, "'cifar-pool' needs .*plain stem"),
        ("convnext_atto", {"stem": "cifar"}, "for ResNets"),
        ("vit_tiny_patch16_224", {"norm": "group"}, "for ResNets"),
    ],
)
def test_what_the_architecture_does_not_have(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        create_backbone(name, seed=0, **options)


def test_both_wrong_options_are_said_at_once() -> None:
    with pytest.raises(UserError) as caught:
        create_backbone("convnext_atto", seed=0, stem="cifar", norm="group")
    assert len(caught.value.problems) == 2


def test_summaries_are_those_of_the_real_models() -> None:
    summaries = {summary.name: summary for summary in backbone_summaries()}
    assert tuple(summaries) == backbone_names()
    backbone = create_backbone("resnet18", seed=0)
    assert summaries["resnet18"].parameters == sum(parameter.numel() for parameter in backbone.parameters())
    assert summaries["resnet18"].width == backbone.width == 512
    assert summaries["resnet50"].width == 2048


def test_channels_that_cannot_be_grouped_are_refused() -> None:
    with pytest.raises(UserError, match=r"backbone\.norm: 'group' makes 32 groups, and 'resnet10t' has a layer of 24"):
        create_backbone("resnet10t", norm="group", seed=0)


COMPILED = """
import torch
from scenewise.backbones import create_backbone
from scenewise.engine.one_pixel import widen_one_pixel
from scenewise.parts.batchnorm import group_batchnorm

for name, norm, group in (
    ("resnet18", "batch", 0), ("resnet18", "batch", 2), ("resnet18", "group", 0), ("vit_tiny_patch16_224", "batch", 0)
):
    backbone = create_backbone(name, norm=norm, seed=0, size=32).train()
    widen_one_pixel(backbone)  # as in a run
    if group:
        group_batchnorm(backbone, group)
    images = torch.randn(4, 3, 32, 32)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    features = backbone.model.forward_features(images)
    after = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.load_state_dict(before)
    torch.compiler.reset()
    whole = torch.compile(backbone.model.forward_features, backend="eager", fullgraph=True)
    assert torch.equal(whole(images), features)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, after[key]), (name, key)
"""


def test_what_is_compiled_is_one_graph() -> None:
    """`engine.compile` compiles images -> last map: a graph break is an error here. Alone, without the type checks."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
