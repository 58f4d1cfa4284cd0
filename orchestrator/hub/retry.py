"""Retries requests to the Hub when it is unavailable or limits the rate."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined] # exported lazily
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from orchestrator.hub.errors import is_temporary, retry_after

_LONGEST_PAUSE = 60.0
"""Most seconds to wait for a small answer. A longer wait is an error."""

_Answer = TypeVar("_Answer")


def retried(
    request: Callable[[], _Answer],
    attempts: int = 3,
    longest_pause: float = _LONGEST_PAUSE,
    sleep: Callable[[float], None] = time.sleep,
) -> _Answer:
    """Send a request, and retry it after a pause or the time that the Hub names.

    Args:
        request: Sends the request.
        attempts: Most attempts.
        longest_pause: Most seconds that the Hub may ask to wait.
        sleep: Waits. A thread's own version ends if the thread must stop.

    Raises:
        HfHubHTTPError: Retries do not help, or would take too long.
        TransportError: The Hub cannot be reached.
    """

    def helps(error: BaseException) -> bool:
        if isinstance(error, HfHubHTTPError):
            pause = _named_pause(error)
            return is_temporary(error.response.status_code) and (pause is None or pause <= longest_pause)
        return isinstance(error, httpx2.TransportError)

    return Retrying(
        retry=retry_if_exception(helps), wait=_pause, stop=stop_after_attempt(attempts), sleep=sleep, reraise=True
    )(request)


def backoff(attempt: int) -> float:
    """Return the seconds to wait after an attempt, counted from 1, if the Hub names none: 0.5, 1, 2, 4 and so on."""
    return 0.5 * 2.0 ** (attempt - 1)


def _pause(state: RetryCallState) -> float:
    named = _named_pause(state.outcome.exception() if state.outcome else None)
    return backoff(state.attempt_number) if named is None else named


def _named_pause(error: BaseException | None) -> float | None:
    return retry_after(error.response.headers) if isinstance(error, HfHubHTTPError) else None


@contextmanager
def no_long_waits() -> Iterator[None]:
    """Fail instead of letting the Hub's client sleep silently for too long.

    Raises:
        HfHubHTTPError: The Hub asks for a longer pause.
    """
    hooks = get_session().event_hooks["response"]
    hooks.append(_refuse_a_long_wait)
    try:
        yield
    finally:
        hooks.remove(_refuse_a_long_wait)


def _refuse_a_long_wait(response: httpx2.Response) -> None:
    if is_temporary(response.status_code) and (retry_after(response.headers) or 0) > _LONGEST_PAUSE:
        hf_raise_for_status(response)
