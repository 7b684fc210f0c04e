"""Whether what lies there, half made, was begun as it is asked for now."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from scenewise.errors import UserError


def check_same(path: Path, found: Any, asked: Any, *, most: int | None = None) -> None:
    """Raise UserError with the values, `most` of them, in which two origins (dataclasses) differ."""
    first, second = _flat(dataclasses.asdict(found)), _flat(dataclasses.asdict(asked))
    changes = [
        f"{name} is {first.get(name)!r} there and {second.get(name)!r} now"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
    if changes:
        raise UserError(
            f"--resume: {path} was begun otherwise: {'; '.join(changes[:most])}.\n"
            "Ask for the same, name another --out, or begin anew with --overwrite"
        )


def _flat(content: Any, name: str = "") -> dict[str, Any]:
    """Return the values of a tree of mappings and sequences by their dotted names."""
    if isinstance(content, (list, tuple)):
        content = {str(number): value for number, value in enumerate(content)}
    if not isinstance(content, dict):
        return {name: content}
    return {
        inner: value
        for key, part in content.items()
        for inner, value in _flat(part, f"{name}.{key}" if name else key).items()
    }
