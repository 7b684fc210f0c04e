"""Why a run waits for its data, and what would cure it: a pure function from figures to words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scenewise.wording import counted

PREFIX = "loading/"
# Of the loading, or of the pixels: what it takes for a cure to be named. A tenth is also the waiting that is called
# healthy: all that a cure could win.
WORTH_IT = 0.1
PACKED_SIDE = 320 / 224  # of the views' size: what `scenewise pack` is for, as room for crops at 224 pixels
PACKED_ASPECT = 1.5  # of a photo, 3:2
# Pixels of the photos over those of packed ones. Decoding takes time by pixels, so it falls to a quarter: the least
# that is worth a second copy of the data (our choice).
PACKED_GAIN = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Loading:
    """How a run's images are loaded.

    read, decode, rest: what a loader process spends on an image, milliseconds: on the file, on its pixels, on crops,
    colours and joining the batch. megapixels: of a photo, the mean. size: pixels of a full view. workers, cores: of
    one of the run's processes. movable: whether a GPU trains while the loader does the photometric work.
    """

    read: float
    decode: float
    rest: float
    megapixels: float
    size: float
    workers: float
    cores: float
    movable: float


def loading_of(figures: Mapping[str, float]) -> Loading | None:
    """Return what an epoch's figures (`loading/...` in metrics.jsonl) say; None where they do not."""
    found = {name.removeprefix(PREFIX): float(value) for name, value in figures.items() if name.startswith(PREFIX)}
    if found.keys() != set(Loading.__slots__) or not all(map(math.isfinite, found.values())):
        return None
    return Loading(**found)


def cure(wait: float, loading: Loading) -> str:
    """Return what to try against a share `wait` (0..1) of time spent waiting, in words that follow "try"."""
    whole = loading.read + loading.decode + loading.rest
    read, decode, rest = (part / whole if whole > 0 else 0.0 for part in (loading.read, loading.decode, loading.rest))
    cures = []
    workers, cores = int(loading.workers), int(loading.cores)
    if workers < cores:
        cures.append(
            f"--workers {workers_needed(wait, workers=workers, cores=cores)} "
            f"(now {workers}, on {counted(cores, 'core')})"
        )
    if loading.movable and rest >= WORTH_IT:
        cures.append(
            f"engine.photometrics=device (crops, colour and blur by the processor are {_percent(rest)} of the loading)"
        )
    packed = PACKED_ASPECT * (PACKED_SIDE * loading.size) ** 2 / 1e6  # megapixels
    if decode >= max(read, rest) and loading.megapixels >= PACKED_GAIN * packed:
        cures.append(
            f"`scenewise pack` with --short-side {round(PACKED_SIDE * loading.size)} (decoding photos of "
            f"{loading.megapixels:.1f} megapixels for views of {loading.size:.0f} pixels is {_percent(decode)} of the "
            "loading)"
        )
    if cures:
        return ", ".join(cures)
    if read > max(decode, rest):
        where = "a faster disk, or, of shards at an address, more --workers than cores"
        return f"{where}: reading files is the limit, {_percent(read)} of the loading"
    return (
        f"more cores or a smaller --size: the cores are the limit, {workers} workers on {counted(cores, 'core')}, "
        f"{_percent(decode)} of the loading is decoding and {_percent(rest)} crops and colours"
    )


def workers_needed(wait: float, *, workers: int, cores: int) -> int:
    """Return how many loader processes would keep up, at least one more than now and at most one a core.

    While a run waits, all `workers` load without a pause, so a step's images take them `workers` times the step; that
    has to fit into the rest of the step, 1 - `wait`. Without workers the loading is the waiting itself.
    """
    if wait >= 1:
        return cores
    load = max(workers, wait)  # of a step, in steps of one process; `workers` is 0 or at least 1
    return min(cores, max(workers + 1, math.ceil(load / (1 - wait) - 1e-9)))


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
