"""Sheets to look at: where views were cut and what they became, and which crops a method takes for neighbours."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from scenewise.types import Image

# Okabe and Ito's palette for colour-blind readers, darkest first; its yellow is left out (faint on white).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
INK, SOFT, PAPER, TRACK = "#1f2328", "#6b7280", "#ffffff", "#e5e7eb"
GAP = 10  # pixels between pictures
MARGIN = 16
HEADING, LABEL = 26, 20  # pixels of the line above a sheet and below a picture
MOST_VIEWS_ACROSS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class CropExample:
    """One photo of a crop sheet.

    photo: (H, W, 3) uint8, upright RGB. boxes: slot -> (V, 4) where each view was cut, `x1, y1, x2, y2` in its pixels.
    views: slot -> V rendered views, each (h, w, 3) uint8 RGB.
    """

    photo: Image
    boxes: Mapping[str, np.ndarray]
    views: Mapping[str, Sequence[Image]]
    caption: str = ""


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


def crop_sheet(
    examples: Sequence[CropExample], *, photo_size: tuple[int, int] = (190, 270), view_size: int = 120
) -> bytes:
    """Return a PNG of the photos with their crop boxes outlined, one colour a slot, and beside each its rendered views.

    photo_size: (height, width) in pixels that a photo is fitted into. Same input, same bytes.
    """
    slots = list(dict.fromkeys(slot for example in examples for slot in example.views))
    colours = {slot: PALETTE[index % len(PALETTE)] for index, slot in enumerate(slots)}
    counts = [sum(map(len, example.views.values())) for example in examples]
    columns = max(1, min(MOST_VIEWS_ACROSS, max(counts, default=1)))
    across = 2 if columns <= 2 and len(examples) > 1 else 1  # narrow blocks stand two in a row
    block = photo_size[1] + GAP + columns * (view_size + GAP) + 2 * GAP
    height = max(photo_size[0], max(1, math.ceil(max(counts, default=1) / columns)) * (view_size + LABEL)) + LABEL + GAP
    size = (2 * MARGIN + across * block, 2 * MARGIN + HEADING + math.ceil(len(examples) / across) * height)
    sheet = Pictures.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column in range(across):
        left = MARGIN + column * block
        draw.text((left, MARGIN - 4), "photo, and where it was cut", INK, font=_font(13))
        draw.text((left + photo_size[1] + 2 * GAP, MARGIN - 4), "what the method sees", INK, font=_font(13))
    for index, example in enumerate(examples):
        corner = (MARGIN + index % across * block, MARGIN + HEADING + index // across * height)
        _photo(sheet, example, colours, corner, photo_size)
        _views(sheet, example, colours, (corner[0] + photo_size[1] + 2 * GAP, corner[1]), columns, view_size)
    return _png(sheet)


def neighbour_sheet(rows: Sequence[NeighbourRow], *, size: int = 104) -> bytes:
    """Return a PNG with a row a query: the crop, and right of it its nearest crops, their cosine as figure and bar."""
    most = max((len(row.neighbours) for row in rows), default=0)
    columns = max(1, min(10, most))
    label = 34 if any(row.captions for row in rows) else 20
    heights = [max(1, math.ceil(len(row.neighbours) / columns)) * (size + label) + GAP for row in rows]
    left = MARGIN + size + 3 * GAP
    sheet = Pictures.new("RGB", (left + columns * (size + GAP) + MARGIN, 2 * MARGIN + HEADING + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 4), "query crop", INK, font=_font(13))
    draw.text((left, MARGIN - 4), "nearest crops in the dictionary, most similar first", INK, font=_font(13))
    top = MARGIN + HEADING
    for row, height in zip(rows, heights, strict=True):
        _framed(sheet, row.query, (MARGIN, top), size, PALETTE[1])
        draw.text((MARGIN, top + size + 3), _fit(draw, row.caption, size + GAP), SOFT, font=_font(11))
        draw.line([(left - 1.5 * GAP, top), (left - 1.5 * GAP, top + height - 2 * GAP)], TRACK, 1)
        for place, (crop, similarity) in enumerate(zip(row.neighbours, row.similarities, strict=True)):
            across = left + place % columns * (size + GAP)
            down = top + place // columns * (size + label)
            _framed(sheet, crop, (across, down), size, TRACK)
            _similarity(draw, similarity, (across, down + size + 4), size)
            if row.captions:
                told = _fit(draw, row.captions[place], size)
                draw.text((across, down + size + 17), told, SOFT, font=_font(11))
        top += height
    return _png(sheet)


def _photo(
    sheet: Pictures.Image,
    example: CropExample,
    colours: Mapping[str, str],
    at: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Paste a photo fitted into `size`, its boxes outlined, its caption below."""
    picture = Pictures.fromarray(example.photo)
    scale = min(size[0] / picture.height, size[1] / picture.width)
    fitted = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Pictures.Resampling.LANCZOS
    )
    draw = ImageDraw.Draw(fitted)
    for slot, boxes in example.boxes.items():
        for number, box in enumerate(np.asarray(boxes, dtype=float).reshape(-1, 4)):
            x1, y1, x2, y2 = (box * scale).tolist()
            corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))  # right and bottom are exclusive
            colour = colours.get(slot, INK)
            draw.rectangle(corners, outline=PAPER, width=4)
            draw.rectangle(corners, outline=colour, width=2)
            told = f"{slot} {number + 1}" if len(boxes) > 1 else slot
            place = (min(max(x1 + 4, 0), fitted.width - 12), min(max(y1 + 3, 0), fitted.height - 14))
            draw.text(place, told, colour, font=_font(11), stroke_width=2, stroke_fill=PAPER)
    sheet.paste(fitted, at)
    ink = ImageDraw.Draw(sheet)
    ink.text((at[0], at[1] + fitted.height + 3), _fit(ink, example.caption, size[1]), SOFT, font=_font(11))


def _views(
    sheet: Pictures.Image,
    example: CropExample,
    colours: Mapping[str, str],
    at: tuple[int, int],
    columns: int,
    size: int,
) -> None:
    """Paste the rendered views of a photo, `columns` in a row, each framed in its slot's colour and named below."""
    draw = ImageDraw.Draw(sheet)
    place = 0
    for slot, views in example.views.items():
        for number, view in enumerate(views):
            left, top = at[0] + place % columns * (size + GAP), at[1] + place // columns * (size + LABEL)
            _framed(sheet, view, (left, top), size, colours[slot])
            told = f"{slot} {number + 1}" if len(views) > 1 else slot
            draw.text((left, top + size + 2), _fit(draw, told, size), colours[slot], font=_font(11))
            place += 1


def _framed(sheet: Pictures.Image, pixels: Image, at: tuple[int, int], size: int, colour: str) -> None:
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
    draw.text((at[0], at[1] - 1), told, INK, font=_font(11))
    start, middle = at[0] + 32, at[1] + 4
    draw.rectangle((start, middle, start + bar, middle + 4), fill=TRACK)
    if math.isfinite(similarity) and similarity > 0:
        draw.rectangle((start, middle, start + min(1.0, similarity) * bar, middle + 4), fill=PALETTE[0])


def _font(size: int) -> ImageFont.FreeTypeFont:
    # matplotlib's wheel carries this font: the same letters on every machine
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _fit(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """Return the text in one line of `width` pixels at the small size, its start cut off where it is too long."""
    text = " ".join(text.split())
    if draw.textlength(text, _font(11)) <= width:
        return text
    while text and draw.textlength("…" + text, _font(11)) > width:
        text = text[1:]
    return "…" + text


def _png(sheet: Pictures.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
