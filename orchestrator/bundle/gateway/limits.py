"""Limits concurrent requests, and requests a minute for each client."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .refusals import refuse

_CLIENTS = 10_000
"""Most clients whose rate is remembered. The one without requests for longest is removed first."""
_MINUTE = 60.0
_ROUNDING = 1e-6


class Concurrency:
    """Counts running requests for the model.

    Args:
        limit: The most that may run at once.
        each: The most of one client; 0 is no limit.
    """

    def __init__(self, limit: int, each: int = 0) -> None:
        self.running = 0
        self._limit = limit
        self._each = each
        self._by_client: Counter[str] = Counter()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def running_request(self, client: str) -> Iterator[None]:
        """Count one request while it runs.

        Args:
            client: A key's owner or an address.

        Raises:
            RefusedError: 429, too many run.
        """
        if self.running >= self._limit:
            refuse(429, f"{self._limit} requests run already: retry later", code="too_many_requests", retry_after=1)
        if self._each and self._by_client[client] >= self._each:
            message = f"{self._each} requests of yours run already: retry later"
            refuse(429, message, code="too_many_requests", retry_after=1)
        self.running += 1
        self._by_client[client] += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]
            if not self.running:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no request runs."""
        await self._idle.wait()


class BodyBudget:
    """Counts the bytes of bodies that are held at once.

    Args:
        limit: The most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.held = 0
        self._limit = limit

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """Give a function that takes bytes for one request, until it ends.

        Raises:
            RefusedError: 429, too many bytes are held.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if self.held + size > self._limit:
                message = f"bodies of {self._limit} bytes are held already: retry later"
                refuse(429, message, code="too_many_bytes", retry_after=1)
            self.held += size
            taken += size

        try:
            yield take
        finally:
            self.held -= taken


class Rate:
    """A token bucket for each client, filled evenly, as large as one minute's limit.

    Args:
        per_minute: Requests a minute; 0 is no limit.
    """

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float) -> None:
        """Take one token from a client's bucket.

        Args:
            client: A key's owner or an address.
            now: Seconds of a monotonic clock.

        Raises:
            RefusedError: 429, the bucket is empty.
        """
        if not self._size:
            return
        tokens, then = self._buckets.pop(client, (self._size, now))
        tokens = min(self._size, tokens + (now - then) * self._size / _MINUTE)
        enough = tokens >= 1
        self._buckets[client] = (tokens - 1 if enough else tokens, now)
        if len(self._buckets) > _CLIENTS:
            self._buckets.popitem(last=False)
        if not enough:
            wait = math.ceil((1 - tokens) * _MINUTE / self._size - _ROUNDING)
            message = f"more than {self._size:.0f} requests a minute: retry in {wait} s"
            refuse(429, message, code="rate_limit_exceeded", retry_after=wait)
