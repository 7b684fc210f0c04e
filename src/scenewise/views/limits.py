"""What the settings of the region policies may be, told by name before any work starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from scenewise.errors import UserError

_LIMITS: Mapping[str, tuple[Callable[[Any], bool], str]] = MappingProxyType(
    {
        "min_side": (lambda value: 0 <= value < math.inf, "a finite number of pixels, 0 or more"),
        "min_size": (lambda value: 0 <= value < math.inf, "a finite number of pixels, 0 or more"),
        "max_aspect": (lambda value: 1 <= value < math.inf, "a finite number, at least 1"),
        "limit": (lambda value: value >= 1, "at least 1"),
        "nms_iou": (lambda value: 0 <= value <= 1, "an overlap, 0 to 1"),
        "max_iou": (lambda value: 0 <= value <= 1, "an overlap, 0 to 1"),
        "dilation": (lambda value: 0 <= value < math.inf, "a finite number, 0 or more"),
        "distance": (
            lambda value: 0 <= value[0] <= value[1] < math.inf,
            "two finite lengths, 0 or more, the shorter first",
        ),
        "scene_scale": (lambda value: 0 <= value <= 1, "a share of the photo, 0 to 1"),
        "object_scale": (lambda value: 0 <= value <= 1, "a share of the window, 0 to 1"),
        "context_scale": (lambda value: 0 <= value <= 1, "a share of the window, 0 to 1"),
        "mean_area": (lambda value: 0 < value <= 1, "a share of the photo, above 0 and at most 1"),
        "swap": (lambda value: 0 <= value <= 1, "a probability, 0 to 1"),
        "instances": (lambda value: 1 <= value <= 64, "1 to 64"),
        "tries": (lambda value: 1 <= value <= 1000, "1 to 1000"),
    }
)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise UserError with every setting of a policy (name -> value) that is outside its limits; None is allowed."""
    problems = [
        f"crops.{name}: {value!r} must be {_LIMITS[name][1]}"
        for name, value in settings.items()
        if value is not None and name in _LIMITS and not _LIMITS[name][0](value)
    ]
    if problems:
        raise UserError(*problems)
