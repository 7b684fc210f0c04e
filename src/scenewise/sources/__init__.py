"""Where images come from: a text names the data, a source yields cheap records of them."""

from scenewise.sources.base import HasBoxes, HasInstances, Instances, Source
from scenewise.sources.cache import cache_folder
from scenewise.sources.opening import open_source
from scenewise.sources.spec import KINDS, Spec, parse_spec

__all__ = [
    "KINDS",
    "HasBoxes",
    "HasInstances",
    "Instances",
    "Source",
    "Spec",
    "cache_folder",
    "open_source",
    "parse_spec",
]
