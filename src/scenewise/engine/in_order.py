"""What several processes make of the images of a data set, handed over in the order of the images."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, TypeVar, cast

import torch
from torch.utils.data import DataLoader, Dataset

from scenewise.engine.data import death_of_worker, start_worker
from scenewise.errors import UserError
from scenewise.views.opencv import use_one_thread

T = TypeVar("T")


def in_order(items: Dataset[T | UserError], *, start: int, workers: int) -> Iterator[T]:
    """Return the items from number `start` on, in order, whoever makes them: `workers` processes, or 0 for this one.

    An item that is a UserError is raised. Raises UserError too when a process dies.
    """
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that
    loader = DataLoader(
        items,
        batch_size=None,
        sampler=range(start, len(cast("Sized", items))),
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )
    try:
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item
    except RuntimeError as error:
        reason = death_of_worker(error)
        if reason is None:
            raise
        raise UserError(
            f"--workers: a process died ({reason}), often for lack of memory.\n"
            "What is done is kept: go on with --resume, perhaps with fewer --workers"
        ) from error


def _as_it_is(item: Any) -> Any:
    return item
