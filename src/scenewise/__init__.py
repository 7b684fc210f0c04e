"""Scenewise: from a folder of unlabelled photos of scenes to a vision backbone with a figure of its worth.

The functions mirror the command line; see `scenewise.api`. They are imported on first use, so that `import scenewise`
is quick.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scenewise.api import (
        audit,
        compare,
        demo,
        embed,
        evaluate,
        export,
        inspect,
        load_backbone,
        pack,
        pretrain,
        propose,
        study,
    )
    from scenewise.errors import UserError

__version__ = "0.1.0"
__all__ = [
    "UserError",
    "__version__",
    "audit",
    "compare",
    "demo",
    "embed",
    "evaluate",
    "export",
    "inspect",
    "load_backbone",
    "pack",
    "pretrain",
    "propose",
    "study",
]


class _Evaluations(ModuleType):
    """The package `scenewise.evaluate`, which is also the function `scenewise.evaluate(...)`.

    Once any of its modules is imported, the package stands in this module under the function's name, and __getattr__
    is not asked any more. Both names are fixed, so the package can be called.
    """

    def __call__(self, *given: Any, **named: Any) -> Any:
        return importlib.import_module("scenewise.api").evaluate(*given, **named)

    @property
    def __signature__(self) -> Any:
        return importlib.import_module("inspect").signature(importlib.import_module("scenewise.api").evaluate)


importlib.import_module("scenewise.evaluate").__class__ = _Evaluations  # imports nothing further


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'scenewise' has no attribute {name!r}")
    module = importlib.import_module("scenewise.errors" if name == "UserError" else "scenewise.api")
    return vars(module)[name]


def __dir__() -> list[str]:
    return sorted(__all__)
