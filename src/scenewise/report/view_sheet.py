"""A sheet of what a method sees: photos with their crops outlined, and the rendered views beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw

from scenewise.report.outlines import OUTLINES, Corners, corners_of, draw_outline, draw_stroke, free_corner
from scenewise.report.plan_matrix import draw_plan, plan_extent
from scenewise.report.sheets import GAP, INK, MARGIN, PALETTE, PAPER, SOFT, TRACK, fit, font, framed, png, wrapped
from scenewise.types import Image, View
from scenewise.views.regions import Regions

Colours = Mapping[tuple[str, int], str]  # (slot, number of the view) -> colour

WIDTH = 1600  # pixels of a sheet at most: it is read at its full size on a common screen
LINE = 16  # pixels of a line of small text
SAMPLE = 38  # pixels of a line in the legend: whole dashes of every kind
BLOCK_GAP = 2 * GAP  # between a photo, its views and its plan, and between photos
NAMED = {View.OBJECT: "object", View.CONTEXT: "context"}  # the kinds that are told below each view


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenPhoto:
    """One photo of the sheet, and all that a method sees of it in one epoch.

    index: its number in the source. photo: (H, W, 3) uint8, upright RGB. regions: where the views were cut, in its
    pixels. views: slot -> (V, S, S, 3) uint8 as rendered. proposals: (n, 4) boxes to show. plan: (K, L) mass from the
    instances of the first instance slot (rows) to those of the last (columns), or None.
    """

    index: int
    photo: Image
    regions: Regions
    views: Mapping[str, np.ndarray]
    proposals: np.ndarray
    caption: str = ""
    plan: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class _Tile:
    """Where a view stands among those of its photo; `leads`: the first of its slot in this row, with `room` pixels."""

    slot: str
    number: int
    side: int
    left: int
    top: int
    leads: bool
    room: int = 0


def view_sheet(
    photos: Sequence[SeenPhoto],
    *,
    heading: Sequence[str] = (),
    width: int = WIDTH,
    photo_size: tuple[int, int] = (320, 360),
    view_size: int = 180,
) -> bytes:
    """Return a PNG: each photo with its crops outlined, a colour a slot and a line a kind, and its views beside it.

    heading: paragraphs above. width: of the sheet at most, in pixels. photo_size: (height, width) a photo is fitted
    into. view_size: side of a full view; smaller ones keep their proportion, but for at least half of it. Same input,
    same bytes.
    """
    colours = _colours(photos)
    plan_room = max((BLOCK_GAP + plan_extent(photo.plan)[0] for photo in photos if photo.plan is not None), default=0)
    beside = photo_size[1] + BLOCK_GAP
    tiles = [_arrange(photo, width=width - 2 * MARGIN - beside - plan_room, view_size=view_size) for photo in photos]
    views_room = max((tile.left + tile.side for each in tiles for tile in each), default=0)
    block = beside + views_room + plan_room
    across = max(1, min(len(photos), (width - 2 * MARGIN + BLOCK_GAP) // (block + BLOCK_GAP)))
    heights = [_height(photo, each, photo_size) for photo, each in zip(photos, tiles, strict=True)]
    rows = [max(heights[start : start + across]) + BLOCK_GAP for start in range(0, len(photos), across)]
    inner = across * (block + BLOCK_GAP) - BLOCK_GAP
    lines = [line for paragraph in heading for line in wrapped(paragraph, inner, 13)]
    top = MARGIN + (len(lines) + 1) * (LINE + 4)
    sheet = Pictures.new("RGB", (2 * MARGIN + inner, top + sum(rows) + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN - 4 + number * (LINE + 4)), line, INK, font=font(13))
    _legend(draw, photos, (MARGIN, MARGIN - 4 + len(lines) * (LINE + 4)))
    for index, (photo, each) in enumerate(zip(photos, tiles, strict=True)):
        left, down = MARGIN + index % across * (block + BLOCK_GAP), top + sum(rows[: index // across])
        _photo(sheet, photo, colours, (left, down), photo_size)
        _views(sheet, photo, each, colours, (left + beside, down))
        if photo.plan is not None:
            views = [photo.views[slot] for slot in instance_slots(photo)]
            draw_plan(sheet, photo.plan, views[0], views[-1], (left + beside + views_room + BLOCK_GAP, down))
    return png(sheet)


def _colours(photos: Sequence[SeenPhoto]) -> Colours:
    """Return a colour for the views of each slot; where there is one slot only, for each view."""
    counts = {slot: len(views) for photo in photos for slot, views in photo.views.items()}
    views = [(slot, number) for slot, count in counts.items() for number in range(count)]
    slots = list(counts)
    return {
        (slot, number): PALETTE[(number if len(slots) == 1 else slots.index(slot)) % len(PALETTE)]
        for slot, number in views
    }


def instance_slots(photo: SeenPhoto) -> list[str]:
    """Return the slots whose views are whole objects."""
    kinds = photo.regions.kinds
    return [slot for slot in photo.views if len(kinds[slot]) and (kinds[slot] == View.INSTANCE).all()]


def in_words(regions: Regions) -> list[str]:
    """Return what the policy counted for a photo as sentences."""
    instances = max((int((kinds == View.INSTANCE).sum()) for kinds in regions.kinds.values()), default=0)
    told = []
    for name, value in regions.figures.items():
        if name == "fallback":
            told.append("FALLBACK: could not be cut as the policy's name says" if value else "no fallback")
        elif name == "attempts":
            told.append(f"{value:g} {'attempt' if value == 1 else 'attempts'} to find the crops")
        elif name == "real_instances" and instances:
            rest = "" if value >= instances else ", the others are random boxes"
            told.append(f"{value:g} of {instances} instances are proposals{rest}")
        elif name == "real_instances":
            told.append(f"{value:g} {'proposal lies' if value == 1 else 'proposals lie'} in both crops")
        else:
            told.append(f"{name.replace('_', ' ')}: {value:g}")
    return told


def _arrange(photo: SeenPhoto, *, width: int, view_size: int) -> list[_Tile]:
    """Return where the views stand: small views and each slot of instances begin a row, so that objects are aligned."""
    largest = max((views.shape[1] for views in photo.views.values()), default=1)
    instances = instance_slots(photo)
    tiles: list[_Tile] = []
    left = top = 0
    for slot, views in photo.views.items():
        side = max(view_size // 2, round(view_size * views.shape[1] / largest))
        for number in range(len(views)):
            former = tiles[-1] if tiles else None
            begins = number == 0 and former is not None and (former.side != side or slot in instances)
            if former is not None and (begins or left + side > width):
                left, top = 0, former.top + _row_height(former.side)
            leads = number == 0 or left == 0
            room = (len(views) - number) * (side + GAP) - GAP if leads else 0
            tiles.append(_Tile(slot, number, side, left, top, leads, min(room, max(side, width - left))))
            left += side + GAP
    return tiles


def _row_height(side: int) -> int:
    """Return the pixels of a row of views: a line with the slot's name, the views, a line with what each is."""
    return LINE + side + LINE + GAP // 2


