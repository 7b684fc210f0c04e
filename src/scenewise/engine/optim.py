"""Optimisers and what a run leaves open of them, weight decay groups, the one place that scales the learning rate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from scenewise.engine.config import OptimiserConfig
from scenewise.errors import UserError
from scenewise.methods.base import Method

REFERENCE_BATCH = 256  # images a step that `optimiser.lr` is given for, in every paper here


def peak_learning_rate(config: OptimiserConfig, batch_size: int) -> float:
    """Return the learning rate after warm-up: `lr`, given for 256 images, scaled to a global batch."""
    assert config.lr is not None
    ratio = batch_size / REFERENCE_BATCH
    return config.lr * {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}[config.scaling]


def learning_rate(config: OptimiserConfig, *, peak: float, step: int, steps: int, steps_per_epoch: int) -> float:
    """Return the learning rate of a step.

    Linear warm-up from `warmup_start` times the peak at step 0 to the peak at the end of the warm-up (MSVQ's code: from
    exactly 0), then a cosine to `final_lr` times the peak, or the peak throughout. `cosine_epoch` is the same cosine
    seen at the first step of each epoch.
    """
    assert config.warmup_epochs is not None
    assert config.warmup_start is not None
    assert config.final_lr is not None
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return peak * (config.warmup_start + (1 - config.warmup_start) * step / warmup)
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine_epoch":
        step = max(warmup, step // steps_per_epoch * steps_per_epoch)
    done = (step - warmup) / max(1, steps - warmup)
    return peak * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done)))


def decide_optimiser(
    config: OptimiserConfig, method: type[Method], *, epochs: int
) -> tuple[OptimiserConfig, list[str]]:
    """Fill the open values with the method's published ones; return them and what to say about it.

    A published warm-up longer than a tenth of the run is cut to that: it was chosen for hundreds of epochs.
    """
    published = method.training_defaults
    other = config.name is not None and config.name != published.optimiser
    if other and config.lr is None:
        raise UserError(
            f"optimiser.lr: give one for {config.name}; the published {published.lr} is for {published.optimiser}"
        )
    notes = []
    warmup = config.warmup_epochs
    if warmup is None:
        warmup = min(published.warmup_epochs, epochs / 10)
        if warmup < published.warmup_epochs and epochs:
            notes.append(
                f"optimiser.warmup_epochs is {warmup:g} instead of the published {published.warmup_epochs:g}: "
                f"a tenth of {epochs} {'epoch' if epochs == 1 else 'epochs'}"
            )
    decided = dataclasses.replace(
        config,
        name=config.name or published.optimiser,
        lr=published.lr if config.lr is None else config.lr,
        weight_decay=published.weight_decay if config.weight_decay is None else config.weight_decay,
        schedule=config.schedule or published.schedule,
        warmup_epochs=warmup,
        warmup_start=published.warmup_start if config.warmup_start is None else config.warmup_start,
        final_lr=published.final_lr if config.final_lr is None else config.final_lr,
        exclude_norm_and_bias=(
            published.exclude_norm_and_bias if config.exclude_norm_and_bias is None else config.exclude_norm_and_bias
        ),
    )
    return decided, notes


def make_optimiser(config: OptimiserConfig, module: nn.Module, lr: float, *, fused: bool = False) -> Optimizer:
    """Return the optimiser over what trains; with `exclude_norm_and_bias`, 1-d parameters without weight decay.

    fused: torch's optimisers in one kernel, for a GPU.
    """
    assert config.weight_decay is not None
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    flat = [parameter for parameter in trainable if parameter.ndim <= 1] if config.exclude_norm_and_bias else []
    excluded = {id(parameter) for parameter in flat}
    groups: list[dict[str, Any]] = [
        {
            "params": [parameter for parameter in trainable if id(parameter) not in excluded],
            "weight_decay": config.weight_decay,
        }
    ]
    if flat:
        groups.append({"params": flat, "weight_decay": 0.0, "adapt": False})
    if config.name == "lars":
        return LARS(groups, lr=lr, momentum=config.momentum)
    for group in groups:
        group.pop("adapt", None)
    if config.name == "adam":
        return torch.optim.Adam(groups, lr=lr, fused=fused)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=fused)
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, fused=fused)


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You, Gitman, Ginsburg 2017, arXiv 1708.03888), as SimCLR and BYOL use it.

    Each tensor's step is scaled by trust * |w| / |g + decay w|; groups with `adapt=False` (norms, biases) take plain
    SGD steps.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step from the gradients there are."""
        assert closure is None, "LARS takes no closure"
        for group in self.param_groups:
            pairs = [(parameter, parameter.grad) for parameter in group["params"] if parameter.grad is not None]
            if pairs:
                self._move([parameter for parameter, _ in pairs], [gradient for _, gradient in pairs], group)

    def _move(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> None:
        """Move a group's tensors, one operation at a time for all of them: a GPU is not asked 161 times (ResNet-50).

        But for the ratios: torch multiplies by one tensor each only tensor by tensor, and to know them as numbers the
        host would have to wait.
        """
        directions = torch._foreach_add(gradients, parameters, alpha=group["weight_decay"])
        if group["adapt"]:
            weights, steps = (torch.stack(torch._foreach_norm(tensors)) for tensors in (parameters, directions))
            usable = (weights > 0) & (steps > 0)
            trust = torch.where(usable, group["trust"] * weights / steps, torch.ones_like(weights))
            torch._foreach_mul_(directions, list(trust.unbind()))
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, directions)
        torch._foreach_add_(parameters, buffers, alpha=-group["lr"])
