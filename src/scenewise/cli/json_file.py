"""The file that --json names: checked before the work, written after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenewise.errors import UserError
from scenewise.outputs import check_output, write_whole


def check_json(path: Path | None, *, overwrite: bool, others: Sequence[Path | None] = ()) -> None:
    """Refuse a file that cannot be written, or must not be, before the work instead of after it.

    others: what else the command writes.
    """
    if path is not None and path.resolve() in [other.resolve() for other in others if other is not None]:
        raise UserError(f"--json: {str(path)!r} is what the command itself writes; name another file")
    check_output("--json", path, overwrite=overwrite)


def write_json(path: Path | None, content: Any) -> None:
    """Write the content, where a file was named; UserError when the disk refuses."""
    if path is None:
        return
    try:
        write_whole(path, (json.dumps(content, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"--json: cannot write {str(path)!r}: {error.strerror}") from error
