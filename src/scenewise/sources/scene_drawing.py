"""Draws a generated scene: the wall of its setting, clutter, objects with shadows and light, a camera."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from scenewise.sources import scene_plan
from scenewise.sources.scene_kinds import KINDS, Points, Texture
from scenewise.sources.scene_settings import SETTINGS
from scenewise.types import Size

_BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green, blue (ITU-R BT.601)
_SHIFT = 4  # outlines are drawn at a sixteenth of a pixel
Canvas = UInt8[np.ndarray, "height width 3"]
Map = UInt8[np.ndarray, "height width"]


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene: RGB pixels, the instance map (0 background, k the k-th object), the kind of each object."""

    pixels: Canvas
    instances: Map
    kinds: tuple[int, ...]


def draw(seed: int, split: str, index: int) -> Scene:
    """Draw scene `index`: the same for the same (seed, split, index), whoever asks and in whatever order."""
    content = scene_plan.content(seed, split, index)
    placed, generator = scene_plan.place(content), content.generator
    light = generator.uniform(0, 2 * np.pi)
    canvas = _background(content.size, content.setting, generator)
    _clutter(canvas, generator)
    instances = np.zeros(content.size, np.uint8)
    for number, each in enumerate(placed, start=1):
        outline = _place_outline(KINDS[each.kind].outline(generator), each, generator)
        _paint(canvas, outline, each, KINDS[each.kind].texture, light, generator, instances=instances, number=number)
    _twigs(canvas, instances, generator)
    return Scene(_camera(canvas, light, generator), instances, tuple(each.kind for each in placed))


def _palette(generator: np.random.Generator) -> UInt8[np.ndarray, "256 1 3"]:
    """Return 256 muted colours that run through two to four random ones."""
    stops = generator.uniform(20, 236, (1, int(generator.integers(2, 5)), 3)).astype(np.float32)
    grey = stops.mean(axis=2, keepdims=True)
    muted = grey + (stops - grey) * np.float32(generator.uniform(0.15, 0.7))
    palette: np.ndarray = cv2.resize(muted.astype(np.uint8), (256, 1), interpolation=cv2.INTER_LINEAR)
    return palette.reshape(256, 1, 3)


