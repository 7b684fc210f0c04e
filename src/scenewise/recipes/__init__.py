"""Recipes: published experiments as functions that return a configuration tree. The function's name is the recipe's."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from scenewise.errors import UserError, unknown_name

Recipe = Callable[[], Mapping[str, Any]]


def recipe_names() -> dict[str, str]:
    """Return name -> first line of the docstring of every recipe."""
    return {name: (inspect.getdoc(recipe) or "").splitlines()[0] for name, recipe in _recipes().items()}


def recipe_tree(name: str) -> dict[str, Any]:
    """Return the configuration tree of a recipe; raises UserError with the nearest name when there is none."""
    recipes = _recipes()
    if name not in recipes:
        raise UserError(unknown_name("--recipe", name, recipes))
    return dict(recipes[name]())


def _recipes() -> dict[str, Recipe]:
    found: dict[str, Recipe] = {}
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
