"""Every recipe builds, has its own name, and takes two steps on generated scenes."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenewise.engine.config import build, merge
from scenewise.engine.run import check_config, pretrain_run
from scenewise.errors import UserError
from scenewise.recipes import recipe_names, recipe_tree

NAMES = sorted(recipe_names())
SMALL = {
    "data": {"source": "synthetic:16", "size": 32},
    "backbone": {"name": "test_resnet"},
    "method": {"dictionary_size": 16, "width": 16},
    "engine": {"epochs": 1, "batch_size": 8, "workers": 0, "threads": 1, "precision": "32", "device": "cpu"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_whole_configuration_and_says_what_to_expect(name: str) -> None:
    check_config(build(merge(recipe_tree(name), {"data": {"source": "synthetic:100000"}})))
    assert "expected" in recipe_names()[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_takes_two_steps(name: str, tmp_path: Path) -> None:
    tree = merge(recipe_tree(name), SMALL)
    if tree["method"]["name"] == "mls":
        tree["method"]["k"] = 3
    tree["engine"]["tensorboard"] = False
    run = pretrain_run(build(tree), tmp_path / "run")
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == 2


def test_changing_a_tree_does_not_change_the_recipe() -> None:
    tree = recipe_tree(NAMES[0])
    tree["engine"]["epochs"] = -1
    assert recipe_tree(NAMES[0])["engine"]["epochs"] > 0


def test_an_unknown_recipe_is_told_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'mls-coco-400'"):
        recipe_tree("mls-coco-40")
