"""Measures the cost of a quantization: time by phase, bytes, memory.

The cost differs from run to run, and a result is identified by its content. So the cost is not part of the result.
The caller gets it as an event.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.events import Spent

if TYPE_CHECKING:
    from collections.abc import Iterator

_SECONDS_BETWEEN_LOOKS = 0.05
_OWN_MEMORY = Path("/proc/self/statm")


@dataclass
class Cost:
    """Counts costs during the work, in any thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Seconds by phase. Reading, encoding and writing overlap, so their sum may exceed the elapsed time."""
    bytes_read: int = 0
    """Bytes read from files or the page cache. What is read twice counts twice."""
    bytes_written: int = 0
    device: str = "cpu"
    """The device of the encoding: `cpu`, or a GPU's name."""
    device_bytes: int = 0
    """Most memory of a GPU in use; 0 without one."""
    peak_bytes: int = 0
    """See `watched`."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of a block."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add(name, time.monotonic() - started)

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def read(self, count: int) -> None:
        """Add bytes that were read."""
        with self._lock:
            self.bytes_read += count

    def spent(self, threads: int) -> Spent:
        """Return the report.

        Args:
            threads: How many computed.
        """
        seconds = {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        memory = self.peak_bytes, self.device_bytes
        return Spent(seconds, self.bytes_read, self.bytes_written, *memory, threads, self.device)


@dataclass
class Peak:
    """Most private memory of this process in samples, twenty times a second, without mapped files."""

    size: int = 0
    """Bytes. Without figures of the kernel, the most memory at all."""

    def look(self) -> None:
        """Compare with the current value."""
        self.size = max(self.size, _own_memory())


@contextmanager
def watched() -> Iterator[Peak]:
    """Sample this process's memory while the block runs."""
    peak, ended = Peak(), threading.Event()

    def work() -> None:
        while not ended.wait(_SECONDS_BETWEEN_LOOKS):
            peak.look()

    thread = threading.Thread(target=work, name="memory", daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()
        peak.look()


def _own_memory() -> int:
    with suppress(OSError, ValueError):
        _, resident, shared, *_ = map(int, _OWN_MEMORY.read_text(encoding="ascii").split())
        return (resident - shared) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
