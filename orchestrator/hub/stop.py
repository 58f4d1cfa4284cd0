"""How threads that fetch files are told to end."""

from __future__ import annotations

import threading


class StoppedError(Exception):
    """Raised in a thread that was told to end; nobody shows it."""


class Stop:
    """A flag that a thread looks at between two pieces of work."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def set(self) -> None:
        """Ask every thread to end."""
        self._flag.set()

    def check(self) -> None:
        """End the calling thread's work if that was asked for.

        Raises:
            StoppedError: It was.
        """
        if self._flag.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Wait, but not beyond the moment when the threads are to end."""
        if self._flag.wait(seconds):
            raise StoppedError
