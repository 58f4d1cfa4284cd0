"""Guards this machine's memory while a step runs, and stops the step before the machine freezes.

If processor and GPU share one memory, a machine without memory often hangs until its power is cut. A container's
limit does not count the GPU's memory. The kernel's own figures do: `MemAvailable`, and the share
of time in which every task waited for memory.

A step is stopped if less than half of the target's reserve is available: on a DGX Spark 6 of 12 GiB. This leaves
three seconds at 2 GiB/s, the rate at which a server was seen to take memory. On a machine with less memory than the
target, for rehearsals, the limit is proportionally smaller. Pressure counts only if it lasts: systemd-oomd's own
measure, 60 % for 20 seconds.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.catalog.target import Target
from orchestrator.errors import HostMemoryError
from orchestrator.units import in_gib

_BARS = "▁▂▃▄▅▆▇█"
_MINUTE = 60
"""Number of samples that are kept, one a second."""
_PRESSURE = 60.0
"""Per cent of the last ten seconds in which every task waited for memory."""
_LASTING = 20.0
"""Seconds for which the pressure must be that high."""


@dataclass(frozen=True)
class Kernel:
    """The kernel's files with memory figures."""

    meminfo: Path = Path("/proc/meminfo")
    pressure: Path = Path("/proc/pressure/memory")
    now: Callable[[], float] = time.monotonic

    def memory(self) -> tuple[int, int] | None:
        """Return the available and all bytes; None if this machine does not report them."""
        try:
            fields = dict(line.split(":", 1) for line in self.meminfo.read_text(encoding="ascii").splitlines())
            available, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
        except (OSError, KeyError, ValueError, IndexError):
            return None
        return available, total

    def stalled(self) -> float:
        """Return the percentage of the last ten seconds in which every task waited for memory; 0 if unknown."""
        try:
            full = next(line for line in self.pressure.read_text(encoding="ascii").splitlines() if line[:4] == "full")
            return float(dict(part.split("=") for part in full.split()[1:])["avg10"])
        except (OSError, StopIteration, KeyError, ValueError):
            return 0.0


@dataclass(frozen=True)
class _Sample:
    moment: float
    available: int
    stalled: float


@dataclass
class MemoryGuard:
    """Checks memory during one step. It may be called often, and checks once a second."""

    step: str
    floor: int
    """Bytes of the target's memory below which the step is stopped."""
    target_memory: int
    """Bytes of the target. A smaller machine has a proportionally smaller limit."""
    kernel: Kernel = field(default_factory=Kernel)
    _curve: deque[_Sample] = field(default_factory=lambda: deque(maxlen=_MINUTE))
    _pressed_since: float | None = None

    def __call__(self) -> None:
        """Take a sample if one is due.

        Raises:
            HostMemoryError: The machine is about to run out of memory.
        """
        now = self.kernel.now()
        if self._curve and now - self._curve[-1].moment < 1:
            return
        memory = self.kernel.memory()
        if memory is None:
            return
        available, total = memory
        stalled = self.kernel.stalled()
        self._curve.append(_Sample(now, available, stalled))
        floor = min(self.floor, self.floor * total // self.target_memory)
        if available < floor:
            self._stop(f"{in_gib(available)} of memory are available, the machine needs {in_gib(floor)}")
        if stalled < _PRESSURE:
            self._pressed_since = None
        elif self._pressed_since is None:
            self._pressed_since = now
        elif now - self._pressed_since >= _LASTING:
            lasted = now - self._pressed_since
            self._stop(f"everything waited for memory {stalled:.0f} % of the time, for {lasted:.0f} s")

    def _stop(self, reason: str) -> None:
        message = f"{self.step} was stopped before this machine froze: {reason}\n{self._drawn()}"
        hint = (
            "stop what else runs here and drop the page cache, or make the step smaller "
            "(batch, sequence length, a smaller format)"
        )
        raise HostMemoryError(message, hint=hint)

    def _drawn(self) -> str:
        """Draw the available memory of the last minute, with a value every ten seconds."""
        top = max(sample.available for sample in self._curve) or 1
        last = self._curve[-1].moment
        bars = "".join(_BARS[round(sample.available / top * (len(_BARS) - 1))] for sample in self._curve)
        named = [sample for index, sample in enumerate(reversed(self._curve)) if index % 10 == 0]
        values = ", ".join(f"{sample.moment - last:.0f} s {in_gib(sample.available)}" for sample in reversed(named))
        return f"available over the last {last - self._curve[0].moment:.0f} s: {bars}\n{values}"


def guard_for(target: Target, step: str, kernel: Kernel) -> MemoryGuard | None:
    """Return a memory guard for a target whose GPU shares the system's memory."""
    if not target.unified_memory or not target.reserve:
        return None
    return MemoryGuard(step, target.reserve // 2, target.memory, kernel)
