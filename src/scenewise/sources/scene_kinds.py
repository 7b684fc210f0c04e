"""The twelve kinds of generated objects: each an outline and a texture; both tell the class and colour does not.

Outlines are polygons in a square of side 2 around the origin, y downwards; textures are functions of such coordinates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32

Points = Float32[np.ndarray, "points 2"]
Plane = Float32[np.ndarray, "height width"]
Texture = Callable[[Plane, Plane, np.random.Generator], Plane]  # x, y -> 0..1, mixing the object's two colours
Outline = Callable[[np.random.Generator], Points]


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of objects. `turn` is the largest rotation from upright, in radians."""

    name: str
    outline: Outline
    texture: Texture
    turn: float = np.pi


def _polar(radius: np.ndarray, angle: np.ndarray) -> Points:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _circle(points: int = 40) -> np.ndarray:
    return np.linspace(0, 2 * np.pi, points, endpoint=False)


def _ball(generator: np.random.Generator) -> Points:
    angle = _circle()
    return _polar(np.full_like(angle, 0.92), angle)


def _brick(generator: np.random.Generator) -> Points:
    half = generator.uniform(0.42, 0.58)
    return np.array([(-1, -half), (1, -half), (1, half), (-1, half)], np.float32)


def _kite(generator: np.random.Generator) -> Points:
    top = generator.uniform(0.25, 0.5)
    return np.array([(0, -1), (0.7, -top), (0, 1), (-0.7, -top)], np.float32)


def _fish(generator: np.random.Generator) -> Points:
    angle = np.linspace(0.35, 2 * np.pi - 0.35, 28)
    body = np.stack([-0.2 - 0.8 * -np.cos(angle) * 0.95, 0.5 * np.sin(angle)], axis=1)
    spread = generator.uniform(0.45, 0.65)
    return np.concatenate([body, [(1, -spread), (0.8, 0), (1, spread)]]).astype(np.float32)


def _flower(generator: np.random.Generator) -> Points:
    angle = _circle(72)
    petals = int(generator.integers(5, 8))
    return _polar(0.35 + 0.65 * np.abs(np.cos(angle * petals / 2)) ** 0.6, angle)


def _gear(generator: np.random.Generator) -> Points:
    teeth = int(generator.integers(8, 12))
    angle = np.linspace(0, 2 * np.pi, 4 * teeth, endpoint=False) + np.tile([0.0, 0.03, 0.0, 0.03], teeth)
    return _polar(np.tile([1.0, 1.0, 0.72, 0.72], teeth), angle)


def _leaf(generator: np.random.Generator) -> Points:
    along = np.linspace(-1, 1, 20)
    width = generator.uniform(0.42, 0.58) * (1 - along**2) * (1 + 0.35 * along)
    right = np.stack([width, along], axis=1)
    return np.concatenate([right, (right * (-1, 1))[::-1]]).astype(np.float32)


def _moon(generator: np.random.Generator) -> Points:
    shift = generator.uniform(0.42, 0.55)  # of the circle that is cut out of the unit circle
    radius = 1.3 - shift
    tip = np.arccos((1 + shift**2 - radius**2) / (2 * shift))
    inner_tip = np.arctan2(np.sin(tip), np.cos(tip) - shift)
    outer = _polar(np.ones(30), np.linspace(tip, 2 * np.pi - tip, 30))
    inner = _polar(np.full(24, radius), np.linspace(2 * np.pi - inner_tip, inner_tip, 24))
    return np.concatenate([outer, inner + np.array([shift, 0], np.float32)]) + np.array([0.25, 0], np.float32)


def _mushroom(generator: np.random.Generator) -> Points:
    cap = _polar(np.ones(20), np.linspace(np.pi, 2 * np.pi, 20)) + np.array([0, 0.1], np.float32)
    half = generator.uniform(0.22, 0.36)
    stem = np.array([(half, 0.15), (half * 1.2, 1), (-half * 1.2, 1), (-half, 0.15)], np.float32)
    return np.concatenate([cap, stem])


def _star(generator: np.random.Generator) -> Points:
    inner = generator.uniform(0.36, 0.46)
    return _polar(np.tile([1.0, inner], 5), np.linspace(0, 2 * np.pi, 10, endpoint=False) - np.pi / 2)


def _cross(generator: np.random.Generator) -> Points:
    arm = generator.uniform(0.28, 0.38)
    quarter = np.array([(1, -arm), (1, arm), (arm, arm)])
    turns = [quarter, quarter[:, ::-1] * (-1, 1), -quarter, quarter[:, ::-1] * (1, -1)]
    return np.concatenate(turns).astype(np.float32)


def _tree(generator: np.random.Generator) -> Points:
    steps = [(0, -1), (0.42, -0.4), (0.22, -0.4), (0.62, 0.15), (0.34, 0.15), (0.8, 0.7), (0.14, 0.7), (0.14, 1)]
    right = np.array(steps, np.float32)
    right[1::2, 0] *= np.float32(generator.uniform(0.85, 1.1))
    left = right[1:] * np.array([-1, 1], np.float32)
    return np.concatenate([right, left[::-1]])


