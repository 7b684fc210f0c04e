"""The contract of every recipe: it is explained, complete and valid, and takes two steps on generated scenes."""

from __future__ import annotations

import dataclasses
import math
import re
import shlex
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import yaml

from scenewise import cli
from scenewise.backbones.create import check_options
from scenewise.engine.config import build
from scenewise.engine.config_tree import Tree, merge, read_yaml
from scenewise.engine.data import Parts, Pieces
from scenewise.engine.optim import decide_optimiser, learning_rate, make_optimiser
from scenewise.engine.plan import choose_group, make_plan
from scenewise.errors import UserError
from scenewise.methods import method_class
from scenewise.recipes import recipe_names, recipe_tree, recipe_yaml
from scenewise.sources import open_source
from scenewise.sources.spec import parse_spec
from scenewise.types import Batch, Progress
from scenewise.views.collate import normalise

NAMES = sorted(recipe_names())
# images of the published pre-training, by the data set a recipe's name ends in
IMAGES = {
    "coco": 118_287,
    "imagenet": 1_281_167,
    "openimages": 212_753,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "stl10": 100_000,
    "tinyimagenet": 100_000,
}
# what makes a step cheap, where a recipe has the setting
SMALL_METHOD = {"hidden": 16, "width": 16, "dictionary_size": 16, "prototypes": 8, "k": 3}
SMALL: Tree = {
    "data": {"source": "synthetic:8", "size": 32},
    "backbone": {"name": "test_resnet", "stem": "imagenet"},
    "engine": {"batch_size": 4, "workers": 0, "threads": 1, "precision": "32", "device": "cpu"},
}


def header(name: str) -> list[str]:
    """Return the lines of the recipe's comment."""
    text, _ = recipe_yaml(name).split("\n\n", 1)
    assert all(line.startswith("#") for line in text.splitlines())
    return [line.removeprefix("#").removeprefix(" ") for line in text.splitlines()]


