"""Creates the gateway's own answers. Errors have the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

JSON = "application/json"
HTML = "text/html"
SERVER = "nim-gateway"
"""The header `Server` of answers, without versions."""
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_SERVER = 500


def error_document(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """Return the body of an error."""
    kind = _KINDS.get(status, "invalid_request_error" if status < _SERVER else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_reply(status: int, message: str, code: str | None = None, **headers: str) -> web.Response:
    """Return the answer for an error."""
    return json_reply(error_document(status, message, code), status, headers)


def json_reply(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return a document as an answer."""
    return web.json_response(document, status=status, headers=headers)
