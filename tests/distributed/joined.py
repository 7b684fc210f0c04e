"""Every loss as the methods call it on one rank's slice: joined by gathers where it compares images of the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scenewise import losses
from scenewise.distributed import gather, gather_with_gradient, local_slice, mean_over_ranks, rank
from scenewise.losses.similarity import unit

Loss = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]  # two views (b, 8) of the rank's images, a gather
WIDTH = 8


def bank() -> Tensor:
    """Return the same 30 rows on every rank."""
    return torch.randn(30, WIDTH, generator=torch.Generator().manual_seed(5))


def ranked(relaxation: str) -> Loss:
    """Return the ranking loss: this rank's views are the queries, all ranks' views the gallery."""

    def loss(first: Tensor, second: Tensor, joined: Callable[[Tensor], Tensor]) -> Tensor:
        count = len(first)
        ids = rank() * count + torch.arange(count)
        own = rank() * 2 * count + torch.arange(2 * count)
        views, names = joined(torch.cat([first, second])), gather(ids.repeat(2))
        return losses.ranking_loss(views, names, relaxation=relaxation, temperature=0.1, queries=own)

    return loss


def swapped(first: Tensor, second: Tensor, joined: Callable[[Tensor], Tensor]) -> Tensor:
    """SwAV: the codes are assigned over all ranks' scores."""
    scores = [unit(view) @ unit(bank()[:7]).T for view in (first, second)]
    codes = [local_slice(losses.prototype_codes(gather(score))) for score in scores]
    return losses.swapped_prediction(scores, codes=codes)


def transported(first: Tensor, second: Tensor, joined: Callable[[Tensor], Tensor]) -> Tensor:
    """UniVIP: pairs of rows as the two instances of an image, and as its two scenes."""
    online, target = first.unflatten(0, (-1, 2)), second.detach().unflatten(0, (-1, 2))
    return losses.instance_loss(online, target, losses.match_instances(online, target, online, target).plan)


def shifted(first: Tensor, second: Tensor, joined: Callable[[Tensor], Tensor]) -> Tensor:
    """MSF: the bank holds all ranks' targets."""
    return losses.mean_shift_loss(first, second, torch.cat([gather(second), bank()]), neighbours=3)


def dense(first: Tensor, second: Tensor, joined: Callable[[Tensor], Tensor]) -> Tensor:
    """DenseCL: pairs of rows as the two cells of an image."""
    grids = [view.unflatten(0, (-1, 2)) for view in (first, second)]
    return losses.dense_info_nce(*grids, *grids, bank(), temperature=0.2)


LOSSES: dict[str, Loss] = {
    "nt_xent": lambda a, b, joined: losses.nt_xent(joined(a), joined(b), temperature=0.3),
    "info_nce": lambda a, b, joined: losses.info_nce(a, b, bank(), temperature=0.2),
    "multilabel_loss": lambda a, b, joined: losses.multilabel_loss(
        a, bank(), losses.pseudo_labels(b, bank(), k=4), temperature=0.2
    ),
    "ranking_loss smooth": ranked("smooth"),
    "ranking_loss hist": ranked("hist"),
    "swapped_prediction": swapped,
    "instance_loss": transported,
    "relation_loss": lambda a, b, joined: losses.relation_loss(a, b, bank()),
    "multi_view_queue_loss": lambda a, b, joined: losses.multi_view_queue_loss(a, b, b + 1, b - 1, bank(), -bank()),
    "cosine_regression": lambda a, b, joined: losses.cosine_regression(a, b),
    "mean_shift_loss": shifted,
    "dense_info_nce": dense,
}
ACROSS = ("nt_xent", "ranking_loss smooth", "ranking_loss hist")  # compare images of the batch, with gradient to both


def own_rows_only(rows: Tensor) -> Tensor:
    """Join without gradient, the own rows apart: the mistake that the tests must see."""
    joined = gather(rows).clone()
    joined[rank() * len(rows) : (rank() + 1) * len(rows)] = rows
    return joined


def every_loss(
    images: Tensor, *, joined: Callable[[Tensor], Tensor] = gather_with_gradient
) -> dict[str, dict[str, Tensor]]:
    """Return value and averaged weight gradient of every loss on this rank's slice of the joined `images` (N, 2, 5)."""
    found = {}
    for name, loss in LOSSES.items():
        torch.manual_seed(0)
        layer = nn.Linear(images.shape[-1], WIDTH)
        first, second = layer(local_slice(images)).unbind(1)
        value = loss(first, second, joined)
        value.backward()
        assert layer.weight.grad is not None
        found[name] = {"value": mean_over_ranks(value), "gradient": mean_over_ranks(layer.weight.grad)}
    return found
