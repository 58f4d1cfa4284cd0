"""Starts a server for as long as it is used: to ask it one question, or to measure it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from orchestrator.bundle.gateway.harmony import VocabularyError, write_vocabulary
from orchestrator.errors import CheckFailedError
from orchestrator.payloads._process import running
from orchestrator.values import frozen

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence

QUESTION = "What is the capital of France? Answer in one word."
_TOKENS = 32
_SECONDS_BETWEEN_POLLS = 0.2
_LOG_LINES = 20
_OK = 200


@frozen
class Served:
    """One question and its answer."""

    endpoint: str
    question: str
    answer: str
    seconds_to_ready: float
    seconds_to_answer: float


@frozen
class Server:
    """A server and the command that starts it."""

    command: Sequence[str]
    model: Path
    """The checkpoint that it serves."""
    port: int
    log: Path
    """Gets everything that the command writes."""
    startup_timeout: float
    """Seconds until it must be healthy."""
    answer_timeout: float
    """Seconds until it must have answered."""

    def ask_once(self, *, chat: bool) -> Served:
        """Start the server, wait until it is healthy, ask, and always stop it.

        Args:
            chat: Ask through the chat endpoint; otherwise through the completions endpoint.

        Raises:
            CheckFailedError: It did not start, was not healthy in time or gave no answer; with its last log lines.
        """
        begin = time.monotonic()
        with self.started() as model:
            ready = time.monotonic()
            endpoint, answer = self._ask(model, chat=chat)
            answered = time.monotonic()
        return Served(endpoint, QUESTION, answer, round(ready - begin, 3), round(answered - ready, 3))

    @contextlib.contextmanager
    def started(self) -> Iterator[str]:
        """Start the server, wait until it is healthy, give its name of the model, and always stop it.

        Raises:
            CheckFailedError: It did not start, or was not healthy in time; with its last log lines.
        """
        with self.log.open("wb") as log, tempfile.TemporaryDirectory(prefix="vocabulary-") as folder:
            try:
                self._require_free_port()
                with running(self.command, log, self._vocabulary(Path(folder), log)) as process:
                    self._wait_until_healthy(process, time.monotonic() + self.startup_timeout)
                    yield self._model()
            except (OSError, http.client.HTTPException, _UnusableError) as error:
                raise self._failed(str(error)) from error

    def _vocabulary(self, folder: Path, log: BinaryIO) -> dict[str, str]:
        """Return the variables that name the vocabulary of a model that needs one."""
        try:
            return write_vocabulary(self.model, lambda: folder, os.environ)
        except VocabularyError as error:
            log.write(f"warning: {error}\n".encode())
            log.flush()
            return {}

    def _require_free_port(self) -> None:
        """Refuse a port on which another process would answer."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
            message = f"something else listens on port {self.port} already"
            raise _UnusableError(message)

    def _wait_until_healthy(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        while time.monotonic() < deadline:
            status = process.poll()
            if status is not None:
                message = f"it ended with status {status} before it was healthy"
                raise _UnusableError(message)
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._request("GET", "/health", timeout=5)[0] == _OK:
                    return
            time.sleep(_SECONDS_BETWEEN_POLLS)
        message = f"it was not healthy after {self.startup_timeout:g} seconds"
        raise _UnusableError(message)

    def _ask(self, model: str, *, chat: bool) -> tuple[str, str]:
        common = {"model": model, "max_tokens": _TOKENS, "temperature": 0}
        if chat:
            endpoint = "/v1/chat/completions"
            reply = self._json("POST", endpoint, {**common, "messages": [{"role": "user", "content": QUESTION}]})
        else:
            endpoint = "/v1/completions"
            reply = self._json("POST", endpoint, {**common, "prompt": QUESTION})
        return endpoint, _answer(reply)

    def _model(self) -> str:
        """Return the name under which the server knows its model."""
        try:
            return str(self._json("GET", "/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            message = "/v1/models names no model"
            raise _UnusableError(message) from None

    def _json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        status, text = self._request(method, path, body, timeout=self.answer_timeout)
        if status != _OK:
            message = f"{path} answered with status {status}: {text[:500].decode(errors='replace')}"
            raise _UnusableError(message)
        try:
            reply = json.loads(text)
        except ValueError:
            message = f"{path} answered with something other than JSON: {text[:500].decode(errors='replace')}"
            raise _UnusableError(message) from None
        if not isinstance(reply, dict):
            message = f"{path} answered with a {type(reply).__name__}, expected an object"
            raise _UnusableError(message)
        return reply

    def _request(self, method: str, path: str, body: object = None, *, timeout: float) -> tuple[int, bytes]:
        # http.client rather than urllib.request, so that a proxy in the environment does not intercept loopback.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _failed(self, what: str) -> CheckFailedError:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        tail = "\n".join(lines) if lines else "(it wrote nothing)"
        return CheckFailedError(
            f"the server {self.command[0]}: {what}; its last lines:\n{tail}", hint=f"See {self.log}."
        )


class _UnusableError(Exception):
    """The server cannot be used; the message says why."""


def kernels(log: Path, patterns: Sequence[str]) -> list[str]:
    """List the kernels that a server's log names, each once, in the order of their first line.

    Args:
        log: The log.
        patterns: Patterns whose first group is the kernel.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    found = (match[1] for line in text.splitlines() for pattern in patterns for match in re.finditer(pattern, line))
    return list(dict.fromkeys(found))


def _answer(reply: dict[str, Any]) -> str:
    try:
        choice = reply["choices"][0]
        message = choice.get("message") or {}
        # A reasoning model that is cut short has only its reasoning.
        text = choice.get("text") or message.get("content") or message.get("reasoning_content")
    except (KeyError, IndexError, TypeError, AttributeError):
        text = None
    if not isinstance(text, str) or not text.strip():
        message = f"the reply has no text: {json.dumps(reply)[:500]}"
        raise _UnusableError(message)
    return text
