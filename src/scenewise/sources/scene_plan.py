"""What a generated scene holds and where: numbers only, in an order that gives size and labels almost for free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scenewise import keys
from scenewise.sources.scene_kinds import KINDS
from scenewise.sources.scene_settings import SETTINGS, choose_kinds
from scenewise.types import Size

SIDES = (160, 320)  # pixels: shortest and longest side
OBJECTS = (2, 6)
_KINDS_SHARE = (0.3, 0.45, 0.25)  # of scenes with 1, 2, 3 kinds: objects repeat, as things do on a shelf or in a field
_RADIUS = (0.12, 0.30)  # half of an object's extent over the short side of the scene
_OVERLAP = 0.3  # of the smaller of two circles' diameter; more is tried only where there is no room
_CANDIDATES = 16


@dataclass(frozen=True, slots=True)
class Content:
    """The size and setting of a scene and each object's kind; `generator` goes on to the rest of the same stream."""

    size: Size
    setting: int
    kinds: tuple[int, ...]
    generator: np.random.Generator


@dataclass(frozen=True, slots=True)
class Placed:
    """An object: its kind, the circle it lies in (pixels) and its rotation (radians), farthest first."""

    kind: int
    x: float
    y: float
    radius: float
    angle: float


def content(seed: int, split: str, index: int) -> Content:
    """Return what scene `index` holds, from (seed, split, index) alone."""
    generator = keys.generator(seed, "synthetic", split, index)
    height, width = (int(side) for side in generator.integers(SIDES[0], SIDES[1] + 1, 2))
    count = int(generator.integers(OBJECTS[0], OBJECTS[1] + 1))
    different = min(count, 1 + int(np.searchsorted(np.cumsum(_KINDS_SHARE), generator.random(), side="right")))
    setting = int(generator.integers(len(SETTINGS)))
    chosen = choose_kinds(setting, different, generator)
    repeated = [chosen[place] for place in generator.integers(0, different, count - different)]
    return Content((height, width), setting, (*chosen, *repeated), generator)


def place(scene: Content) -> list[Placed]:
    """Return the objects with places and sizes such that none hides another; drawn from the scene's generator."""
    generator, (height, width) = scene.generator, scene.size
    crowd = (4 / max(4, len(scene.kinds))) ** 0.5
    circles = np.empty((0, 3))
    placed = []
    for kind in scene.kinds:
        low, high = _RADIUS
        radius = min(height, width) * low * (high / low) ** generator.random() * crowd
        while True:
            margin = 0.75 * radius  # up to an eighth of the extent may be cut by the border
            at = generator.random((_CANDIDATES, 2)) * (width - 2 * margin, height - 2 * margin) + margin
            distance = np.hypot(at[:, None, 0] - circles[None, :, 0], at[:, None, 1] - circles[None, :, 1])
            overlap = (radius + circles[:, 2] - distance) / (2 * np.minimum(radius, circles[:, 2]))
            worst = overlap.max(axis=1, initial=0.0)
            best = int(np.argmax(worst <= _OVERLAP)) if (worst <= _OVERLAP).any() else -1
            if best >= 0:
                break
            radius *= 0.85
        circles = np.concatenate([circles, [[*at[best], radius]]])
        angle = KINDS[kind].turn * (2 * generator.random() - 1)
        placed.append(Placed(kind, float(at[best, 0]), float(at[best, 1]), float(radius), float(angle)))
    return sorted(placed, key=lambda each: each.y + each.radius)  # what stands lower in the picture is nearer
