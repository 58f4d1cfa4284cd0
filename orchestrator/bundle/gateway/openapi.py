"""Describes the interface as OpenAPI 3.1, from the table of routes."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Any

from .metrics import CONTENT_TYPE
from .routes import (
    DOCS,
    EVERY,
    HEALTH_OF_TOOLS,
    LICENSE,
    LIVE,
    MANIFEST,
    METADATA,
    METRICS,
    METRICS_OF_TOOLS,
    MODEL,
    MODELS,
    READY,
    RESPONSE,
    VERSION,
    Route,
)

_TEXT = {"type": "string"}


def describe(names: Sequence[str], routes: Sequence[Route] = EVERY) -> dict[str, Any]:
    """Describe the interface.

    Args:
        names: The names of the model.
        routes: The routes of the bundle.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, names)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "NIM-style deployment",
            "version": "1.0.0",
            "description": "A gateway in front of the runtime with a NIM's routes. It is not an NVIDIA NIM.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Error": _error()},
        },
    }


def page(names: Sequence[str], routes: Sequence[Route] = EVERY) -> str:
    """Write the interface as a page, which loads nothing from elsewhere.

    Args:
        names: The names of the model.
        routes: As above.
    """
    rows = "".join(
        f"<tr><td><code>{route.method} {route.path}</code></td><td>{html.escape(route.summary)}</td></tr>"
        for route in routes
    )
    model = html.escape(", ".join(names))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{model}</title><h1>{model}</h1>'
        f'<p>The whole description: <a href="openapi.json">openapi.json</a>.</p><table>{rows}</table></html>\n'
    )


def _operation(route: Route, names: Sequence[str]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", route.path.removeprefix("/v1/")).strip("_"),
        "summary": route.summary,
        "responses": {"200": _success(route), "default": _failure()},
    }
    if not route.open:
        operation["security"] = [{}, {"key": []}]
    if route.path == RESPONSE:
        operation["operationId"] = f"{route.method.lower()}_response"
        schema = {"type": "string", "pattern": "^resp[A-Za-z0-9_-]{1,124}$"}
        operation["parameters"] = [{"name": "response_id", "in": "path", "required": True, "schema": schema}]
    elif route.path == MODEL:
        named = {"name": "model", "in": "path", "required": True, "schema": {"enum": list(names)}}
        operation["parameters"] = [named]
    elif route.for_model:
        required, optional = _REQUESTS[route.path]
        schema = _object({"model": {"enum": list(names)}, **required}, **optional) | {"additionalProperties": False}
        example = {"model": names[0], **_EXAMPLES[route.path]}
        body = {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}
        operation["requestBody"] = body
    return operation


def _success(route: Route) -> dict[str, Any]:
    if route.path == HEALTH_OF_TOOLS:
        return {"description": route.summary}
    if route.path == DOCS:
        return {"description": route.summary, "content": {"text/html": {"schema": _TEXT}}}
    if route.path in {METRICS, METRICS_OF_TOOLS}:
        return {"description": route.summary, "content": {CONTENT_TYPE: {"schema": _TEXT}}}
    content: dict[str, Any] = {"application/json": {"schema": _ANSWERS.get(route.path, {"type": "object"})}}
    if route.for_model and route.path != RESPONSE:
        content["text/event-stream"] = {"schema": {"description": "Events in OpenAI's format, while the model writes."}}
    return {"description": route.summary, "content": content}


def _failure() -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Error"}
    return {"description": "An error.", "content": {"application/json": {"schema": schema}}}


def _object(required: dict[str, Any], **optional: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {**required, **optional}, "required": list(required)}


def _error() -> dict[str, Any]:
    return _object({"error": _object({
        "message": _TEXT,
        "type": _TEXT,
        "param": {"type": ["string", "null"]},
        "code": {"type": ["string", "integer", "null"]},
    })})  # fmt: skip


_COUNT = {"type": "integer", "minimum": 1}
_MESSAGE = _object({"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string", "minLength": 1}})
_SAMPLING: dict[str, Any] = {
    "max_tokens": _COUNT,
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "stream": {"type": "boolean"},
    "seed": {"type": "integer"},
}
_REQUESTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "/v1/chat/completions": ({"messages": {"type": "array", "items": _MESSAGE, "minItems": 1}}, _SAMPLING),
    "/v1/completions": ({"prompt": _TEXT}, _SAMPLING),
    "/v1/responses": ({"input": _TEXT}, {"max_output_tokens": _COUNT, "stream": {"type": "boolean"}}),
}
"""Required and optional fields of a request besides the model."""
_EXAMPLES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hello"}]},
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello"},
}
_HEALTH = _object({"object": {"const": "health.response"}, "message": _TEXT}, status={"type": ["string", "null"]})
_MODEL = _object(
    {"id": _TEXT, "object": {"const": "model"}, "created": {"type": "integer"}, "owned_by": _TEXT},
    max_model_len={"type": ["integer", "null"]},
)
_LICENSE = _object({
    "name": _TEXT, "path": _TEXT, "sha": _TEXT, "size": {"type": "integer"}, "url": _TEXT,
    "type": _TEXT, "content": _TEXT,
})  # fmt: skip
_ANSWERS = {
    LIVE: _HEALTH,
    READY: _HEALTH,
    MODELS: _object({"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL}}),
    MODEL: _MODEL,
    METADATA: _object({
        "assetInfo": {"type": "array", "items": _TEXT},
        "licenseInfo": _LICENSE,
        "modelInfo": {"type": "array", "items": _object({"shortName": _TEXT, "modelUrl": _TEXT})},
        "repository_override": _TEXT,
        "version": _TEXT,
        "selectedModelProfileId": _TEXT,
    }),
    MANIFEST: _object({"manifest_file": _TEXT}),
    LICENSE: _LICENSE,
    VERSION: _object({"release": _TEXT, "api": _TEXT}),
}  # fmt: skip
"""The bodies as NIM documents them. Answers of the model have OpenAI's format."""
