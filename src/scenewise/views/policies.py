"""The region policies by name, as `--crops` and the section `crops` of a configuration name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from scenewise.errors import UserError, unknown_name
from scenewise.settings import make_settings
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


def setting_names(name: str) -> set[str]:
    """Return the dotted names of a policy's settings (`crops.NAME`)."""
    kind: type[Any] = policy_class(name)
    return {f"crops.{each.name}" for each in dataclasses.fields(kind)}


def make_policies(settings: Mapping[str, Any]) -> dict[str, RegionPolicy]:
    """Return all policies by name, each with those of the settings (`crops.NAME` -> value) that it has.

    Raises UserError with every setting that none of them has, and every value that it may not be.
    """
    fields = {name: setting_names(name) for name in POLICIES}
    known = sorted(set().union(*fields.values()))
    problems = [unknown_name("crops", name, known) for name in settings if name not in known]
    policies = {}
    for name, kind in POLICIES.items():
        own = {key.removeprefix("crops."): value for key, value in settings.items() if key in fields[name]}
        policies[name], wrong = make_settings("crops", kind, own)
        problems += wrong
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return policies


def policy_name(policy: RegionPolicy) -> str:
    """Return the name of a region policy."""
    return next(name for name, kind in POLICIES.items() if type(policy) is kind)
