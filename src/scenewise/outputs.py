"""What a file that the user names for writing must be, checked before the work instead of after it."""

from __future__ import annotations

from pathlib import Path

from scenewise.errors import UserError


def check_output(field: str, path: Path | None, *, overwrite: bool) -> None:
    """Raise UserError where `path`, given as `field`, cannot be written, or exists and must not be; None passes."""
    if path is None:
        return
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UserError(f"{field}: cannot write {str(path)!r}; name a file in a folder that exists")
    if path.exists() and not overwrite:
        raise UserError(f"{field}: {str(path)!r} exists; name another file or replace it with --overwrite")
