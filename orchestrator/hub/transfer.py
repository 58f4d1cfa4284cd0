"""Downloads one file over plain HTTP. It resumes partial downloads and retries temporary faults.

The Hub's own client is not used because it starts a file again after its process was killed, and checks only the size
(measured with 2.4.0). Its session, headers and errors are used here. Only the loop over the bytes is ours.
One request fetches all missing bytes of a file, because the Hub counts requests. A lost connection costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httpx2
from huggingface_hub import constants, get_session
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined] # exported lazily

from orchestrator.errors import HubError
from orchestrator.hub.errors import NOT_THE_HUB, is_temporary, reason, refusal, retry_after, shown
from orchestrator.hub.partial import Partial
from orchestrator.hub.retry import backoff
from orchestrator.hub.stop import Stop

_PIECE = 1 << 20
ATTEMPTS = 6
"""Attempts in a row without a new byte."""
LONGEST_PAUSE = 600.0
"""Most seconds that the Hub may ask us to wait. A longer wait is an error."""
_OK, _PARTIAL = 200, 206


class TooLongError(Exception):
    """More bytes arrive than the file has."""


@dataclass
class _InterruptedError(Exception):
    """A temporary fault."""

    message: str
    pause: float | None = None
    """Seconds that the Hub asks us to wait."""
    status: int = 0


def transfer(url: str, at: str, partial: Partial, stop: Stop, report: Callable[[int], None]) -> None:
    """Fetch the missing bytes of a file.

    Args:
        url: Its URL on the Hub.
        at: Its name, for messages.
        partial: Gets the bytes.
        stop: Checked after each piece.
        report: Called with the number of bytes so far.

    Raises:
        HubError: Nothing more arrives after all retries, or something else arrives. The received bytes are kept.
        TooLongError: More bytes arrive than the file has.
        HfHubHTTPError: A retry cannot help.
    """
    attempts = 0
    while partial.received < partial.size:
        before = partial.received
        try:
            _stream(url, at, partial, stop, report)
        except _InterruptedError as fault:
            attempts = 1 if partial.received > before else attempts + 1
            pause = fault.pause if fault.pause is not None else backoff(attempts)
            if attempts >= ATTEMPTS or pause > LONGEST_PAUSE:
                raise _given_up(at, fault, partial) from fault
            stop.sleep(pause)


def _stream(url: str, at: str, partial: Partial, stop: Stop, report: Callable[[int], None]) -> None:
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if partial.received:
        headers["Range"] = f"bytes={partial.received}-"
    try:
        with get_session().stream(
            "GET", url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as response:
            _require_file(response, at, partial.size)
            _take(response, partial, stop, report)
    except httpx2.TimeoutException as error:
        message = f"nothing arrived for {constants.HF_HUB_DOWNLOAD_TIMEOUT} seconds"
        raise _InterruptedError(message) from error
    except httpx2.TransportError as error:
        raise _InterruptedError(reason(error)) from error
    if partial.received < partial.size:
        message = "the connection ended before the file did"
        raise _InterruptedError(message)


def _require_file(response: httpx2.Response, at: str, size: int) -> None:
    """Refuse an answer that succeeds and is not the file, such as a proxy's page.

    Raises:
        HubError: It shows what came.
    """
    media_type, length = response.headers.get("Content-Type", ""), response.headers.get("Content-Length", "")
    is_short = response.status_code == _OK and length.isdecimal() and int(length) < size
    if response.is_success and (is_short or media_type.startswith("text/html")):
        beginning = next(response.iter_raw(), b"")
        message = f"{at}: the Hub sent something else than the file: {shown(beginning, media_type)}"
        raise HubError(message, hint=NOT_THE_HUB)


def _take(response: httpx2.Response, partial: Partial, stop: Stop, report: Callable[[int], None]) -> None:
    """Write received bytes in larger pieces; after a fault, also the last bytes before it."""
    skip = _begin(response, partial)
    held = bytearray()
    try:
        for bytes_ in response.iter_raw():
            stop.check()
            held += bytes_[skip:]
            skip = max(0, skip - len(bytes_))
            if len(held) > partial.size - partial.received:
                held.clear()
                raise TooLongError
            if len(held) >= _PIECE:
                partial.write(held)
                held = bytearray()
                report(partial.received)
    finally:
        if held:
            partial.write(held)
            report(partial.received)


def _begin(response: httpx2.Response, partial: Partial) -> int:
    """Check the headers of the answer.

    Returns:
        Number of its bytes that are here already: all of them if it starts at 0 although a later part was requested.
    """
    status = response.status_code
    if status == _PARTIAL:
        sent = response.headers.get("Content-Range", "an unnamed part")
        if sent.split("/")[0] != f"bytes {partial.received}-{partial.size - 1}":
            message = f"the bytes from {partial.received} on were requested, and the Hub sent {sent}"
            raise _InterruptedError(message)
        return 0
    if status == _OK:
        return partial.received
    if is_temporary(status):
        message = f"HTTP {status}"
        raise _InterruptedError(message, retry_after(response.headers), status)
    hf_raise_for_status(response)
    message = f"HTTP {status}"
    raise _InterruptedError(message, status=status)


def _given_up(at: str, fault: _InterruptedError, partial: Partial) -> HubError:
    if fault.status:
        return refusal(at, fault.status, fault.pause)
    message = f"{at}: {partial.received} of {partial.size} bytes arrived, then none: {fault.message}"
    return HubError(message, hint="check the network and run it again; the download continues from there")
