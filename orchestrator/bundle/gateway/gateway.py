"""Answers every request: finds the route, checks key and limits, and answers or forwards."""

from __future__ import annotations

import asyncio
import json
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NoReturn, cast
from urllib.parse import unquote

import aiohttp
from aiohttp import HttpVersion10, web

from . import cross_origin, routes
from . import metrics as prometheus
from .addresses import client_address
from .answer_record import AnswerRecord
from .bodies import BodyRules, refuse_model
from .body_reader import check_content, read_body
from .body_worker import BodyWorker
from .documents import Documents
from .forward import BrokenAnswerError, ClientLeftError, forward
from .keys import KeyRing
from .launch import Launch
from .limits import BodyBudget, Concurrency, Rate
from .logs import Log
from .machine import certificate_end, free_bytes
from .metrics import Histogram, MachineState, Metrics
from .model_names import ModelNames
from .openapi import describe, page
from .refusals import RefusedError, refuse
from .replies import HTML, JSON, SERVER, error_document, json_reply
from .routes import HEALTH, Route
from .runtime import Runtime, State
from .settings import Settings
from .traces import Trace, Traces

if TYPE_CHECKING:
    from .connections import Connection

REQUEST_ID = "X-Request-Id"
CLIENT_LEFT = 499
"""The logged status of a request whose client closed the connection."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_BEARER = "bearer "
_UNREAD = frozenset({408, 413})
"""The connection is closed after these, because the rest of the body may still arrive."""
_BROKEN = 502
_FAILED = frozenset({State.ENDED, State.HUNG, State.DEAD})
_METRICS = frozenset({routes.METRICS, routes.METRICS_OF_TOOLS})
_METRICS_SECONDS = 5.0
_CONTINUE = "100-continue"
_STARTED = 1700000000
"""The model's `created` time if the runtime reports none. It is a constant, so that a restart does not change it."""


class Phase(StrEnum):
    """How far the server is on its way to its end."""

    SERVING = "serving"
    LEAVING = "leaving"
    """It serves and is not ready, so that load balancers stop sending requests."""
    DRAINING = "draining"
    """It refuses new requests, while running ones finish."""


@dataclass
class _Exchange:
    """A request and the state of its answer."""

    request: web.BaseRequest
    id: str
    started: float
    client: str | None
    """Its address."""
    route: Route | None = None
    key: str | None = None
    """The owner of its API key."""
    body: bytes = b""
    trace: Trace | None = None
    record: AnswerRecord = field(default_factory=AnswerRecord)


