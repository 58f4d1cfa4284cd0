"""Stand-in for trtllm-serve: an OpenAI-compatible server that answers every question with the same words."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from .standin_tool import Given, existing, fail, main, read_json, refuse, say, work

_ANSWER = "Paris is what a stand-in answers."
_CREATED = 1700000000


def run(given: Given) -> None:
    """Serve until SIGTERM."""
    arguments = given.positionals[1:] if given.positionals[:1] == ["serve"] else given.positionals
    if len(arguments) != 1:
        refuse(f"expected one MODEL; found {arguments}")
    model = existing(Path(arguments[0]))
    read_json(model / "config.json")
    backend = given.get("--backend", "pytorch")
    tokenizer = Path(given.get("--tokenizer", str(model)))
    if backend == "tensorrt" and not any(model.glob("rank*.engine")):
        fail(f"FileNotFoundError: {model} holds no engine")
    if not (tokenizer / "tokenizer_config.json").is_file():
        fail(f"OSError: can't load the tokenizer of {tokenizer}")
    if "--config" in given.values and not Path(given.get("--config")).is_file():
        fail(f"FileNotFoundError: {given.get('--config')}")
    work("loading")
    _Handler.model = given.get("--served_model_name", model.resolve().name)
    _Handler.chat_template = _has_chat_template(tokenizer)
    server = ThreadingHTTPServer((given.get("--host", "localhost"), int(given.get("--port", "8000"))), _Handler)
    server.daemon_threads = True
    say(f"INFO:     Uvicorn running on http://{server.server_address[0]!s}:{server.server_address[1]}")
    try:
        server.serve_forever()
    finally:
        threading.Thread(target=server.server_close, daemon=True).start()


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: ClassVar[str] = ""
    chat_template: ClassVar[bool] = True

    def do_GET(self) -> None:
        pages: dict[str, Any] = {
            "/version": {"version": os.environ.get("TRT_LLM_VERSION", "1.2.1")},
            "/v1/models": {"object": "list", "data": [self._model()]},
            "/metrics": [],
        }
        if self.path in ("/health", "/health_generate"):
            self._send(200, b"", "text/plain")
        elif self.path in pages:
            self._json(200, pages[self.path])
        else:
            self._json(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", "0"))))
        except ValueError:
            self._error("the body is not JSON")
            return
        if self.path == "/v1/chat/completions" and not self.chat_template:
            self._error("the tokenizer has no chat template")
        elif self.path == "/v1/chat/completions" and not body.get("messages"):
            self._error("messages: field required")
        elif self.path == "/v1/chat/completions" and body.get("stream"):
            self._stream()
        elif self.path == "/v1/chat/completions":
            self._complete("chat.completion", {"message": {"role": "assistant", "content": _ANSWER}})
        elif self.path == "/v1/completions":
            self._complete("text_completion", {"text": _ANSWER})
        else:
            self._json(404, {"detail": "Not Found"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
        say(f'INFO:     {self.address_string()} - "{format % args}"')

    def _model(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": _CREATED, "owned_by": "tensorrt_llm"}

    def _complete(self, kind: str, part: dict[str, Any]) -> None:
        words = len(_ANSWER.split())
        reply = {
            "id": "stand-in",
            "object": kind,
            "created": _CREATED,
            "model": self.model,
            "choices": [{"index": 0, "finish_reason": "stop", **part}],
            "usage": {"prompt_tokens": 8, "completion_tokens": words, "total_tokens": 8 + words},
        }
        self._json(200, reply)

    def _stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for word in _ANSWER.split():
            choice = {"index": 0, "delta": {"content": word + " "}, "finish_reason": None}
            chunk = {"id": "stand-in", "object": "chat.completion.chunk", "model": self.model, "choices": [choice]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _error(self, message: str) -> None:
        self._json(400, {"object": "error", "message": message, "type": "BadRequestError", "code": 400})

    def _json(self, status: int, document: object) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    main("trtllm-serve", run)
