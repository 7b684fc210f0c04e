"""The region policies by name, as `--crops` and the section `crops` of a configuration name them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from scenewise.errors import UserError, unknown_name
from scenewise.views.objects import Object, ObjectScene, ObjectShift
from scenewise.views.overlap import Overlap
from scenewise.views.regions import RegionPolicy
from scenewise.views.scene import Scene

POLICIES: Mapping[str, type[RegionPolicy]] = MappingProxyType(
    {"scene": Scene, "object": Object, "object-scene": ObjectScene, "object-shift": ObjectShift, "overlap": Overlap}
)


def policy_class(name: str) -> type[RegionPolicy]:
    """Return the class of the region policy of that name; UserError with the nearest name where there is none."""
    if name not in POLICIES:
        raise UserError(unknown_name("crops", name, POLICIES))
    return POLICIES[name]


def policy_name(policy: RegionPolicy) -> str:
    """Return the name of a region policy."""
    return next(name for name, kind in POLICIES.items() if type(policy) is kind)
