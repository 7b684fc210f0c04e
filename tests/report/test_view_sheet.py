"""The sheet shows boxes where they are, a line for each kind, every view's own pixels, and the policy's figures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from PIL import Image, ImageColor

from scenewise.report.sheets import MARGIN, PALETTE
from scenewise.report.view_sheet import WIDTH, SeenPhoto, in_words, instance_slots, view_sheet
from scenewise.types import View
from scenewise.views.regions import Regions

GREEN, VIOLET, BLUE = (10, 200, 10), (200, 10, 200), (10, 10, 250)
S, O, C, I = View.SCENE, View.OBJECT, View.CONTEXT, View.INSTANCE  # noqa: E741


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def flat(colour: tuple[int, int, int], height: int = 50, width: int = 50) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def count(sheet: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((sheet == np.array(colour)).all(axis=2).sum())


def photo_of(sheet: np.ndarray, colour: tuple[int, int, int], height: int, width: int) -> np.ndarray:
    """Return the part of a sheet that shows a photo of one colour, which is not scaled."""
    rows, columns = np.nonzero((sheet == np.array(colour)).all(axis=2))
    return sheet[rows.min() : rows.min() + height, columns.min() : columns.min() + width]


def seen(
    boxes: Mapping[str, Sequence[Sequence[float]]],
    kinds: Mapping[str, Sequence[View]],
    *,
    photo: np.ndarray | None = None,
    views: Mapping[str, np.ndarray] | None = None,
    figures: Mapping[str, float] | None = None,
    proposals: Sequence[Sequence[float]] = (),
    plan: np.ndarray | None = None,
) -> SeenPhoto:
    counts = {slot: len(each) for slot, each in boxes.items()}
    regions = Regions(
        {slot: np.array(each, np.float32) for slot, each in boxes.items()},
        {slot: np.array(each, np.int8) for slot, each in kinds.items()},
        figures or {},
    )
    return SeenPhoto(
        index=0,
        photo=flat(GREEN, 200, 300) if photo is None else photo,
        regions=regions,
        views=views or {slot: np.stack([flat(VIOLET)] * number) for slot, number in counts.items()},
        proposals=np.array(proposals, float).reshape(-1, 4),
        caption="photo.jpg",
        plan=plan,
    )


def draw(*photos: SeenPhoto) -> np.ndarray:
    return pixels(view_sheet(photos, photo_size=(200, 300), view_size=100))


def test_a_box_is_outlined_where_it_was_cut_and_its_views_shown() -> None:
    boxes = {"query": [[20, 30, 120, 130]], "key": [[100, 50, 200, 150]]}
    views = {"query": flat(VIOLET)[None], "key": flat(BLUE)[None]}
    sheet = draw(seen(boxes, {"query": [S], "key": [S]}, views=views))
    photo = photo_of(sheet, GREEN, 200, 300)
    for colour, slot in ((PALETTE[0], "query"), (PALETTE[1], "key")):
        x1, _, x2, y2 = (int(value) for value in boxes[slot][0])
        ink = ImageColor.getrgb(colour)
        assert tuple(photo[y2 - 1, x1]) == ink
        assert tuple(photo[y2 - 1, x2 - 1]) == ink
        assert tuple(photo[y2, x2]) == GREEN
    assert count(sheet, VIOLET) == 100 * 100
    assert count(sheet, BLUE) == 100 * 100


@pytest.mark.parametrize(
    ("kind", "whole", "thick"), [(S, True, False), (O, True, True), (C, False, False), (I, False, False)]
)
def test_each_kind_of_view_has_a_line_of_its_own(kind: View, whole: bool, thick: bool) -> None:
    photo = photo_of(draw(seen({"query": [[20, 30, 220, 180]]}, {"query": [kind]})), GREEN, 200, 300)
    ink = (photo == np.array(ImageColor.getrgb(PALETTE[0]))).all(axis=2)
    bottom = ink[174:180, 30:210]  # without the corners
    assert bottom.any(axis=0).all() == whole
    assert bottom.sum(axis=0).max() == (3 if thick else 2)


def test_the_dashes_of_context_and_instances_differ() -> None:
    lines = [
        photo_of(draw(seen({"query": [[20, 30, 220, 180]]}, {"query": [kind]})), GREEN, 200, 300)[179, 20:220]
        for kind in (C, I)
    ]
    ink = np.array(ImageColor.getrgb(PALETTE[0]))
    changes = [int(np.abs(np.diff((line == ink).all(axis=1).astype(int))).sum()) for line in lines]
    assert changes[1] > 2 * changes[0] > 0


def test_proposals_are_drawn_faintly_and_none_leaves_the_photo_alone() -> None:
    where = ({"query": [[200, 150, 260, 190]]}, {"query": [S]})
    without, with_one = (draw(seen(*where, proposals=boxes)) for boxes in ((), [[20, 20, 80, 90]]))
    first, second = (photo_of(sheet, GREEN, 200, 300) for sheet in (without, with_one))
    assert tuple(first[20, 50]) == GREEN
    red, green, blue = (int(value) for value in second[20, 50])
    assert 10 < red < 255 and green > 200 and 10 < blue < 255  # between the photo and white
    assert tuple(second[50, 50]) == GREEN


def test_instances_are_outlined_once_and_shown_for_every_slot() -> None:
    boxes = [[20, 20, 90, 90], [120, 40, 220, 160]]
    example = seen(
        {"first": [[0, 0, 300, 200]], "instances": boxes, "target_instances": boxes},
        {"first": [S], "instances": [I, I], "target_instances": [I, I]},
        views={
            "first": flat(BLUE, 64, 64)[None],
            "instances": np.stack([flat(VIOLET, 32, 32)] * 2),
            "target_instances": np.stack([flat((250, 0, 10), 32, 32)] * 2),
        },
    )
    assert instance_slots(example) == ["instances", "target_instances"]
    sheet = draw(example)
    photo = photo_of(sheet, GREEN, 160, 300)
    assert count(photo, ImageColor.getrgb(PALETTE[1])) > 100
    assert count(photo, ImageColor.getrgb(PALETTE[2])) == 0
    assert count(sheet, VIOLET) == count(sheet, (250, 0, 10)) == 2 * 50 * 50
    tops = [np.nonzero((sheet == np.array(colour)).all(axis=2))[0].min() for colour in (VIOLET, (250, 0, 10))]
    lefts = [np.nonzero((sheet == np.array(colour)).all(axis=2))[1].min() for colour in (VIOLET, (250, 0, 10))]
    assert tops[0] < tops[1]
    assert lefts[0] == lefts[1]  # an object stands below itself


def test_views_of_a_single_slot_have_a_colour_each() -> None:
    sheet = draw(seen({"view": [[20, 20, 100, 100], [120, 20, 200, 100]]}, {"view": [S, S]}))
    photo = photo_of(sheet, GREEN, 200, 300)
    assert all(count(photo, ImageColor.getrgb(colour)) > 100 for colour in PALETTE[:2])


@pytest.mark.parametrize("views", [1, 3, 30])
def test_every_view_is_shown_inside_the_sheet_and_same_input_gives_same_bytes(views: int) -> None:
    examples = [
        seen({"large": [[0, 0, 300, 200]], "small": [[5, 5, 60, 60]] * views}, {"large": [S], "small": [S] * views})
    ] * 3
    png = view_sheet(examples, heading=["a heading"] * 2, view_size=64)
    assert png == view_sheet(examples, heading=["a heading"] * 2, view_size=64)
    sheet = pixels(png)
    assert count(sheet, VIOLET) == 3 * (views + 1) * 64 * 64
    assert sheet.shape[1] <= WIDTH
    assert (sheet[:, -MARGIN // 2 :] == 255).all()
    assert (sheet[-MARGIN // 2 :] == 255).all()


def test_odd_shapes_are_fitted_and_boxes_outside_are_clipped() -> None:
    wide = seen({"query": [[-50, -20, 5000, 30]]}, {"query": [C]}, photo=flat(GREEN, 1, 3000))
    high = seen({"query": [[0, 0, 0, 0]]}, {"query": [I]}, photo=flat(GREEN, 3000, 1))
    assert draw(wide, high).shape[1] <= WIDTH
    assert draw().shape[1] <= WIDTH  # no photo at all is fine


def test_a_plan_stands_beside_the_views() -> None:
    boxes = {"instances": [[20, 20, 90, 90], [120, 40, 220, 160]]}
    without, with_plan = (
        draw(seen(boxes, {"instances": [I, I]}, plan=plan)) for plan in (None, np.array([[0.5, 0.0], [0.0, 0.5]]))
    )
    assert with_plan.shape[1] > without.shape[1] + 200
    assert count(with_plan, ImageColor.getrgb(PALETTE[0])) > count(without, ImageColor.getrgb(PALETTE[0])) + 2 * 40 * 40


@pytest.mark.parametrize(
    ("figures", "kinds", "told"),
    [
        ({}, [S], []),
        ({"fallback": 0.0}, [O], ["no fallback"]),
        ({"fallback": 1.0}, [S], ["FALLBACK: could not be cut as the policy's name says"]),
        ({"attempts": 1.0}, [S], ["1 attempt to find the crops"]),
        ({"attempts": 7.0}, [S], ["7 attempts to find the crops"]),
        ({"fallback": 0.0, "real_instances": 4.0}, [I] * 4, ["no fallback", "4 of 4 instances are proposals"]),
        ({"real_instances": 1.0}, [I] * 4, ["1 of 4 instances are proposals, the others are random boxes"]),
        ({"real_instances": 1.0}, [S], ["1 proposal lies in both crops"]),
        ({"mean_shift": 2.5}, [S], ["mean shift: 2.5"]),
    ],
)  # fmt: skip
def test_figures_are_told_in_words(figures: Mapping[str, float], kinds: Sequence[View], told: Sequence[str]) -> None:
    boxes = np.zeros((len(kinds), 4), np.float32)
    assert in_words(Regions({"query": boxes}, {"query": np.array(kinds, np.int8)}, figures)) == told


def test_a_fallback_stands_out() -> None:
    where = ({"query": [[20, 30, 120, 130]]}, {"query": [S]})
    warning = ImageColor.getrgb(PALETTE[1])
    assert count(draw(seen(*where, figures={"fallback": 0.0})), warning) == 0
    assert count(draw(seen(*where, figures={"fallback": 1.0})), warning) > 50
