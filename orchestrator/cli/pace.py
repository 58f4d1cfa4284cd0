"""How fast something comes, and how long the rest will take."""

from __future__ import annotations

from collections import deque

_WINDOW = 30.0
"""Seconds that a rate is taken over: long enough to be steady, short enough to follow the line."""
_LEAST = 1.0
"""Seconds below which nothing can be said of a rate."""


class Pace:
    """A rate over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, now: float, done: int) -> None:
        """Take how much is done at a moment; less than before is a new beginning."""
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _WINDOW:
            self._seen.popleft()

    def rate(self, now: float) -> float | None:
        """Give what is done in a second; None where it is too early to say, or nothing has come for a while."""
        if not self._seen:
            return None
        (begun, first), (_, last) = self._seen[0], self._seen[-1]
        if now - begun < _LEAST or last == first:
            return None
        return (last - first) / (now - begun)

    def left(self, now: float, total: int) -> float | None:
        """Give the seconds that the rest takes at this rate; None as for `rate`, or where the end is not known."""
        rate = self.rate(now)
        return (total - self._seen[-1][1]) / rate if rate and total else None
