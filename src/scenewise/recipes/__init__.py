"""Recipes: published experiments as typed functions, one module per data set. The function's name is the recipe's.

Each docstring has the command, the hardware, the time, the expected figure, the source, and where we depart from it.
Times are estimates, not measurements: passes of the method x images x epochs on A100-class GPUs in bf16, at 3,600
passes a second of ResNet-50 at 224 px (10^13 multiply-adds a second of ResNet-18 on small images), if loading keeps up.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import yaml

from scenewise.engine.config_tree import Tree
from scenewise.errors import UserError, unknown_name
from scenewise.recipes.recipe import Recipe


def recipe_names() -> dict[str, str]:
    """Return name -> first line of the docstring of every recipe."""
    return {name: _header(function).splitlines()[0] for name, function in _recipes().items()}


def recipe_tree(name: str, *, field: str = "--recipe") -> Tree:
    """Return the configuration tree of a recipe; raises UserError with the nearest name when there is none."""
    return _recipe(name, field)().tree()


def recipe_yaml(name: str, *, field: str = "--recipe") -> str:
    """Return the recipe's docstring as comments and its tree, as a file for `--config`; raises as `recipe_tree`."""
    function = _recipe(name, field)
    header = "\n".join(f"# {line}".rstrip() for line in _header(function).splitlines())
    tree = yaml.safe_dump(function().tree(), sort_keys=False, allow_unicode=True)
    return f"{header}\n\n{tree}"


def _recipe(name: str, field: str) -> Callable[[], Recipe[Any]]:
    recipes = _recipes()
    if name not in recipes:
        raise UserError(unknown_name(field, name, recipes))
    return recipes[name]


def _header(function: Callable[[], Recipe[Any]]) -> str:
    return inspect.getdoc(function) or ""


def _recipes() -> dict[str, Callable[[], Recipe[Any]]]:
    found: dict[str, Callable[[], Recipe[Any]]] = {}
    for module in pkgutil.iter_modules(__path__):
        content = vars(importlib.import_module(f"{__name__}.{module.name}"))
        for name, value in content.items():
            if (
                inspect.isfunction(value)
                and value.__module__ == f"{__name__}.{module.name}"
                and not name.startswith("_")
            ):
                found[name.replace("_", "-")] = value
    return dict(sorted(found.items()))
