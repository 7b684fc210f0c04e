"""Images that are there more than once: the same bytes, or pixels that look the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Int64, UInt8, UInt64

from scenewise.sources.headers import FileReader
from scenewise.types import Image

TAIL = 4096  # bytes at the end of a file that are compared first: of two photos they are never the same
THREADS = 8  # they wait for the disk together
CHUNK = 256  # files a thread takes at once
SIDE = 16  # rows and columns of the difference hash: 256 bits
# Bits in which near duplicates may differ. Measured on 1,500 photos of VOC: a copy at JPEG quality 70 or at half the
# size differs by at most 15 bits in 99 of 100 cases; of different photos the closest two differ by 55.
NEAR = 15
NEIGHBOURS = 64  # hashes compared with each one within a band: what bounds the work when thousands are alike

Pairs = Int64[np.ndarray, "pairs 2"]


def same_bytes(lengths: Int64[np.ndarray, " files"], reader: Callable[[int], FileReader]) -> list[list[int]]:
    """Return the groups (two or more, ascending) of files with the same bytes; one that cannot be read is alone.

    Only files of equal length are opened, only those whose last 4 KiB agree as well are read whole.
    """
    groups = same_content(lengths.tolist())
    for wanted in (TAIL, None):
        places = [place for group in groups for place in group]
        digests = _digests(places, reader, wanted)
        groups = [[group[k] for k in part] for group in groups for part in same_content([digests[k] for k in group])]
    return sorted(groups)


def same_content(digests: Sequence[Hashable]) -> list[list[int]]:
    """Return the groups (two or more, ascending) of places with the same digest; None is like nothing else."""
    places: dict[Hashable, list[int]] = {}
    for place, digest in enumerate(digests):
        if digest is not None:
            places.setdefault(digest, []).append(place)
    return [group for group in places.values() if len(group) > 1]


def _digests(places: Sequence[int], reader: Callable[[int], FileReader], wanted: int | None) -> dict[int, bytes | None]:
    chunks = [places[start : start + CHUNK] for start in range(0, len(places), CHUNK)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda chunk: [_digest(reader(place), wanted) for place in chunk], chunks)
        return dict(zip(places, (digest for part in found for digest in part), strict=True))


def _digest(reader: FileReader, wanted: int | None) -> bytes | None:
    """Return the digest of the last `wanted` bytes of a file (None: of all), or None where it cannot be read."""
    try:
        with open(reader.path, "rb") as file:  # noqa: PTH123 - a Path cannot hold bytes
            file.seek(0 if wanted is None else max(0, reader.length - wanted))
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return None


def difference_hash(pixels: Image) -> UInt64[np.ndarray, "4"]:
    """Return the 256-bit difference hash of an image: whether each cell of a 16 x 17 grey grid is darker than the next.

    The grid is the mean over its cells, so scale, compression and brightness hardly change it. Bits of the whole
    picture are spread over each of the sixteen 16-bit bands that `near_pairs` looks up.
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    grid = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
    bits = (grid[:, 1:] > grid[:, :-1]).reshape(-1, SIDE).T  # a band holds one bit of each row
    spread: UInt8[np.ndarray, "32"] = np.packbits(np.ascontiguousarray(bits))
    return spread.view(np.uint64)


def near_pairs(hashes: UInt64[np.ndarray, "images 4"], *, near: int = NEAR) -> Pairs:
    """Return the pairs (earlier, later) of images whose hashes differ in at most `near` bits, each pair once.

    Two hashes that differ in at most 15 bits agree in one of 16 bands, so for each band the images are sorted by it
    and compared with their next neighbours that agree in it: O(n log n). At most 64 neighbours are looked at in a band;
    of equal hashes only neighbours in the order of the images make a pair.
    """
    if near >= SIDE:
        raise ValueError(f"near: {near} bits; with {SIDE} bands at most {SIDE - 1} are found")
    bands = hashes.view(np.uint16).reshape(-1, SIDE)
    found = [np.empty((0, 2), np.int64)]
    for band in range(SIDE):
        order = np.lexsort((*hashes.T, bands[:, band]))
        values, sorted_hashes = bands[order, band], hashes[order]
        for step in range(1, min(NEIGHBOURS, len(order) - 1) + 1):
            agree = np.flatnonzero(values[step:] == values[:-step])
            if not len(agree):
                break
            differing = np.bitwise_count(sorted_hashes[agree] ^ sorted_hashes[agree + step]).sum(axis=1)
            close = agree[differing <= near]
            found.append(np.stack([order[close], order[close + step]], axis=1))
    pairs = np.unique(np.sort(np.concatenate(found), axis=1), axis=0)
    return pairs.astype(np.int64)
