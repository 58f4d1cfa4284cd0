"""Translates the model's name in answers of the runtime."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence


class ModelNames:
    """Replaces the runtime's name of the model by the clients' name.

    Args:
        served: The clients' names. Answers have the first one.
        model: The name in the runtime.
    """

    def __init__(self, served: Sequence[str], model: str) -> None:
        self.served = tuple(served)
        self.model = model
        written = json.dumps(model)
        self._answered = json.dumps(served[0]).encode()
        # Every quote within a JSON string has a backslash, so that the pattern finds keys only.
        spellings = {written, json.dumps(model, ensure_ascii=False)}
        names = b"|".join(re.escape(each.encode()) for each in sorted(spellings))
        self._pattern = re.compile(rb'("model"\s*:\s*)(?:' + names + rb")")
        self.translates = model != served[0]
        """Whether answers must be changed."""

    def answer(self, part: bytes) -> bytes:
        """Replace the name in a part of an answer, which must consist of whole lines."""
        return self._pattern.sub(lambda found: found[1] + self._answered, part)


class LineBuffer:
    """Splits a stream of bytes after its newlines, so that no name is split."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, chunk: bytes) -> bytes:
        """Return all whole lines so far."""
        whole, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            self._rest += chunk
            return b""
        whole, self._rest = self._rest + whole + newline, rest
        return whole

    def rest(self) -> bytes:
        """Return the bytes that are left at the end."""
        return self._rest
