"""Sends a question to a deployed server through its gateway, and measures the time."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2

from orchestrator.errors import KeyMissingError, ServerNotReadyError
from orchestrator.values import frozen

API_KEY = "ORCHESTRATOR_API_KEY"
"""The variable with the API key, if the gateway requires one."""
QUESTION = "What is the capital of France? Answer in one word."
_TOKENS = 64
_SECONDS_TO_CONNECT = 5.0
_SECONDS_TO_ANSWER = 300.0
"""Seconds. The first question after a start may compile kernels."""
_MAX_SHOWN = 300
"""Characters of an error that are shown."""


@frozen
class Health:
    """The health of the gateway and of the server behind it."""

    live: bool
    ready: bool
    message: str
    """Why it is not ready, in the server's own message."""
    reached: bool = True
    """Something answered."""


@frozen
class Answer:
    """The answer and its speed."""

    model: str
    question: str
    text: str
    tokens: int
    """Tokens as the server counts them, else the number of pieces."""
    first: float
    """Seconds until the first piece."""
    total: float
    """Seconds until the last."""

    @property
    def rate(self) -> float | None:
        """Tokens per second after the first; None if there was only one."""
        return (self.tokens - 1) / (self.total - self.first) if self.tokens > 1 and self.total > self.first else None


@frozen
class Gateway:
    """The address of a deployed server."""

    url: str
    """`http://127.0.0.1:8000`"""
    key: str | None = None
    """An API key, if the gateway requires one."""
    certificate: Path | None = None
    """Its own certificate, if it uses TLS. No other is accepted; the name in it is not checked."""
    mutual: bool = False
    """It requires a client certificate, which we do not have."""

    def health(self) -> Health:
        """Ask for its health. No answer and errors are results, too."""
        try:
            with self._client(_SECONDS_TO_CONNECT) as client:
                live = client.get("/v1/health/live")
                ready = client.get("/v1/health/ready")
        except httpx2.HTTPError:
            return Health(live=False, ready=False, message="", reached=False)
        if ready.status_code == HTTPStatus.OK:
            return Health(live=True, ready=True, message="")
        return Health(live=live.status_code == HTTPStatus.OK, ready=False, message=_message(ready.text))

    def ask(self) -> Answer:
        """Ask one question: as a chat, or as a completion if the model has no chat template.

        Raises:
            KeyMissingError: It requires an API key, or another one.
            ServerNotReadyError: There is no valid answer.
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
        except (httpx2.HTTPError, _RefusedError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            message = f"{self.url} is ready, but gave no answer: {str(error) or type(error).__name__}"
            raise ServerNotReadyError(message, hint="its log may say why: orchestrator logs RECIPE server") from error

    def _client(self, patience: float) -> httpx2.Client:
        return httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx2.Timeout(patience, connect=_SECONDS_TO_CONNECT),
            verify=_trust(self.certificate) if self.certificate else True,
            trust_env=False,  # a proxy of this machine must not intercept loopback
        )


class _RefusedError(Exception):
    """The gateway answered with an error, which is in the message."""


class _NoChatError(_RefusedError):
    """The model has no chat template."""


def _trust(certificate: Path) -> ssl.SSLContext:
    """Trust only one certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it has the public name, but we use loopback
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(certificate)
    return context


def _ask(client: httpx2.Client, path: str, body: dict[str, Any]) -> Answer:
    request = {**body, "stream": True, "stream_options": {"include_usage": True}}
    pieces: list[str] = []
    first, tokens = 0.0, 0
    begin = last = time.monotonic()
    with client.stream("POST", path, json=request) as response:
        if response.status_code != HTTPStatus.OK:
            refused = _refusal(path, response.status_code, response.read().decode(errors="replace"))
            raise _NoChatError(str(refused)) if response.status_code == HTTPStatus.BAD_REQUEST else refused
        for chunk in _chunks(response):
            tokens = (chunk.get("usage") or {}).get("completion_tokens") or tokens
            if piece := _piece(chunk):
                last = time.monotonic()
                first = first or last - begin
                pieces.append(piece)
    if not pieces:
        message = f"{path} gave an empty answer"
        raise _RefusedError(message)
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
    """Return the text of a piece. A reasoning model begins with its reasoning."""
    choice = (chunk.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    return str(choice.get("text") or delta.get("content") or delta.get("reasoning_content") or "")


def _json(response: httpx2.Response) -> dict[str, Any]:
    if response.status_code != HTTPStatus.OK:
        raise _refusal(response.url.path, response.status_code, response.text)
    found = response.json()
    if not isinstance(found, dict):
        message = f"{response.url.path} answered with no object"
        raise _RefusedError(message)
    return found


def _refusal(path: str, status: int, body: str) -> Exception:
    answer = f"{path} answered {status}: {_message(body)}"
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        message = f"the server is up, but got no question: {answer}"
        return KeyMissingError(message, hint=f"set the API key: {API_KEY}=… orchestrator deploy RECIPE")
    return _RefusedError(answer)


def _message(body: str) -> str:
    """Return the message of an error's body, or the body itself if it has none."""
    try:
        found = json.loads(body)
        error = found.get("error", found)
        text = error.get("message") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = None
    return str(text or body)[:_MAX_SHOWN]
