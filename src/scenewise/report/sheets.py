"""Sheets to look at: which crops a method takes for neighbours, and what all sheets are drawn with."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from scenewise.types import Image

# Okabe and Ito's palette for colour-blind readers, darkest first; its yellow is left out (faint on white).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, SOFT, PAPER, TRACK = "#1f2328", "#6b7280", "#ffffff", "#e5e7eb"
GAP = 10  # pixels between pictures
MARGIN = 16
HEADING, LABEL = 26, 20  # pixels of the line above a sheet and below a picture


@dataclass(frozen=True, kw_only=True, slots=True)
class NeighbourRow:
    """One query of a neighbour sheet: the crop, its nearest dictionary crops (nearest first), their cosines.

    Crops are (h, w, 3) uint8 RGB. captions: one a neighbour, or none at all.
    """

    query: Image
    neighbours: Sequence[Image]
    similarities: Sequence[float]
    caption: str = ""
    captions: Sequence[str] = field(default=())


def neighbour_sheet(rows: Sequence[NeighbourRow], *, size: int = 104) -> bytes:
    """Return a PNG with a row a query: the crop, and right of it its nearest crops, their cosine as figure and bar."""
    most = max((len(row.neighbours) for row in rows), default=0)
    columns = max(1, min(10, most))
    label = 34 if any(row.captions for row in rows) else 20
    heights = [max(1, math.ceil(len(row.neighbours) / columns)) * (size + label) + GAP for row in rows]
    left = MARGIN + size + 3 * GAP
    sheet = Pictures.new("RGB", (left + columns * (size + GAP) + MARGIN, 2 * MARGIN + HEADING + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 4), "query crop", INK, font=font(13))
    draw.text((left, MARGIN - 4), "nearest crops in the dictionary, most similar first", INK, font=font(13))
    top = MARGIN + HEADING
    for row, height in zip(rows, heights, strict=True):
        framed(sheet, row.query, (MARGIN, top), size, PALETTE[1])
        draw.text((MARGIN, top + size + 3), fit(draw, row.caption, size + GAP), SOFT, font=font(11))
        draw.line([(left - 1.5 * GAP, top), (left - 1.5 * GAP, top + height - 2 * GAP)], TRACK, 1)
        for place, (crop, similarity) in enumerate(zip(row.neighbours, row.similarities, strict=True)):
            across = left + place % columns * (size + GAP)
            down = top + place // columns * (size + label)
            framed(sheet, crop, (across, down), size, TRACK)
            _similarity(draw, similarity, (across, down + size + 4), size)
            if row.captions:
                told = fit(draw, row.captions[place], size)
                draw.text((across, down + size + 17), told, SOFT, font=font(11))
        top += height
    return png(sheet)


def framed(sheet: Pictures.Image, pixels: Image, at: tuple[int, int], size: int, colour: str) -> None:
    """Paste pixels fitted into a square of `size` and framed; small ones are enlarged smoothly."""
    picture = Pictures.fromarray(pixels)
    scale = size / max(picture.size)
    shape = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    fitted = picture.resize(shape, Pictures.Resampling.LANCZOS)
    width = 1 if colour == TRACK else 3
    corners = (at[0] - width, at[1] - width, at[0] + fitted.width - 1 + width, at[1] + fitted.height - 1 + width)
    ImageDraw.Draw(sheet).rectangle(corners, outline=colour, width=width)
    sheet.paste(fitted, at)


def _similarity(draw: ImageDraw.ImageDraw, similarity: float, at: tuple[int, int], width: int) -> None:
    """Draw a cosine as a figure and a bar from 0 to 1; a negative one has no bar."""
    told = f"{similarity:.2f}"
    bar = width - 34
    draw.text((at[0], at[1] - 1), told, INK, font=font(11))
    start, middle = at[0] + 32, at[1] + 4
    draw.rectangle((start, middle, start + bar, middle + 4), fill=TRACK)
    if math.isfinite(similarity) and similarity > 0:
        draw.rectangle((start, middle, start + min(1.0, similarity) * bar, middle + 4), fill=PALETTE[0])


def font(size: int) -> ImageFont.FreeTypeFont:
    """Return the letters of every sheet in a size of pixels."""
    # matplotlib's wheel carries this font: the same letters on every machine
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def fit(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """Return the text in one line of `width` pixels at the small size, its start cut off where it is too long."""
    text = " ".join(text.split())
    if draw.textlength(text, font(11)) <= width:
        return text
    while text and draw.textlength("…" + text, font(11)) > width:
        text = text[1:]
    return "…" + text


def wrapped(text: str, width: int, size: int) -> list[str]:
    """Return the text in lines of at most `width` pixels at that size, broken between words and within long ones."""
    measure, lines = font(size).getlength, [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        if measure(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            lines += [""] if lines[-1] and measure(lines[-1] + letter) > width else []
            lines[-1] += letter
    return lines


def png(sheet: Pictures.Image) -> bytes:
    """Return the bytes of a PNG file."""
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
