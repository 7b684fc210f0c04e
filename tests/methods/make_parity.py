"""The first steps of four methods, ours and LightlySSL's, from the same weights on the same views.

Run as a script, with LightlySSL (`pip install 'scenewise[dev]'`), it writes parity.json next to itself: what
LightlySSL's modules give, for test_parity.py to check where they are not installed. Weights and views come from NumPy's
RandomState, whose stream never changes; everything is float64.

What LightlySSL has and the published networks have not is held at zero here: the last biases of BYOL's heads, the
offset of the last norm of SimCLR's head, the bias of SwAV's prototypes. What it leaves out of the published heads, the
biases in front of a batch norm, has no influence and no gradient. Its memory bank drops the part of a batch that lies
beyond its end: the dictionaries here hold whole batches.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scenewise.methods import Method, method_class
from scenewise.parts.queue import Queue
from scenewise.types import Batch, Progress
from scenewise.views.slots import scale_slots

GOLDEN = Path(__file__).with_name("parity.json")
STEPS, BATCH, FEATURES, HIDDEN, WIDTH, PROTOTYPES = 4, 8, 8, 10, 6, 5
SETTINGS: dict[str, dict[str, Any]] = {
    "mocov2": {"width": WIDTH, "momentum": 0.9, "dictionary_size": 3 * BATCH, "queue_start": "random"},
    "simclr": {"width": WIDTH, "hidden": HIDDEN},
    "byol": {"width": WIDTH, "hidden": HIDDEN, "momentum": 0.9},
    "swav": {
        "width": WIDTH, "hidden": HIDDEN, "prototypes": PROTOTYPES, "small_crops": 2,
        "dictionary_size": 2 * BATCH, "queue_epochs": 0.0, "freeze_epochs": 1.0,  # an epoch is a step
    },
}  # fmt: skip
# BYOL: the sum of two means of 2 - 2 cos is 4 + 4 * LightlySSL's half sum of two means of -cos
SCALE_AND_OFFSET = {"mocov2": (1.0, 0.0), "simclr": (1.0, 0.0), "byol": (4.0, 4.0), "swav": (1.0, 0.0)}

Record = dict[str, Any]


class Backbone(nn.Module):
    """A convolution, a batch norm, the mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, FEATURES, 3, stride=2, bias=False), nn.BatchNorm2d(FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(images))).mean(dim=(2, 3))


def progress(step: int) -> Progress:
    return Progress(step=step, steps=STEPS, steps_per_epoch=1, seed=0)


def ours(name: str) -> Method:
    """Return our method with weights, prototypes and dictionary rows that depend on nothing but the name."""
    kind = method_class(name)
    config, _ = kind.resolve(kind.Config(**SETTINGS[name]), images=1000, batch_size=BATCH)
    method = kind(config, Backbone(), FEATURES).double()
    random = np.random.RandomState(list(name.encode()))
    online = {key: value for key, value in parameters(method).items() if value.requires_grad}
    for key, value in online.items():
        centre = 1.0 if value.ndim == 1 and key.endswith("weight") else 0.0  # of a norm
        value.data = torch.from_numpy(centre + 0.4 * random.standard_normal(tuple(value.shape)))
    if name in ("mocov2", "byol"):
        networks = method.core if name == "byol" else method
        networks.teacher.load_state_dict(networks.encoder.state_dict())
    if name == "mocov2":
        rows = torch.from_numpy(random.standard_normal((3 * BATCH, WIDTH)))
        method.queue.rows_projection = F.normalize(rows, dim=1)
    if name == "swav":
        method.prototypes.settle()
        method.prototypes.start = method.prototypes.weight.detach().clone()
    return method


def parameters(method: Method) -> dict[str, nn.Parameter]:
    """Return all parameters by name; BYOL's without the name of the part they share with UniVIP."""
    return {key.removeprefix("core."): value for key, value in method.named_parameters()}


def batch(method: Method, step: int) -> Batch:
    """Return a step's views: noise around a colour of each image's own."""
    random = np.random.RandomState(step)
    scenes, views, boxes = random.standard_normal((BATCH, 3, 1, 1)), {}, {}
    for name, slot in scale_slots(method.slots(method.config), 14).items():
        noise = random.standard_normal((slot.count, BATCH, 3, slot.size, slot.size))
        views[name] = torch.from_numpy(scenes + noise)
        boxes[name] = torch.zeros(slot.count, BATCH, 4)
    return Batch(index=torch.arange(step * BATCH, (step + 1) * BATCH), views=views, boxes=boxes)