def _noise(size: Size, generator: np.random.Generator) -> Map:
    """Return smooth noise of three octaves."""
    height, width = size
    total = np.zeros(size, np.uint8)
    for least, most, weight in ((2, 6, 1.0), (8, 20, 0.35), (30, 80, 0.2)):
        cells = int(generator.integers(least, most))
        coarse = generator.integers(0, 256, (cells, max(2, cells * width // height)), np.uint8)
        octave = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        total = cv2.addWeighted(total, 1 - weight, octave, weight, 0)
    return total


def _background(size: Size, setting: int, generator: np.random.Generator) -> Canvas:
    """Return a wall in the setting's pattern and two random colours, and often a floor before it."""
    height, width = size
    noise = _noise(size, generator)
    pattern = cv2.addWeighted(SETTINGS[setting].pattern(size, generator), 0.7, noise, 0.3, 0)
    first, second = _two_colours(generator)
    shades = first + (second - first) * np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    canvas: Canvas = cv2.applyColorMap(pattern, shades.astype(np.uint8).reshape(256, 1, 3))
    if generator.random() < 0.6:
        level, slope = height * generator.uniform(0.55, 0.85), height * generator.uniform(-0.12, 0.12)
        mask = np.zeros(size, np.uint8)
        corners = np.array([(0, level - slope), (width, level + slope), (width, height), (0, height)])
        cv2.fillPoly(mask, [corners.astype(np.int32)], 255)
        cv2.copyTo(cv2.applyColorMap(noise[::-1], _palette(generator)), mask, canvas)
    return canvas


def _clutter(canvas: Canvas, generator: np.random.Generator) -> None:
    """Draw things of no class: plain polygons, ellipses and strokes, and blobs with the texture of any kind."""
    height, width = canvas.shape[:2]
    short = min(height, width)
    for _ in range(int(generator.integers(5, 12))):
        at = generator.random(2) * (width, height)
        extent = short * generator.uniform(0.04, 0.2)
        colour = generator.integers(10, 246, 3).tolist()
        centre = (int(at[0]), int(at[1]))
        match int(generator.integers(0, 4)):
            case 0:
                spokes = np.sort(generator.random(int(generator.integers(3, 8)))) * 2 * np.pi
                reach = extent * generator.uniform(0.4, 1.0, len(spokes))
                points = at + np.stack([reach * np.cos(spokes), reach * np.sin(spokes)], axis=1)
                _polygon(canvas, points, colour)
            case 1:
                axes = (int(extent) + 1, int(extent * generator.uniform(0.2, 0.9)) + 1)
                cv2.ellipse(canvas, centre, axes, int(generator.integers(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
            case 2:
                end = at + generator.uniform(-3, 3, 2) * extent
                thick = int(generator.integers(1, 6))
                cv2.line(canvas, centre, (int(end[0]), int(end[1])), colour, thick, cv2.LINE_AA)
            case _:
                axes, sweep = (int(extent) + 2, int(extent) + 2), int(generator.integers(60, 360))
                thick = int(generator.integers(1, 7))
                cv2.ellipse(canvas, centre, axes, int(generator.integers(0, 360)), 0, sweep, colour, thick, cv2.LINE_AA)
    for _ in range(int(generator.integers(1, 3))):
        radius = short * generator.uniform(0.08, 0.2)
        x, y = generator.random(2) * (width, height)
        blob = scene_plan.Placed(-1, float(x), float(y), float(radius), generator.uniform(-np.pi, np.pi))
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        phases = np.arange(2, 5)[:, None] * angle + generator.uniform(0, 2 * np.pi, (3, 1))
        reach = (0.75 + generator.uniform(-0.16, 0.16, 3) @ np.sin(phases)).astype(np.float32)[:, None]
        outline = reach * np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
        texture = KINDS[int(generator.integers(0, len(KINDS)))].texture
        _paint(canvas, _place_outline(outline, blob, generator), blob, texture, 0.0, generator)


def _twigs(canvas: Canvas, instances: Map, generator: np.random.Generator) -> None:
    """Draw up to three thin strokes in front of everything; what they cover belongs to no object."""
    height, width = instances.shape
    for _ in range(int(generator.integers(0, 4))):
        start, end = (generator.random((2, 2)) * (width, height)).astype(int).tolist()
        colour, thick = generator.integers(10, 246, 3).tolist(), int(generator.integers(1, 4))
        cv2.line(canvas, start, end, colour, thick, cv2.LINE_AA)
        cv2.line(instances, start, end, 0, thick)


def _place_outline(outline: Points, each: scene_plan.Placed, generator: np.random.Generator) -> Points:
    stretch, shear = generator.uniform(0.78, 1.0), generator.uniform(-0.15, 0.15)
    scale = np.array([[stretch, shear], [0, 1]] if generator.random() < 0.5 else [[1, 0], [shear, stretch]])
    cosine, sine = np.cos(each.angle), np.sin(each.angle)
    points = outline @ (np.array([[cosine, -sine], [sine, cosine]]) @ scale).T
    reach = max(1.0, float(np.sqrt((points**2).sum(axis=1).max())))
    centre = np.array([each.x, each.y])
    return np.asarray(points * (each.radius / reach) + centre, np.float32)


def _polygon(image: np.ndarray, points: np.ndarray, colour: list[int] | int) -> None:
    cv2.fillPoly(image, [np.round(points * 2**_SHIFT).astype(np.int32)], colour, cv2.LINE_AA, _SHIFT)


def _two_colours(generator: np.random.Generator) -> Float32[np.ndarray, "2 3"]:
    """Return two random colours: the one of six that differs most in brightness from the first, and the first."""
    colours = generator.uniform(10, 245, (6, 3)).astype(np.float32)
    brightness = colours @ _BRIGHTNESS
    other = int(np.argmax(np.abs(brightness - brightness[0])))
    return colours[[0, other]]


def _paint(
    canvas: Canvas,
    outline: Points,
    each: scene_plan.Placed,
    texture: Texture,
    light: float,
    generator: np.random.Generator,
    *,
    instances: Map | None = None,
    number: int = 0,
) -> None:
    """Paint one textured outline with its shadow; in `instances` the pixels it covers by half or more get `number`."""
    height, width = canvas.shape[:2]
    drop = 0.06 * each.radius + 1
    low, high = outline.min(axis=0) - drop - 3, outline.max(axis=0) + drop + 3
    left, top = max(0, int(low[0])), max(0, int(low[1]))
    right, bottom = min(width, int(high[0]) + 1), min(height, int(high[1]) + 1)
    if right <= left or bottom <= top:
        return
    mask = np.zeros((bottom - top, right - left), np.uint8)
    _polygon(mask, outline - np.array([left, top], np.float32), 255)
    patch = canvas[top:bottom, left:right]
    _shadow(patch, mask, drop, light)

    across = (np.arange(left, right, dtype=np.float32)[None] - np.float32(each.x)) / np.float32(each.radius)
    down = (np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(each.y)) / np.float32(each.radius)
    cosine, sine = np.float32(np.cos(each.angle)), np.float32(np.sin(each.angle))
    mix = texture(cosine * across + sine * down, cosine * down - sine * across, generator)
    first, second = _two_colours(generator)
    shade = 1 - np.float32(0.22) * (np.float32(np.cos(light)) * across + np.float32(np.sin(light)) * down)
    paint = cv2.merge([(first[c] + (second[c] - first[c]) * mix) * shade for c in range(3)])
    alpha = cv2.merge([mask] * 3).astype(np.float32) * np.float32(1 / 255)
    patch[:] = cv2.add(patch, cv2.multiply(cv2.subtract(paint, patch, dtype=cv2.CV_32F), alpha), dtype=cv2.CV_8U)
    if instances is not None:
        instances[top:bottom, left:right][mask > 127] = number


def _shadow(patch: Canvas, mask: Map, drop: float, light: float) -> None:
    shift = np.array([[1, 0, drop * np.cos(light)], [0, 1, drop * np.sin(light)]], np.float32)
    soft = cv2.warpAffine(mask, shift, (mask.shape[1], mask.shape[0]), flags=cv2.INTER_NEAREST)
    soft = cv2.blur(soft, (2 * int(drop / 2) + 3,) * 2)
    dark = cv2.convertScaleAbs(soft, alpha=-0.55, beta=255)  # |255 - 0.55 soft|
    cv2.multiply(patch, cv2.merge([dark] * 3), patch, scale=1 / 255)


def _camera(canvas: Canvas, light: float, generator: np.random.Generator) -> Canvas:
    """Apply uneven light, white balance, exposure, blur and grain."""
    height, width = canvas.shape[:2]
    lamp = cv2.resize(generator.integers(120, 256, (3, 3), np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    canvas = cv2.multiply(canvas, cv2.merge([lamp] * 3), scale=generator.uniform(0.85, 1.25) / 210)
    gamma = generator.uniform(0.75, 1.35) * generator.uniform(0.93, 1.07, 3)
    curves = (255 * (np.arange(256) / 255) ** gamma[:, None]).astype(np.uint8)
    canvas = cv2.merge([cv2.LUT(channel, curve) for channel, curve in zip(cv2.split(canvas), curves, strict=True)])
    if generator.random() < 0.35:
        canvas = cv2.GaussianBlur(canvas, (3, 3), generator.uniform(0.4, 0.9))
    strength = generator.uniform(2, 14)
    grain = cv2.convertScaleAbs(generator.integers(0, 256, (height, width), np.uint8), alpha=strength / 255)
    brighter: Canvas = cv2.add(canvas, (strength / 2,) * 4)
    final: Canvas = cv2.subtract(brighter, cv2.merge([grain] * 3))
    return final
