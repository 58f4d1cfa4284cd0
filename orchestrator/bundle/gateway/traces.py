"""Sends traces of requests over OpenTelemetry if its packages are installed and a collector is named.

Without either, the headers of a trace that a client began still reach the runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .logs import Log

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

HEADERS = ("traceparent", "tracestate")
_SERVER_ERROR = 500


class Traces:
    """Traces that go nowhere: headers are passed on."""

    def begin(self, route: str, headers: Mapping[str, str]) -> Trace:
        """Begin the trace of a request.

        Args:
            route: The route, such as `/v1/chat/completions`.
            headers: The request's.
        """
        del route
        return Trace({name: headers[name] for name in HEADERS if name in headers})

    def close(self) -> None:
        """Send what was not sent yet."""


class Trace:
    """The trace of one request.

    Args:
        headers: What the runtime gets.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self.headers = headers

    def end(self, status: int) -> None:
        """Say how the request ended: its status; 499 where the client gave up."""


class _SentTrace(Trace):
    """A trace with a span of ours."""

    def __init__(self, span: Span, headers: Mapping[str, str]) -> None:
        super().__init__(headers)
        self._span = span

    def end(self, status: int) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415 - there, else there were no span

        self._span.set_attribute("http.response.status_code", status)
        if status >= _SERVER_ERROR:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _SentTraces(Traces):
    """Traces that go to a collector, in batches from a thread of their own."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("nim-gateway")

    def begin(self, route: str, headers: Mapping[str, str]) -> Trace:
        from opentelemetry import propagate, trace  # noqa: PLC0415 - there, else this class were not used

        parent = propagate.extract({name: headers[name] for name in HEADERS if name in headers})
        attributes = {"http.request.method": "POST", "http.route": route}
        span = self._tracer.start_span(f"POST {route}", parent, trace.SpanKind.SERVER, attributes)
        carried: dict[str, str] = {}
        propagate.inject(carried, trace.set_span_in_context(span, parent))
        return _SentTrace(span, carried)

    def close(self) -> None:
        self._provider.shutdown()


def make_traces(endpoint: str | None, service: str, log: Log) -> Traces:
    """Make traces as the environment asks for.

    Args:
        endpoint: The collector's address; None where nobody collects.
        service: How the collector calls this server.
        log: Hears where packages are missing.
    """
    if endpoint is None:
        return Traces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - optional
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - optional
    except ImportError as error:
        log.warning("no traces are sent: install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http",
                    missing=error.name)  # fmt: skip
        return Traces()
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))  # it reads the endpoint's variables itself
    return _SentTraces(provider)