class Twin(nn.Module):
    """A method put together from LightlySSL's modules as its own benchmarks do it; parameters are named as ours."""

    def named(self) -> dict[str, nn.Parameter]:
        """Return all parameters by the names of ours."""
        return {key.replace(".layers.", ".").replace(".heads.0.", "."): value for key, value in self.named_parameters()}

    def adopt(self, method: Method) -> None:
        """Take the weights of ours; what ours has not is held at zero."""
        known = parameters(method)
        for key, value in self.named().items():
            if key in known:
                value.data.copy_(known[key].data)
                value.requires_grad_(known[key].requires_grad)
            else:
                assert key.endswith("bias")
                value.data.zero_()
                value.requires_grad_(False)

    def loss(self, views: dict[str, Tensor], step: int) -> Tensor:
        raise NotImplementedError

    def after_update(self, step: int) -> None:
        """Move the teacher, if there is one."""

    def queues(self) -> list[Tensor]:
        """Return the rows of the memory banks."""
        return []


def encoder(head: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"backbone": Backbone(), "head": head})


def project(encoder: nn.ModuleDict, images: Tensor) -> Tensor:
    projection: Tensor = encoder["head"](encoder["backbone"](images))
    return projection


class MoCoTwin(Twin):
    def __init__(self, method: Method) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import MoCoProjectionHead

        super().__init__()
        self.encoder = encoder(MoCoProjectionHead(FEATURES, FEATURES, WIDTH))
        self.teacher = copy.deepcopy(self.encoder)
        self.criterion = NTXentLoss(temperature=0.2, memory_bank_size=(3 * BATCH, WIDTH)).double()
        self.criterion.memory_bank.bank = method.queue.rows_projection.clone()

    def loss(self, views: dict[str, Tensor], step: int) -> Tensor:
        query = project(self.encoder, views["query"][0])
        with torch.no_grad():
            key = project(self.teacher, views["key"][0])
        return self.criterion(query, key)

    def after_update(self, step: int) -> None:
        from lightly.models.utils import update_momentum

        update_momentum(self.encoder, self.teacher, m=0.9)

    def queues(self) -> list[Tensor]:
        return [self.criterion.memory_bank.bank]


class SimCLRTwin(Twin):
    def __init__(self, method: Method) -> None:
        from lightly.loss import NTXentLoss
        from lightly.models.modules import SimCLRProjectionHead

        super().__init__()
        self.encoder = encoder(SimCLRProjectionHead(FEATURES, HIDDEN, WIDTH))
        self.criterion = NTXentLoss(temperature=0.1)

    def loss(self, views: dict[str, Tensor], step: int) -> Tensor:
        return self.criterion(*project(self.encoder, torch.cat([views["first"][0], views["second"][0]])).chunk(2))


class BYOLTwin(Twin):
    def __init__(self, method: Method) -> None:
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead

        super().__init__()
        self.encoder = encoder(BYOLProjectionHead(FEATURES, HIDDEN, WIDTH))
        self.predictor = BYOLPredictionHead(WIDTH, HIDDEN, WIDTH)
        self.teacher = copy.deepcopy(self.encoder)
        self.criterion = NegativeCosineSimilarity()

    def loss(self, views: dict[str, Tensor], step: int) -> Tensor:
        first, second = (self.predictor(project(self.encoder, views[name][0])) for name in ("first", "second"))
        with torch.no_grad():
            first_target, second_target = (project(self.teacher, views[name][0]) for name in ("first", "second"))
        return 0.5 * (self.criterion(first, second_target) + self.criterion(second, first_target))

    def after_update(self, step: int) -> None:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        # its schedule ends at 1 in the last step, ours (the authors') one step after it
        update_momentum(self.encoder, self.teacher, m=cosine_schedule(step, STEPS + 1, 0.9, 1.0))


