"""The words of trtllm-serve's errors, in OpenAI's form.

Its shapes are those of tensorrt_llm/serve/openai_server.py: `create_error_response`, `validation_exception_handler`.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from orchestrator.bundle.gateway.forward import _error_shape

REFUSED = "[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {'model': 'm'}}]"


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (400, json.dumps({"error": REFUSED}), REFUSED),
        (
            400,
            json.dumps({"object": "error", "message": "too long", "type": "BadRequestError", "code": 400}),
            "too long",
        ),
        (422, json.dumps({"detail": [{"msg": "wrong"}]}), '[{"msg": "wrong"}]'),
        (404, json.dumps({"detail": "Not Found"}), "Not Found"),
        (500, "Internal Server Error", "Internal Server Error"),
        (500, "", "The runtime answered with status 500."),
        (500, "[1, 2]", "The runtime answered with status 500."),
        (400, json.dumps({"error": None}), "The runtime answered with status 400."),
        (400, json.dumps({"error": "x" * 5000}), "x" * 2000 + "…"),
        (500, "[" * 100_000, "[" * 2000 + "…"),
    ],
)
def test_an_error_keeps_its_words(status: int, body: str, message: str) -> None:
    found = _error_shape(body.encode(), status)["error"]
    assert found["message"] == message
    assert found["type"] == ("server_error" if status >= 500 else "not_found_error" if status == 404 else found["type"])
    assert set(found) == {"message", "type", "param", "code"}


def test_an_error_in_openais_form_stays_as_it_is() -> None:
    given: dict[str, Any] = {"error": {"message": "no", "type": "t", "param": "p", "code": 7}}
    assert _error_shape(json.dumps(given).encode(), 400) == given
