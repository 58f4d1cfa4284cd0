"""The table of all routes. Other paths do not exist, and no path of a client ever reaches trtllm-serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """One route."""

    path: str
    method: str
    summary: str
    for_model: bool = False
    """It is forwarded to trtllm-serve, under the same path."""
    open: bool = False
    """It requires no API key, because probes have none."""


LIVE, READY, METRICS = "/v1/health/live", "/v1/health/ready", "/v1/metrics"
MODELS, METADATA, MANIFEST = "/v1/models", "/v1/metadata", "/v1/manifest"
LICENSE, VERSION = "/v1/license", "/v1/version"

ROUTES: Mapping[str, Route] = {
    route.path: route
    for route in (
        Route(LIVE, "GET", "Whether the server runs; 503 after trtllm-serve has ended.", open=True),
        Route(READY, "GET", "Whether the model answers; 503 before that, and while the server stops.", open=True),
        Route(MODELS, "GET", "The names of the model."),
        Route(METADATA, "GET", "The model, its files and its licence."),
        Route(MANIFEST, "GET", "The profile of the bundle, as YAML in JSON."),
        Route(LICENSE, "GET", "The licence of the base model."),
        Route(VERSION, "GET", "The version of the bundle and of the interface."),
        Route(METRICS, "GET", "Metrics for Prometheus.", open=True),
        Route("/v1/chat/completions", "POST", "Answer a conversation.", for_model=True),
        Route("/v1/completions", "POST", "Continue a text.", for_model=True),
        Route("/v1/responses", "POST", "Answer through OpenAI's newer interface.", for_model=True),
    )
}
HEALTH: Mapping[str, Route] = {path: ROUTES[path] for path in (LIVE, READY)}
"""The routes of a separate health port."""
