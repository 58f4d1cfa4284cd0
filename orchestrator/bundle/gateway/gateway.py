"""Answers every request: finds the route, checks key and limits, and answers or forwards."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import HttpVersion10, web

from . import metrics as prometheus
from . import routes
from .documents import Documents
from .engine import Engine, State
from .forward import BrokenAnswerError, ClientLeftError, forward
from .keys import KeyRing
from .limits import Concurrency, Rate
from .logs import Log
from .metrics import Histogram, Metrics
from .renaming import Names
from .replies import JSON, SERVER, RefusedError, error_document, json_reply, refuse
from .routes import HEALTH, ROUTES, Route
from .settings import Settings
from .traces import Trace, Traces

REQUEST_ID = "X-Request-Id"
CLIENT_LEFT = 499
"""What the log calls a request whose client went away."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BEARER = "bearer "
_UNREAD = frozenset({408, 413})
"""After these a connection ends: more of the body may come."""
_METRICS_SECONDS = 5.0
_CHUNK = 1 << 16
_STARTED = 1700000000
"""The model's `created` time if trtllm-serve reports none. It is a constant, so that a restart does not change it."""


@dataclass
class _Asked:
    """A parsed request."""

    request: web.BaseRequest
    id: str
    started: float
    route: Route | None = None
    key: str | None = None
    """The owner of its API key."""
    body: bytes = b""
    trace: Trace | None = None
    first_byte: float | None = None
    """Seconds after its start."""


