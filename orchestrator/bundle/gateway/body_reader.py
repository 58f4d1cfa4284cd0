"""Reads the body of a request within its limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

import aiohttp
from aiohttp import web

from .refusals import refuse
from .replies import JSON
from .settings import RequestLimits

_CHUNK = 1 << 16


def check_content(request: web.BaseRequest, limit: int) -> None:
    """Refuse a body that is too large, compressed, or not JSON, before it is read.

    A page of another origin can send other content types without a preflight, so JSON is required.
    """
    if request.content_type != JSON:
        refuse(415, f"Content-Type must be {JSON}.", code="unsupported_media_type")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        refuse(415, "Compressed bodies are not accepted: leave out Content-Encoding.", code="unsupported_media_type")
    if (request.content_length or 0) > limit:
        _refuse_large(limit)


async def read_body(request: web.BaseRequest, limits: RequestLimits, take: Callable[[int], None]) -> bytes:
    """Read the whole body before the request to the runtime, so that slow or endless bodies never reach it.

    Args:
        request: The request.
        limits: The size and the time that a body may have.
        take: Called with the bytes of each part before it is kept.
    """
    if "Expect" in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.content.iter_chunked(_CHUNK):
                size += len(part)
                if size > limits.body_bytes:
                    _refuse_large(limits.body_bytes)
                take(len(part))
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


def _refuse_large(limit: int) -> NoReturn:
    refuse(413, f"The body is larger than {limit} bytes.", code="body_too_large")
