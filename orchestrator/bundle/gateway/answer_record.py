"""Records what an answer of the model shows of its speed and its tokens, without reading it whole."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

_TAIL = 4096
"""Bytes at the end of an answer, where its usage is."""
# A quote within a JSON string has a backslash, so that no text of the model looks like these.
_READ = re.compile(rb'"(?:prompt|input)_tokens"\s*:\s*(\d+)')
_WRITTEN = re.compile(rb'"(?:completion|output)_tokens"\s*:\s*(\d+)')
_LAST_EVENTS = 2
"""Events at the end of a stream that are no token: the reason to finish, and `[DONE]`."""


@dataclass
class AnswerRecord:
    """What is known of one answer."""

    started: float = field(default_factory=time.monotonic)
    streamed: bool = False
    first_byte: float | None = None
    """Seconds after the start."""
    last_byte: float = 0.0
    """Likewise."""
    _events: int = 0
    _tail: bytes = b""

    def add(self, part: bytes) -> None:
        """Note a part of it."""
        self.last_byte = time.monotonic() - self.started
        if self.first_byte is None:
            self.first_byte = self.last_byte
        if self.streamed:
            self._events += part.count(b"\n\n")
        self._tail = (self._tail + part)[-_TAIL:]

    @property
    def read_tokens(self) -> int:
        """Tokens of the prompt; 0 if the answer does not tell."""
        return _last(_READ, self._tail) or 0

    @property
    def written_tokens(self) -> int:
        """Tokens of the answer: by its usage, else an event of a stream is a token."""
        found = _last(_WRITTEN, self._tail)
        return max(0, self._events - _LAST_EVENTS) if found is None else found

    @property
    def seconds_per_token(self) -> float | None:
        """Seconds from token to token of a stream, after the first."""
        further = self.written_tokens - 1
        if not self.streamed or self.first_byte is None or further < 1:
            return None
        return (self.last_byte - self.first_byte) / further


def _last(pattern: re.Pattern[bytes], text: bytes) -> int | None:
    found = pattern.findall(text)
    return int(found[-1]) if found else None
