"""What a long task tells its user: sentences and a progress bar on stderr, or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from scenewise.engine.processes import started_rank


@runtime_checkable
class Display(Protocol):
    """Where a task's words go."""

    def say(self, text: str) -> None:
        """Tell something worth knowing."""

    def warn(self, text: str) -> None:
        """Tell something that needs attention."""

    @contextmanager
    def bar(self, task: str, total: int | None) -> Iterator[Bar]:
        """Show a bar for the time of the context."""
        yield Bar()


class Bar:
    """A progress bar that shows nothing."""

    def update(self, done: int, *, total: int | None = None, text: str = "") -> None:
        """Set how much is done, the total where it is only known now, and a few words behind the bar."""


class RichBar(Bar):
    """A bar of rich."""

    def __init__(self, progress: Progress, task: str, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task(task, total=total, text="")

    def update(self, done: int, *, total: int | None = None, text: str = "") -> None:
        """Redraw."""
        if total is not None:
            self._progress.update(self._task, total=total)
        self._progress.update(self._task, completed=done, text=text)


class Quiet:
    """Says nothing; warnings are kept in `warnings`."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def say(self, text: str) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Keep the warning."""
        self.warnings.append(text)

    @contextmanager
    def bar(self, task: str, total: int | None) -> Iterator[Bar]:
        """Show nothing."""
        del task, total
        yield Bar()


class Terminal:
    """Speaks on stderr; bars only where stderr is a terminal, one line each otherwise."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print the text."""
        self._console.print(text, markup=False)

    def warn(self, text: str) -> None:
        """Print the text in yellow."""
        self._console.print(f"warning: {text}", style="yellow", markup=False)

    @contextmanager
    def bar(self, task: str, total: int | None) -> Iterator[Bar]:
        """Show a bar, gone when it is done."""
        if not self._console.is_terminal:
            self.say(f"{task} ...")
            yield Bar()
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            yield RichBar(progress, task, total)


def terminal() -> Display:
    """Return what a command speaks through: the terminal, silent on all but the first of several processes."""
    return Quiet() if started_rank() else Terminal()
