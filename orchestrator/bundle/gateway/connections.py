"""Limits the HTTP server's connections and answers unreadable requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from .replies import SERVER, error_reply

_MAX_LINE = 8190
"""Bytes of the request line, and of one header."""
_KEEP_ALIVE = 75.0
_LINGER = 1.0
"""Seconds for which a refused body is still read, so that its sender sees the refusal."""
_SILENT = logging.getLogger("gateway.http")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False  # its messages quote unreadable requests, with keys


class Connection(web.RequestHandler):
    """A connection that is closed if its first request does not arrive in time, or if too many are busy.

    It is idle while it has no request; then it may be closed without a loss.
    """

    __slots__ = ("_deadline", "_server")

    def __init__(self, manager: web.Server, server: LimitedServer, **options: Any) -> None:  # noqa: ANN401 - aiohttp's
        super().__init__(manager, **options)
        self._server = server
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, or close it."""
        super().connection_made(transport)
        self._server.open += 1
        if self._server.open > self._server.max_connections and not self._server.close_one_idle():
            transport.close()
            return
        self._server.idle[self] = None
        self._deadline = asyncio.get_running_loop().call_later(self._server.header_seconds, transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop counting it."""
        self._server.open -= 1
        self.begin_request()
        super().connection_lost(exc)

    def begin_request(self) -> None:
        """Note that a request's head arrived: the deadline for the first one is cancelled."""
        self._server.idle.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def end_request(self) -> None:
        """Note that the request is answered. The limit for idle connections applies from now on."""
        if self.transport is not None:
            self._server.idle[self] = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer an unreadable request in the form of other errors, without quoting it."""
        super().handle_error(request, status, exc, message)  # raises if an answer has begun
        self._server.on_unreadable(status)
        if status < 500:  # noqa: PLR2004 - HTTP
            reply = error_reply(status, "The request is not valid HTTP.", "bad_request")
        else:
            reply = error_reply(status, "The gateway failed.", "gateway_error")
        reply.headers["Server"] = SERVER
        reply.force_close()
        return reply


class LimitedServer(web.Server):
    """Creates connections with limits.

    Args:
        handler: Answers a request.
        max_connections: The most open connections.
        header_seconds: Seconds until the first request's head must have arrived.
        on_unreadable: Called with the status of the answer to an unreadable request.
    """

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        *,
        max_connections: int,
        header_seconds: float,
        on_unreadable: Callable[[int], None],
    ) -> None:
        self.open = 0
        self.idle: dict[Connection, None] = {}
        """The connections without a request, the one that is idle for longest first."""
        self.on_unreadable = on_unreadable
        self.max_connections = max_connections
        self.header_seconds = header_seconds
        self._options: dict[str, Any] = {
            "access_log": None,
            "auto_decompress": False,
            "keepalive_timeout": _KEEP_ALIVE,
            "lingering_time": _LINGER,
            "logger": _SILENT,
            "max_field_size": _MAX_LINE,
            "max_line_size": _MAX_LINE,
        }
        super().__init__(handler, handler_cancellation=True, **self._options)

    def close_one_idle(self) -> bool:
        """Close the connection that is idle for longest; False if none is."""
        longest = next(iter(self.idle), None)
        if longest is None:
            return False
        del self.idle[longest]
        longest.force_close()
        return True

    def close_idle(self) -> None:
        """Close every connection without a request, so that its client opens the next one elsewhere."""
        for connection in tuple(self.idle):
            connection.force_close()

    def __call__(self) -> web.RequestHandler:
        """Create a connection."""
        return Connection(self, self, loop=asyncio.get_running_loop(), **self._options)
