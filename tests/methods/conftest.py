"""A backbone that costs nothing, batches of noise, and an optimiser: what a step needs, without data or engine."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from scenewise.methods import Method, method_class
from scenewise.parts.batchnorm import group_batchnorm
from scenewise.parts.queue import Queue
from scenewise.types import Batch, Progress, StepOutput
from scenewise.views.slots import scale_slots

BATCH, SIZE, FEATURES = 8, 32, 16


class TinyBackbone(nn.Module):
    """Two convolutions with norms and a global mean: 16 float32 features."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4, bias=False),
            norm(8),
            nn.ReLU(),
            nn.Conv2d(8, FEATURES, 3, stride=2, bias=False),
            norm(FEATURES),
            nn.ReLU(),
        )

    def feature_map(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps

    def pool(self, maps: Tensor) -> Tensor:
        return maps.float().mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.feature_map(images))


def tiny_backbone(norm: str = "group", *, seed: int = 0) -> nn.Module:
    """Return a tiny backbone; `norm`: "group", "batch", or "grouped" (batch norm in groups of 4)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if norm == "group":
            return TinyBackbone(lambda channels: nn.GroupNorm(2, channels))
        backbone = TinyBackbone(nn.BatchNorm2d)
        return group_batchnorm(backbone, 4) if norm == "grouped" else backbone


class OneStep(nn.Module):
    """The step as a forward, for weights and queues handed in."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, progress: Progress) -> Tensor:
        return self.method.step(batch, progress).loss


@dataclasses.dataclass(frozen=True)
class Laboratory:
    """Makes methods and batches, and takes steps."""

    def method(
        self,
        name: str,
        *,
        norm: str = "group",
        seed: int = 0,
        backbone: nn.Module | None = None,
        features: int = FEATURES,
        images: int = 300,
        **settings: Any,
    ) -> Method:
        """Return the method with its defaults and `settings`, on a tiny backbone, for batches of 8.

        What a method leaves out for its first epochs (settings named `..._epochs`) is there from the first step.
        """
        kind = method_class(name)
        waits = {field.name: 0.0 for field in dataclasses.fields(kind.Config) if field.name.endswith("_epochs")}
        config, _ = kind.resolve(kind.Config(**(waits | settings)), images=images, batch_size=BATCH)
        backbone = tiny_backbone(norm, seed=seed) if backbone is None else backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return kind(config, backbone, features, seed=seed)

    def batch(self, method: Method, number: int, *, count: int = BATCH, size: int = SIZE) -> Batch:
        """Return the `number`-th batch of noise: other images each time, views of an image alike."""
        generator = torch.Generator().manual_seed(number)
        scenes = torch.randn(count, 3, 1, 1, generator=generator)
        views, boxes = {}, {}
        for name, slot in scale_slots(method.slots(method.config), size).items():
            shape = (slot.count, count, 3, slot.size, slot.size)
            views[name] = scenes + torch.randn(shape, generator=generator)
            boxes[name] = torch.rand(slot.count, count, 4, generator=generator)
        return Batch(index=torch.arange(number * count, (number + 1) * count), views=views, boxes=boxes)

    def progress(self, step: int, *, seed: int = 0) -> Progress:
        """Return the place of a step in a run of ten epochs of ten steps."""
        return Progress(step=step, steps=100, steps_per_epoch=10, seed=seed)

    def optimiser(self, method: Method, *, lr: float = 0.05) -> torch.optim.SGD:
        """Return SGD with momentum over what is trainable."""
        trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
        return torch.optim.SGD(trainable, lr=lr, momentum=0.9, weight_decay=1e-4)

    def step(self, method: Method, optimiser: torch.optim.SGD, number: int) -> StepOutput:
        """Take a whole step: forward, backward, weights, teacher."""
        output = method.step(self.batch(method, number), self.progress(number))
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        method.after_update(self.progress(number))
        return output

    def run(self, method: Method, steps: range, *, optimiser: torch.optim.SGD | None = None) -> list[Tensor]:
        """Take the steps and return their losses."""
        optimiser = self.optimiser(method) if optimiser is None else optimiser
        return [self.step(method, optimiser, number).loss.detach() for number in steps]

    def trained(self, name: str, *, steps: int = 3, **settings: Any) -> Method:
        """Return a method after a few steps: its dictionaries hold rows and its teacher differs from it."""
        method = self.method(name, **settings)
        self.run(method, range(steps))
        return method

    def step_without_values(self, method: Method, batch: Batch, progress: Progress) -> None:
        """Take a step on tensors that have a shape and no values: whoever asks for one raises."""
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            state = {f"method.{key}": mode.from_tensor(value) for key, value in method.state_dict().items()}
            functional_call(OneStep(method), state, (batch._map(mode.from_tensor), progress))

    def queues(self, method: Method) -> list[Queue]:
        """Return all dictionaries of a method."""
        return [module for module in method.modules() if isinstance(module, Queue)]

    def state(self, module: nn.Module) -> dict[str, Tensor]:
        """Return a copy of everything a checkpoint would hold."""
        return copy.deepcopy(module.state_dict())


@pytest.fixture(scope="session")
def lab() -> Laboratory:
    return Laboratory()
