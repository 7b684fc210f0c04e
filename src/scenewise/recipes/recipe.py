"""What a recipe is: a published experiment with its type, and the configuration tree it stands for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from scenewise.engine.config import BackboneConfig, OptimiserConfig
from scenewise.engine.config_tree import Tree
from scenewise.types import Colour
from scenewise.views.policies import policy_name
from scenewise.views.regions import RegionPolicy

Method = TypeVar("Method")  # a method's own Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(Generic[Method]):
    """Everything a published experiment fixes; DATA, seed and the machine stay with the command line.

    A variant is `dataclasses.replace(another_recipe(), ...)`: the type checker knows every field.

    method: the method's own Config, which also names the method.
    optimiser: `lr` is for 256 images a step, so a rate published for another batch is converted.
    epochs, batch_size: `engine.epochs`, `engine.batch_size` (global). size: pixels of a full view.
    mean, std: of RGB in 0..1; None: ImageNet's.
    crops: the region policy; None: the method's usual one. The proposals it cuts by belong to DATA.
    """

    method: Method
    backbone: BackboneConfig
    optimiser: OptimiserConfig
    epochs: int
    batch_size: int
    size: int
    mean: Colour | None = None
    std: Colour | None = None
    crops: RegionPolicy | None = None

    def tree(self) -> Tree:
        """Return the sections of the configuration; what the experiment leaves open is not in it."""
        crops = {} if self.crops is None else {"crops": {"name": policy_name(self.crops), **_stated(self.crops)}}
        return {
            "method": {"name": type(self.method).__module__.rpartition(".")[2], **_stated(self.method)},
            **crops,
            "backbone": _stated(self.backbone),
            "data": _without_none({"size": self.size, "mean": self.mean, "std": self.std}),
            "optimiser": _stated(self.optimiser),
            "engine": {"epochs": self.epochs, "batch_size": self.batch_size},
        }


def _stated(section: Any) -> Tree:
    return _without_none(dataclasses.asdict(section))


def _without_none(settings: Tree) -> Tree:
    return {name: value for name, value in settings.items() if value is not None}
