"""SIGINT and SIGTERM become a request that is answered once what is being done is saved: then stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """While active, `received` is the number of the first stopping signal, or 0. A second one acts as it always did.

    With `patient` further ones change nothing: torchrun passes on the Ctrl-C that the terminal has sent already, and
    ends what does not end by itself.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.received = 0
        self._patient = patient
        self._former: dict[int, object] = {}

    def __enter__(self) -> Signals:
        """Take over the handlers; in a thread other than the main one Python does not allow it, and nothing changes."""
        if threading.current_thread() is threading.main_thread():
            for number in STOPPING:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the handlers back."""
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = self.received or number
        if not self._patient:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._former.clear()
