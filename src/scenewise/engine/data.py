"""From a step number to its batch: the order is a function of (seed, epoch), the views of (seed, epoch, image)."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from scenewise import keys
from scenewise.errors import UserError
from scenewise.sources import Source
from scenewise.types import Batch
from scenewise.views.loading import Proposals, load_batch
from scenewise.views.regions import RegionPolicy
from scenewise.views.slots import Slot


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How a run walks over its images: whole batches, the rest of each epoch's order dropped.

    A part is what one process computes at once: `batch_size / (world * accumulate)` images.
    """

    images: int
    batch_size: int
    accumulate: int
    epochs: int
    seed: int
    world: int = 1
    rank: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return self.images // self.batch_size

    @property
    def steps(self) -> int:
        """Optimiser steps of the run."""
        return self.steps_per_epoch * self.epochs

    @property
    def dropped(self) -> int:
        """Images of each epoch's order that no batch takes."""
        return self.images % self.batch_size

    def indices(self, order: np.ndarray, part: int) -> np.ndarray:
        """Return this rank's image indices of the part-th part of the run, given its epoch's order."""
        step, piece = divmod(part, self.accumulate)
        joined = self.batch_size // self.accumulate  # images of a part over all processes
        start = (step % self.steps_per_epoch) * self.batch_size + piece * joined
        count = joined // self.world
        return order[start + self.rank * count : start + (self.rank + 1) * count]

    def epoch_of(self, part: int) -> int:
        """Return the epoch a part belongs to."""
        return part // self.accumulate // self.steps_per_epoch


def epoch_order(seed: int, epoch: int, images: int) -> np.ndarray:
    """Return the permutation (images,) of an epoch, from (seed, epoch)."""
    return keys.generator(seed, "order", epoch).permutation(images)


class Piece(NamedTuple):
    """One part of a run: its epoch, and which images it takes, in order."""

    epoch: int
    images: list[int]


class Pieces(Sampler[Piece]):
    """The parts of a run from the first that is left.

    An epoch's order is held here, by the job alone, and its loader processes are told their images: at a million images
    each of them would hold and make 8 MB.
    """

    def __init__(self, schedule: Schedule, *, first: int) -> None:
        self.schedule, self.first = schedule, first

    def __len__(self) -> int:
        return self.schedule.steps * self.schedule.accumulate - self.first

    def __iter__(self) -> Iterator[Piece]:
        schedule, known = self.schedule, -1
        for part in range(self.first, self.first + len(self)):
            epoch = schedule.epoch_of(part)
            if epoch != known:
                known, order = epoch, epoch_order(schedule.seed, epoch, schedule.images)
            yield Piece(epoch, schedule.indices(order, part).tolist())


class Parts(Dataset[Batch | UserError]):
    """The parts of a run; a worker hands over whole batches, or why there is none.

    Not `finished`: the device does the photometric work.
    """

    def __init__(
        self,
        source: Source,
        schedule: Schedule,
        *,
        policy: RegionPolicy,
        slots: Mapping[str, Slot],
        proposals: Proposals | None = None,
        finished: bool = True,
    ) -> None:
        self.source, self.schedule, self.policy, self.slots = source, schedule, policy, dict(slots)
        self.proposals, self.finished = proposals, finished

    def __getitem__(self, piece: Piece) -> Batch | UserError:
        """Return the batch of a part of this rank.

        A UserError is returned: raised in a worker it would arrive with a traceback inside.
        """
        try:
            return load_batch(
                self.source.__getitem__,
                len(self.source),
                piece.images,
                policy=self.policy,
                slots=self.slots,
                seed=self.schedule.seed,
                epoch=piece.epoch,
                proposals=self.proposals,
                finished=self.finished,
            )
        except UserError as error:
            return error


def make_loader(parts: Parts, *, first_step: int, workers: int, pin_memory: bool) -> DataLoader[Batch | UserError]:
    """Return a loader over the parts from an optimiser step on: one iterator for the rest of the run, in order."""
    return DataLoader(
        parts,
        batch_size=None,
        sampler=Pieces(parts.schedule, first=first_step * parts.schedule.accumulate),
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=3 if workers else None,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )


def fetch(batches: Iterator[Batch | UserError]) -> Batch | UserError:
    """Return what the loader has next; the death of one of its processes is told in words."""
    try:
        return next(batches)
    except RuntimeError as error:
        reason = death_of_worker(error)
        if reason is None:
            raise
        return UserError(
            f"engine.workers: a process that reads images died ({reason}), often for lack of memory.\n"
            "Go on with --resume, perhaps with fewer --workers"
        )


def death_of_worker(error: RuntimeError) -> str | None:
    """Return what torch's loader says of a process of its own that died; None where the error is another."""
    text = " ".join(str(error).split())
    if "shared memory" in text:
        return "no shared memory is left: a container gives more with --shm-size"
    return text[:120] if any(sign in text for sign in ("exited unexpectedly", "killed by signal")) else None


def start_worker(worker: int) -> None:
    """Make a loader process quiet and single-threaded: signals are the main process's business, cores are shared.

    Ctrl-C, `timeout` and schedulers signal the whole group; the workers go on until the step is saved. A second
    SIGTERM ends them: with it the loader and Python's exit end workers that are still there.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _outlive_once)
    torch.set_num_threads(1)


def _outlive_once(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, signal.SIG_DFL)
