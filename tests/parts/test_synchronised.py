"""Synchronised batch norm against torch's own; several processes are compared with one in tests/distributed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import timm
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from scenewise.parts import synchronised
from scenewise.parts.batchnorm import GroupedBatchNorm, group_batchnorm
from scenewise.parts.synchronised import SynchronisedBatchNorm, synchronise_batchnorm

KINDS = ["affine", "scale only", "plain"]


@contextmanager
def as_if_several() -> Iterator[None]:
    """Take the way of several ranks with this one alone: what the others would add to its sums is nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synchronised, "world_size", lambda: 2)
        patch.setattr(dist, "all_reduce", lambda tensor: None)
        yield


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 2 + 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(channels: int, kind: str = "affine", *, flat: bool = False) -> nn.BatchNorm1d | nn.BatchNorm2d:
    """Return a batch norm with weights and statistics that are not those it starts with."""
    made = (nn.BatchNorm1d if flat else nn.BatchNorm2d)(channels, eps=1e-3, momentum=0.3, affine=kind != "plain")
    if kind == "scale only":
        made.register_parameter("bias", None)
    with torch.no_grad():
        for place, tensor in enumerate((made.weight, made.bias, made.running_mean, made.running_var)):
            if tensor is not None:
                tensor.copy_(draw(channels, seed=5 + place).abs())
    return made


@settings(max_examples=30)
@given(
    batch=st.integers(2, 7),
    channels=st.integers(1, 5),
    flat=st.booleans(),
    kind=st.sampled_from(KINDS),
    several=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_training_equals_torchs_batch_norm(
    batch: int, channels: int, flat: bool, kind: str, several: bool, seed: int
) -> None:
    plain, ours = (layer(channels, kind, flat=flat).double() for _ in range(2))
    ours = SynchronisedBatchNorm(ours)
    shape = (batch, channels) if flat else (batch, channels, 3, 2)
    for step in range(2):
        images = draw(*shape, seed=seed + step).double().requires_grad_()
        upstream = draw(*shape, seed=seed + 10).double()
        expected = plain(images)
        slow = torch.autograd.grad(expected, [images, *plain.parameters()], upstream)
        if several:
            with as_if_several():
                found = ours(images)
                fast = torch.autograd.grad(found, [images, *ours.parameters()], upstream)
        else:
            found = ours(images)
            fast = torch.autograd.grad(found, [images, *ours.parameters()], upstream)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flat", [False, True])
def test_gradients_agree_with_finite_differences(kind: str, flat: bool) -> None:
    ours = SynchronisedBatchNorm(layer(2, kind, flat=flat).double())
    images = (draw(4, 2) if flat else draw(4, 2, 2, 2)).double().requires_grad_()
    names = [name for name, _ in ours.named_parameters()]
    weights = [value.detach().clone().requires_grad_() for value in ours.parameters()]

    def apply(images: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(ours, dict(zip(names, values, strict=True)), (images,))

    with as_if_several():
        assert torch.autograd.gradcheck(apply, (images, *weights))


def test_a_single_process_has_torchs_very_bits() -> None:
    plain, ours = layer(4), SynchronisedBatchNorm(layer(4))
    images = draw(6, 4, 5, 3)
    assert torch.equal(ours(images), plain(images))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in ours.state_dict().items())


def test_a_large_common_offset_does_no_harm() -> None:
    ours, images = SynchronisedBatchNorm(layer(3)), draw(8, 3, 4, 4) + 3000
    with as_if_several():
        _, variance, count = synchronised.joined_statistics(images)
        ours(images)
    assert int(count) == 8 * 4 * 4
    torch.testing.assert_close(variance.double(), images.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0)


def test_one_value_per_channel_is_refused_by_a_single_process() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        SynchronisedBatchNorm(layer(4))(draw(1, 4, 1, 1))


def test_evaluation_is_plain_batch_norm() -> None:
    plain, ours = layer(4).eval(), SynchronisedBatchNorm(layer(4).eval())
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    images = draw(1, 4, 5, 5)
    with as_if_several():
        assert torch.equal(ours(images), plain(images))
    assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())


