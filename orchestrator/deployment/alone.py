"""One at a time brings a bundle up or takes it down: two would find nothing each, and each make all of it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.errors import machine_faults


@contextmanager
def alone_with(folder: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a bundle; whoever else wants it waits. The kernel lets go of it where its holder dies.

    Args:
        folder: The bundle; nothing is held where it is gone.
        waiting: Called once where somebody else holds it.
    """
    if not folder.is_dir():
        yield
        return
    with machine_faults(f"locking {folder}"):
        held = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)
