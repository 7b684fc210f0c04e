"""Batch norm in groups against a loop of torch's own batch norms."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from scenewise.parts.batchnorm import GroupedBatchNorm, group_batchnorm


def draw(*shape: int, seed: int = 0) -> Tensor:
    return 2 + 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(channels: int, *, kind: type[nn.BatchNorm2d] | type[nn.BatchNorm1d] = nn.BatchNorm2d, seed: int = 5):
    """Return a batch norm with weights and statistics that are not those it starts with."""
    made = kind(channels, eps=1e-3, momentum=0.3)
    with torch.no_grad():
        for place, tensor in enumerate((made.weight, made.bias, made.running_mean, made.running_var)):
            tensor.copy_(draw(channels, seed=seed + place).abs())
    return made


def copied(original: nn.Module) -> nn.Module:
    """Return a torch batch norm that shares the weights and has statistics of its own, equal at first."""
    twin = type(original)(original.num_features, eps=original.eps, momentum=original.momentum).to(original.weight)
    twin.load_state_dict(original.state_dict())
    twin.weight, twin.bias = original.weight, original.bias
    return twin


def slow_groups(original: nn.Module, images: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return output, running mean and running variance of one torch batch norm a group, averaged over the groups."""
    outputs, means, variances = [], [], []
    for start in range(0, len(images), group):
        twin = copied(original)
        outputs.append(twin(images[start : start + group]))
        means.append(twin.running_mean)
        variances.append(twin.running_var)
    return torch.cat(outputs), torch.stack(means).mean(0), torch.stack(variances).mean(0)


@settings(max_examples=25)
@given(
    groups=st.integers(1, 4),
    group=st.integers(2, 5),
    channels=st.integers(1, 5),
    flat=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_training_equals_a_loop_of_batch_norms(groups: int, group: int, channels: int, flat: bool, seed: int) -> None:
    original = layer(channels, kind=nn.BatchNorm1d if flat else nn.BatchNorm2d)
    shape = (groups * group, channels) if flat else (groups * group, channels, 3, 2)
    images = draw(*shape, seed=seed).double().requires_grad_()
    original = original.double()
    expected, mean, variance = slow_groups(original, images, group)
    grouped = GroupedBatchNorm(original, group=group)
    found = grouped(images)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grouped.running_mean, mean)
    torch.testing.assert_close(grouped.running_var, variance)
    assert int(grouped.num_batches_tracked) == 1
    upstream = draw(*shape, seed=seed + 1).double()
    slow, fast = (
        torch.autograd.grad(output, (images, grouped.weight, grouped.bias), upstream) for output in (expected, found)
    )
    torch.testing.assert_close(fast, slow)


def test_one_group_is_plain_batch_norm_over_several_passes() -> None:
    plain, grouped = layer(4), GroupedBatchNorm(layer(4), group=6)
    for seed in range(3):
        images = draw(6, 4, 3, 3, seed=seed)
        torch.testing.assert_close(grouped(images), plain(images))
    torch.testing.assert_close(grouped.state_dict(), plain.state_dict())


def test_the_groups_are_contiguous_and_do_not_see_one_another() -> None:
    grouped, images = GroupedBatchNorm(layer(4), group=3), draw(6, 4, 3, 3)
    before = grouped(images)
    changed = images.clone()
    changed[4] += 10
    after = grouped(changed)
    assert torch.equal(after[:3], before[:3])
    assert not torch.allclose(after[3], before[3])


def test_gradients_agree_with_finite_differences() -> None:
    grouped = GroupedBatchNorm(layer(2).double(), group=2)
    images = draw(4, 2, 2, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(grouped, (images,))
    weight, bias = grouped.weight.detach().clone().requires_grad_(), grouped.bias.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *tensors: torch.func.functional_call(
            grouped, {"weight": tensors[0], "bias": tensors[1]}, (images.detach(),)
        ),
        (weight, bias),
    )


