"""Stops the threads that fetch files."""

from __future__ import annotations

import threading


class StoppedError(Exception):
    """Raised in a thread that must stop. It is never shown."""


class Stop:
    """A flag that a thread checks between two pieces of work."""

    def __init__(self) -> None:
        self._flag = threading.Event()

    def set(self) -> None:
        """Tell every thread to stop."""
        self._flag.set()

    def check(self) -> None:
        """Stop the calling thread's work if the flag is set.

        Raises:
            StoppedError: The flag is set.
        """
        if self._flag.is_set():
            raise StoppedError

    def sleep(self, seconds: float) -> None:
        """Wait, but end early if the threads must stop."""
        if self._flag.wait(seconds):
            raise StoppedError
