"""Forwards a request to the runtime, and streams its answer back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

from .answer_record import AnswerRecord
from .model_names import LineBuffer, ModelNames
from .refusals import refuse
from .replies import JSON, error_document, json_reply
from .silence import AwaitedAnswer, Silence

_PASSED_BACK = ("Content-Type", "Cache-Control", "Retry-After")
"""Headers of the runtime's answers that are forwarded. All others are dropped."""
_ERROR_BYTES = 1 << 22
"""An error may quote a request, which has a whole conversation."""
_MESSAGE_CHARACTERS = 2000
_ERROR = 400
_SMALL = 1 << 14
"""Bytes that a connection takes at once if nothing waits in it."""
_EVENTS = "text/event-stream"


class BrokenAnswerError(Exception):
    """The answer broke off after its head was sent. The client was informed if possible."""


class ClientLeftError(Exception):
    """The client has closed the connection."""


async def forward(
    request: web.BaseRequest,
    silence: Silence,
    session: aiohttp.ClientSession,
    url: str,
    body: bytes,
    *,
    names: ModelNames,
    headers: Mapping[str, str],
    added: Mapping[str, str],
    write_seconds: float,
    record: AnswerRecord,
) -> web.StreamResponse:
    """Send a request to the runtime, with the client's method, and forward its answer.

    The client's request line, headers and framing are not forwarded: the new request has a constant path, these headers
    and a body of known length. If the client closes its connection, this is cancelled, and with it the connection to
    the runtime, which then stops.

    Args:
        request: The client's.
        silence: Learns of each sign of the runtime.
        session: Connections to the runtime.
        url: The whole address.
        body: The body to send.
        names: The model's names.
        headers: Headers to send.
        added: Headers to add to the answer.
        write_seconds: Seconds for the client to take a part of the answer.
        record: Learns of each part of the answer.

    Raises:
        RefusedError: The runtime cannot be reached.
        BrokenAnswerError: The answer broke off.
        ClientLeftError: The client closed the connection.
    """
    try:
        with silence.awaited() as awaited:
            method = "GET" if request.method == "HEAD" else request.method
            content = {"Content-Type": JSON} if body else {}
            async with session.request(method, url, data=body or None, headers={**content, **headers}) as answer:
                if answer.status >= _ERROR:
                    return await _error(answer, added, names)
                return await _stream(
                    request,
                    answer,
                    awaited,
                    names=names,
                    added=added,
                    write_seconds=write_seconds,
                    record=record,
                )
    except TimeoutError:
        refuse(504, "The model took too long to answer.", code="timeout")
    except aiohttp.ClientError as error:
        refuse(502, f"The runtime cannot be reached ({type(error).__name__}).", code="runtime_unreachable")


async def _error(answer: aiohttp.ClientResponse, added: Mapping[str, str], names: ModelNames) -> web.Response:
    """Convert an error of the runtime to the form of the gateway's own."""
    text = names.answer(await _beginning(answer, _ERROR_BYTES))
    headers = {**_passed(answer), **added}
    headers.pop("Content-Type", None)
    return json_reply(_error_shape(text, answer.status), answer.status, headers)


async def _beginning(answer: aiohttp.ClientResponse, size: int) -> bytes:
    """Read a whole body, or as much of it as is of use."""
    parts = bytearray()
    async for part in answer.content.iter_any():
        parts += part
        if len(parts) >= size:
            break
    return bytes(parts[:size])


def _error_shape(text: bytes, status: int) -> dict[str, Any]:
    """Keep the words of an error in OpenAI's form.

    the runtime has `{"message", "type", "code"}`, `{"error": "…"}` for a request that its schema refuses,
    `{"detail": …}` from FastAPI, and plain text if it fails.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = {"message": text.decode("utf-8", "replace").strip() or None}
    found = found if isinstance(found, dict) else {}
    if isinstance(found.get("error"), dict):
        return found
    message = next((found[name] for name in ("message", "error", "detail") if found.get(name) is not None), None)
    if message is None:
        message = f"The runtime answered with status {status}."
    document = error_document(status, _shortened(message if isinstance(message, str) else json.dumps(message)))
    if isinstance(found.get("param"), str):
        document["error"]["param"] = found["param"]
    return document


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_CHARACTERS else message[:_MESSAGE_CHARACTERS] + "…"


def _passed(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: answer.headers[name] for name in _PASSED_BACK if name in answer.headers}


async def _stream(
    request: web.BaseRequest,
    answer: aiohttp.ClientResponse,
    awaited: AwaitedAnswer,
    *,
    names: ModelNames,
    added: Mapping[str, str],
    write_seconds: float,
    record: AnswerRecord,
) -> web.StreamResponse:
    reply = web.StreamResponse(status=answer.status, headers=CIMultiDict({**_passed(answer), **added}))
    is_events = answer.content_type == _EVENTS
    record.streamed = is_events
    if is_events:
        reply.headers["X-Accel-Buffering"] = "no"  # asks a proxy in front of us to forward events at once
    if not names.translates and answer.content_length is not None:
        reply.content_length = answer.content_length
    parts = _translated(answer, names) if names.translates else answer.content.iter_any().__aiter__()
    with _writing():
        await reply.prepare(request)
    while True:
        try:
            with awaited if is_events else nullcontext():
                part = await anext(parts)
        except StopAsyncIteration:
            break
        except (aiohttp.ClientError, TimeoutError) as error:
            await _break_off(request, reply, write_seconds, is_events=is_events)
            raise BrokenAnswerError from error
        record.add(part)
        await _write(request, reply, part, write_seconds)
    await _write(request, reply, None, write_seconds)
    return reply


async def _write(request: web.BaseRequest, reply: web.StreamResponse, part: bytes | None, seconds: float) -> None:
    """Write a part of the answer, or its end. A client that does not take it in time is cut off."""
    write = reply.write_eof() if part is None else reply.write(part)
    transport = request.transport
    with _writing():
        if transport is None or (not transport.get_write_buffer_size() and len(part or b"") < _SMALL):
            await write  # nothing to wait for, and no timer to pay for
            return
        try:
            async with asyncio.timeout(seconds):
                await write
        except TimeoutError as error:
            transport.abort()
            raise ClientLeftError from error


@contextmanager
def _writing() -> Iterator[None]:
    """Turn failures of the client's connection into ClientLeftError: aiohttp raises the same for both sides."""
    try:
        yield
    except (ConnectionError, aiohttp.ClientError) as error:
        raise ClientLeftError from error


async def _translated(answer: aiohttp.ClientResponse, names: ModelNames) -> AsyncIterator[bytes]:
    lines = LineBuffer()
    async for chunk in answer.content.iter_any():
        whole = lines.cut(chunk)
        if whole:
            yield names.answer(whole)
    if lines.rest():
        yield names.answer(lines.rest())


async def _break_off(
    request: web.BaseRequest, reply: web.StreamResponse, write_seconds: float, *, is_events: bool
) -> None:
    """Show the client that the answer is incomplete: by an error event, and by closing without the answer's end."""
    if is_events:
        document = error_document(502, "The runtime broke off in the middle of its answer.", "runtime_broke_off")
        event = b"\n\ndata: " + json.dumps(document).encode() + b"\n\n"
        await _write(request, reply, event, write_seconds)
    await asyncio.sleep(0)
    if request.transport is not None:
        request.transport.close()  # without the last chunk, so that no client takes it for complete
