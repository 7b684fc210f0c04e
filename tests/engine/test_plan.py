"""What is decided before a run: the groups of batch statistics, and what is said of crops."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenewise.engine.check import check_config
from scenewise.engine.config import build
from scenewise.engine.plan import GROUP, choose_group, object_notes
from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.tools.pack import pack
from scenewise.views.objects import Object
from scenewise.views.scene import Scene
from scenewise.views.slots import Slot, multi_crop


@given(batch=st.integers(2, 1024), processes=st.integers(1, 8))
def test_groups_are_two_at_least_and_follow_from_the_batch_alone(batch: int, processes: int) -> None:
    """A key must not share the statistics of its query, however many processes there are."""
    group, notes = choose_group(None, batch=batch)
    assert (group == GROUP) == (not notes)
    if any(batch % size == 0 for size in range(4, batch // 2 + 1)):
        assert batch % group == 0 and batch // group >= 2
        if any(batch % size == 0 for size in range(4, min(GROUP, batch // 2) + 1)):
            assert 4 <= group <= GROUP
    else:
        assert group == batch
        assert "to shuffle the keys has no effect" in notes[0]
        return
    if batch % processes or batch == processes:  # refused before
        return
    if (batch // processes) % group:
        with pytest.raises(UserError, match=f"^backbone.batchnorm_group: {group} does not divide the "):
            choose_group(None, batch=batch, processes=processes)
    else:
        assert choose_group(None, batch=batch, processes=processes) == (group, notes)


@pytest.mark.parametrize(("batch", "group"), [(256, 32), (128, 32), (32, 16), (96, 32), (8, 4), (74, 37), (37, 37)])
def test_usual_batches(batch: int, group: int) -> None:
    assert choose_group(None, batch=batch)[0] == group


def test_one_image_at_once_is_refused_before_any_work() -> None:
    """Its statistics would be its own; a group of one cannot be written down either."""
    tree = {
        "data": {"source": "synthetic:20", "size": 32},
        "method": {"name": "mocov2"},
        "backbone": {"name": "test_resnet"},
        "engine": {"batch_size": 4, "accumulate": 4},
    }
    with pytest.raises(UserError, match=r"^engine\.accumulate: 4 leaves one image .* use 2 or less"):
        check_config(build(tree))
    check_config(build({**tree, "backbone": {"name": "resnet18", "norm": "group"}}))


def test_views_that_are_always_the_whole_window_are_told() -> None:
    """A lower bound of 0.14 divided by a mean area of 0.14 or less is 1: there is nothing to draw."""
    source, slots = open_source("synthetic:4"), multi_crop("moco", large=("large", 2), small=4)
    for mean_area, fixed in ((0.14, True), (0.1, True), (0.15, False), (None, False)):
        notes = object_notes(Object(mean_area=mean_area), slots, source)
        assert any("always the whole of their window" in note for note in notes) == fixed
    assert object_notes(Object(mean_area=0.1, object_scale=0.5), slots, source) == []
    assert object_notes(Scene(), slots, source) == []


def test_objects_of_packed_photos_are_told_to_be_larger(tmp_path: Path) -> None:
    pack("synthetic:6", out=tmp_path / "packed", short_side=40)
    source = open_source(f"shards:{tmp_path / 'packed'}")
    plain, patches = {"query": Slot(augmentation="moco")}, {"objects": Slot(augmentation="moco", instance=True)}
    assert object_notes(Scene(), plain, source) == []
    assert "these photos were packed" in object_notes(Object(), plain, source)[0]
    assert "these photos were packed" in object_notes(Scene(), patches, source)[0]
