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

from orchestrator.hub.errors import TOO_MANY, retry_after

_PAUSE = 0.5
"""Seconds before the first retry if the Hub names none. They double for each further one."""
_LONGEST_PAUSE = 60.0
"""Most seconds to wait for a small answer. A longer wait is an error."""
_SERVER_ERROR = 500

_Answer = TypeVar("_Answer")


def asked_again(
    ask: Callable[[], _Answer],
    tries: int = 3,
    patience: float = _LONGEST_PAUSE,
    sleep: Callable[[float], None] = time.sleep,
) -> _Answer:
    """Send a request, and retry it after a pause or the time that the Hub names.

    Args:
        ask: Sends the request.
        tries: Most attempts. The pauses are 0.5, 1, 2, 4 … seconds if the Hub names none.
        patience: Most seconds that the Hub may ask to wait.
        sleep: Waits. A thread's own version ends if the thread must stop.

    Raises:
        HfHubHTTPError: Retries do not help, or would take too long.
        TransportError: The Hub cannot be reached.
    """
    asked = 1
    while True:
        try:
            return ask()
        except httpx2.TransportError:
            if asked >= tries:
                raise
            pause = _PAUSE * 2 ** (asked - 1)
        except HfHubHTTPError as error:
            status = error.response.status_code
            told = retry_after(error.response.headers)
            pause = told if told is not None else _PAUSE * 2 ** (asked - 1)
            passes = status == TOO_MANY or status >= _SERVER_ERROR
            if not passes or asked >= tries or pause > patience:
                raise
        sleep(pause)
        asked += 1


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
    passes = response.status_code == TOO_MANY or response.status_code >= _SERVER_ERROR
    if passes and (retry_after(response.headers) or 0) > _LONGEST_PAUSE:
        response.read()
        hf_raise_for_status(response)
