"""Asks the Hub's interface again where that may help: when it is in trouble, or wants to be asked less often."""

from __future__ import annotations

import email.utils
import re
import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError

from orchestrator.hub.words import TOO_MANY

_TRIES = 3
_PAUSE = 0.5
"""Seconds before the second try where the Hub names none; twice as long before the third."""
_LONGEST_PAUSE = 60.0
"""Seconds that somebody waits for an answer of a few kilobytes; beyond that a person should know."""
_SERVER_ERROR = 500

_Answer = TypeVar("_Answer")


def asked_again(ask: Callable[[], _Answer]) -> _Answer:
    """Ask, and ask again a little later, or when the Hub says.

    Raises:
        HfHubHTTPError: Where that does not help, or would take too long.
    """
    tries = 1
    while True:
        try:
            return ask()
        except HfHubHTTPError as error:
            status = error.response.status_code
            told = asked_to_wait(error.response.headers)
            pause = told if told is not None else _PAUSE * 2 ** (tries - 1)
            passes = status == TOO_MANY or status >= _SERVER_ERROR
            if not passes or tries >= _TRIES or pause > _LONGEST_PAUSE:
                raise
        time.sleep(pause)
        tries += 1


def asked_to_wait(headers: httpx2.Headers) -> float | None:
    """Read Retry-After, in seconds or as a date, and the Hub's own `ratelimit: "…";r=0;t=SECONDS`."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    if text:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
        except ValueError:
            return None
    found = re.search(r"\br=0\b.*\bt=(\d+)", headers.get("ratelimit", ""))
    return float(found[1]) if found else None
