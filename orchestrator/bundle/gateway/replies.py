"""Creates the gateway's own answers. Errors have the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from aiohttp import web

JSON = "application/json"
SERVER = "nim-gateway"
"""The header `Server` of answers, without versions."""
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
_SERVER = 500


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: HTTP's.
        message: For a person.
        code: For a program, such as `model_not_found`.
        headers: To add to the answer.
    """

    def __init__(self, status: int, message: str, code: str | None, headers: Mapping[str, str]) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.headers = headers


def refuse(
    status: int,
    message: str,
    *,
    code: str | None = None,
    retry_after: int | None = None,
    headers: Mapping[str, str] | None = None,
) -> NoReturn:
    """Refuse a request.

    Raises:
        RefusedError: Always.
    """
    added = dict(headers or {})
    if retry_after is not None:
        added["Retry-After"] = str(retry_after)
    raise RefusedError(status, message, code, added)


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
