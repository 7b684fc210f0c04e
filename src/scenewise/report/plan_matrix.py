"""A transport plan between the instances of a photo, drawn as a matrix with the instances along both sides."""

from __future__ import annotations

import numpy as np
from PIL import Image as Pictures
from PIL import ImageColor, ImageDraw

from scenewise.report.sheets import INK, PALETTE, PAPER, SOFT, TRACK, font, framed, wrapped

CELL, LEAST_CELL = 52, 32  # pixels of a cell, and of one among many
MOST = 420  # pixels the cells of a plan share before they become smaller
LINE = 16


def plan_extent(plan: np.ndarray) -> tuple[int, int]:
    """Return the (width, height) in pixels that the drawing of a (K, L) plan takes."""
    cell, (rows, columns) = _cell(plan), plan.shape
    width = max((columns + 2) * cell + LINE, 280)
    return width, 2 * LINE + (rows + 2) * cell + LINE * (1 + len(_words(plan, width)))


def draw_plan(
    sheet: Pictures.Image, plan: np.ndarray, online: np.ndarray, target: np.ndarray, at: tuple[int, int]
) -> None:
    """Draw a (K, L) plan: rows are the online network's instances, columns the teacher's; cells are % of the mass.

    online (K, S, S, 3) and target (L, S, S, 3) are the views, uint8. The sums of rows and columns, the marginals,
    stand at the edges. A cell is darkest at 1/K of the mass, what an object keeps that is told apart from all others.
    """
    draw, cell = ImageDraw.Draw(sheet), _cell(plan)
    shares = plan / plan.sum()
    left, top = at[0] + LINE + cell, at[1] + 2 * LINE + cell  # of the first cell of the matrix
    draw.text(at, "transport plan, % of the mass", INK, font=font(11))
    draw.text((left, at[1] + LINE), "target →", SOFT, font=font(11))
    _upwards(sheet, "← online", (at[0], top), len(plan) * cell)
    for row, view in enumerate(online):
        framed(sheet, view, (left - cell + 2, top + row * cell + 2), cell - 6, TRACK)
    for column, view in enumerate(target):
        framed(sheet, view, (left + column * cell + 2, top - cell + 2), cell - 6, TRACK)
    for (row, column), share in np.ndenumerate(shares):
        shade = min(1.0, float(share) * len(shares))
        corner = (left + column * cell, top + row * cell)
        draw.rectangle((*corner, corner[0] + cell - 2, corner[1] + cell - 2), fill=_blend(shade))
        _centred(draw, f"{100 * share:.0f}", corner, cell, PAPER if shade > 0.65 else INK)
    for row, share in enumerate(shares.sum(axis=1)):
        _centred(draw, f"{100 * share:.0f}", (left + shares.shape[1] * cell, top + row * cell), cell, SOFT)
    for column, share in enumerate(shares.sum(axis=0)):
        _centred(draw, f"{100 * share:.0f}", (left + column * cell, top + len(shares) * cell), cell, SOFT)
    _centred(draw, "sum", (left + shares.shape[1] * cell, top + len(shares) * cell), cell, SOFT)
    for number, line in enumerate(_words(plan, plan_extent(plan)[0])):
        draw.text((at[0], top + (len(shares) + 1) * cell + number * LINE), line, SOFT, font=font(11))


def _cell(plan: np.ndarray) -> int:
    most: int = max(plan.shape)
    return max(LEAST_CELL, min(CELL, MOST // most))


def _words(plan: np.ndarray, width: int) -> list[str]:
    kept = 100 * np.trace(plan) / plan.sum()
    told = f"{kept:.0f} % of the mass stays with the same object; {100 / len(plan):.0f} % would tell nothing apart"
    return wrapped(told, width, 11)


def _blend(shade: float) -> tuple[int, int, int]:
    """Return the colour between a light grey (0) and the palette's blue (1)."""
    light, dark = ImageColor.getrgb("#f3f4f6"), ImageColor.getrgb(PALETTE[0])
    red, green, blue = (round(a + (b - a) * shade) for a, b in zip(light, dark, strict=True))
    return red, green, blue


def _centred(draw: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], cell: int, colour: str) -> None:
    """Write a figure into the middle of a cell."""
    draw.text((corner[0] + cell / 2 - 1, corner[1] + cell / 2 - 1), text, colour, font=font(11), anchor="mm")


def _upwards(sheet: Pictures.Image, text: str, at: tuple[int, int], height: int) -> None:
    """Write text from the bottom up along a matrix `height` pixels high."""
    line = Pictures.new("RGB", (height, LINE), PAPER)
    ImageDraw.Draw(line).text((height, 0), text, SOFT, font=font(11), anchor="ra")
    sheet.paste(line.transpose(Pictures.Transpose.ROTATE_90), at)