class Gateway:
    """The HTTP application.

    Args:
        settings: The settings.
        documents: The bundle's documents.
        engine: The trtllm-serve behind it.
        session: Connections to that.
        keys: The API keys; None if none is required.
        traces: Gets the traces.
        log: Gets the lines.
        max_model_len: Tokens of prompt and answer together, if known.
    """

    def __init__(
        self,
        settings: Settings,
        documents: Documents,
        engine: Engine,
        session: aiohttp.ClientSession,
        *,
        keys: KeyRing | None,
        traces: Traces,
        log: Log,
        max_model_len: int | None,
    ) -> None:
        self.draining = False
        self.concurrency = Concurrency(settings.bounds.requests)
        self._settings = settings
        self._engine = engine
        self._session = session
        self._keys = keys
        self._traces = traces
        self._log = log
        self._rate = Rate(settings.bounds.per_minute)
        self._metrics = Metrics()
        self._names: Names | None = None
        self._max_model_len = max_model_len
        self._bodies = {
            routes.METADATA: documents.metadata,
            routes.LICENSE: documents.license,
            routes.VERSION: documents.version,
            routes.MANIFEST: documents.manifest,
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request on the clients' port."""
        return await self._answer(request, ROUTES)

    async def answer_health(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request on the health port."""
        return await self._answer(request, HEALTH)

    def count_unreadable(self, status: int) -> None:
        """Count a request that is no HTTP."""
        self._metrics.requests["other", status] += 1
        self._log.info("unreadable request", status=status)

    async def _answer(self, request: web.BaseRequest, table: Mapping[str, Route]) -> web.StreamResponse:
        # The protocol is a Connection: it stops waiting for the head of a first request.
        request.protocol.has_asked()  # type: ignore[attr-defined]
        given = request.headers.get(REQUEST_ID, "")
        asked = _Asked(request, given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, time.monotonic())
        try:
            reply = await self._reply(asked, table)
        except RefusedError as refused:
            reply = json_reply(error_document(refused.status, refused.message, refused.code), refused.status)
            reply.headers.update(refused.headers)
            if refused.status in _UNREAD:
                reply.force_close()
        except BrokenAnswerError:
            self._finish(asked, 502)
            raise ConnectionError from None
        except ClientLeftError:
            self._finish(asked, CLIENT_LEFT)
            raise ConnectionError from None
        except (asyncio.CancelledError, ConnectionError):
            self._finish(asked, CLIENT_LEFT)
            raise
        except Exception as error:  # noqa: BLE001 - a defect answers 500, in the shape of other errors, and is logged
            self._log.error("defect", request_id=asked.id, error=f"{type(error).__name__}: {error}")
            reply = json_reply(error_document(500, "The gateway failed.", "gateway_error"), 500)
        if not reply.prepared:
            reply.headers.update(self._added(asked))
        self._finish(asked, reply.status)
        return reply

    async def _reply(self, asked: _Asked, table: Mapping[str, Route]) -> web.StreamResponse:
        request = asked.request
        if request.version < HttpVersion10:
            refuse(505, "HTTP/1.0 or newer is needed.", code="http_version")
        path = request.raw_path.partition("?")[0]
        route = asked.route = table.get(path)
        if route is None:
            refuse(404, "There is no such route; GET /v1/models names the model.", code="not_found")
        if request.method == "OPTIONS" and self._settings.cors and "Origin" in request.headers:
            return self._preflight(request)
        if request.method != route.method:
            refuse(405, f"{path} takes {route.method}.", code="method_not_allowed", headers={"Allow": route.method})
        self._check_key(asked, route)
        if route.for_model:
            return await self._ask_model(asked, route)
        return await self._tell(route)

    async def _tell(self, route: Route) -> web.Response:
        """Answer what is not for the model."""
        match route.path:
            case routes.LIVE:
                return self._live()
            case routes.READY:
                return self._ready()
            case routes.METRICS:
                return await self._tell_metrics()
            case routes.MODELS:
                return self._tell_models()
            case document:
                return web.Response(text=self._bodies[document], content_type=JSON)

    def _live(self) -> web.Response:
        if self._engine.state is State.ENDED and not self.draining:
            refuse(503, self._engine.reason, code="engine_ended")
        return json_reply({"object": "health.response", "message": "live", "status": "live"})

    def _ready(self) -> web.Response:
        self._check_ready()
        return json_reply({"object": "health.response", "message": "ready", "status": "ready"})

    def _check_ready(self) -> None:
        if self.draining:
            refuse(503, "The server is stopping.", code="stopping", retry_after=10)
        if self._engine.state is State.ENDED:
            refuse(503, self._engine.reason, code="engine_ended")
        if self._engine.state is not State.READY:
            refuse(503, f"The model is not ready: {self._engine.reason}.", code="not_ready", retry_after=5)

    def _tell_models(self) -> web.Response:
        self._check_ready()
        models: list[dict[str, Any]] = [
            {
                "id": name,
                "object": "model",
                "created": _STARTED,
                "owned_by": "system",
                "root": self._settings.names[0],
                "parent": None,
                "max_model_len": self._max_model_len,
                "permission": [],
            }
            for name in self._settings.names
        ]
        return json_reply({"object": "list", "data": models})

    async def _tell_metrics(self) -> web.Response:
        engine = await self._ask_metrics() if self._engine.state is State.READY else ""
        text = self._metrics.text(
            self._settings.names[0],
            running=self.concurrency.running,
            ready=self._engine.state is State.READY and not self.draining,
            most=self._settings.bounds.requests,
            engine=engine,
        )
        return web.Response(body=text.encode(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def _ask_metrics(self) -> str:
        """Ask TensorRT-LLM for its metrics; it has them only with `return_perf_metrics`."""
        url, limit = f"{self._engine.url}/prometheus/metrics", aiohttp.ClientTimeout(_METRICS_SECONDS)
        try:
            async with self._session.get(url, timeout=limit, allow_redirects=True) as answer:
                return await answer.text() if answer.status == 200 else ""  # noqa: PLR2004 - HTTP
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return ""

    def _check_key(self, asked: _Asked, route: Route) -> None:
        is_open = route.open and not (route.path == routes.METRICS and self._settings.metrics_need_key)
        if self._keys is None or is_open:
            return
        given = asked.request.headers.getall("Authorization", [])
        if len(given) == 1 and given[0].lower().startswith(_BEARER):
            asked.key = self._keys.owner(given[0][len(_BEARER) :].strip())
        if asked.key is None:
            told = "The API key is not valid." if given else "An API key is needed: Authorization: Bearer KEY."
            refuse(401, told, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _ask_model(self, asked: _Asked, route: Route) -> web.StreamResponse:
        self._check_ready()
        _check_content(asked.request, self._settings.bounds.body)
        self._rate.take(asked.key or f"@{asked.request.remote}", time.monotonic())
        with self.concurrency.one():
            asked.body = await self._read_body(asked.request)
            names = self._names_now()
            body = names.request(asked.body)
            asked.trace = self._traces.begin(route.path, asked.request.headers)
            return await forward(
                asked.request,
                self._session,
                self._engine.url + route.path,
                body,
                names=names,
                headers={**asked.trace.headers, **_accepted(asked.request), REQUEST_ID: asked.id},
                added=self._added(asked),
                first_byte=lambda: self._note_first_byte(asked),
            )

    def _names_now(self) -> Names:
        if self._names is None:
            self._names = Names(self._settings.names, self._engine.model or self._settings.names[0])
        return self._names

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        """Read the whole body before the request to trtllm-serve, so that slow or endless bodies never reach it."""
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        limit, parts, size = self._settings.bounds.body, [], 0
        try:
            async with asyncio.timeout(self._settings.bounds.body_seconds):
                async for part in request.content.iter_chunked(_CHUNK):
                    size += len(part)
                    if size > limit:
                        _refuse_large(limit)
                    parts.append(part)
        except TimeoutError:
            refuse(408, "The body did not arrive in time.", code="timeout")
        except (
            web.PayloadAccessError,
            web.RequestPayloadError,
            aiohttp.ClientPayloadError,
            aiohttp.http.HttpProcessingError,
        ):
            refuse(400, "The body could not be read.", code="bad_request")
        return b"".join(parts)

    def _note_first_byte(self, asked: _Asked) -> None:
        if asked.first_byte is None:
            asked.first_byte = time.monotonic() - asked.started

    def _preflight(self, request: web.BaseRequest) -> web.Response:
        cors = self._settings.cors
        assert cors is not None  # noqa: S101 - asked before
        reply = web.Response(status=204)
        if self._allows_origin(request):
            reply.headers["Access-Control-Allow-Methods"] = ", ".join(cors.methods)
            reply.headers["Access-Control-Allow-Headers"] = ", ".join(cors.headers)
            reply.headers["Access-Control-Max-Age"] = str(cors.max_age)
        return reply

    def _allows_origin(self, request: web.BaseRequest) -> bool:
        cors = self._settings.cors
        origin = request.headers.get("Origin")
        return cors is not None and origin is not None and ("*" in cors.origins or origin in cors.origins)

    def _added(self, asked: _Asked) -> dict[str, str]:
        """Return the headers of every answer."""
        added = {REQUEST_ID: asked.id, "Server": SERVER, "X-Content-Type-Options": "nosniff"}
        cors = self._settings.cors
        if cors is not None:
            added["Vary"] = "Origin"
            if self._allows_origin(asked.request):
                added["Access-Control-Allow-Origin"] = "*" if "*" in cors.origins else asked.request.headers["Origin"]
                added["Access-Control-Expose-Headers"] = ", ".join(cors.exposed)
        return added

    def _finish(self, asked: _Asked, status: int) -> None:
        """Count and log a request."""
        seconds = time.monotonic() - asked.started
        route = asked.route.path if asked.route else "other"
        self._metrics.requests[route, status] += 1
        if asked.route is not None and asked.route.for_model:
            self._count_model(asked, route, status, seconds)
        if asked.trace is not None:
            asked.trace.end(status)
        quiet = asked.route is not None and asked.route.open
        write = self._log.debug if quiet else self._log.info
        write(
            "request",
            request_id=asked.id,
            client=asked.request.remote,
            key=asked.key,
            method=asked.request.method,
            route=route,
            status=status,
            seconds=round(seconds, 4),
            first_byte=None if asked.first_byte is None else round(asked.first_byte, 4),
            body=asked.body.decode("utf-8", "replace") if self._settings.log_prompts and asked.body else None,
        )

    def _count_model(self, asked: _Asked, route: str, status: int, seconds: float) -> None:
        counted = self._metrics
        if status == CLIENT_LEFT:
            counted.cancelled += 1
        elif status >= 500:  # noqa: PLR2004 - HTTP
            counted.failed += 1
        elif status < 400:  # noqa: PLR2004 - HTTP
            counted.succeeded += 1
            counted.seconds.setdefault(route, Histogram()).observe(seconds)
        if asked.first_byte is not None:
            counted.first_byte.observe(asked.first_byte)


def _check_content(request: web.BaseRequest, limit: int) -> None:
    """Refuse by the head: a body that is too large, compressed, or not JSON.

    A page of another origin can send other content types without a preflight, so JSON is required.
    """
    if request.content_type != JSON:
        refuse(415, f"Content-Type must be {JSON}.", code="unsupported_media_type")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        refuse(415, "A packed body is not read: send it without Content-Encoding.", code="unsupported_media_type")
    if (request.content_length or 0) > limit:
        _refuse_large(limit)


def _refuse_large(limit: int) -> None:
    refuse(413, f"The body is larger than {limit} bytes.", code="body_too_large")


def _accepted(request: web.BaseRequest) -> dict[str, str]:
    accept = request.headers.get("Accept")
    return {"Accept": accept} if accept else {}
