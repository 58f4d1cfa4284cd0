"""Stand-in for trtllm-serve: its routes, bodies and states; it answers every question with the same words.

A question says what else shall happen, in square brackets:

| words | what happens |
|---|---|
| `[slow 0.5]` | the answer, or each of its chunks, takes so many seconds |
| `[chunks 1000]` | so many chunks |
| `[error 503]` | an error with that status, in TensorRT-LLM's shape |
| `[break]` | the connection breaks in the middle |
| `[hang]` | from now on nothing is answered, health included |
| `[stall]` | from now on answers stop after their head; health answers on, as with an executor that waits for a GPU |
| `[die]` | the process ends with status 9 |
| `[echo]` | the answer is the question |

Environment, besides that of all stand-ins: STANDIN_LOG names a file that gets a line of JSON for each request, and for
each client that went away. With the newer table (`STANDIN_TABLES=trtllm-serve-2026-07`) it listens while it loads and
its health is 503 with a header; the older one does not listen until it is ready.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .standin_tool import Given, existing, fail, main, read_json, refuse, say, work

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWER = "Paris is what a stand-in answers."
_CREATED = 1700000000
_NEWER = "trtllm-serve-2026-07"
_WORD = re.compile(r"\[(?P<word>\w+)(?: (?P<value>[\d.]+))?\]")
_CONTROLS = {
    ("GET", "/perf_metrics"), ("GET", "/server_info"), ("GET", "/steady_clock_offset"),
    ("POST", "/steady_clock_offset"), ("POST", "/kv_cache_events"), ("POST", "/release_memory"),
    ("POST", "/resume_memory"), ("POST", "/update_weights"),
}  # fmt: skip
"""What the real one does for anybody who asks."""
_LABELS = 'engine_type="undefined",model_name="undefined"'
_OF_REQUESTS = (
    ("counter", "request_success_total"),
    ("histogram", "e2e_request_latency_seconds"),
    ("histogram", "time_to_first_token_seconds"),
    ("histogram", "time_per_output_token_seconds"),
    ("histogram", "request_queue_time_seconds"),
)
_OF_ITERATIONS = (("gauge", "kv_cache_hit_rate"), ("gauge", "kv_cache_utilization"))
_OF_REQUESTS_NEWER = (("counter", "prompt_tokens_total"), ("counter", "generation_tokens_total"))
_OF_ITERATIONS_NEWER = (
    ("gauge", "num_requests_running"),
    ("gauge", "num_requests_waiting"),
    ("gauge", "max_num_active_requests"),
)
"""The series of `MetricsCollector` in tensorrt_llm/metrics/collector.py that matter here, up to 1.3 and since.

