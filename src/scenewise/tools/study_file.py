"""A study file: Python that exports one STUDY. It is run, as `python FILE` would run it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenewise.errors import UserError
from scenewise.studies import Study


def load_study(file: Path) -> Study:
    """Run the file and return its STUDY; UserError where it cannot be run, with the line, or exports none."""
    if not file.is_file():
        raise UserError(f"FILE: no such study file: {str(file)!r}")
    spec = importlib.util.spec_from_file_location(f"scenewise_study_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"FILE: {str(file)!r} is not a Python file; a study file ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    with _as_script(file):
        try:
            spec.loader.exec_module(module)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"FILE: {_place(file, error)}: {type(error).__name__}: {error}") from error
    found = vars(module).get("STUDY")
    if not isinstance(found, Study):
        told = "exports no STUDY" if found is None else f"exports a STUDY of type {type(found).__name__}"
        raise UserError(f"FILE: {str(file)!r} {told}; write STUDY = scenewise.studies.Study(...)")
    return found


@contextmanager
def _as_script(file: Path) -> Iterator[None]:
    """Let the file import its neighbours, as a script can, while it is run."""
    before = list(sys.path)
    sys.path.insert(0, str(file.resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


def _place(file: Path, error: Exception) -> str:
    """Return the line of the study file that an error came from."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    if isinstance(error, SyntaxError):
        lines.append(error.lineno)
    return f"{file}, line {lines[-1]}" if lines else str(file)