class Gateway:
    """The HTTP application.

    Args:
        settings: The settings.
        documents: The bundle's documents.
        runtime: The runtime behind it.
        session: Connections to that.
        keys: The API keys; None if none is required.
        traces: Gets the traces.
        log: Gets the lines.
        launch: How the runtime was started.
    """

    def __init__(
        self,
        settings: Settings,
        documents: Documents,
        runtime: Runtime,
        session: aiohttp.ClientSession,
        *,
        keys: KeyRing | None,
        traces: Traces,
        log: Log,
        launch: Launch,
    ) -> None:
        self.phase = Phase.SERVING
        limits = settings.limits
        self.concurrency = Concurrency(limits.concurrent_requests, limits.concurrent_requests_of_one)
        self._settings = settings
        self._runtime = runtime
        self._session = session
        self._keys = keys
        self._traces = traces
        self._log = log
        self._rate = Rate(settings.limits.per_minute)
        self._metrics = Metrics(launch.kind.METRICS)
        self._names: ModelNames | None = None
        self._launch = launch
        self._runtime_name = documents.serve.runtime
        self._body_worker = BodyWorker(limits.body_bytes)
        self._budget = BodyBudget(settings.limits.held_bytes)
        own = routes.routes_of(launch.kind.FIELDS, launch.kind.STORED)
        self._routes = {route.path: route for route in own if route not in routes.STORED}
        self._bodies = {
            routes.METADATA: documents.metadata,
            routes.LICENSE: documents.license,
            routes.VERSION: documents.version,
            routes.MANIFEST: documents.manifest,
            routes.OPENAPI: json.dumps(describe(settings.names, own)),
            routes.DOCS: page(settings.names, own),
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request on the clients' port."""
        return await self._answer(request, self._routes)

    async def answer_health(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request on the health port."""
        return await self._answer(request, HEALTH)

    def count_unreadable(self, status: int) -> None:
        """Count a request that is not HTTP."""
        self._metrics.requests["other", status] += 1
        self._log.info("unreadable request", status=status)

    async def _answer(self, request: web.BaseRequest, table: Mapping[str, Route]) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        connection.begin_request()
        try:
            return await self._answer_on(request, table)
        finally:
            connection.end_request()

    async def _answer_on(self, request: web.BaseRequest, table: Mapping[str, Route]) -> web.StreamResponse:
        given = request.headers.get(REQUEST_ID, "")
        exchange = _Exchange(
            request,
            given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
            time.monotonic(),
            client_address(
                request.remote, request.headers.getall("X-Forwarded-For", []), self._settings.trusted_proxies
            ),
        )
        try:
            reply = await self._reply(exchange, table)
        except RefusedError as refused:
            reply = json_reply(error_document(refused.status, refused.message, refused.code), refused.status)
            reply.headers.update(refused.headers)
            if refused.status in _UNREAD:
                reply.force_close()
        except BrokenAnswerError:
            self._finish(exchange, _BROKEN)
            raise ConnectionError from None
        except ClientLeftError:
            self._finish(exchange, CLIENT_LEFT)
            raise ConnectionError from None
        except (asyncio.CancelledError, ConnectionError):
            self._finish(exchange, CLIENT_LEFT)
            raise
        except Exception as error:  # noqa: BLE001 - a defect answers 500, in the shape of other errors, and is logged
            self._log.error("defect", request_id=exchange.id, error=f"{type(error).__name__}: {error}")
            reply = json_reply(error_document(500, "The gateway failed.", "gateway_error"), 500)
        if not reply.prepared:
            reply.headers.update(self._added(exchange))
        if reply.headers.get("Connection") == "close":
            reply.force_close()
        self._finish(exchange, reply.status)
        return reply

    async def _reply(self, exchange: _Exchange, table: Mapping[str, Route]) -> web.StreamResponse:
        request = exchange.request
        if request.version < HttpVersion10:
            refuse(505, "HTTP/1.0 or newer is needed.", code="http_version")
        path = request.raw_path.partition("?")[0]
        found = routes.find_routes(path, table, self._launch.kind.STORED)
        if not found:
            refuse(404, "There is no such route; GET /v1/models names the model.", code="not_found")
        exchange.route = found[0]
        if request.method == "OPTIONS" and self._settings.cors and "Origin" in request.headers:
            return cross_origin.preflight(self._settings.cors, request)
        route = next((route for route in found if request.method in route.accepted), None)
        if route is None:
            methods = ", ".join(method for route in found for method in route.accepted)
            refuse(405, f"{path} takes {methods}.", code="method_not_allowed", headers={"Allow": methods})
        exchange.route = route
        if any(each.lower() != _CONTINUE for each in request.headers.getall("Expect", [])):
            refuse(417, f"Expect must be {_CONTINUE}.", code="expectation_failed")
        self._check_key(exchange, route)
        if route.path == routes.RESPONSE:
            return await self._forward_stored(exchange, path)
        if route.for_model:
            return await self._forward(exchange, route)
        return await self._answer_locally(route, path)

    async def _answer_locally(self, route: Route, path: str) -> web.Response:
        """Answer a request that is not for the model."""
        match route.path:
            case routes.LIVE:
                return self._answer_live()
            case routes.READY | routes.HEALTH_OF_TOOLS:
                return self._answer_ready(with_body=route.path == routes.READY)
            case routes.METRICS | routes.METRICS_OF_TOOLS:
                return await self._answer_metrics()
            case routes.MODELS:
                return self._answer_models()
            case routes.MODEL:
                return self._answer_model(unquote(path.removeprefix(f"{routes.MODELS}/")))
            case document:
                content_type = HTML if document == routes.DOCS else JSON
                return web.Response(text=self._bodies[document], content_type=content_type)

    def _answer_live(self) -> web.Response:
        if self._runtime.state in _FAILED and self.phase is Phase.SERVING:
            self._refuse_failed()
        return json_reply({"object": "health.response", "message": "live", "status": "live"})

    def _answer_ready(self, *, with_body: bool) -> web.Response:
        if self.phase is not Phase.SERVING:
            _refuse_stopping()
        self._check_ready()
        if not with_body:
            return web.Response()
        return json_reply({"object": "health.response", "message": "ready", "status": "ready"})

    def _check_ready(self) -> None:
        if self.phase is Phase.DRAINING:
            _refuse_stopping()
        if self._runtime.state in _FAILED:
            self._refuse_failed()
        if self._runtime.state is not State.READY:
            refuse(503, f"The model is not ready: {self._runtime.reason}.", code="not_ready", retry_after=5)

    def _refuse_failed(self) -> NoReturn:
        refuse(503, self._runtime.reason, code=f"runtime_{self._runtime.state}")

    def _answer_models(self) -> web.Response:
        self._check_ready()
        return json_reply({"object": "list", "data": [self._described_model(name) for name in self._settings.names]})

    def _answer_model(self, name: str) -> web.Response:
        self._check_ready()
        if name not in self._settings.names:
            refuse_model(name, self._settings.names)
        return json_reply(self._described_model(name))

    def _described_model(self, name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": _STARTED,
            "owned_by": "system",
            "root": self._settings.names[0],
            "parent": None,
            "max_model_len": self._launch.max_model_len,
            "permission": [],
        }

    async def _answer_metrics(self) -> web.Response:
        ready = self._runtime.state is State.READY
        tls = self._settings.tls
        state = MachineState(
            running=self.concurrency.running,
            limit=self._settings.limits.concurrent_requests,
            at_once=self._launch.max_batch_size,
            ready=ready and self.phase is Phase.SERVING,
            silence=self._runtime.silence.seconds,
            kernels=self._runtime.kernels,
            free_disk=free_bytes(self._settings.cache),
            certificate_end=certificate_end(tls.certificates) if tls else None,
        )
        text = self._metrics.text(self._settings.names[0], state, await self._runtime_metrics() if ready else "")
        return web.Response(body=text.encode(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def _runtime_metrics(self) -> str:
        """Get the runtime's metrics, if it has them."""
        path = self._launch.kind.METRICS_PATH
        if path is None:
            return ""
        url, limit = self._runtime.url + path, aiohttp.ClientTimeout(_METRICS_SECONDS)
        try:
            async with self._session.get(url, timeout=limit, allow_redirects=True) as answer:
                return await answer.text() if answer.status == 200 else ""  # noqa: PLR2004 - HTTP
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return ""

    def _check_key(self, exchange: _Exchange, route: Route) -> None:
        is_open = route.open and not (route.path in _METRICS and self._settings.metrics_need_key)
        if self._keys is None or is_open:
            return
        given = exchange.request.headers.getall("Authorization", [])
        if len(given) == 1 and given[0].lower().startswith(_BEARER):
            exchange.key = self._keys.owner(given[0][len(_BEARER) :].strip())
        if exchange.key is None:
            message = "The API key is not valid." if given else "An API key is needed: Authorization: Bearer KEY."
            refuse(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    async def _forward(self, exchange: _Exchange, route: Route) -> web.StreamResponse:
        self._check_ready()
        check_content(exchange.request, self._settings.limits.body_bytes)
        client = exchange.key or f"@{exchange.client}"
        self._rate.take(client, time.monotonic())
        with self.concurrency.running_request(client), self._budget.share() as take:
            body = await read_body(exchange.request, self._settings.limits, take)
            if self._settings.log_prompts:
                exchange.body = body
            names = self._model_names()
            body = await self._body_worker.prepare(route.path, body, self._rules(names))
            return await self._send(exchange, route.path, body)

    async def _send(self, exchange: _Exchange, path: str, body: bytes) -> web.StreamResponse:
        assert exchange.route is not None  # noqa: S101 - found
        exchange.trace = self._traces.begin(exchange.route.path, exchange.request.headers)
        return await forward(
            exchange.request,
            self._runtime.silence,
            self._session,
            self._runtime.url + path,
            body,
            names=self._model_names(),
            headers={**exchange.trace.headers, **_accepted(exchange.request), REQUEST_ID: exchange.id},
            added=self._added(exchange),
            write_seconds=self._settings.limits.write_seconds,
            record=exchange.record,
        )

    async def _forward_stored(self, exchange: _Exchange, path: str) -> web.StreamResponse:
        """Forward a request for a stored answer. Its path is a constant and one word."""
        self._check_ready()
        client = exchange.key or f"@{exchange.client}"
        self._rate.take(client, time.monotonic())
        with self.concurrency.running_request(client):
            return await self._send(exchange, path, b"")

    def _rules(self, names: ModelNames) -> BodyRules:
        return BodyRules(
            served=names.served,
            model=names.model,
            chat_templates=self._settings.allow_chat_template,
            remote_media=self._settings.allow_remote_media,
            structured=self._launch.guided,
            runtime=self._runtime_name,
        )

    async def close(self) -> None:
        """End the process that checks bodies."""
        await self._body_worker.close()

    def _model_names(self) -> ModelNames:
        if self._names is None:
            self._names = ModelNames(self._settings.names, self._runtime.model or self._settings.names[0])
        return self._names

    def _added(self, exchange: _Exchange) -> dict[str, str]:
        """Return the headers of every answer."""
        added = {REQUEST_ID: exchange.id, "Server": SERVER, "X-Content-Type-Options": "nosniff"}
        if self.phase is not Phase.SERVING:
            added["Connection"] = "close"  # the client's next connection leads to another server
        cors = self._settings.cors
        return {**added, **cross_origin.headers(cors, exchange.request)} if cors else added

    def _finish(self, exchange: _Exchange, status: int) -> None:
        """Count and log a request."""
        seconds = time.monotonic() - exchange.started
        route = exchange.route.path if exchange.route else "other"
        self._metrics.requests[route, status] += 1
        if exchange.route is not None and exchange.route.for_model:
            self._count_model(exchange, route, status, seconds)
        if exchange.trace is not None:
            exchange.trace.end(status)
        quiet = exchange.route is not None and exchange.route.open
        write = self._log.debug if quiet else self._log.info
        write(
            "request",
            request_id=exchange.id,
            client=exchange.client,
            key=exchange.key,
            method=exchange.request.method,
            route=route,
            status=status,
            seconds=round(seconds, 4),
            first_byte=None if exchange.record.first_byte is None else round(exchange.record.first_byte, 4),
            body=exchange.body.decode("utf-8", "replace") if exchange.body else None,
        )

    def _count_model(self, exchange: _Exchange, route: str, status: int, seconds: float) -> None:
        counted, record = self._metrics, exchange.record
        if status == CLIENT_LEFT:
            counted.cancelled += 1
        elif record.first_byte is not None and status == _BROKEN:
            counted.cut += 1
        elif status >= 500:  # noqa: PLR2004 - HTTP
            counted.failed += 1
        elif status < 400:  # noqa: PLR2004 - HTTP
            counted.succeeded += 1
            counted.seconds.setdefault(route, Histogram()).observe(seconds)
        counted.read_tokens += record.read_tokens
        counted.written_tokens += record.written_tokens
        if record.streamed and record.first_byte is not None:
            counted.first_byte.observe(record.first_byte)
        if record.seconds_per_token is not None:
            counted.per_token.observe(record.seconds_per_token)


def _refuse_stopping() -> NoReturn:
    refuse(503, "The server is stopping.", code="stopping", retry_after=10)


def _accepted(request: web.BaseRequest) -> dict[str, str]:
    accept = request.headers.get("Accept")
    return {"Accept": accept} if accept else {}
