"""Outlines of boxes on a photo: a line of its own for each kind of view, and labels that do not cover each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

from scenewise.report.sheets import PAPER
from scenewise.types import View

Corners = tuple[float, float, float, float]  # left, top, right, bottom of what is drawn, all of them inclusive


@dataclass(frozen=True, slots=True)
class Outline:
    """How the outline of one kind of view is drawn: `dash` pixels on and off, None for a whole line."""

    told: str
    width: int
    dash: tuple[int, int] | None = None


OUTLINES: Mapping[View, Outline] = {
    View.SCENE: Outline("random crop", 2),
    View.OBJECT: Outline("object: inside an object's window", 3),
    View.CONTEXT: Outline("context: inside its surroundings", 2, (9, 6)),
    View.INSTANCE: Outline("instance: a whole object, or a random box in its place", 2, (3, 3)),
}


def corners_of(box: np.ndarray, scale: float) -> Corners:
    """Return the corners of an outline in drawn pixels; a box's right and bottom are exclusive."""
    x1, y1, x2, y2 = (np.asarray(box, dtype=float) * scale).tolist()
    return x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)


def draw_outline(draw: ImageDraw.ImageDraw, corners: Corners, colour: str, outline: Outline) -> None:
    """Draw the outline of a box on a white one a little wider."""
    x1, y1, x2, y2 = corners
    draw.rectangle(corners, outline=PAPER, width=outline.width + 2)
    if outline.dash is None:
        draw.rectangle(corners, outline=colour, width=outline.width)
        return
    inset = outline.width // 2  # lines are drawn around their middle
    for start, end in (
        ((x1, y1 + inset), (x2, y1 + inset)),
        ((x1, y2 - inset), (x2, y2 - inset)),
        ((x1 + inset, y1), (x1 + inset, y2)),
        ((x2 - inset, y1), (x2 - inset, y2)),
    ):
        draw_stroke(draw, start, end, colour, outline)


def draw_stroke(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], colour: str, outline: Outline
) -> None:
    """Draw a straight line in a kind's dashes."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    on, off = outline.dash or (length + 1, 1)
    across = end[0] - start[0] > end[1] - start[1]
    for first in np.arange(0, length + 1, on + off):
        last = min(first + on - 1, length)
        ends = ((start[0] + place, start[1]) if across else (start[0], start[1] + place) for place in (first, last))
        draw.line(list(ends), fill=colour, width=outline.width)


def free_corner(
    corners: Corners,
    size: tuple[float, float],
    within: tuple[int, int],
    taken: Sequence[Corners],
) -> Corners:
    """Return the place of a label of `size` in a corner of its box: the first that no other label has, if there is."""
    places = list(_corner_places(corners, size, within))
    free = [
        place
        for place in places
        if not any(
            place[0] < other[2] and other[0] < place[2] and place[1] < other[3] and other[1] < place[3]
            for other in taken
        )
    ]
    return (free or places)[0]


def _corner_places(corners: Corners, size: tuple[float, float], within: tuple[int, int]) -> Iterator[Corners]:
    x1, y1, x2, y2 = corners
    for left, top in (
        (x1 + 6, y1 + 5),
        (x2 - 6 - size[0], y1 + 5),
        (x1 + 6, y2 - 6 - size[1]),
        (x2 - 6 - size[0], y2 - 6 - size[1]),
    ):
        inside = max(2.0, min(left, within[0] - size[0] - 2)), max(0.0, min(top, within[1] - size[1] - 2))
        yield (*inside, inside[0] + size[0], inside[1] + size[1])
