"""Randomness has keys (law 2): every random number is a function of a seed and a name, never of workers or ranks.

pixels                           (seed, "pixels", epoch, image, slot, view)
regions, proposals, view swaps   (seed, "regions", epoch, image)
boxes of a proposal generator    (seed, "proposals", image)
shuffles and dropout             (seed, "shuffle" | "dropout", step)
initial weights                  (seed, "weights")
order of the samples             (seed, "order", epoch)
"""

from __future__ import annotations

import hashlib

import numpy as np


def _digest(seed: int, key: tuple[int | str, ...]) -> bytes:
    text = "\x1f".join([str(seed), *map(str, key)])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return the NumPy generator that belongs to `(seed, *key)`; the same key always gives the same stream."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, key), "little")))


def integer(seed: int, *key: int | str) -> int:
    """Return the 63-bit integer that belongs to `(seed, *key)`, to seed a torch generator with."""
    return int.from_bytes(_digest(seed, key)[:8], "little") >> 1
