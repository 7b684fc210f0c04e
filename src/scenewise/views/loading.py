"""One batch from a source, whatever its images are like: a bad one is replaced, in place, and named (law 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from scenewise import keys
from scenewise.errors import ImageError, UserError
from scenewise.types import Batch, Record, Skip
from scenewise.views.collate import Sample, collate
from scenewise.views.opencv import use_one_thread
from scenewise.views.pipeline import make_views
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
) -> Batch:
    """Return the batch of the images `indices`, of a source of `images` images, as `make_views` shows them.

    An image that cannot be read is replaced by the one drawn from (seed, epoch, index, attempt), which comes with its
    own index, keys and proposals; `batch.skipped` names every bad image and what took its place. Images never change
    their places. UserError when 50 replacements in a row cannot be read either.
    """
    use_one_thread()
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
    return collate(samples, skipped)


def _replacement(seed: int, epoch: int, index: int, attempt: int, images: int) -> int:
    return int(keys.generator(seed, "replacement", epoch, index, attempt).integers(images))
