"""Asks the Hub's interface again where that may help: when it is in trouble, or wants to be asked less often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import httpx2
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import hf_raise_for_status  # type: ignore[attr-defined] # exported lazily

from orchestrator.hub.words import TOO_MANY, asked_to_wait

_PAUSE = 0.5
"""Seconds before the second try where the Hub names none; twice as long before each further one."""
_LONGEST_PAUSE = 60.0
"""Seconds that somebody waits for an answer of a few kilobytes; beyond that a person should know."""
_SERVER_ERROR = 500

_Answer = TypeVar("_Answer")


def asked_again(
    ask: Callable[[], _Answer],
    tries: int = 3,
    patience: float = _LONGEST_PAUSE,
    sleep: Callable[[float], None] = time.sleep,
) -> _Answer:
    """Ask, and ask again a little later, or when the Hub says.

    Args:
        ask: Asks.
        tries: How often at the most; the pauses before them are 0.5 seconds, 1, 2, 4 … where the Hub names none.
        patience: Seconds that the Hub may ask to wait.
        sleep: Waits; a thread's own way ends where the threads are to end.

    Raises:
        HfHubHTTPError: Where that does not help, or would take too long.
        TransportError: Where the Hub cannot be reached.
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
            told = asked_to_wait(error.response.headers)
            pause = told if told is not None else _PAUSE * 2 ** (asked - 1)
            passes = status == TOO_MANY or status >= _SERVER_ERROR
            if not passes or asked >= tries or pause > patience:
                raise
        sleep(pause)
        asked += 1


@contextmanager
def no_long_waits() -> Iterator[None]:
    """Let the Hub's own client fail where it would wait, silently, for longer than a person should not know of it.

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
    if passes and (asked_to_wait(response.headers) or 0) > _LONGEST_PAUSE:
        response.read()
        hf_raise_for_status(response)