class SwAVTwin(Twin):
    def __init__(self, method: Method) -> None:
        from lightly.loss import SwaVLoss
        from lightly.models.modules import SwaVProjectionHead, SwaVPrototypes
        from lightly.models.modules.memory_bank import MemoryBankModule

        super().__init__()
        self.encoder_backbone = Backbone()
        self.head = SwaVProjectionHead(FEATURES, HIDDEN, WIDTH)
        self.prototypes = SwaVPrototypes(WIDTH, PROTOTYPES)
        self.criterion = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)
        self.banks = nn.ModuleList(MemoryBankModule((2 * BATCH, WIDTH), feature_dim_first=False) for _ in range(2))
        self.banks.double()
        for bank in self.banks:
            bank.bank.zero_()

    def loss(self, views: dict[str, Tensor], step: int) -> Tensor:
        self.prototypes.normalize()
        # its own freeze makes also the bias, held at zero here, trainable again
        self.prototypes.heads[0].weight.requires_grad_(step >= 1)
        features = [self.encoder_backbone(crops.flatten(0, 1)) for crops in views.values()]
        embeddings = F.normalize(self.head(torch.cat(features)), dim=1).split(BATCH)
        scores = [self.prototypes(crop) for crop in embeddings]
        with torch.no_grad():
            past = [bank(crop, update=True)[1] for bank, crop in zip(self.banks, embeddings, strict=False)]
            past_scores = [self.prototypes(rows) for rows in past] if step >= 2 else None  # of full banks
        return self.criterion(scores[:2], scores[2:], past_scores)

    def queues(self) -> list[Tensor]:
        return [bank.bank for bank in self.banks]


TWINS: dict[str, type[Any]] = {"mocov2": MoCoTwin, "simclr": SimCLRTwin, "byol": BYOLTwin, "swav": SwAVTwin}


def sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD([value for value in parameters if value.requires_grad], lr=0.1, momentum=0.9)


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in tensors.items()}


def numbered(tensors: list[Tensor]) -> dict[str, Tensor]:
    return {str(number): tensor for number, tensor in enumerate(tensors)}


def our_steps(name: str) -> Iterator[Record]:
    """Yield the loss and gradients of each step, and the teacher and the queue's rows after it."""
    method = ours(name)
    optimiser = sgd(method.parameters())
    queues = [module for module in method.modules() if isinstance(module, Queue)]
    for step in range(STEPS):
        output = method.step(batch(method, step), progress(step))
        optimiser.zero_grad()
        output.loss.backward()
        gradients = {key: value.grad for key, value in parameters(method).items() if value.grad is not None}
        record = {"loss": output.loss.detach(), "gradients": copies(gradients)}
        optimiser.step()
        method.after_update(progress(step))
        teacher = {key: value for key, value in parameters(method).items() if key.startswith("teacher.")}
        columns = [rows for queue in queues for rows in queue.read().rows.values()]
        yield record | {"teacher": copies(teacher), "queue": copies(numbered(columns))}


def their_steps(name: str) -> Iterator[Record]:
    """Yield the same of LightlySSL's modules; loss and gradients in its own units."""
    method = ours(name)
    twin = TWINS[name](method).double()
    twin.adopt(method)
    scale, _ = SCALE_AND_OFFSET[name]
    optimiser = sgd(twin.parameters())
    for step in range(STEPS):
        loss = twin.loss(batch(method, step).views, step)
        optimiser.zero_grad()
        loss.sum().backward()
        gradients = {key: value.grad for key, value in twin.named().items() if value.grad is not None}
        record = {"loss": loss.detach().squeeze(), "gradients": copies(gradients)}
        for gradient in gradients.values():
            gradient.mul_(scale)  # the same steps as ours
        optimiser.step()
        twin.after_update(step)
        teacher = {key: value for key, value in twin.named().items() if key.startswith("teacher.")}
        yield record | {"teacher": copies(teacher), "queue": copies(numbered(twin.queues()))}


def summary(tensor: Tensor) -> list[float]:
    """Return two figures that together see every entry of a tensor: its norm, and its product with cos 0, cos 1, ..."""
    flat = tensor.double().flatten()
    return [float(flat.norm()), float(flat @ torch.arange(len(flat)).double().cos())]


def shortened(record: Record) -> Record:
    """Return a record with every tensor replaced by its summary."""
    parts = ("gradients", "teacher", "queue")
    return {"loss": float(record["loss"])} | {
        part: {key: summary(value) for key, value in record[part].items()} for part in parts
    }


def rounded(value: Any) -> Any:
    """Return nested numbers with twelve digits."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.12g}") if math.isfinite(value) else value


if __name__ == "__main__":
    lines = [
        f' "{name}": [\n  ' + ",\n  ".join(json.dumps(rounded(shortened(r))) for r in their_steps(name)) + "\n ]"
        for name in TWINS
    ]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")
