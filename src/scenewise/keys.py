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
from jaxtyping import Float64

_WORDS = 8  # 64-bit numbers in one digest of BLAKE2b


def _text(seed: int, key: tuple[int | str, ...]) -> bytes:
    return "\x1f".join([str(seed), *map(str, key)]).encode()


def _digest(seed: int, key: tuple[int | str, ...]) -> bytes:
    return hashlib.blake2b(_text(seed, key), digest_size=16).digest()


def generator(seed: int, *key: int | str) -> np.random.Generator:
    """Return the NumPy generator that belongs to `(seed, *key)`; the same key always gives the same stream."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, key), "little")))


def integer(seed: int, *key: int | str) -> int:
    """Return the 63-bit integer that belongs to `(seed, *key)`, to seed a torch generator with."""
    return int.from_bytes(_digest(seed, key)[:8], "little") >> 1


def uniforms(seed: int, *key: int | str, count: int) -> Float64[np.ndarray, " count"]:
    """Return the `count` numbers in [0, 1) that belong to `(seed, *key)`: where a few are enough.

    Digests of the key, 53 bits a number: a quarter of the time that making a generator takes, which counts when every
    view of every image needs one. The first numbers do not depend on `count`.
    """
    text = _text(seed, key)
    blocks = (hashlib.blake2b(text, salt=block.to_bytes(16, "little")).digest() for block in range(-(-count // _WORDS)))
    words = np.frombuffer(b"".join(blocks), "<u8", count)
    return (words >> np.uint64(11)) * 2.0**-53