def test_evaluation_uses_the_running_statistics_of_any_batch() -> None:
    plain, grouped = layer(4), GroupedBatchNorm(layer(4), group=4)
    state = {name: value.clone() for name, value in grouped.state_dict().items()}
    images = draw(3, 4, 5, 5)  # 3 is no multiple of 4
    torch.testing.assert_close(grouped.eval()(images), plain.eval()(images))
    assert all(torch.equal(value, state[name]) for name, value in grouped.state_dict().items())


def test_a_batch_that_the_group_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 6 cannot be split into batch-norm groups of 4"):
        GroupedBatchNorm(layer(4), group=4)(draw(6, 4, 3, 3))


def test_channels_last_is_kept_with_the_same_values() -> None:
    grouped, images = GroupedBatchNorm(layer(4), group=2), draw(6, 4, 5, 3)
    found = grouped(images.to(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, grouped(images))


def test_under_bf16_autocast_the_statistics_stay_float32() -> None:
    grouped, exact = GroupedBatchNorm(layer(4), group=4), GroupedBatchNorm(layer(4), group=4)
    images = draw(8, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = grouped(images.bfloat16())
    assert found.dtype == torch.bfloat16
    assert grouped.running_var.dtype == torch.float32
    expected = exact(images.bfloat16().float())
    torch.testing.assert_close(found.float(), expected, rtol=2**-7, atol=2**-6)
    torch.testing.assert_close(grouped.running_var, exact.running_var, rtol=1e-3, atol=1e-3)


def test_conversion_keeps_names_tensors_and_what_is_not_batch_norm() -> None:
    model = timm.create_model("resnet18", num_classes=0)
    parameters = dict(model.named_parameters())
    names, count = list(model.state_dict()), sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    model.eval()
    images = draw(2, 3, 32, 32)
    expected = model(images)
    assert group_batchnorm(model, 2) is model
    assert list(model.state_dict()) == names
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    assert sum(isinstance(part, GroupedBatchNorm) for part in model.modules()) == count == 20
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in model.modules())
    torch.testing.assert_close(model(images), expected)  # still in evaluation, and equal there
    assert not any(part.training for part in model.modules())
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), nn.LayerNorm(3))
    parts = list(convolutions)
    assert list(group_batchnorm(convolutions, 2)) == parts


@pytest.mark.parametrize("activation", ["relu", "silu", "prelu"])
def test_a_fused_activation_is_kept_with_its_own_weights(activation: str) -> None:
    torch.manual_seed(0)
    fused = nn.Sequential(BatchNormAct2d(4, act_layer=activation, inplace=activation != "prelu"))
    state = {name: value.clone() for name, value in fused.state_dict().items()}
    images = draw(6, 4, 3, 3).requires_grad_()
    twin = BatchNormAct2d(4, act_layer=activation, inplace=False)
    twin.load_state_dict({name.removeprefix("0."): value for name, value in state.items()})
    expected = torch.cat([twin(chunk) for chunk in images.split(3)])
    grouped = group_batchnorm(fused, 3)
    assert list(grouped.state_dict()) == list(state)
    found = grouped(images)
    torch.testing.assert_close(found, expected)
    upstream = draw(6, 4, 3, 3, seed=1)
    (slow,), (fast,) = (torch.autograd.grad(output, images, upstream) for output in (expected, found))
    torch.testing.assert_close(fast, slow)


def test_a_network_with_fused_layers_trains_in_groups() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("efficientnet_b0", num_classes=0, drop_path_rate=0.0)
    fused = [part for part in model.modules() if isinstance(part, BatchNormAct2d)]
    assert fused
    model.double().eval()  # batch norm of two images with one place each is ill-conditioned in float32
    images = draw(4, 3, 32, 32).double()
    expected = model(images)
    group_batchnorm(model, 2)
    torch.testing.assert_close(model(images), expected)
    model.train()
    together = model(images)
    apart = torch.cat([model(chunk) for chunk in images.split(2)])
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)
