"""The images of an audit that are decoded: what each of them is like, read by several processes as training would."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from scenewise import keys
from scenewise.engine.data import start_worker
from scenewise.errors import ImageError, UserError
from scenewise.sources import Source
from scenewise.tools.audit_duplicates import difference_hash
from scenewise.tools.audit_objects import Judge
from scenewise.tools.audit_pairs import Judged, crop_pairs, judge_cut, pair_slots
from scenewise.types import Skip
from scenewise.views.decode import Decoded, decode
from scenewise.views.loading import Proposals
from scenewise.views.opencv import use_one_thread
from scenewise.views.pipeline import make_views
from scenewise.views.regions import RegionPolicy
from scenewise.views.scene import Scene

GREY = np.array([0.299, 0.587, 0.114])  # luma of red, green, blue, ITU-R BT.601
TIMED = 50  # images whose reading is timed, before the others and by one process


@dataclass(frozen=True, slots=True)
class Setting:
    """What crops are cut and judged by.

    policies: by name, every value decided. proposals: what they cut by, None where only those that need none are
    measured; `asked`: how the user named them, None where they came with the images. size: of a full view, in pixels.
    """

    policies: Mapping[str, RegionPolicy]
    proposals: Proposals | None
    asked: str | None
    judge: Judge
    size: int
    seed: int

    def proposals_of(self, index: int) -> np.ndarray | None:
        """Return the (N, 4) proposals of an image, or None."""
        return None if self.proposals is None else self.proposals(index)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one image is like.

    digest: of what was read, bytes or pixels. looks: (4,) uint64, its difference hash. brightness: mean luma, 0..1.
    objects: (n, 4) `x1, y1, x2, y2` in pixels of the upright photo. areas: (n,) share of the photo each covers, 0..1.
    pairs: what each policy's pairs of crops are like.
    """

    index: int
    digest: bytes
    looks: np.ndarray
    brightness: float
    objects: np.ndarray
    areas: np.ndarray
    pairs: Mapping[str, Judged]


@dataclass(frozen=True, slots=True)
class ReadingTime:
    """Mean seconds an image on one core: reading and decoding it once, and doing that and making two views of it.

    size: of a view in pixels, which both depend on. images: how many were timed.
    """

    decode: float
    two_views: float
    images: int
    size: int


def draw_sample(images: int, limit: int, *, seed: int) -> np.ndarray:
    """Return up to `limit` of the image numbers, in the order they are drawn by the seed."""
    return keys.generator(seed, "audit", images).permutation(images)[:limit]


def measure(source: Source, index: int, setting: Setting) -> Measured | Skip:
    """Return what an image is like, or why it cannot be read."""
    record = source[index]
    slots, proposals = pair_slots(setting.size), setting.proposals_of(index)
    crops = {
        name: crop_pairs(
            policy,
            record.size,
            proposals,
            slots,
            seed=setting.seed,
            index=index,
        )
        for name, policy in setting.policies.items()
    }
    try:
        content = record.read()
        wanted = [(box, setting.size) for box in crops["scene"].boxes[0]]
        decoded = decode(content, record.size, record.orientation, boxes_and_outputs=wanted)
    except ImageError as error:
        return Skip(index, record.key, str(error))
    objects = setting.judge.boxes(index, record.size, decoded)
    return Measured(
        index=index,
        digest=_digest(content),
        looks=difference_hash(decoded.pixels),
        brightness=_brightness(decoded),
        objects=objects,
        areas=np.prod(objects[:, 2:] - objects[:, :2], axis=1) / (record.size[0] * record.size[1]),
        pairs={name: judge_cut(cut, objects) for name, cut in crops.items()},
    )


def _digest(content: bytes | np.ndarray) -> bytes:
    return hashlib.blake2b(content.tobytes() if isinstance(content, np.ndarray) else content, digest_size=16).digest()


def _brightness(decoded: Decoded) -> float:
    return float(decoded.pixels.reshape(-1, 3).mean(axis=0) @ GREY / 255)


def measure_all(
    source: Source,
    indices: Sequence[int],
    setting: Setting,
    *,
    workers: int,
    progress: Callable[[int], None],
) -> tuple[list[Measured], list[Skip]]:
    """Return what the images are like and those that cannot be read, both in order, whatever the number of workers.

    progress: called with how many are done.
    """
    use_one_thread()  # before workers are forked: OpenCV's own threads do not survive that
    loader: DataLoader[Measured | Skip | UserError] = DataLoader(
        _Images(source, indices, setting),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )
    measured: list[Measured] = []
    skipped: list[Skip] = []
    for done, item in enumerate(loader, start=1):
        if isinstance(item, UserError):
            raise item
        (skipped if isinstance(item, Skip) else measured).append(item)
        progress(done)
    return measured, skipped


class _Images(Dataset[Measured | Skip | UserError]):
    """The images by place; a UserError is returned: raised in a worker it would arrive with a traceback inside."""

    def __init__(self, source: Source, indices: Sequence[int], setting: Setting) -> None:
        self.source, self.indices, self.setting = source, list(indices), setting

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Measured | Skip | UserError:
        try:
            return measure(self.source, self.indices[place], self.setting)
        except UserError as error:
            return error


def time_reading(source: Source, indices: Sequence[int], *, size: int, seed: int) -> ReadingTime | None:
    """Return how long images take on one core, over up to 50 of them; None when none of them can be read.

    An image is first made into two views, as training would, then read and decoded once more by itself: the first
    reading finds what a training run finds, a file that may have to come from the disk.
    """
    use_one_thread()
    slots, policy = pair_slots(size), Scene()
    decoding, views = [], []
    for index in indices[:TIMED]:
        record = source[index]
        try:
            started = time.perf_counter()
            _, regions = make_views(record, policy=policy, slots=slots, seed=seed, epoch=0)
            rendered = time.perf_counter()
            wanted = [(box, size) for boxes in regions.boxes.values() for box in boxes]
            decode(record.read(), record.size, record.orientation, boxes_and_outputs=wanted)
        except ImageError:
            continue
        views.append(rendered - started)
        decoding.append(time.perf_counter() - rendered)
    return ReadingTime(float(np.mean(decoding)), float(np.mean(views)), len(views), size) if views else None
