"""Limits the HTTP server's connections and answers unreadable requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from .replies import SERVER, error_reply

_LINE = 8190
"""Bytes of the request line, and of one header."""
_KEEP_ALIVE = 75.0
_LINGER = 1.0
"""Seconds for which a refused body is still read, so that its sender sees the refusal."""
_SILENT = logging.getLogger("gateway.http")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False  # its words about unreadable requests quote them, keys and all


class Connection(web.RequestHandler):
    """A connection that must send the head of its first request in time, and is one of few enough."""

    __slots__ = ("_door", "_first")

    def __init__(self, manager: web.Server, door: Door, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(manager, **options)
        self._door = door
        self._first: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, or close it."""
        super().connection_made(transport)
        self._door.open += 1
        if self._door.open > self._door.most:
            transport.close()
            return
        self._first = asyncio.get_running_loop().call_later(self._door.header_seconds, transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it no more."""
        self._door.open -= 1
        self.has_asked()
        super().connection_lost(exc)

    def has_asked(self) -> None:
        """Take note that the head of a request is there; from now on the limit of idle connections holds."""
        if self._first is not None:
            self._first.cancel()
            self._first = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what could not be read, in the shape of other errors and without its text."""
        super().handle_error(request, status, exc, message)  # raises where an answer has begun
        self._door.on_unreadable(status)
        told = "The request is not HTTP as this server reads it." if status < 500 else "The gateway failed."  # noqa: PLR2004
        reply = error_reply(status, told, "bad_request" if status < 500 else "gateway_error")  # noqa: PLR2004
        reply.headers["Server"] = SERVER
        reply.force_close()
        return reply


class Door(web.Server):
    """Makes connections.

    Args:
        handler: Answers a request.
        most: How many connections may be open.
        header_seconds: How long the first head may take.
        on_unreadable: Called with the status that an unreadable request is answered with.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        most: int,
        header_seconds: float,
        on_unreadable: Callable[[int], None],
    ) -> None:
        self.open = 0
        self.on_unreadable = on_unreadable
        self.most = most
        self.header_seconds = header_seconds
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": _KEEP_ALIVE,
            "lingering_time": _LINGER,
            "logger": _SILENT,
            "max_field_size": _LINE,
            "max_line_size": _LINE,
        }
        super().__init__(handler, handler_cancellation=True, **self._options)

    def __call__(self) -> web.RequestHandler:
        """Make one."""
        return Connection(self, self, loop=asyncio.get_running_loop(), **self._options)
