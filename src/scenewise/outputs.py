"""What a file that the user names for writing must be, checked before the work instead of after it."""

from __future__ import annotations

import os
from pathlib import Path

from scenewise.errors import UserError


def check_output(field: str, path: Path | None, *, overwrite: bool) -> None:
    """Raise UserError where `path`, given as `field`, cannot be written, or exists and must not be; None passes."""
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"{field}: cannot write {str(path)!r}; name a file in a folder that exists")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise UserError(f"{field}: cannot write {str(path)!r}: nothing may be written to its folder; name another")
    if path.exists() and not overwrite:
        raise UserError(f"{field}: {str(path)!r} exists; name another file or replace it with --overwrite")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; its folder must exist. Raises OSError when the disk refuses."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
