"""The table of all routes. Other paths do not exist, and a client's path reaches the runtime only as one of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """One route."""

    path: str
    method: str
    summary: str
    for_model: bool = False
    """It is forwarded to the runtime, under the same path."""
    open: bool = False
    """It requires no API key, because probes have none."""

    @property
    def accepted(self) -> tuple[str, ...]:
        """The methods that it takes: whatever takes GET takes HEAD."""
        return (self.method, "HEAD") if self.method == "GET" else (self.method,)


LIVE, READY, METRICS = "/v1/health/live", "/v1/health/ready", "/v1/metrics"
HEALTH_OF_TOOLS, METRICS_OF_TOOLS, OPENAPI, DOCS = "/health", "/metrics", "/openapi.json", "/docs"
MODELS, MODEL = "/v1/models", "/v1/models/{model}"
METADATA, MANIFEST = "/v1/metadata", "/v1/manifest"
LICENSE, VERSION = "/v1/license", "/v1/version"
RESPONSE = "/v1/responses/{response_id}"

ROUTES: Mapping[str, Route] = {
    route.path: route
    for route in (
        Route(LIVE, "GET", "Whether the server runs; 503 after the runtime has ended or hangs.", open=True),
        Route(READY, "GET", "Whether the model answers; 503 before that, and while the server stops.", open=True),
        Route(MODELS, "GET", "The names of the model."),
        Route(MODEL, "GET", "One name of the model."),
        Route(METADATA, "GET", "The model, its files and its licence."),
        Route(MANIFEST, "GET", "The profile of the bundle, as YAML in JSON."),
        Route(LICENSE, "GET", "The licence of the base model."),
        Route(VERSION, "GET", "The version of the bundle and of the interface."),
        Route(METRICS, "GET", "Metrics for Prometheus.", open=True),
        Route(HEALTH_OF_TOOLS, "GET", f"The same as {READY}, without a body.", open=True),
        Route(METRICS_OF_TOOLS, "GET", f"The same as {METRICS}.", open=True),
        Route(OPENAPI, "GET", "This interface, as OpenAPI."),
        Route(DOCS, "GET", "This interface, as a page."),
        Route("/v1/chat/completions", "POST", "Answer a conversation.", for_model=True),
        Route("/v1/completions", "POST", "Continue a text.", for_model=True),
        Route("/v1/responses", "POST", "Answer through OpenAI's newer interface.", for_model=True),
    )
}
HEALTH: Mapping[str, Route] = {path: ROUTES[path] for path in (LIVE, READY)}
"""The routes of a separate health port."""

STORED: tuple[Route, ...] = (
    Route(RESPONSE, "GET", "An answer that the runtime has stored.", for_model=True),
    Route(RESPONSE, "DELETE", "Remove it.", for_model=True),
)
"""The routes with the id of an answer in their path."""
_STORED = re.compile(r"/v1/responses/(resp[A-Za-z0-9_-]{1,124})")
"""An id is one word without a meaning in a path, as the runtime makes them."""


EVERY: tuple[Route, ...] = (*ROUTES.values(), *STORED)


def routes_of(for_model: Collection[str], stored: tuple[Route, ...]) -> tuple[Route, ...]:
    """List the routes of a bundle.

    Args:
        for_model: The paths for the model that its runtime has.
        stored: The routes of stored answers that the runtime has.
    """
    own = (route for route in ROUTES.values() if not route.for_model or route.path in for_model)
    return (*own, *stored)


def find_routes(path: str, table: Mapping[str, Route], stored: tuple[Route, ...] = STORED) -> tuple[Route, ...]:
    """Return the routes of a path; none if it does not exist.

    Args:
        path: The path.
        table: The routes of a port.
        stored: The routes of stored answers that the runtime has.
    """
    if path in table:
        return (table[path],)
    if table is HEALTH:
        return ()
    if path.startswith(f"{MODELS}/") and path != f"{MODELS}/":
        return (ROUTES[MODEL],)
    return stored if _STORED.fullmatch(path) else ()
