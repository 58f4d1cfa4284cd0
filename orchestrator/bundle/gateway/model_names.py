"""Translates the model's name between clients and trtllm-serve."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from .replies import refuse


class ModelNames:
    """Translates between the clients' name of the model and trtllm-serve's.

    Args:
        served: The clients' names. Answers have the first one.
        model: The name in trtllm-serve.
    """

    def __init__(self, served: Sequence[str], model: str) -> None:
        self.served = tuple(served)
        self._model = model
        written = json.dumps(model)
        self._answered = json.dumps(served[0]).encode()
        # Every quote within a JSON string has a backslash, so that the pattern finds keys only.
        spellings = {written, json.dumps(model, ensure_ascii=False)}
        names = b"|".join(re.escape(each.encode()) for each in sorted(spellings))
        self._pattern = re.compile(rb'("model"\s*:\s*)(?:' + names + rb")")
        self.translates = model != served[0]
        """Whether answers must be changed."""

    def request(self, body: bytes) -> bytes:
        """Check the body of a request for the model, and replace the name by trtllm-serve's.

        Raises:
            RefusedError: It is not a JSON object, or names another model.
        """
        document = _parse(body)
        name = document.get("model")
        if name is None or name == self._model == self.served[0]:
            return body
        if name not in self.served:
            shown = name if isinstance(name, str) else json.dumps(name)
            message = f"The model {shown[:200]!r} does not exist; this server has {', '.join(self.served)}."
            refuse(404, message, code="model_not_found")
        if name == self._model:
            return body
        document["model"] = self._model
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def answer(self, part: bytes) -> bytes:
        """Replace the name in a part of an answer, which must consist of whole lines."""
        return self._pattern.sub(lambda found: found[1] + self._answered, part)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        refuse(400, "The body is not JSON.", code="invalid_json")
    if not isinstance(document, dict):
        refuse(400, "The body must be a JSON object.", code="invalid_json")
    return document


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