def small(name: str) -> Tree:
    """Return the recipe with everything that costs time made small; a dictionary of no rows stays so."""
    tree = merge(recipe_tree(name), SMALL)
    tree["method"] |= {setting: value for setting, value in SMALL_METHOD.items() if tree["method"].get(setting)}
    if "batchnorm_group" in tree["backbone"]:
        tree["backbone"]["batchnorm_group"] = 2
    return tree


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_to_do_and_what_to_expect(name: str) -> None:
    lines = header(name)
    text = "\n".join(lines)
    assert re.fullmatch(r".+\d.+: .*(\d|no figure).*\.", lines[0]), "experiment: figure."
    assert lines[0] == recipe_names()[name]
    for label in ("Command: ", "Hardware: ", "Expected: ", "Source: "):
        assert sum(line.startswith(label) for line in lines) == 1, label
    assert re.search(r"Time: [\d.]+ hours? (on 8 )?\(estimate", text)
    command = shlex.split(next(line for line in lines if line.startswith("Command: ")).removeprefix("Command: "))
    assert command[:2] == ["scenewise", "pretrain"]
    cut_by_objects = build(merge(recipe_tree(name), {"data": {"source": command[2]}})).crops.needs_proposals
    proposals = ["--proposals", "proposals.arrow"] if cut_by_objects else []
    assert command[3:] == ["--recipe", name, *proposals, "--out", "RUN"]
    assert parse_spec(command[2]).kind in {"folder", "csv", *IMAGES}
    made = [shlex.split(line.removeprefix("Proposals: ")) for line in lines if line.startswith("Proposals: ")]
    assert [line[:5] for line in made] == (
        [["scenewise", "propose", command[2], "--out", "proposals.arrow"]] if cut_by_objects else []
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_leaves_nothing_open_and_nothing_to_warn_of(name: str) -> None:
    tree = recipe_tree(name)
    config = build(merge(tree, {"data": {"source": "synthetic:8"}}))
    images = IMAGES[next(part for part in name.split("-") if part in IMAGES)]
    kind, engine, backbone = method_class(config.method), config.engine, config.backbone

    assert {field: value for field, value in dataclasses.asdict(config.method_config).items() if value is not None} == (
        {field: value for field, value in tree["method"].items() if field != "name"}
    )
    assert {field: value for field, value in dataclasses.asdict(config.crops).items() if value is not None} == (
        {field: value for field, value in tree.get("crops", {}).items() if field != "name"}
    )
    method_config, notes = kind.resolve(config.method_config, images=images, batch_size=engine.batch_size)
    assert (method_config, notes) == (config.method_config, [])
    kind.slots(method_config)
    assert decide_optimiser(config.optimiser, kind, epochs=engine.epochs) == (config.optimiser, [])
    assert backbone.name is not None
    check_options(backbone.name, stem=str(backbone.stem), norm=str(backbone.norm))
    if kind.batch_statistics == "groups":
        assert backbone.batchnorm_group is not None
        choose_group(backbone.batchnorm_group, batch=engine.batch_size)
    else:
        assert backbone.batchnorm_group is None, "has no effect: statistics are the run's"


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_two_steps(name: str) -> None:
    config = build(small(name))
    if config.crops.needs_proposals:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, proposals="labels"))
    plan = make_plan(config, open_source("synthetic:8"))
    method, schedule, weights = plan.method, plan.schedule, plan.backbone.weights
    stated = recipe_tree(name)["data"]
    assert (weights.mean, weights.std) == (stated.get("mean", weights.mean), stated.get("std", weights.std))
    optimiser = make_optimiser(plan.config.optimiser, method, plan.peak_lr)
    parts = Parts(plan.source, schedule, policy=plan.config.crops, slots=plan.slots, proposals=plan.proposals)
    before = [parameter.detach().clone() for parameter in plan.backbone.parameters()]
    for step, piece in enumerate(islice(Pieces(schedule, first=0), 2)):
        batch = parts[piece]
        assert isinstance(batch, Batch)
        views = {role: normalise(view, mean=weights.mean, std=weights.std) for role, view in batch.views.items()}
        progress = Progress(step, schedule.steps, schedule.steps_per_epoch, schedule.seed)
        output = method.step(dataclasses.replace(batch, views=views), progress)
        assert math.isfinite(float(output.loss.detach()))
        output.loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(
                plan.config.optimiser,
                peak=plan.peak_lr,
                step=step,
                steps=progress.steps,
                steps_per_epoch=progress.steps_per_epoch,
            )
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        method.after_update(progress)
    assert any(bool((old != new).any()) for old, new in zip(before, plan.backbone.parameters(), strict=True))
    assert all(bool(parameter.isfinite().all()) for parameter in method.parameters())


def test_every_method_has_a_recipe() -> None:
    used = {recipe_tree(name)["method"]["name"] for name in NAMES}
    assert used >= {"mls", "mocov2", "simclr", "byol", "swav", "densecl", "ressl", "msf", "msvq", "s2r2", "univip"}


def test_changing_a_tree_does_not_change_the_recipe() -> None:
    tree = recipe_tree("mls-coco-400")
    tree["engine"]["epochs"] = -1
    tree["method"]["k"] = -1
    assert recipe_tree("mls-coco-400")["engine"]["epochs"] == 400
    assert recipe_tree("mls-coco-400")["method"]["k"] == 20


def test_an_unknown_recipe_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"--recipe: unknown name 'mls-coco-40'\. Did you mean 'mls-coco-400'"):
        recipe_tree("mls-coco-40")


def test_the_command_lists_all_recipes_one_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [list(item) for item in recipe_names().items()]


@pytest.mark.parametrize("name", ["msvq-stl10", "mls-coco-400"])
def test_what_the_command_prints_is_a_file_for_config(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["recipes", name]) == 0
    printed = capsys.readouterr().out
    assert f"--recipe {name} --out RUN" in printed
    file = tmp_path / "settings.yaml"
    file.write_text(printed, encoding="utf-8")
    data: dict[str, Any] = {"data": {"source": "synthetic:8"}}
    assert build(merge(read_yaml(file), data)) == build(merge(recipe_tree(name), data))
    assert yaml.safe_load(printed)["method"]["name"] == recipe_tree(name)["method"]["name"]


def test_the_command_names_the_nearest_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes", "msvq-cifar"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "'msvq-cifar'" in said.err
    assert "Did you mean 'msvq-cifar10'" in said.err
