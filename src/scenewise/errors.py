"""What can go wrong on the user's side, told apart from what is our fault."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """The user's input is wrong: the command prints `problems`, one or two lines each, and exits with status 2.

    Each problem names the field, the value, what is allowed and, for a name, the nearest valid one.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class MissingError(UserError):
    """What the user named is not on this machine: it may be on another, where the same command works."""


class ImageError(ValueError):
    """One image cannot be read (truncated, empty, not an image, changed): it is replaced or skipped, and counted."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run was saved first
    """A signal asked the run to stop and it has been saved; `signal` is its number (exit status 128 + signal)."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"interrupted by signal {signal}")
        self.signal = signal


class Problems:
    """Collects what is wrong with a file, shows the first ten problems and says how many there are."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._count = 0

    def add(self, text: str) -> None:
        """Add one problem; it names file and record."""
        self._count += 1
        if self._count <= 10:
            self._shown.append(text)

    def check(self) -> None:
        """Raise UserError with the problems found so far, if any."""
        if self._count > len(self._shown):
            self._shown.append(f"... and {self._count - len(self._shown)} more, {self._count} in all")
        if self._shown:
            raise UserError(*self._shown)


def all_at_once(*checks: Callable[[], object]) -> None:
    """Run every check; UserError holds the problems of all, each once."""
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*dict.fromkeys(problems))


def unknown_name(field: str, value: str, allowed: Iterable[str]) -> str:
    """Return the message for a name that does not exist, with the nearest valid one and the list (20 names at most)."""
    names = sorted(allowed)
    near = difflib.get_close_matches(value, names, n=1, cutoff=0.4)
    listed = ", ".join(names) if len(names) <= 20 else f"{len(names)} names; "
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{field}: unknown name {value!r}.{hint} Known: {listed}".rstrip("; ")
