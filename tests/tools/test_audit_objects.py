"""Who says where the objects are, and what stands out in a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scenewise.errors import UserError
from scenewise.geometry import iou
from scenewise.sources import open_source
from scenewise.tools.audit_objects import Salient, choose_judge, salient_boxes
from scenewise.views.decode import Decoded


def discs(height: int, width: int, centres: list[tuple[int, int]], radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    picture = np.full((height, width, 3), 110, np.uint8)
    picture += np.random.default_rng(0).integers(0, 8, picture.shape, dtype=np.uint8)
    for y, x in centres:
        picture[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = (250, 230, 20)
    return picture


def test_what_stands_out_is_found() -> None:
    found = salient_boxes(discs(240, 320, [(60, 70), (180, 250)], 25))
    wanted = np.array([[45, 35, 95, 85], [225, 155, 275, 205]], np.float32)
    overlap = iou(torch.from_numpy(wanted), torch.from_numpy(found))
    assert len(found) <= 6
    assert (overlap.amax(dim=1) > 0.3).all(), overlap


@pytest.mark.parametrize("shape", [(2, 2), (3, 900), (64, 64), (500, 40)])
def test_flat_and_odd_pictures_give_boxes_inside(shape: tuple[int, int]) -> None:
    for picture in (np.full((*shape, 3), 128, np.uint8), discs(*shape, [(shape[0] // 2, shape[1] // 2)], 9)):
        found = salient_boxes(picture)
        assert np.isfinite(found).all()
        assert (found[:, :2] >= 0).all()
        assert (found[:, 2:] <= np.array(shape[::-1]) + 1e-3).all()
        assert (found[:, 2:] > found[:, :2]).all()


def test_boxes_of_a_reduced_picture_are_in_pixels_of_the_photo() -> None:
    picture = discs(120, 160, [(40, 60)], 20)
    direct = salient_boxes(picture)
    moved = Salient()(0, (480, 640), Decoded(picture, reduction=4, offset=(0.5, 0.0)))
    np.testing.assert_allclose(moved, np.clip((direct - [0.5, 0, 0.5, 0]) * 4, 0, [640, 480, 640, 480]), atol=1e-3)


def test_labels_judge_where_there_are_some_and_saliency_elsewhere(tmp_path: Path) -> None:
    Image.new("RGB", (50, 40)).save(tmp_path / "photo.png")
    labelled, folder = open_source("synthetic:3"), open_source(str(tmp_path))
    judge, notes = choose_judge(None, labelled)
    assert (judge.name, judge.generator, notes) == ("labels", "labels", [])
    np.testing.assert_array_equal(
        judge.boxes(1, labelled[1].size, Decoded(np.zeros((1, 1, 3), np.uint8))), labelled.boxes(1)[0]
    )
    for asked, source in ((None, folder), ("saliency", folder), ("saliency", labelled)):
        judge, notes = choose_judge(asked, source)
        assert judge.name == "proposals made on the fly (spectral residual saliency)"
        assert "an estimate" in notes[0]
    with pytest.raises(UserError, match="has no labelled boxes; name a file of proposals, or saliency"):
        choose_judge("labels", folder)
