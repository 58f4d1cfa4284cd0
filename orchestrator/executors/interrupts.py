"""Holds an interruption back while Docker works on a request that must not be left half known.

An interrupted program would stop waiting for the answer. Docker would nevertheless create or start the container,
after the program looked for it.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Deliver the first SIGINT or SIGTERM when the block has ended. A second one is delivered at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python handles signals in the main thread only
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        if held:
            deliver(number, frame)
        held.append(number)

    def deliver(number: int, frame: FrameType | None) -> None:
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in _SIGNALS:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        if held:
            deliver(held[0], None)