def _height(photo: SeenPhoto, tiles: Sequence[_Tile], photo_size: tuple[int, int]) -> int:
    """Return the pixels of a photo's block."""
    below = LINE * (1 + sum(len(wrapped(told, photo_size[1], 11)) for told in in_words(photo.regions)))
    views = max((tile.top + _row_height(tile.side) for tile in tiles), default=0)
    plan = 0 if photo.plan is None else plan_extent(photo.plan)[1]
    return max(_fitted(photo.photo, photo_size)[1][1] + below, views, plan)


def _fitted(photo: Image, size: tuple[int, int]) -> tuple[float, tuple[int, int]]:
    """Return the scale at which a photo fits into (height, width) and its (width, height) then."""
    height, width = photo.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    return scale, (max(1, round(width * scale)), max(1, round(height * scale)))


def _legend(draw: ImageDraw.ImageDraw, photos: Sequence[SeenPhoto], at: tuple[int, int]) -> None:
    """Draw a sample of each kind of line that occurs, with what it stands for."""
    seen = {int(kind) for photo in photos for kinds in photo.regions.kinds.values() for kind in kinds}
    left, middle = float(at[0]), at[1] + LINE / 2
    for kind, outline in OUTLINES.items():
        if kind in seen:
            draw_stroke(draw, (left, middle), (left + SAMPLE, middle), INK, outline)
            draw.text((left + SAMPLE + 6, middle), outline.told, INK, font=font(11), anchor="lm")
            left += SAMPLE + 6 + round(draw.textlength(outline.told, font(11))) + BLOCK_GAP
    most = max((len(photo.proposals) for photo in photos), default=0)
    if most:
        draw.line([(left, middle), (left + SAMPLE, middle)], SOFT, 1)
        draw.text((left + SAMPLE + 6, middle), f"proposals, up to {most} a photo", INK, font=font(11), anchor="lm")


