"""The six settings of generated scenes: what their walls look like, and which kinds of objects are at home in them.

As in photos, what surrounds an object goes with what it is: a method that never sees a label can learn the one from the
other. Without settings a scene was a bag of unrelated things, and two crops of it had little in common to be learnt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

from scenewise.sources.scene_kinds import KINDS
from scenewise.types import Size

AT_HOME = 0.85  # of the kinds that a scene holds: the rest may come from anywhere
Pattern = Callable[[Size, np.random.Generator], UInt8[np.ndarray, "height width"]]


@dataclass(frozen=True, slots=True)
class Setting:
    """A family of scenes. `pattern` draws its wall as grey values; `kinds` are the numbers of what belongs there."""

    name: str
    pattern: Pattern
    kinds: tuple[int, ...]


def _grid(size: Size, generator: np.random.Generator, *, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates across and down, in short sides of the scene, from a random origin and slightly turned."""
    height, width = size
    short, angle = min(height, width), generator.uniform(-tilt, tilt)
    across = (np.arange(width, dtype=np.float32)[None] / short + np.float32(generator.random())).astype(np.float32)
    down = (np.arange(height, dtype=np.float32)[:, None] / short + np.float32(generator.random())).astype(np.float32)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cosine * across + sine * down, cosine * down - sine * across


def _grey(values: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    return np.asarray(np.clip(values * 255, 0, 255), np.uint8)


def _strokes(size: Size, generator: np.random.Generator, *, columns: int, rows: int) -> np.ndarray:
    """Return noise drawn out along one direction."""
    coarse = generator.integers(0, 256, (rows, columns), np.uint8)
    return np.asarray(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_LINEAR))


def _meadow(size: Size, generator: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    return _strokes(size, generator, columns=int(generator.integers(40, 56)), rows=int(generator.integers(6, 9)))


def _shore(size: Size, generator: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    _, down = _grid(size, generator, tilt=0.1)
    swell = _strokes(size, generator, columns=5, rows=7).astype(np.float32) / 255
    return _grey(0.5 + 0.5 * np.sin((down * generator.uniform(7, 10) + swell) * np.float32(2 * np.pi)))


def _yard(size: Size, generator: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    across, down = _grid(size, generator, tilt=0.06)
    rows = down * np.float32(generator.uniform(9, 12))
    columns = across * np.float32(generator.uniform(4.5, 6)) + np.float32(0.5) * (np.floor(rows) % 2)
    joint = ((columns % 1) < 0.12) | ((rows % 1) < 0.2)
    return _grey(np.where(joint, np.float32(1.0), np.float32(0.1)))


def _hall(size: Size, generator: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    across, down = _grid(size, generator, tilt=0.06)
    pace = np.float32(generator.uniform(4, 5.5))
    return _grey((np.floor(across * pace) + np.floor(down * pace)) % 2)


def _shed(size: Size, generator: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    across, _ = _grid(size, generator, tilt=0.06)
    planks = across * np.float32(generator.uniform(6, 8))
    shade = generator.random(64).astype(np.float32)[np.floor(planks).astype(int) % 64]
    return _grey(np.where((planks % 1) < 0.14, np.float32(1.0), np.float32(0.6) * shade))


def _beach(size: Size, generator: np.random.Generator) -> UInt8[np.ndarray, "height width"]:
    """Round stones on an uneven lattice."""
    across, down = _grid(size, generator, tilt=0.3)
    pace = np.float32(generator.uniform(7, 9))
    columns, rows = across * pace, down * pace
    table = generator.random((2, 32, 32), np.float32)
    cell = np.floor(rows).astype(int) % 32 * 32 + np.floor(columns).astype(int) % 32
    x = columns % 1 - 0.5 + 0.2 * (table[0].ravel()[cell] - 0.5)
    y = rows % 1 - 0.5 + 0.2 * (table[1].ravel()[cell] - 0.5)
    return _grey((0.44 - np.sqrt(x * x + y * y)) * 8)


def _named(*names: str) -> tuple[int, ...]:
    return tuple([kind.name for kind in KINDS].index(name) for name in names)


SETTINGS = (  # every kind is at home in two of them, so that no setting tells a kind
    Setting("meadow", _meadow, _named("tree", "flower", "leaf", "mushroom")),
    Setting("shore", _shore, _named("fish", "moon", "star", "tree")),
    Setting("yard", _yard, _named("brick", "gear", "flower", "ball")),
    Setting("hall", _hall, _named("cross", "kite", "star", "brick")),
    Setting("shed", _shed, _named("gear", "cross", "mushroom", "fish")),
    Setting("beach", _beach, _named("ball", "kite", "leaf", "moon")),
)


def choose_kinds(setting: int, count: int, generator: np.random.Generator) -> list[int]:
    """Return `count` different kinds of a scene in that setting, most of them at home there."""
    weights = np.full(len(KINDS), (1 - AT_HOME) / len(KINDS))
    home = list(SETTINGS[setting].kinds)
    weights[home] += AT_HOME / len(home)
    return [int(kind) for kind in generator.choice(len(KINDS), count, replace=False, p=weights)]
