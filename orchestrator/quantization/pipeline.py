"""Overlaps reading, computing and writing with threads.

Data between them is in `Buffers`, so that the memory does not depend on their speeds.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

T = TypeVar("T")

_ALIGNED = 64
"""Bytes. Every buffer starts at a multiple of this, so that any type fits it."""


@dataclass
class ReadAhead(Generic[T]):
    """Iterates in another thread, a few items ahead of the consumer.

    It is a context manager and is iterated once. An error in the other thread is raised where items are taken.
    """

    source: Iterable[T]
    depth: int
    """Most waiting items."""
    _waiting: queue.Queue[tuple[T] | BaseException] = field(init=False)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Prepare. Nothing is read before the block is entered."""
        self._waiting = queue.Queue(self.depth)
        self._thread = threading.Thread(target=self._read, name="read ahead", daemon=True)

    def __enter__(self) -> Self:
        """Start to read."""
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
    """Calls functions in another thread, in order, a few behind the caller.

    It is a context manager. The end of the block waits for all calls. After a failed call no other is made, and its
    error is raised by the next request or at the end of the block.
    """

    depth: int
    """Most waiting calls."""
    name: str = "write behind"
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """Makes a block in which the calls are made."""
    _waiting: queue.Queue[tuple[Callable[[], None], Callable[[], None]] | None] = field(init=False)
    _error: BaseException | None = None
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Prepare."""
        self._waiting = queue.Queue(self.depth)
        self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for the requested calls."""
        self._waiting.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def do(self, call: Callable[[], None], finally_: Callable[[], None] = lambda: None) -> None:
        """Request a call.

        Args:
            call: Is called unless a call before it failed.
            finally_: Is called after it, or in its place.
        """
        if self._error is not None:
            finally_()
            raise self._error
        self._waiting.put((call, finally_))

    def _work(self) -> None:
        with self.around():
            while (asked := self._waiting.get()) is not None:
                call, finally_ = asked
                try:
                    if self._error is None:
                        call()
                except BaseException as error:  # noqa: BLE001 - raised again where calls are asked for
                    self._error = error
                finally:
                    finally_()
                del asked, call, finally_  # they may hold a layer


class AtOnce:
    """Calls functions where they are requested, in the place of `WriteBehind`."""

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(self, *error: object) -> None:
        """End."""

    def do(self, call: Callable[[], None], finally_: Callable[[], None] = lambda: None) -> None:
        """Make a call, and in any case the other one after it."""
        try:
            call()
        finally:
            finally_()


Encoding = WriteBehind | AtOnce
"""Encodes the layers."""


class BuffersClosedError(Exception):
    """No buffer is lent any more. The thread must end."""


@dataclass
class Lent:
    """A piece of memory that must be given back."""

    memory: NDArray[np.uint8]
    give_back: Callable[[], None]
    _taken: int = 0

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array in unused memory of this piece, like `numpy.empty`."""
        kind = np.dtype(dtype)
        begin = -(-self._taken // kind.itemsize) * kind.itemsize
        self._taken = begin + math.prod(shape) * kind.itemsize
        if self._taken > len(self.memory):
            message = f"{len(self.memory)} bytes were lent; found {self._taken} wanted"
            raise ValueError(message)
        found: NDArray[Any] = self.memory[begin : self._taken].view(kind).reshape(shape)
        return found


@dataclass
class Buffers:
    """A fixed number of buffers for all data between the threads.

    A reader waits for one if all are taken. Each is lent again only after all others, so a longer run
    or a slower disk needs no more of them, and nothing is allocated and freed meanwhile.

    It is a context manager. At the end of the block, waiting threads get `BuffersClosedError`.
    """

    count: int
    size: int
    """Bytes of each."""
    _free: queue.SimpleQueue[NDArray[np.uint8] | None] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        """Allocate the memory. It counts for the process when it is written to."""
        self.size = -(-self.size // _ALIGNED) * _ALIGNED
        for buffer in np.empty((self.count, self.size), np.uint8):
            self._free.put(buffer)

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the waiting threads."""
        self._free.put(None)

    def lend(self, size: int) -> Lent:
        """Wait for a buffer. A larger request gets memory of its own.

        Raises:
            BuffersClosedError: The block was left.
        """
        if size > self.size:
            return Lent(np.empty(size, np.uint8), lambda: None)
        buffer = self._free.get()
        if buffer is None:
            self._free.put(None)
            raise BuffersClosedError
        return Lent(buffer, partial(self._free.put, buffer))
