"""One question to a deployed server, through its gateway, with the time it took."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx2

from orchestrator.errors import ServerNotReadyError

QUESTION = "What is the capital of France? Answer in one word."
_TOKENS = 64
_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_ANSWER = 300.0
"""The first question after a start may compile kernels."""
_LONGEST = 300
"""Characters of a refusal that are shown."""


@dataclass(frozen=True)
class Health:
    """What the gateway says of itself and of the server behind it."""

    live: bool
    ready: bool
    message: str
    """Why it is not ready, in its own words."""


@dataclass(frozen=True)
class Answer:
    """What came back, and how fast."""

    model: str
    question: str
    text: str
    tokens: int
    """As the server counts them, else the pieces that came."""
    first: float
    """Seconds until the first piece."""
    total: float
    """Seconds until the last."""

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first; None where there was only one."""
        return (self.tokens - 1) / (self.total - self.first) if self.tokens > 1 and self.total > self.first else None


@dataclass(frozen=True)
class Gateway:
    """Where a deployed server is reached."""

    url: str
    """`http://127.0.0.1:8000`"""
    key: str | None = None
    """An API key, where the gateway wants one."""

    def health(self) -> Health:
        """Ask how it is; silence and refusals are answers too."""
        try:
            with self._client(_SECONDS_TO_CONNECT) as client:
                live = client.get("/v1/health/live")
                ready = client.get("/v1/health/ready")
        except httpx2.HTTPError:
            return Health(live=False, ready=False, message="")
        if ready.status_code == HTTPStatus.OK:
            return Health(live=True, ready=True, message="")
        return Health(live=live.status_code == HTTPStatus.OK, ready=False, message=_message(ready.text))

    def ask(self) -> Answer:
        """Ask one question: as a chat, or where the model has no chat template, by beginning a text.

        Raises:
            ServerNotReadyError: There is no answer, or none that can be understood.
        """
        try:
            with self._client(_SECONDS_TO_ANSWER) as client:
                model = str(_json(client.get("/v1/models"))["data"][0]["id"])
                common = {"model": model, "max_tokens": _TOKENS, "temperature": 0}
                try:
                    chat = {**common, "messages": [{"role": "user", "content": QUESTION}]}
                    return _ask(client, "/v1/chat/completions", chat)
                except _NoChatError:
                    return _ask(client, "/v1/completions", {**common, "prompt": QUESTION})
        except (httpx2.HTTPError, _RefusedError, ValueError, KeyError, IndexError, TypeError) as error:
            message = f"{self.url} is ready, but gave no answer: {str(error) or type(error).__name__}"
            raise ServerNotReadyError(message, hint="its own words may say why: orchestrator logs RECIPE server") from error

    def _client(self, patience: float) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx2.Timeout(patience, connect=_SECONDS_TO_CONNECT),
            trust_env=False,  # a proxy of this machine's must not come between us and loopback
        )


class _RefusedError(Exception):
    """The gateway answered with an error; the message says which."""


class _NoChatError(_RefusedError):
    """This model cannot chat."""


def _ask(client: httpx2.Client, path: str, body: dict[str, Any]) -> Answer:
    asked = {**body, "stream": True, "stream_options": {"include_usage": True}}
    pieces: list[str] = []
    first, tokens = 0.0, 0
    begin = last = time.monotonic()
    with client.stream("POST", path, json=asked) as response:
        if response.status_code != HTTPStatus.OK:
            said = f"{path} answered {response.status_code}: {_message(response.read().decode(errors='replace'))}"
            raise _NoChatError(said) if response.status_code == HTTPStatus.BAD_REQUEST else _RefusedError(said)
        for chunk in _chunks(response):
            tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
            if piece := _piece(chunk):
                last = time.monotonic()
                first = first or last - begin
                pieces.append(piece)
    if not pieces:
        said = f"{path} answered without a word"
        raise _RefusedError(said)
    return Answer(str(body["model"]), QUESTION, "".join(pieces).strip(), tokens or len(pieces), first, last - begin)


def _chunks(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        data = line.removeprefix("data:").strip()
        if line.startswith("data:") and data != "[DONE]":
            chunk = json.loads(data)
            if "error" in chunk:
                raise _RefusedError(_message(data))
            yield chunk


def _piece(chunk: dict[str, Any]) -> str:
    """Take the text out of a piece; a model that reasons begins with its reasoning."""
    choice = (chunk.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    return str(choice.get("text") or delta.get("content") or delta.get("reasoning_content") or "")


def _json(response: httpx2.Response) -> dict[str, Any]:
    if response.status_code != HTTPStatus.OK:
        message = f"{response.url.path} answered {response.status_code}: {_message(response.text)}"
        raise _RefusedError(message)
    found = response.json()
    if not isinstance(found, dict):
        message = f"{response.url.path} answered with no object"
        raise _RefusedError(message)
    return found


def _message(body: str) -> str:
    """Take the message out of an error's body, or the body itself where it has none."""
    try:
        found = json.loads(body)
        error = found.get("error", found)
        text = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = None
    return str(text or body)[:_LONGEST]
