"""Reading ahead and writing behind: three things at once that would otherwise wait for each other."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar

T = TypeVar("T")


@dataclass
class ReadAhead(Generic[T]):
    """Goes through something in another thread, a few items ahead of whoever takes them.

    Used as a context manager and iterated once. What goes wrong in the other thread is raised where items are taken.
    """

    source: Iterable[T]
    depth: int
    """Items that wait at most."""
    _waiting: queue.Queue[tuple[T] | BaseException] = field(init=False)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Prepare; nothing is read before the block is entered."""
        self._waiting = queue.Queue(self.depth)
        self._thread = threading.Thread(target=self._read, name="read ahead", daemon=True)

    def __enter__(self) -> Self:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop reading."""
        self._stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        """Take items in order."""
        while True:
            coming = self._waiting.get()
            if isinstance(coming, StopIteration):
                return
            if isinstance(coming, BaseException):
                raise coming
            yield coming[0]

    def _read(self) -> None:
        try:
            for item in self.source:
                self._put((item,))
                if self._stopped.is_set():
                    return
            self._put(StopIteration())
        except BaseException as error:  # noqa: BLE001 - raised again where items are taken
            self._put(error)

    def _put(self, coming: tuple[T] | BaseException) -> None:
        while not self._stopped.is_set():
            try:
                self._waiting.put(coming, timeout=0.1)
            except queue.Full:
                continue
            return


@dataclass
class WriteBehind:
    """Calls functions in another thread, in order, a few behind whoever asks for them.

    Used as a context manager; leaving the block waits for all calls. After one failed, no other is made, and its error
    is raised by the next request or at the end of the block.
    """

    depth: int
    """Calls that wait at most."""
    _waiting: queue.Queue[tuple[Callable[[], None], Callable[[], None]] | None] = field(init=False)
    _error: BaseException | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Prepare."""
        self._waiting = queue.Queue(self.depth)
        self._thread = threading.Thread(target=self._work, name="write behind", daemon=True)

    def __enter__(self) -> Self:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for what was asked for."""
        self._waiting.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def do(self, call: Callable[[], None], finally_: Callable[[], None] = lambda: None) -> None:
        """Ask for a call.

        Args:
            call: What is called unless a call before it failed.
            finally_: What is called after it, and also in its place.
        """
        if self._error is not None:
            finally_()
            raise self._error
        self._waiting.put((call, finally_))

    def _work(self) -> None:
        while (asked := self._waiting.get()) is not None:
            call, finally_ = asked
            try:
                if self._error is None:
                    call()
            except BaseException as error:  # noqa: BLE001 - raised again where calls are asked for
                self._error = error
            finally:
                finally_()
