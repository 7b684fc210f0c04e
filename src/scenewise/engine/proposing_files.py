"""The files of a making of proposals: where they lie, whether they may be written, and from which rows to go on."""

from __future__ import annotations

from pathlib import Path

from scenewise.engine.begun import check_same
from scenewise.engine.display import Display
from scenewise.errors import UserError
from scenewise.proposals.partial import Partial, start_partial
from scenewise.proposals.store import Origin, read_header


def partial_file(out: Path) -> Path:
    """Return where the rows of a file that is not finished are kept."""
    return out.with_name(f"{out.name}.partial")


def skipped_file(out: Path) -> Path:
    """Return where the images that could not be read are named."""
    return out.with_name(f"{out.stem}.skipped.csv")


def check_out(out: Path, *, resume: bool, overwrite: bool) -> None:
    """Raise UserError when the proposal file may not be written there."""
    if out.is_dir():
        raise UserError(f"--out: {str(out)!r} is a folder; name a file, for example proposals.arrow")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir():
        raise UserError(f"--out: {str(above)!r} is a file, not a folder; name a file in a folder that exists")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out: the folder {str(out.absolute().parent)!r} does not exist")
    if resume or overwrite:
        return
    for path in (out, partial_file(out), skipped_file(out)):
        if path.exists():
            raise UserError(
                f"--out: {str(path)!r} exists; name another file, go on with --resume where it was interrupted, or "
                "replace it with --overwrite"
            )


def begin(out: Path, origin: Origin, *, resume: bool, overwrite: bool, display: Display) -> Partial | None:
    """Return the rows to go on from, none for a fresh start; None where the file is there already.

    Raises UserError for what is there and does not fit, unless `overwrite` says that it is to be replaced.
    """
    path = partial_file(out)
    if not resume:
        return start_partial(path, origin)
    if not out.exists() and not path.exists():
        display.say(f"nothing to resume at {out}: starting from the beginning")
    if out.exists():
        try:
            check_same(out, read_header(out).origin, origin)
        except UserError as error:
            _must(overwrite, error, display)
        else:
            display.say(f"{out} is complete and of the same making: it is kept")
            _clear_begun(path, origin, display)
            return None
    if path.exists():
        try:
            partial = _open_begun(path, origin)
        except UserError as error:
            _must(overwrite, error, display)
        else:
            display.say(f"going on after {len(partial)} of {origin.images} images")
            return partial
    return start_partial(path, origin)


def _must(overwrite: bool, error: UserError, display: Display) -> None:
    """Say that what does not fit is replaced, where `overwrite` was asked for; raise the error elsewhere."""
    if not overwrite:
        raise error
    display.say(f"replaced (--overwrite): {_reason(error)}")


def _clear_begun(path: Path, origin: Origin, display: Display) -> None:
    """Remove what a process that was killed between its last two steps has left; say so where it is something else."""
    if not path.exists():
        return
    try:
        _open_begun(path, origin).close()
    except UserError as error:
        display.say(f"left as it is: {_reason(error)}")
    else:
        path.unlink()


def _reason(error: UserError) -> str:
    """Return what is wrong with a file, without the field and the advice."""
    return error.problems[0].splitlines()[0].partition(": ")[2]


def _open_begun(path: Path, origin: Origin) -> Partial:
    partial = Partial(path)
    try:
        check_same(path, partial.origin, origin)
    except UserError:
        partial.close()
        raise
    return partial
