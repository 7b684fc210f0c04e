"""The protocols: one file each, found by its name (svm_lowshot.py is `svm-lowshot`). A file defines `PROTOCOL`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping

from scenewise.errors import UserError, unknown_name
from scenewise.evaluate.protocol import Protocol

NAMES = tuple(sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__)))


def load_protocol(name: str) -> Protocol:
    """Return the protocol in the file of that name. UserError, with the nearest name, when there is none."""
    if name not in NAMES:
        raise UserError(unknown_name("protocol", name, NAMES))
    protocol: Protocol = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").PROTOCOL
    return protocol


def summaries() -> Mapping[str, str]:
    """Return every protocol's name and its one-line summary."""
    return {name: load_protocol(name).summary for name in NAMES}
