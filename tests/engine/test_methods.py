"""Every method through the engine: it trains as published, stops, goes on, and ends with the same bytes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from scenewise.engine.check import check_config
from scenewise.engine.config import build
from scenewise.engine.loop import Loop
from scenewise.engine.optim import decide_optimiser
from scenewise.engine.plan import make_plan, slow_teachers
from scenewise.engine.run import Run, pretrain_run
from scenewise.errors import UserError
from scenewise.methods import method_class, method_names
from scenewise.sources import open_source

SMALL = {"hidden": 16, "width": 8}


def sections(name: str, photos: Path) -> dict[str, Any]:
    """Return a configuration of a method with its published optimiser and small heads."""
    known = {field.name for field in dataclasses.fields(method_class(name).Config)}
    return {
        "data": {"source": str(photos), "size": 32},
        "method": {"name": name, **{key: value for key, value in SMALL.items() if key in known}},
        "crops": {"name": "scene"},  # these photos have no proposals
        "backbone": {"name": "test_resnet"},
        "engine": {
            "epochs": 2, "batch_size": 8, "workers": 0, "threads": 1, "precision": "32", "device": "cpu",
            "tensorboard": False, "checkpoint_steps": 3,
        },
    }  # fmt: skip


@pytest.mark.parametrize("name", method_names())
def test_it_trains_stops_and_goes_on_to_the_same_bytes(
    name: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    real = Loop._step

    def cut(self: Loop, *arguments: Any, **options: Any) -> dict[str, float]:
        if self.state.step == 7:
            raise PowerCut
        return real(self, *arguments, **options)

    config = build(sections(name, photos))
    whole = pretrain_run(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(Loop, "_step", cut)
        pretrain_run(config, tmp_path / "cut")
    resumed = pretrain_run(config, tmp_path / "cut", resume=True)
    assert resumed.backbone.read_bytes() == whole.backbone.read_bytes()
    first, second = ((run.folder / "metrics.jsonl").read_text().splitlines() for run in (whole, resumed))
    assert [json.loads(line)["loss"] for line in first] == [json.loads(line)["loss"] for line in second]
    settings = yaml.safe_load((whole.folder / "config.yaml").read_text())
    published = method_class(name).training_defaults
    assert settings["optimiser"]["name"] == published.optimiser
    assert settings["optimiser"]["schedule"] == published.schedule
    assert build(settings) == whole.config, "nothing is left open"


def test_a_long_warm_up_is_cut_to_a_tenth_of_the_run_and_said(photos: Path) -> None:
    config = build(sections("byol", photos)).optimiser
    decided, notes = decide_optimiser(config, method_class("byol"), epochs=20)
    assert decided.warmup_epochs == 2.0
    assert notes == ["optimiser.warmup_epochs is 2 instead of the published 10: a tenth of 20 epochs"]
    decided, notes = decide_optimiser(config, method_class("byol"), epochs=100)
    assert (decided.warmup_epochs, notes) == (10.0, [])
    assert decide_optimiser(config, method_class("byol"), epochs=0)[1] == [], "a run without a step has no warm-up"
    assert decide_optimiser(config, method_class("byol"), epochs=1)[1][0].endswith("a tenth of 1 epoch")
    asked = dataclasses.replace(config, warmup_epochs=7.0)
    assert decide_optimiser(asked, method_class("byol"), epochs=20)[0].warmup_epochs == 7.0


def test_a_teacher_that_outlives_the_run_is_said() -> None:
    config = method_class("msvq").Config()
    assert slow_teachers(config, steps=100_000) == []
    notes = slow_teachers(config, steps=400)
    assert len(notes) == 1
    assert notes[0].startswith("method.momentum 0.996 remembers about 250 steps and the run has 400")
    assert len(slow_teachers(config, steps=100)) == 2
    assert slow_teachers(method_class("simclr").Config(), steps=1) == []


def test_other_colours_are_subtracted_where_asked_and_kept_in_the_weights(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    mean, std = [0.49, 0.48, 0.45], [0.2, 0.2, 0.25]
    run = train(tmp_path / "run", data={"mean": mean, "std": std}, engine={"epochs": 1})
    assert yaml.safe_load((run.folder / "config.yaml").read_text())["data"]["mean"] == mean
    from safetensors import safe_open

    with safe_open(run.backbone, "pt") as opened:
        assert json.loads(opened.metadata()["std"]) == std


@pytest.mark.parametrize(
    ("name", "setting", "message"),
    [
        ("s2r2", {"views": 1}, r"method\.views: 1 is too few"),
        ("s2r2", {"query_views": 5}, r"method\.query_views: 5 must be at most the 4 views"),
        ("swav", {"prototypes": 1}, r"method\.prototypes: 1 must be at least 2"),
        (
            "swav",
            {"dictionary_size": 8},
            r"method\.dictionary_size: 8 must be larger than the 8 keys that a step writes, or 0",
        ),
        (
            "msvq",
            {"dictionary_size": 4},
            r"method\.dictionary_size: 4 must be larger than the 8 keys that a step writes",
        ),
        ("msf", {"k": 100}, r"method\.k: 100 must be at most the bank's 16 rows"),
        ("densecl", {"weight": 2.0}, r"method\.weight: 2\.0 must be 0 to 1"),
        ("ressl", {"weak": "wek"}, r"method\.weak: unknown name 'wek'. Did you mean 'weak'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    name: str, setting: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    tree = sections(name, photos)
    with pytest.raises(UserError, match=message):
        pretrain_run(build(tree | {"method": tree["method"] | setting}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_method_of_feature_maps_refuses_one_that_is_widened_after_pooling(photos: Path, tmp_path: Path) -> None:
    tree = sections("densecl", photos) | {"backbone": {"name": "mobilenetv3_small_050"}}
    with pytest.raises(UserError, match=r"backbone\.name: 'mobilenetv3_small_050' has a feature map of 288 channels"):
        pretrain_run(build(tree), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("name", "norm"), [("simclr", "batch"), ("mocov2", "group")])
def test_a_group_of_images_that_nothing_uses_is_said(name: str, norm: str, photos: Path) -> None:
    tree = sections(name, photos)
    backbone = {"name": "resnet18", "norm": norm, "batchnorm_group": 4}
    notes = make_plan(build(tree | {"backbone": backbone}), open_source(str(photos))).notes
    assert any(note.startswith("backbone.batchnorm_group 4 has no effect") for note in notes)


def test_a_group_that_nothing_uses_need_not_divide_the_batch(photos: Path) -> None:
    backbone = {"name": "resnet18", "batchnorm_group": 3}
    check_config(build(sections("simclr", photos) | {"backbone": backbone}))
    with pytest.raises(UserError, match="batchnorm_group: 3 does not divide"):
        check_config(build(sections("mocov2", photos) | {"backbone": backbone}))


@pytest.mark.parametrize(
    ("name", "accumulate", "said"), [("simclr", 2, True), ("simclr", 1, False), ("msvq", 2, False)]
)
def test_that_parts_of_a_batch_do_not_see_one_another_is_said(
    name: str, accumulate: int, said: bool, photos: Path
) -> None:
    tree = sections(name, photos)
    engine = tree["engine"] | {"accumulate": accumulate}
    notes = make_plan(build(tree | {"engine": engine}), open_source(str(photos))).notes
    assert any("simclr compares and normalises the images of a part, 4 of 8" in note for note in notes) == said


def test_a_method_of_feature_maps_refuses_a_vit_before_any_work(photos: Path, tmp_path: Path) -> None:
    tree = sections("densecl", photos) | {"backbone": {"name": "test_vit"}}
    with pytest.raises(UserError, match="backbone: 'test_vit' has no convolutional feature map"):
        pretrain_run(build(tree), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_of_one_image_are_refused_where_batch_statistics_need_two(photos: Path) -> None:
    tree = sections("byol", photos)
    tree["engine"] |= {"accumulate": 8}
    with pytest.raises(UserError, match=r"engine\.accumulate: 8 leaves one image .* use 4 or less"):
        check_config(build(tree))
