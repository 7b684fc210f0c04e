"""What is wrong with a label file, gathered so that the user sees it in one go."""

from __future__ import annotations

from scenewise.errors import UserError


class Problems:
    """Collects problems, shows the first ten and says how many there are."""

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
