"""One batch from a source, whatever its images are like: a bad one is replaced, in place, and named (law 6)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from scenewise import keys
from scenewise.errors import ImageError, UserError
from scenewise.types import Batch, Record, Skip
from scenewise.views.collate import Sample, collate
from scenewise.views.meter import Meter
from scenewise.views.on_device import as_numbers
from scenewise.views.opencv import use_one_thread
from scenewise.views.pipeline import draw_views, make_views
from scenewise.views.regions import RegionPolicy
from scenewise.views.slots import Slot

ATTEMPTS = 50  # replacements tried for one image: with half of all images bad, one in 10^15 finds none

Proposals = Callable[[int], np.ndarray | None]  # image index -> its boxes (N, 4), best first, or None


def load_batch(
    source_getitem: Callable[[int], Record],
    images: int,
    indices: Sequence[int],
    *,
    policy: RegionPolicy,
    slots: Mapping[str, Slot],
    seed: int,
    epoch: int,
    proposals: Proposals | None = None,
    finished: bool = True,
) -> Batch:
    """Return the batch of the images `indices`, of a source of `images` images, as `make_views` shows them.

    Not `finished`: the views are cut and resized only, and `batch.photometry` says what the device has to do to them.

    An image that cannot be read is replaced by the one drawn from (seed, epoch, index, attempt), which comes with its
    own index, keys and proposals; `batch.skipped` names every bad image and what took its place. Images never change
    their places. UserError when 50 replacements in a row cannot be read either.
    """
    use_one_thread()
    meter = Meter()
    samples: list[Sample] = []
    skipped: list[Skip] = []
    for index in indices:
        bad: list[tuple[int, str, str]] = []
        for attempt in range(ATTEMPTS + 1):
            candidate = int(index) if attempt == 0 else _replacement(seed, epoch, int(index), attempt, images)
            record = source_getitem(candidate)
            try:
                views, regions = make_views(
                    record,
                    policy=policy,
                    slots=slots,
                    seed=seed,
                    epoch=epoch,
                    proposals=None if proposals is None else proposals(candidate),
                    finished=finished,
                    meter=meter,
                )
            except ImageError as error:
                bad.append((candidate, record.key, str(error)))
                continue
            samples.append((candidate, views, regions))
            skipped.extend(Skip(number, key, reason, replacement=candidate) for number, key, reason in bad)
            break
        else:
            _, key, reason = bad[0]
            raise UserError(
                f"data: no readable image: {key} ({reason}) and {ATTEMPTS} others drawn in its place cannot be read"
            )
    numbers = () if finished else [_numbers(slots, seed, epoch, n) for n, _, _ in samples]
    return dataclasses.replace(collate(samples, skipped, numbers), effort=meter.effort())


def _numbers(slots: Mapping[str, Slot], seed: int, epoch: int, index: int) -> dict[str, np.ndarray]:
    drawn = draw_views(slots, seed=seed, epoch=epoch, index=index)
    return {name: np.stack([as_numbers(each) for each in views]) for name, views in drawn.items()}


def _replacement(seed: int, epoch: int, index: int, attempt: int, images: int) -> int:
    return int(keys.generator(seed, "replacement", epoch, index, attempt).integers(images))
