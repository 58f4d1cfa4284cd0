"""Answers browsers that ask whether pages of other origins may use the server (CORS)."""

from __future__ import annotations

from aiohttp import web

from .settings import Cors


def preflight(cors: Cors, request: web.BaseRequest) -> web.Response:
    """Answer the question that a browser asks before the request itself."""
    reply = web.Response(status=204)
    if _allows(cors, request):
        reply.headers["Access-Control-Allow-Methods"] = ", ".join(cors.methods)
        reply.headers["Access-Control-Allow-Headers"] = ", ".join(cors.headers)
        reply.headers["Access-Control-Max-Age"] = str(cors.max_age)
    return reply


def headers(cors: Cors, request: web.BaseRequest) -> dict[str, str]:
    """Return the headers of every answer that say which pages may read it."""
    found = {"Vary": "Origin"}
    if _allows(cors, request):
        found["Access-Control-Allow-Origin"] = "*" if "*" in cors.origins else request.headers["Origin"]
        found["Access-Control-Expose-Headers"] = ", ".join(cors.exposed)
    return found


def _allows(cors: Cors, request: web.BaseRequest) -> bool:
    origin = request.headers.get("Origin")
    return origin is not None and ("*" in cors.origins or origin in cors.origins)
