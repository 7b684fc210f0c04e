"""What is shown of a photo is, to the pixel, what a run's loader gives its method."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scenewise.engine.config import RunConfig, build
from scenewise.engine.folder import PROPOSALS
from scenewise.engine.plan import make_plan
from scenewise.errors import UserError
from scenewise.sources import open_source
from scenewise.tools.propose import propose
from scenewise.tools.seen import see
from scenewise.views.loading import load_batch

DATA = "synthetic:8"


def configuration(method: str, crops: str, *, data: str = DATA, proposals: str | None = "labels") -> RunConfig:
    engine = {"epochs": 1, "batch_size": 4, "device": "cpu", "precision": "32"}
    sections = {"method": {"name": method}, "crops": {"name": crops}, "backbone": {"name": "test_resnet"}}
    return build(
        {"data": {"source": data, "size": 32, "proposals": proposals}, "seed": 3, "engine": engine, **sections}
    )


@pytest.mark.parametrize(
    ("method", "crops"), [("mocov2", "object"), ("univip", "overlap"), ("swav", "scene"), ("s2r2", "object-shift")]
)
def test_views_and_regions_are_those_of_the_run(method: str, crops: str) -> None:
    config, source = configuration(method, crops), open_source(DATA)
    plan = make_plan(config, source)
    batch = load_batch(
        source.__getitem__,
        len(source),
        [6, 1],
        policy=plan.config.crops,
        slots=plan.slots,
        seed=config.seed,
        epoch=2,
        proposals=plan.proposals,
    )
    seen = see(config, source, [6, 1], epoch=2)
    assert [photo.index for photo in seen.photos] == [6, 1]
    for place, photo in enumerate(seen.photos):
        assert photo.views.keys() == batch.views.keys()
        assert photo.photo.shape[:2] == source[photo.index].size
        assert np.array_equal(photo.proposals, source.boxes(photo.index)[0][:10])
        for slot, views in photo.views.items():
            assert np.array_equal(views, batch.views[slot][:, place].permute(0, 2, 3, 1).numpy())
            assert np.array_equal(photo.regions.boxes[slot], batch.boxes[slot][:, place].numpy())
            assert np.array_equal(photo.regions.kinds[slot], batch.kinds[slot][:, place].numpy())


def test_the_heading_says_by_what_it_was_cut() -> None:
    heading = " ".join(see(configuration("mocov2", "object"), open_source(DATA), [0]).heading)
    for words in ("mocov2", "crops: object", "synthetic:8", "32 px", "seed 3", "epoch 1", "LABELLED boxes"):
        assert words in heading
    plain = " ".join(see(configuration("mocov2", "scene", proposals=None), open_source(DATA), [0]).heading)
    assert "LABELLED" not in plain


def test_a_run_shows_the_proposals_it_has_made(tmp_path: Path) -> None:
    propose(DATA, out=tmp_path / PROPOSALS, generator="grid", workers=0)
    config, source = configuration("mocov2", "object", proposals="auto"), open_source(DATA)
    seen = see(config, source, [0], folder=tmp_path)
    assert len(seen.photos[0].proposals) == 10
    assert "grid" in " ".join(seen.heading)
    with pytest.raises(UserError, match=r"data\.proposals"):
        see(config, source, [0])


def test_photos_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        coarse = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((70, 60)).save(tmp_path / name)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-300])
    config = configuration("mocov2", "scene", data=str(tmp_path), proposals=None)
    seen = see(config, open_source(str(tmp_path)), [0, 1])
    assert [photo.caption for photo in seen.photos] == ["b.jpg"]
    assert [skip.key for skip in seen.skipped] == ["a.jpg"]
    assert "truncated" in seen.skipped[0].reason
