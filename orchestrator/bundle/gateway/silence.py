"""Measures how long the runtime has been silent while it owed a sign, so that one that hangs is found.

A sign is due to a health check, and to a streamed request that has its place in the batch: each iteration writes a
token of it. Other requests may wait long without a fault: behind others, or for the end of an answer that is not
streamed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SPARE_SECONDS = 300
"""TensorRT-LLM looks itself for iterations that take longer; what it finds, it ends itself."""
_PREFILL_RATE = 200
"""Tokens a second; a slower prefill was not measured on any supported machine."""
_UNKNOWN_SECONDS = 3600.0


def default_limit(max_model_len: int | None) -> float:
    """Return the seconds of silence after which the runtime counts as hung: longer than the longest prefill.

    Args:
        max_model_len: Tokens of the longest sequence; None if not known.
    """
    return _UNKNOWN_SECONDS if max_model_len is None else float(_SPARE_SECONDS + max_model_len // _PREFILL_RATE)


class _Stopwatch:
    """Sums the seconds for which it runs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sum = 0.0
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        return self._sum + (0.0 if self._since is None else self._clock() - self._since)

    def run(self) -> None:
        if self._since is None:
            self._since = self._clock()

    def pause(self) -> None:
        self._sum, self._since = self.seconds, None

    def reset(self) -> None:
        """Begin again at zero; it runs on if it runs."""
        self._sum = 0.0
        if self._since is not None:
            self._since = self._clock()


class AwaitedAnswer:
    """The answer to one request for the model.

    `with answer:` watches for the next part of a streamed one, which is a sign if it comes. It runs for every token, so
    it is a class and no generator.
    """

    __slots__ = ("_has_place", "_is_due", "_silence")

    def __init__(self, silence: Silence, *, has_place: bool) -> None:
        self._silence = silence
        self._has_place = has_place
        self._is_due = False

    def __enter__(self) -> None:
        """Begin to wait."""
        self._is_due = self._has_place
        if self._is_due:
            self._silence.begin_due()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End to wait: the part came, or the client or the runtime has left."""
        if self._is_due:
            self._silence.end_due()
        if kind is None:
            self._has_place = True
            self._silence.sign()


class Silence:
    """Measures the silence of the runtime.

    Args:
        limit: Seconds after which it counts as hung; 0 is no limit.
        places: Requests that it answers at once; None if not known.
        clock: Gives seconds.
    """

    def __init__(self, limit: float, places: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._places = places
        self._running = 0
        self._due = 0
        self._parts = _Stopwatch(clock)
        self._health = _Stopwatch(clock)

    @property
    def seconds(self) -> float:
        """The seconds without a sign that was due."""
        return max(self._parts.seconds, self._health.seconds)

    @property
    def is_too_long(self) -> bool:
        """Whether the runtime counts as hung."""
        return bool(self._limit) and self.seconds >= self._limit

    @contextmanager
    def awaited(self) -> Iterator[AwaitedAnswer]:
        """Watch the answer to a request."""
        has_place = self._places is None or self._running < self._places
        self._running += 1
        try:
            yield AwaitedAnswer(self, has_place=has_place)
        finally:
            self._running -= 1

    def note_health(self, *, answered: bool) -> None:
        """Note a health check, once the model was ready."""
        if answered:
            self._health.pause()
            self._health.reset()
        else:
            self._health.run()

    def sign(self) -> None:
        """Note that a part of an answer arrived."""
        self._parts.reset()

    def begin_due(self) -> None:
        """Measure from now on: a part of an answer is due."""
        self._due += 1
        self._parts.run()

    def end_due(self) -> None:
        """Measure no longer, unless others are due. A client that gives up is no sign: what was measured stays."""
        self._due -= 1
        if not self._due:
            self._parts.pause()