def _photo(
    sheet: Pictures.Image,
    seen: SeenPhoto,
    colours: Colours,
    at: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """Paste a photo fitted into `size`, proposals and views outlined, its name and the policy's figures below."""
    picture = Pictures.fromarray(seen.photo)
    scale, shape = _fitted(seen.photo, size)
    fitted = picture.resize(shape, Pictures.Resampling.LANCZOS)
    draw = ImageDraw.Draw(fitted, "RGBA")
    for box in seen.proposals:
        left, top, right, bottom = corners_of(box, scale)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=(0, 0, 0, 70))
        draw.rectangle((left, top, right, bottom), outline=(255, 255, 255, 150))
    labels = _labels(seen)
    taken: list[Corners] = []
    for slot, number, _ in labels:
        kind = View(int(seen.regions.kinds[slot][number]))
        draw_outline(draw, corners_of(seen.regions.boxes[slot][number], scale), colours[slot, number], OUTLINES[kind])
    for slot, number, told in labels:
        corners = corners_of(seen.regions.boxes[slot][number], scale)
        place = free_corner(corners, (draw.textlength(told, font(11)), 13.0), fitted.size, taken)
        taken.append(place)
        draw.text(place[:2], told, colours[slot, number], font=font(11), stroke_width=2, stroke_fill=PAPER)
    sheet.paste(fitted, at)
    ink = ImageDraw.Draw(sheet)
    ink.rectangle((at[0] - 1, at[1] - 1, at[0] + fitted.width, at[1] + fitted.height), outline=TRACK)
    down = at[1] + fitted.height + 3
    ink.text((at[0], down), fit(ink, seen.caption, size[1]), INK, font=font(11))
    for told in in_words(seen.regions):
        for line in wrapped(told, size[1], 11):
            down += LINE
            ink.text((at[0], down), line, PALETTE[1] if told.startswith("FALLBACK") else SOFT, font=font(11))


def _labels(seen: SeenPhoto) -> list[tuple[str, int, str]]:
    """Return (slot, view, text) of the boxes to outline: those of instances once, as all their slots show the same."""
    instances = instance_slots(seen)
    hidden = [slot for slot in instances if slot != max(instances, key=lambda name: len(seen.views[name]))]
    labels = []
    for slot in (slot for slot in seen.views if slot not in hidden):
        for number in range(len(seen.views[slot])):
            name = "" if slot in instances else slot
            labels.append((slot, number, f"{name} {number + 1}".strip() if len(seen.views[slot]) > 1 else name or "1"))
    return labels


def _views(
    sheet: Pictures.Image,
    seen: SeenPhoto,
    tiles: Sequence[_Tile],
    colours: Colours,
    at: tuple[int, int],
) -> None:
    """Paste the rendered views, each framed in its slot's colour, the slot's name above and what it is below."""
    draw = ImageDraw.Draw(sheet)
    for tile in tiles:
        left, top, colour = at[0] + tile.left, at[1] + tile.top, colours[tile.slot, tile.number]
        if tile.leads:
            draw.text((left, top), fit(draw, tile.slot, tile.room), colour, font=font(11))
        framed(sheet, seen.views[tile.slot][tile.number], (left, top + LINE), tile.side, colour)
        told = _told(seen, tile.slot, tile.number)
        draw.text((left, top + LINE + tile.side + 3), fit(draw, told, tile.side), SOFT, font=font(11))


def _told(seen: SeenPhoto, slot: str, number: int) -> str:
    """Return what stands below a view: its number, its kind, and whether a random box is in an object's place."""
    kind = View(int(seen.regions.kinds[slot][number]))
    words = [str(number + 1)] if len(seen.views[slot]) > 1 else []
    if kind in NAMED:
        words.append(NAMED[kind])
    if kind == View.INSTANCE and number >= seen.regions.figures.get("real_instances", np.inf):
        words.append("random")
    return " ".join(words)
