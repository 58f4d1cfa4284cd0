"""Calculates the rate of a progress and the remaining time."""

from __future__ import annotations

from collections import deque

_WINDOW = 30.0
"""Seconds over which a rate is averaged: long enough to be steady, short enough to follow changes."""
_LEAST = 1.0
"""Seconds below which no rate is given."""


class Rate:
    """A rate over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, now: float, done: int) -> None:
        """Add how much is done at a moment. A lower value starts again."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()

    def rate(self, now: float) -> float | None:
        """Return the rate per second; None if it is too early, or if nothing has come for a while."""
        if not self._seen:
            return None
        (since, first), (_, last) = self._seen[0], self._seen[-1]
        if now - since < _LEAST or last == first:
            return None
        return (last - first) / (now - since)

    def left(self, now: float, total: int) -> float | None:
        """Return the remaining seconds at this rate; None as for `rate`, or if the end is not known."""
        rate = self.rate(now)
        return (total - self._seen[-1][1]) / rate if rate and total else None
