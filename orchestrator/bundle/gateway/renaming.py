"""Translates the model's name between clients and trtllm-serve."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from .replies import refuse


class Names:
    """Translates between what clients call the model and what trtllm-serve calls it.

    Args:
        served: The names of clients; answers carry the first.
        model: The name that trtllm-serve has.
    """

    def __init__(self, served: Sequence[str], model: str) -> None:
        self.served = tuple(served)
        self._model = model
        written = json.dumps(model)
        self._answered = json.dumps(served[0]).encode()
        # Within a string of JSON every quote has a backslash before it, so that this finds keys only.
        spellings = {written, json.dumps(model, ensure_ascii=False)}
        names = b"|".join(re.escape(each.encode()) for each in sorted(spellings))
        self._pattern = re.compile(rb'("model"\s*:\s*)(?:' + names + rb")")
        self.translates = model != served[0]
        """Whether answers must be changed."""

    def request(self, body: bytes) -> bytes:
        """Check the body of a request for the model, and let it name what trtllm-serve knows.

        Raises:
            RefusedError: It is no JSON object, or names another model.
        """
        document = _parse(body)
        asked = document.get("model")
        if asked is None or asked == self._model == self.served[0]:
            return body
        if asked not in self.served:
            told = asked if isinstance(asked, str) else json.dumps(asked)
            message = f"The model {told[:200]!r} does not exist; this server has {', '.join(self.served)}."
            refuse(404, message, code="model_not_found")
        if asked == self._model:
            return body
        document["model"] = self._model
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def answer(self, part: bytes) -> bytes:
        """Let a part of an answer, made of whole lines, name what clients know."""
        return self._pattern.sub(lambda found: found[1] + self._answered, part)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        refuse(400, "The body is not JSON.", code="invalid_json")
    if not isinstance(document, dict):
        refuse(400, "The body must be a JSON object.", code="invalid_json")
    return document


class Lines:
    """Cuts a stream of bytes after its newlines, so that no name is cut in two."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, chunk: bytes) -> bytes:
        """Give all whole lines so far."""
        whole, newline, rest = chunk.rpartition(b"\n")
        if not newline:
            self._rest += chunk
            return b""
        whole, self._rest = self._rest + whole + newline, rest
        return whole

    def rest(self) -> bytes:
        """Give what is left at the end."""
        return self._rest
