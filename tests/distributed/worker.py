"""One process of a run, and what the tests compare: `python worker.py RANK WORLD RENDEZVOUS OUT`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from scenewise import distributed
from scenewise.engine.processes import share_statistics
from scenewise.losses import nt_xent
from scenewise.methods import method_class, method_names
from scenewise.parts.batchnorm import group_batchnorm
from scenewise.parts.heads import Encoder
from scenewise.parts.momentum import encode_shuffled
from scenewise.parts.synchronised import synchronise_batchnorm
from scenewise.types import Batch, Progress, View
from scenewise.views.slots import scale_slots

sys.path.insert(0, str(Path(__file__).parent))  # the tests run this file by its path

from joined import every_loss, own_rows_only

JOINED, SIZE, GROUP, STEPS = 24, 16, 4, 4  # 24 images: whole groups of 4 on each of 1, 2 or 3 ranks


class Tiny(nn.Module):
    """A convolution, a norm and a mean over places."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 12, 5, stride=2, bias=False), norm, nn.ReLU())

    def feature_map(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps

    def pool(self, maps: Tensor) -> Tensor:
        return maps.float().mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.pool(self.feature_map(images))


def tiny(norm: str) -> nn.Module:
    torch.manual_seed(0)
    if norm == "group":
        return Tiny(nn.GroupNorm(3, 12))
    backbone = Tiny(nn.BatchNorm2d(12))
    return group_batchnorm(backbone, GROUP) if norm == "grouped" else backbone


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gathers() -> dict[str, Any]:
    """Join what every rank made of its number."""
    mark = distributed.rank() + 1
    image = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2).float() * mark
    return {
        "world": distributed.world_size(),
        "rank": distributed.rank(),
        "rows": distributed.gather(torch.tensor([[10 * mark], [10 * mark + 1]])),
        "bool": distributed.gather(torch.tensor([mark == 1])),
        "half": distributed.gather(torch.tensor([0.5 * mark], dtype=torch.bfloat16)),
        "plain": distributed.gather(image),
        "channels_last": distributed.gather(image.to(memory_format=torch.channels_last)),
        "transposed": distributed.gather(image.transpose(2, 3)).transpose(2, 3),
        "mean": distributed.mean_over_ranks(torch.tensor([1.0 * mark, 0.0])),
        "slice": distributed.local_slice(torch.arange(6 * distributed.world_size())),
        "detached": not distributed.gather(torch.ones(1, requires_grad=True)).requires_grad,
    }


