"""Guards this machine's memory while a step runs, stops the step before the machine freezes, and keeps the curve.

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
from orchestrator.events import MemoryUsed, Observer, silence
from orchestrator.store.cost import MemoryCurve
from orchestrator.units import in_gib
from orchestrator.values import frozen

_BARS = "▁▂▃▄▅▆▇█"
_MINUTE = 60
"""Number of samples that are kept, one a second."""
_PRESSURE = 60.0
"""Per cent of the last ten seconds in which every task waited for memory."""
_LASTING = 20.0
"""Seconds for which the pressure must be that high."""
POINTS = 120
"""Points of a curve at most. A step that takes longer has fewer per minute, and none of its peaks is lost."""


@frozen
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


@frozen
class _Sample:
    moment: float
    available: int
    stalled: float


@dataclass
class MemorySeries:
    """The highest memory in use over time, in at most `POINTS` points: if there are more, each two become one."""

    every: float = 1.0
    """Seconds of one point."""
    used: list[int] = field(default_factory=list)
    before: int = 0
    limit: int = 0

    def add(self, seconds: float, used: int, limit: int) -> bool:
        """Add a sample, in the order of time, and tell whether it begins a point. Times without one stay level."""
        self.before, self.limit = self.before if self.used else used, limit
        while seconds >= self.every * POINTS:
            self.used = [max(self.used[place : place + 2]) for place in range(0, len(self.used), 2)]
            self.every *= 2
        missing = int(seconds / self.every) - len(self.used)
        if missing < 0:
            self.used[-1] = max(self.used[-1], used)
            return False
        self.used += [*(self.used[-1:] or [used]) * missing, used]
        return True

    @property
    def curve(self) -> MemoryCurve | None:
        """The points so far; None if there is none."""
        return MemoryCurve(self.every, self.before, tuple(self.used), self.limit) if self.used else None


@dataclass
class MemoryGuard:
    """Checks memory during one step. It may be called often, and checks once a second."""

    step: str
    floor: int
    """Bytes of the target's memory below which the step is stopped; 0: it is not stopped."""
    target_memory: int
    """Bytes of the target. A smaller machine has a proportionally smaller limit."""
    kernel: Kernel = field(default_factory=Kernel)
    observer: Observer = silence
    """Gets the curve while it grows."""
    series: MemorySeries = field(default_factory=MemorySeries)
    _started: float | None = None
    _unsent: MemoryUsed | None = None
    """The highest sample since the last event."""
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
        self._note(now, total - available, total - floor)
        if not floor:
            return
        if available < floor:
            self._stop(f"{in_gib(available)} of memory are available, the machine needs {in_gib(floor)}")
        if stalled < _PRESSURE:
            self._pressed_since = None
        elif self._pressed_since is None:
            self._pressed_since = now
        elif now - self._pressed_since >= _LASTING:
            lasted = now - self._pressed_since
            self._stop(f"everything waited for memory {stalled:.0f} % of the time, for {lasted:.0f} s")

    def send(self) -> None:
        """Send what was not sent yet, at the end of the step."""
        if self._unsent:
            self.observer(self._unsent)
        self._unsent = None

    def _note(self, now: float, used: int, limit: int) -> None:
        """Add a sample to the curve, and send the point before it if it begins a new one."""
        self._started = now if self._started is None else self._started
        seconds = now - self._started
        if self.series.add(seconds, used, limit):
            self.send()
        if self._unsent is None or used >= self._unsent.used:
            self._unsent = MemoryUsed(self.step, seconds, used, limit)

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


def guard_for(target: Target, step: str, kernel: Kernel, observer: Observer = silence) -> MemoryGuard:
    """Return a memory guard. It stops a step only on a target whose GPU shares the system's memory."""
    floor = target.reserve // 2 if target.unified_memory else 0
    return MemoryGuard(step, floor, target.memory, kernel, observer)
