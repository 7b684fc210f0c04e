"""A sheet of photos with their objects, and beside each how the crop policies would cut it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw

from scenewise.report.sheets import GAP, HEADING, INK, LABEL, MARGIN, PALETTE, PAPER, SOFT, fit, font, png
from scenewise.types import Image

CELL = (150, 210)  # (height, width) in pixels that a photo is fitted into
OBJECT, FIRST, SECOND = PALETTE[2], PALETTE[0], PALETTE[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class CutPhoto:
    """One photo of the sheet, boxes in its pixels.

    photo: (H, W, 3) uint8, upright RGB. objects, proposals: (n, 4); proposals may be empty. pairs: policy -> (2, 4) one
    pair of crops. told: policy -> a few words on that pair.
    """

    photo: Image
    objects: np.ndarray
    proposals: np.ndarray
    pairs: Mapping[str, np.ndarray]
    told: Mapping[str, str]
    caption: str


def cut_sheet(photos: Sequence[CutPhoto]) -> bytes:
    """Return a PNG with a row a photo: its objects and proposals outlined, then a pair of crops of each policy.

    Same input, same bytes.
    """
    policies = list(dict.fromkeys(name for photo in photos for name in photo.pairs))
    across, down = CELL[1] + GAP, CELL[0] + LABEL + GAP
    size = (2 * MARGIN + (1 + len(policies)) * across, 2 * MARGIN + HEADING + len(photos) * down)
    sheet = Pictures.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(["objects", *policies]):
        draw.text((MARGIN + column * across, MARGIN - 4), heading, INK, font=font(13))
    for row, photo in enumerate(photos):
        top = MARGIN + HEADING + row * down
        outlines = [(box, SOFT, 1) for box in photo.proposals] + [(box, OBJECT, 2) for box in photo.objects]
        _cell(sheet, photo.photo, outlines, (MARGIN, top), photo.caption)
        for column, policy in enumerate(policies, start=1):
            if policy not in photo.pairs:
                continue
            first, second = photo.pairs[policy]
            outlines = [(box, OBJECT, 1) for box in photo.objects] + [(first, FIRST, 3), (second, SECOND, 3)]
            _cell(sheet, photo.photo, outlines, (MARGIN + column * across, top), photo.told[policy])
    return png(sheet)


def _cell(
    sheet: Pictures.Image,
    photo: Image,
    outlines: Sequence[tuple[np.ndarray, str, int]],
    at: tuple[int, int],
    caption: str,
) -> None:
    """Paste a photo fitted into a cell with (box, colour, width) outlines, a line of text below."""
    picture = Pictures.fromarray(photo)
    scale = min(CELL[0] / picture.height, CELL[1] / picture.width)
    fitted = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), Pictures.Resampling.LANCZOS
    )
    draw = ImageDraw.Draw(fitted)
    for box, colour, width in outlines:
        x1, y1, x2, y2 = (np.asarray(box, dtype=float) * scale).tolist()
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))  # right and bottom are exclusive
        draw.rectangle(corners, outline=PAPER, width=width + 1)
        draw.rectangle(corners, outline=colour, width=width)
    sheet.paste(fitted, at)
    ink = ImageDraw.Draw(sheet)
    ink.text((at[0], at[1] + fitted.height + 3), fit(ink, caption, CELL[1]), SOFT, font=font(11))