def joined_gradients(gather: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Return loss and averaged gradient of a loss on the joined batch, as data-parallel training computes them."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 4)
    first, second = (layer(distributed.local_slice(random(JOINED, 5, seed=seed))) for seed in (1, 2))
    joined = gather(first), gather(second)
    if not joined[0].requires_grad:  # without gradient through the gather only the own rows can have one
        count = JOINED // distributed.world_size()
        place = slice(distributed.rank() * count, (distributed.rank() + 1) * count)
        for rows, own in zip(joined, (first, second), strict=True):
            rows[place] = own
    loss = nt_xent(*joined, temperature=0.3)
    loss.backward()
    return {"loss": loss.detach(), **{name: averaged(value.grad) for name, value in layer.named_parameters()}}


def averaged(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return distributed.mean_over_ranks(gradient)


def shuffled(norm: str) -> Tensor:
    """Return the joined outputs of the shuffled pass over this rank's slice."""
    model = Encoder(tiny(norm), nn.Identity())
    images = distributed.local_slice(random(JOINED, 3, SIZE, SIZE, seed=3)).to(memory_format=torch.channels_last)
    progress = Progress(step=5, steps=10, steps_per_epoch=10, seed=0)
    return encode_shuffled(model, images, progress)[0]


def local_batch(slots: Any, number: int) -> Batch:
    """Return this rank's contiguous slice of the joined batch."""
    views, boxes = {}, {}
    scenes = random(JOINED, 3, 1, 1, seed=100 + number)
    for place, (name, slot) in enumerate(scale_slots(slots, SIZE).items()):
        noise = random(slot.count, JOINED, 3, slot.size, slot.size, seed=1000 * number + place)
        views[name] = torch.stack([distributed.local_slice(view) for view in scenes + noise])
        boxes[name] = torch.stack(
            [distributed.local_slice(box) for box in random(slot.count, JOINED, 4, seed=10_000 * number + place)]
        )
    index = distributed.local_slice(torch.arange(number * JOINED, (number + 1) * JOINED))
    kinds = {}
    for name, box in boxes.items():
        shown = random(len(box), JOINED, seed=number) > 0  # in half of the views an object
        kinds[name] = torch.stack([distributed.local_slice(row) for row in shown]).to(torch.int8) * View.OBJECT.value
    return Batch(index=index, views=views, boxes=boxes, kinds=kinds)


VARIANTS: dict[str, dict[str, Any]] = {  # choices whose steps join more, or other things, than the defaults'
    "mocov2": {"heads": "dual", "symmetric": True, "mask_own_image": True},
    "msf": {"search": "before", "symmetric": True, "mask_own_image": True},
    "s2r2": {"query_views": 2, "relaxation": "hist"},
}


def train(name: str, norm: str, **choices: Any) -> dict[str, Any]:
    """Take some optimiser steps with averaged gradients; return losses, figures, gradients and the whole state.

    norm: "group" for a backbone without batch statistics, "batch" for those that the method declares (law 4).
    """
    kind = method_class(name)
    waits = {field.name: 0.0 for field in dataclasses.fields(kind.Config) if field.name.endswith("_epochs")}
    narrow = {field.name: 16 for field in dataclasses.fields(kind.Config) if field.name == "hidden"}
    config, _ = kind.resolve(kind.Config(**waits, **narrow, **choices), images=700, batch_size=JOINED)
    backbone = tiny("grouped" if (norm, kind.batch_statistics) == ("batch", "groups") else norm)
    torch.manual_seed(1)
    method = kind(config, backbone, 12, seed=0)
    synchronise_batchnorm(method, "cpu")
    trainable = {key: value for key, value in method.named_parameters() if value.requires_grad}
    optimiser = torch.optim.SGD(trainable.values(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    record: dict[str, Any] = {}
    for number in range(STEPS):
        progress = Progress(step=number, steps=STEPS, steps_per_epoch=STEPS, seed=0)
        output = method.step(local_batch(kind.slots(config), number), progress)
        optimiser.zero_grad()
        output.loss.backward()
        for key, parameter in trainable.items():
            parameter.grad = averaged(parameter.grad)
            record[f"{number}/gradient/{key}"] = parameter.grad.clone()
        optimiser.step()
        method.after_update(progress)
        share_statistics(method)
        figures = {"loss": output.loss, **output.terms, **output.metrics}
        for key, value in figures.items():
            record[f"{number}/{key}"] = distributed.mean_over_ranks(torch.as_tensor(value).float())
    return record | {f"state/{key}": value for key, value in method.state_dict().items()}


def own_rows(split: str) -> slice:
    """Return this rank's place in the joined batch: an equal part, or one row for each rank but the last."""
    world, rank = distributed.world_size(), distributed.rank()
    if split == "even":
        return slice(rank * JOINED // world, (rank + 1) * JOINED // world)
    return slice(rank, rank + 1 if rank < world - 1 else JOINED)


def joined_rows(rows: Tensor, place: slice) -> Tensor:
    """Return the rows of all ranks, each at its place."""
    whole = torch.zeros(JOINED, *rows.shape[1:])
    whole[place] = rows.detach()
    return distributed.mean_over_ranks(whole) * distributed.world_size()


def batch_statistics(split: str, *, synchronised: bool = True, layout: torch.memory_format) -> dict[str, Tensor]:
    """Return outputs, averaged gradients and the state of a network with each kind of batch norm: a teacher's pass,
    then a pass with a loss.
    """
    torch.manual_seed(0)
    silent = nn.BatchNorm1d(4)
    silent.register_parameter("bias", None)
    network: nn.Module = nn.Sequential(
        nn.Conv2d(3, 4, 3), BatchNormAct2d(4), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Tanh()
    )
    network = nn.Sequential(
        network, nn.Flatten(), nn.Linear(96, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Linear(8, 4), silent
    )
    if synchronised:
        network = synchronise_batchnorm(network, "cpu")
    place = own_rows(split)
    images = (5 + random(JOINED, 3, 8, 8, seed=7))[place].to(memory_format=layout).requires_grad_()
    with torch.no_grad():
        teacher = network(images)
    output = network(images)
    # equal parts: the mean over the own rows of what each has of the loss
    loss = (output * random(JOINED, 4, seed=8)[place]).sum() * distributed.world_size() / JOINED
    loss.backward()
    assert images.grad is not None
    return {
        "teacher": joined_rows(teacher, place),
        "output": joined_rows(output, place),
        "input gradient": joined_rows(images.grad, place) / distributed.world_size(),
        **{f"gradient/{name}": averaged(value.grad) for name, value in network.named_parameters()},
        **{f"state/{name}": value.clone() for name, value in network.state_dict().items()},
    }


def everything() -> dict[str, Any]:
    """Return all that is compared."""
    return {
        "gathers": gathers(),
        "with gradient": joined_gradients(distributed.gather_with_gradient),
        "without gradient": joined_gradients(lambda rows: distributed.gather(rows).clone()),
        "losses": every_loss(random(JOINED, 2, 5, seed=11)),
        "losses without gradient": every_loss(random(JOINED, 2, 5, seed=11), joined=own_rows_only),
        "statistics even": batch_statistics("even", layout=torch.contiguous_format),
        "statistics even channels-last": batch_statistics("even", layout=torch.channels_last),
        "statistics uneven": batch_statistics("uneven", layout=torch.contiguous_format),
        "statistics apart": batch_statistics("even", synchronised=False, layout=torch.contiguous_format),
        **{f"shuffled {norm}": shuffled(norm) for norm in ("group", "grouped")},
        **{f"{name} {norm}": train(name, norm) for name in method_names() for norm in ("group", "batch")},
        **{f"{name} varied": train(name, "group", **choices) for name, choices in VARIANTS.items()},
    }


def main(rank: int, world: int, rendezvous: Path, out: Path) -> None:
    """Join the others, compute, and write what came out."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=rendezvous.as_uri(), rank=rank, world_size=world)
    torch.save(everything(), out)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