Iterations are read when a request ends and `enable_iter_perf_stats` is set, by `_iteration_stats_collector_loop` in
tensorrt_llm/serve/openai_server.py; a TensorRT engine always has them.
"""


def _metrics_text(done: int, *, iterations: bool, newer: bool) -> str:
    """Write the series that have a value: none before the first request has ended."""
    found = [*_OF_REQUESTS, *(_OF_REQUESTS_NEWER if newer else ())]
    if iterations:
        found += [*_OF_ITERATIONS, *(_OF_ITERATIONS_NEWER if newer else ())]
    return "".join(series(kind, f"trtllm_{name}", done) for kind, name in found) if done else ""


def series(kind: str, name: str, done: int) -> str:
    """Write one series for Prometheus."""
    labels = f'{_LABELS},finished_reason="stop"' if name == "trtllm_request_success_total" else _LABELS
    head = f"# HELP {name} Documentation.\n# TYPE {name} {kind}\n"
    if kind != "histogram":
        return f"{head}{name}{{{labels}}} {0.125 if kind == 'gauge' else float(done)}\n"
    buckets = "".join(f'{name}_bucket{{{labels},le="{bound}"}} {done}.0\n' for bound in ("0.3", "+Inf"))
    return f"{head}{buckets}{name}_count{{{labels}}} {done}.0\n{name}_sum{{{labels}}} 0.25\n"


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
    config = _config(given)
    Handler.has_metrics = config.get("return_perf_metrics") is True
    Handler.has_iterations = backend == "tensorrt" or config.get("enable_iter_perf_stats") is True
    Handler.is_guided = bool(config.get("guided_decoding_backend"))
    Handler.is_newer = _is_newer()
    Handler.model = given.get("--served_model_name", model.resolve().name)
    Handler.chat_template = has_chat_template(tokenizer)
    if _is_newer():
        server = _listen(given)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        work("loading")
        Handler.state = "ready"
        threading.Event().wait()
    work("loading")
    Handler.state = "ready"
    server = _listen(given)
    try:
        server.serve_forever()
    finally:
        threading.Thread(target=server.server_close, daemon=True).start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024


def _listen(given: Given) -> _Server:
    return listen(given.get("--host", "localhost"), int(given.get("--port", "8000")), Handler)


def listen(host: str, port: int, handler: type[Handler]) -> _Server:
    """Listen as uvicorn does, and write its line of log."""
    server = _Server((host, port), handler)
    say(f"INFO:     Uvicorn running on http://{server.server_address[0]!s}:{server.server_address[1]}")
    return server


def _is_newer() -> bool:
    return _NEWER in os.environ.get("STANDIN_TABLES", "").split()


def _config(given: Given) -> dict[str, Any]:
    """Read the top-level scalars of the configuration file: YAML as bundles write it, or JSON."""
    name = given.values.get("--config") or given.values.get("--extra_llm_api_options")
    if name is None:
        return {}
    file = Path(name)
    if not file.is_file():
        fail(f"FileNotFoundError: {file}")
    text = file.read_text(encoding="utf-8")
    if text.startswith("{"):
        document: dict[str, Any] = json.loads(text)
        return document
    scalars = {"true": True, "false": False, "null": None}
    found = re.findall(r"^(\w+):[ ]+(\S+)$", text, flags=re.MULTILINE)
    return {key: scalars.get(value, value.strip('"')) for key, value in found}


def has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    return bool(read_json(folder / "tokenizer_config.json").get("chat_template"))


class Handler(BaseHTTPRequestHandler):
    """Answers every question with the same words."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    controls: ClassVar[set[tuple[str, str]]] = _CONTROLS
    metrics_paths: ClassVar[frozenset[str]] = frozenset({"/prometheus/metrics", "/prometheus/metrics/"})
    model: ClassVar[str] = ""
    chat_template: ClassVar[bool] = True
    has_metrics: ClassVar[bool] = False
    has_iterations: ClassVar[bool] = False
    is_guided: ClassVar[bool] = False
    is_newer: ClassVar[bool] = False
    state: ClassVar[str] = "loading"
    stored: ClassVar[dict[str, dict[str, Any]]] = {}
    is_stalled: ClassVar[bool] = False
    done: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_GET(self) -> None:
        self._note({"method": "GET", "path": self.path})
        pages = self.pages()
        if self.path in {"/health", "/health_generate"}:
            self._health()
        elif self.path in self.metrics_paths and self.has_metrics:
            self._send(200, self.metrics_text().encode(), "text/plain; version=0.0.4; charset=utf-8")
        elif self.path in pages:
            self._json(200, pages[self.path])
        elif self.path.startswith("/v1/responses/"):
            self._stored(remove=False)
        elif ("GET", self.path) in self.controls:
            self._json(200, {"done": self.path})
        else:
            self._json(404, {"detail": "Not Found"})

    def do_DELETE(self) -> None:
        self._note({"method": "DELETE", "path": self.path})
        if self.path.startswith("/v1/responses/"):
            self._stored(remove=True)
        else:
            self._json(404, {"detail": "Not Found"})

    def _stored(self, *, remove: bool) -> None:
        """As `openai_responses_get_response` and `…_delete_response` of tensorrt_llm/serve/openai_server.py."""
        name = self.path.rpartition("/")[2]
        found = self.stored.pop(name, None) if remove else self.stored.get(name)
        if not name.startswith("resp"):
            self._error(f"Invalid 'response_id': '{name}'. Expected an ID that begins with 'resp'.")
        elif found is None:
            message = f"Response with id '{name}' not found."
            kind = "InvalidRequestError"
            self._json(404, {"object": "error", "message": message, "type": kind, "param": None, "code": 404})
        else:
            self._json(200, {"id": name, "object": "response", "deleted": True} if remove else found)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._note({"method": "POST", "path": self.path, "headers": dict(self.headers.items()), "size": len(raw)})
        if ("POST", self.path) in self.controls:
            self._json(200, {"done": self.path})
            return
        try:
            body = json.loads(raw)
        except ValueError:
            self.refuse_json()
            return
        self._wait_if_hung()
        if self.refuse_body(body):
            return
        if self.path in {"/v1/chat/completions", "/v1/completions", "/v1/responses"}:
            self._answer(body)
        else:
            self._json(404, {"detail": "Not Found"})

    def pages(self) -> dict[str, Any]:
        """Documents by path."""
        return {
            "/version": {"version": os.environ.get("TRT_LLM_VERSION", "1.2.1")},
            "/v1/models": {"object": "list", "data": [self._model()]},
            "/metrics": [],
        }

    def metrics_text(self) -> str:
        """Write the metrics for Prometheus."""
        return _metrics_text(self.done, iterations=self.has_iterations, newer=self.is_newer)

    def refuse_json(self) -> None:
        """Answer a body that is not JSON."""
        self._refuse_schema([{"type": "json_invalid", "loc": ("body", 0), "msg": "JSON decode error"}])

    def refuse_body(self, body: object) -> bool:
        """Answer a body that is not valid, and tell whether it was not."""
        if self.path == "/v1/chat/completions" and not self.chat_template:
            self._error("the tokenizer has no chat template")
        elif not _is_valid(self.path, body):
            missing = {"type": "missing", "loc": ("body", "messages"), "msg": "Field required", "input": body}
            self._refuse_schema([missing])
        else:
            return False
        return True

    def told_to_fail(self, status: int) -> dict[str, Any]:
        """Write an error in the server's shape."""
        return {"object": "error", "message": "told to fail", "type": "Told", "param": None, "code": status}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is given
        if not os.environ.get("STANDIN_QUIET"):
            say(f'INFO:     {self.address_string()} - "{format % args}"')

    def _health(self) -> None:
        self._wait_if_hung()
        if self.state == "ready":
            self._send(200, b"", "text/plain")
            return
        self.send_response(503)
        self.send_header("x-trtllm-server-state", self.state)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _wait_if_hung(self) -> None:
        while self.state == "hung":
            time.sleep(0.1)

    def _wait_if_stalled(self) -> None:
        while self.is_stalled:
            time.sleep(0.1)

    def _answer(self, body: dict[str, Any]) -> None:
        question = _question(body)
        words = {found["word"]: found["value"] for found in _WORD.finditer(question)}
        if "die" in words:
            say("RuntimeError: the stand-in was told to die")
            os._exit(9)
        if "hang" in words:
            Handler.state = "hung"
            self._wait_if_hung()
        if "error" in words:
            status = int(words["error"] or 500)
            self._json(status, self.told_to_fail(status))
            return
        if "stall" in words:
            Handler.is_stalled = True
        seconds = float(words.get("slow") or 0)
        text = question if "echo" in words else _ANSWER
        parts = [part + " " for part in text.split()]
        if "chunks" in words:
            parts = ["word "] * int(words["chunks"] or 1)
        elif body.get("ignore_eos") and body.get("max_tokens"):
            parts = [parts[number % len(parts)] for number in range(int(body["max_tokens"]))]
        if body.get("stream"):
            self._stream(body, parts, seconds, breaks="break" in words)
            return
        time.sleep(seconds)
        self._wait_if_stalled()
        if "break" in words:
            self._break()
            return
        whole = self._whole(body, "".join(parts).strip())
        if self.path == "/v1/responses":
            whole["id"] = f"resp_{len(self.stored)}"
            self.stored[whole["id"]] = whole
        self._json(200, whole)
        Handler.done += 1

    def _model(self) -> dict[str, Any]:
        return {"id": self.model, "object": "model", "created": _CREATED, "owned_by": "tensorrt_llm"}

    def _head(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        # 1.2 and 1.3 answer with the name that the request had
        return {"id": "stand-in", "object": kind, "created": _CREATED, "model": body.get("model", self.model)}

    def _whole(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        words = len(text.split())
        usage = {"prompt_tokens": 8, "completion_tokens": words, "total_tokens": 8 + words}
        if self.path == "/v1/responses":
            content = [{"type": "output_text", "text": text, "annotations": []}]
            message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}
            counts = {"input_tokens": 8, "output_tokens": words, "total_tokens": 8 + words,
                      "input_tokens_details": {"cached_tokens": 0},
                      "output_tokens_details": {"reasoning_tokens": 0}}  # fmt: skip
            return {**self._head(body, "response"), "created_at": _CREATED, "status": "completed", "output": [message],
                    "usage": counts, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}  # fmt: skip
        if self.path == "/v1/completions":
            choice = {"index": 0, "finish_reason": "stop", "text": text}
            return {**self._head(body, "text_completion"), "choices": [choice], "usage": usage}
        message, reason = _message(body, text, is_guided=self.is_guided)
        choice = {"index": 0, "finish_reason": reason, "message": message}
        return {**self._head(body, "chat.completion"), "choices": [choice], "usage": usage}

    def _stream(self, body: dict[str, Any], parts: list[str], seconds: float, *, breaks: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._wait_if_stalled()
        try:
            for number, event in enumerate(self._events(body, parts)):
                if breaks and number == len(parts) // 2:
                    self._break()
                    return
                data = f"{event}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                time.sleep(seconds)
            self.wfile.write(b"0\r\n\r\n")
            Handler.done += 1
        except OSError:
            self._note({"event": "the client went away", "path": self.path})
            self.close_connection = True

    def _events(self, body: dict[str, Any], parts: list[str]) -> Iterator[str]:
        if self.path == "/v1/responses":
            for part in parts:
                event = {"type": "response.output_text.delta", "delta": part, "item_id": "m", "output_index": 0,
                         "content_index": 0, "sequence_number": 0, "logprobs": []}  # fmt: skip
                yield f"event: response.output_text.delta\ndata: {json.dumps(event)}"
            done = {"type": "response.completed", "sequence_number": 1, "response": self._whole(body, "".join(parts))}
            yield f"event: response.completed\ndata: {json.dumps(done)}"
            return
        chat = self.path == "/v1/chat/completions"
        head = self._head(body, "chat.completion.chunk" if chat else "text_completion")
        for part in parts:
            content: dict[str, Any] = {"delta": {"role": "assistant", "content": part}} if chat else {"text": part}
            yield "data: " + _dense({**head, "choices": [{"index": 0, **content, "finish_reason": None}]})
        ending: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        yield "data: " + _dense({**head, "choices": [{"index": 0, **ending, "finish_reason": "stop"}]})
        if (body.get("stream_options") or {}).get("include_usage"):
            usage = {"prompt_tokens": 8, "completion_tokens": len(parts), "total_tokens": 8 + len(parts)}
            yield "data: " + _dense({**head, "choices": [], "usage": usage})
        yield "data: [DONE]"

    def _break(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(2)

    def _note(self, entry: dict[str, Any]) -> None:
        if "STANDIN_LOG" in os.environ:
            with self.lock, Path(os.environ["STANDIN_LOG"]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")

    def _error(self, message: str) -> None:
        """As `create_error_response` of tensorrt_llm/serve/openai_server.py."""
        self._json(400, {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400})

    def _refuse_schema(self, problems: list[dict[str, Any]]) -> None:
        """As `validation_exception_handler` of tensorrt_llm/serve/openai_server.py (1.0 to 1.3): FastAPI's text."""
        self._json(400, {"error": str(problems)})

    def _json(self, status: int, document: object) -> None:
        self._send(status, json.dumps(document).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _is_valid(path: str, body: object) -> bool:
    if not isinstance(body, dict):
        return False
    if path != "/v1/chat/completions":
        return True
    if not isinstance(body.get("response_format") or {}, dict):
        return False
    messages = body.get("messages")
    return isinstance(messages, list) and bool(messages) and all(isinstance(each, dict) for each in messages)


def _question(body: dict[str, Any]) -> str:
    messages = body.get("messages")
    asked = messages[-1].get("content") if messages else body.get("prompt", body.get("input"))
    return asked if isinstance(asked, str) else json.dumps(asked)


def _message(body: dict[str, Any], text: str, *, is_guided: bool) -> tuple[dict[str, Any], str]:
    """Answer with the first tool, where there are tools; with what fits a schema, where a backend forces it.

    Without `guided_decoding_backend` no `GuidedDecoder` is made, and `response_format` is ignored without a word:
    tensorrt_llm/_torch/pyexecutor/py_executor_creator.py.
    """
    tools = body.get("tools")
    if tools:
        arguments = json.dumps(_example(tools[0]["function"].get("parameters") or {}))
        function = {"name": tools[0]["function"]["name"], "arguments": arguments}
        call = {"id": "call-1", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    asked = body.get("response_format") or {}
    if is_guided and asked.get("type") == "json_schema":
        text = json.dumps(_example(asked["json_schema"]["schema"]))
    elif is_guided and asked.get("type") == "json_object":
        text = json.dumps({"answer": text})
    return {"role": "assistant", "content": text}, "stop"


def _example(schema: dict[str, Any]) -> Any:  # noqa: ANN401 - any JSON value
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _example(part) for name, part in schema.get("properties", {}).items()}
        case "array":
            return [_example(schema.get("items", {}))]
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case _:
            return "Paris"


def _dense(document: object) -> str:
    """Write as pydantic does: without spaces."""
    return json.dumps(document, separators=(",", ":"))


if __name__ == "__main__":
    main("trtllm-serve", run)