def _clip(values: Plane) -> Plane:
    clipped: Plane = np.clip(values, 0, 1)
    return clipped


def _wave(phase: Plane, sharpness: float = 2.5) -> Plane:
    return _clip(0.5 + 0.5 * sharpness * np.sin(phase * np.float32(2 * np.pi)))


def _fraction(values: Plane) -> Plane:
    fraction: Plane = values - np.floor(values)
    return fraction


def _stripes(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    return _wave(x * np.float32(generator.uniform(1.5, 2.3)) + np.float32(generator.random()) + 0 * y)


def _bricks(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    rows = y * np.float32(generator.uniform(2.6, 3.6))
    columns = x * np.float32(generator.uniform(1.3, 1.8)) + np.float32(0.5) * (np.floor(rows) % 2)
    gap_x, gap_y = np.abs(_fraction(columns) - 0.5), np.abs(_fraction(rows) - 0.5)
    return _clip((np.minimum(0.47 - gap_x, (0.44 - gap_y) * 0.7)) * 12)


def _checks(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    pace = np.float32(generator.uniform(1.4, 2.2) * 2 * np.pi)
    return _clip(0.5 + 4 * np.sin(x * pace) * np.sin(y * pace))


def _scales(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    pace = np.float32(generator.uniform(3.0, 4.2))
    rows = x * pace
    across = _fraction(y * pace + np.float32(0.5) * (np.floor(rows) % 2)) - np.float32(0.5)
    distance = np.sqrt(across**2 + (_fraction(rows) * np.float32(0.8)) ** 2)
    return _clip(distance * 2.2 - 0.35) ** 2


def _spokes(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    turns = np.arctan2(y, x) * np.float32(generator.integers(9, 15) / (2 * np.pi))
    return np.where(x * x + y * y < 0.07, np.float32(1.0), _wave(turns, 1.2) * np.float32(0.8))


def _rings(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    return _wave(np.sqrt(x * x + y * y) * np.float32(generator.uniform(3.0, 4.2)) + np.float32(generator.random()), 2.0)


def _veins(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    side = np.abs(x)
    lines = _clip(_wave((y + side) * np.float32(generator.uniform(2.8, 4.2)), 1.0) * 3 - 2)
    return np.asarray(np.maximum(lines, _clip((0.07 - side) * 25)))


def _dots(x: Plane, y: Plane, generator: np.random.Generator, pace: float, low: float, high: float) -> Plane:
    table = generator.random((3, 16, 16), np.float32)
    columns, rows = x * np.float32(pace), y * np.float32(pace)
    cell = np.floor(rows).astype(np.int32) % 16 * 16 + np.floor(columns).astype(np.int32) % 16
    radius = (low + (high - low) * table[0]).astype(np.float32)
    room = np.maximum(0.5 - radius, 0)
    across = _fraction(columns) - (0.5 + (2 * table[1] - 1) * room).ravel()[cell]
    down = _fraction(rows) - (0.5 + (2 * table[2] - 1) * room).ravel()[cell]
    return _clip((radius.ravel()[cell] - np.sqrt(across**2 + down**2)) * np.float32(9))


def _pits(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    return _dots(x, y, generator, generator.uniform(4.5, 6.0), 0.1, 0.5)


def _spots(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    return _dots(x, y, generator, generator.uniform(1.7, 2.3), 0.3, 0.46)


def _speckle(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    table, pace = generator.random(1024, np.float32), np.float32(generator.uniform(9, 13))
    cell = np.floor(y * pace).astype(np.int32) % 32 * 32 + np.floor(x * pace).astype(np.int32) % 32
    return np.asarray(table[cell])


def _weave(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    pace = np.float32(generator.uniform(2.6, 3.6))
    columns, rows = x * pace, y * pace
    over = (np.floor(columns) + np.floor(rows)) % 2 < 1
    threads = np.where(over, np.abs(_fraction(columns * 3) - 0.5), 1 - np.abs(_fraction(rows * 3) - 0.5))
    return threads.astype(np.float32)


def _blotches(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    cells = int(generator.integers(7, 11))
    height, width = x.shape[0] if x.shape[0] > 1 else y.shape[0], x.shape[1] if x.shape[1] > 1 else y.shape[1]
    smooth = cv2.resize(generator.random((cells, cells), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return _clip((smooth - np.float32(0.5)) * 5 + 0.5)


KINDS = (
    Kind("ball", _ball, _stripes),
    Kind("brick", _brick, _bricks),
    Kind("cross", _cross, _weave),
    Kind("fish", _fish, _scales, 0.6),
    Kind("flower", _flower, _spokes),
    Kind("gear", _gear, _rings),
    Kind("kite", _kite, _checks),
    Kind("leaf", _leaf, _veins),
    Kind("moon", _moon, _pits),
    Kind("mushroom", _mushroom, _spots, 0.4),
    Kind("star", _star, _speckle),
    Kind("tree", _tree, _blotches, 0.3),
)
