"""Refuses requests. It needs the standard library only, so that a small process can check bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn


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