def test_without_gradient_the_statistics_move_all_the_same() -> None:
    plain, ours = layer(4), SynchronisedBatchNorm(layer(4))
    images = draw(6, 4, 5, 5)
    with as_if_several(), torch.no_grad():
        found = ours(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, plain(images))
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_channels_last_is_kept_in_both_directions() -> None:
    ours, images = SynchronisedBatchNorm(layer(4)), draw(6, 4, 5, 3)
    arranged = images.to(memory_format=torch.channels_last).requires_grad_()
    with as_if_several():
        found = ours(arranged)
        upstream = draw(6, 4, 5, 3, seed=1).to(memory_format=torch.channels_last)
        (gradient,) = torch.autograd.grad(found, arranged, upstream)
        torch.testing.assert_close(found, ours(images))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_under_bf16_autocast_types_are_torchs_and_the_statistics_float32() -> None:
    plain, ours = layer(4), SynchronisedBatchNorm(layer(4))
    images = draw(8, 4, 6, 6).bfloat16().requires_grad_()
    upstream = draw(8, 4, 6, 6, seed=1).bfloat16()
    results = []
    for module in (plain, ours):
        with as_if_several():
            with torch.autocast("cpu", torch.bfloat16):
                found = module(images)
            results.append([found, *torch.autograd.grad(found, [images, *module.parameters()], upstream)])
    for expected, found in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, rtol=2**-6, atol=2**-6)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-4)
    with as_if_several(), torch.autocast("cpu", torch.bfloat16):
        assert ours(images.float()).dtype == plain(images.float()).dtype == torch.float32


def test_a_module_wholly_in_bf16_works_as_torchs() -> None:
    plain, ours = layer(4).bfloat16(), SynchronisedBatchNorm(layer(4).bfloat16())
    images = draw(8, 4, 6, 6).bfloat16().requires_grad_()
    with as_if_several():
        found = ours(images)
        found.sum().backward()
    assert found.dtype == torch.bfloat16
    assert {value.grad.dtype for value in (images, *ours.parameters())} == {torch.bfloat16}
    torch.testing.assert_close(found, plain(images), rtol=2**-5, atol=2**-5)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=2**-6, atol=2**-6)


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    ours, images = SynchronisedBatchNorm(layer(2)), draw(4, 2, 3, 3).requires_grad_()
    with as_if_several():
        (gradient,) = torch.autograd.grad(ours(images).square().sum(), images, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0"])
def test_conversion_keeps_names_tensors_and_outputs(device: str, name: str) -> None:
    model = timm.create_model(name, num_classes=0).eval()
    parameters, state = dict(model.named_parameters()), list(model.state_dict())
    norms = {path for path, part in model.named_modules() if isinstance(part, nn.BatchNorm2d)}
    images = draw(2, 3, 32, 32)
    expected = model(images)
    with as_if_several():
        assert synchronise_batchnorm(model, device) is model
        assert synchronise_batchnorm(model, device) is model  # a second time changes nothing
    assert list(model.state_dict()) == state
    assert all(value is parameters[path] for path, value in model.named_parameters())
    kind = SynchronisedBatchNorm if device == "cpu" else nn.SyncBatchNorm
    assert {path for path, part in model.named_modules() if isinstance(part, kind)} == norms
    assert torch.equal(model(images), expected)
    assert not any(part.training for part in model.modules())


def test_a_batch_norm_itself_is_replaced() -> None:
    with as_if_several():
        assert isinstance(synchronise_batchnorm(layer(3), "cpu"), SynchronisedBatchNorm)
        assert isinstance(synchronise_batchnorm(layer(3), "cuda"), nn.SyncBatchNorm)
        scaled = synchronise_batchnorm(layer(3, "scale only", flat=True), "cuda")
    assert list(scaled.state_dict()) == ["weight", "running_mean", "running_var", "num_batches_tracked"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_groups_and_other_norms_are_left_alone(device: str) -> None:
    model = group_batchnorm(nn.Sequential(nn.GroupNorm(2, 4), nn.LayerNorm(3), layer(4), BatchNormAct2d(4)), 2)
    parts = list(model.modules())
    with as_if_several():
        assert synchronise_batchnorm(model, device) is model
    assert all(found is part for found, part in zip(model.modules(), parts, strict=True))
    assert sum(isinstance(part, GroupedBatchNorm) for part in parts) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_single_process_needs_nothing(device: str) -> None:
    model = nn.Sequential(layer(4), BatchNormAct2d(4))
    parts = list(model)
    assert synchronise_batchnorm(model, device) is model
    assert all(found is part for found, part in zip(model, parts, strict=True))
    norm = layer(4)
    assert synchronise_batchnorm(norm, device) is norm


@pytest.mark.parametrize("activation", ["relu", "silu", "prelu"])
def test_a_fused_activation_is_kept_with_its_own_weights(activation: str) -> None:
    fused, twin = (BatchNormAct2d(4, act_layer=activation, inplace=activation != "prelu") for _ in range(2))
    images, upstream = draw(6, 4, 3, 3).requires_grad_(), draw(6, 4, 3, 3, seed=1)
    with as_if_several():
        ours = synchronise_batchnorm(fused, "cpu")
        found = ours(images)
        fast = torch.autograd.grad(found, [images, *ours.parameters()], upstream)
    expected = twin(images)
    slow = torch.autograd.grad(expected, [images, *twin.parameters()], upstream)
    assert list(ours.state_dict()) == list(twin.state_dict())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
