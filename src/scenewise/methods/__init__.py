"""The methods, one file each; the file name is the registry."""

from __future__ import annotations

import importlib
import pkgutil

from scenewise.errors import UserError, unknown_name
from scenewise.methods.base import Method


def method_names() -> list[str]:
    """Return the names of all methods: the modules of this folder, `base` apart."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "base")


def method_class(name: str) -> type[Method]:
    """Return the method's class; raises UserError with the nearest name when there is none."""
    if name not in method_names():
        raise UserError(unknown_name("method", name, method_names()))
    module = importlib.import_module(f"{__name__}.{name}")
    found: type[Method] = module.METHOD
    return found
