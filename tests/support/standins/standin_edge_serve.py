"""Stand-in for tensorrt-edgellm-serve: its routes, bodies and states, read in experimental/server of the 0.11.0 wheel.

It answers as `standin_serve.py` does, with the same words in square brackets. Differences from trtllm-serve:

- it takes a checkpoint, refuses the folder of an engine, and looks for an engine in its cache, which it writes to;
  without one it builds one, and does not listen meanwhile (runtime/engine_build.py);
- health is 200 with JSON as soon as it listens, whatever the engine does (api/routes.py);
- there is one route for text, /v1/chat/completions; it refuses unknown fields (api/protocol.py); there are no metrics;
- errors are `{"error": {"message", "type", "param", "code"}}` (api/errors.py), an unknown model is 404.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import standin_serve
from .standin_tool import Given, existing, fail, main, read_json, refuse, say, work, write_json

CONTROLS = {
    ("POST", "/v1/messages"), ("POST", "/v1/messages/count_tokens"), ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/audio/speech"), ("GET", "/v1/voices"), ("GET", "/health/ready"), ("GET", "/docs"), ("GET", "/redoc"),
    ("GET", "/openapi.json"),
}  # fmt: skip
"""What the real one does for anybody who asks."""
FIELDS = {
    "messages", "model", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs", "top_logprobs",
    "max_tokens", "max_completion_tokens", "n", "seed", "stop", "stream", "stream_options", "temperature", "top_p",
    "top_k", "min_p", "repetition_penalty", "tools", "tool_choice", "parallel_tool_calls", "response_format",
    "guided_decoding", "modalities", "audio", "apply_chat_template", "add_generation_prompt", "enable_thinking",
    "reasoning_effort", "chat_template_kwargs", "disable_spec_decode", "reuse_context", "cache_generated_tokens",
}  # fmt: skip
"""Those of ChatCompletionRequest."""


def run(given: Given) -> None:
    """Serve until SIGTERM."""
    if len(given.positionals) != 1:
        refuse(f"expected one MODEL; found {given.positionals}")
    model = existing(Path(given.positionals[0]))
    if (model / "llm.engine").is_file():
        fail("ValueError: engine bundles are cache artifacts; pass the checkpoint used to build the model")
    read_json(model / "config.json")
    if not (model / "tokenizer_config.json").is_file():
        fail(f"OSError: can't load the tokenizer of {model}")
    sizes = {
        "max_input_len": int(given.get("--max-input-len", "4096")),
        "max_kv_cache_capacity": int(given.get("--max-kv-cache-capacity", "8192")),
        "max_batch_size": int(given.get("--max-batch-size", "1")),
    }
    _find_engine(model, given.get("--cache-dir", ""), sizes)
    _Handler.model = given.get("--served-model-name", model.resolve().name)
    _Handler.longest = sizes["max_kv_cache_capacity"]
    _Handler.chat_template = standin_serve.has_chat_template(model)
    work("loading")
    _Handler.state = "ready"
    server = standin_serve.listen(given.get("--host", "0.0.0.0"), int(given.get("--port", "8000")), _Handler)
    server.serve_forever()


def _find_engine(model: Path, cache: str, sizes: dict[str, int]) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent / "packages"))
    package = importlib.import_module("experimental.server.runtime.engine_build")
    engine = Path(package.bundle_cache_path(str(model), cache, package.BuildOptions(**sizes)))
    engine.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{engine}.lock").write_text("", encoding="utf-8")
    if (engine / "llm.engine").is_file() and read_json(engine / "config.json").get("builder_config") == sizes:
        os.utime(engine)
        say(f"edgellm.server: Using cached engine bundle: {engine}")
        return
    say("experimental.builder: Building 1 engines")
    work("building")
    engine.mkdir(exist_ok=True)
    (engine / "llm.engine").write_bytes(b"ftrt")
    write_json(engine / "config.json", {"builder_config": sizes, "checkpoint_identity": {}})


class _Handler(standin_serve.Handler):
    controls = CONTROLS
    is_guided = True
    metrics_paths = frozenset()
    longest = 8192

    def pages(self) -> dict[str, Any]:
        return {"/v1/models": {"object": "list", "data": [self._model()]}}

    def refuse_body(self, body: object) -> bool:
        """Answer a body that is not valid, and tell whether it was not."""
        if self.path != "/v1/chat/completions":
            self._json(404, {"detail": "Not Found"})
        elif not isinstance(body, dict) or not body.get("messages"):
            self._problem(400, "Field required", "invalid_request_error")
        elif set(body) - FIELDS:
            self._problem(400, "Extra inputs are not permitted", "invalid_request_error")
        elif body.get("model") not in {None, self.model}:
            self._problem(404, f"model {body.get('model')!r} is not served by this process", "not_found_error")
        elif body.get("frequency_penalty") or body.get("presence_penalty"):
            self._problem(400, "a penalty is not supported by the Edge-LLM runtime", "unsupported_feature")
        else:
            return False
        return True

    def refuse_json(self) -> None:
        self._problem(400, "JSON decode error", "invalid_request_error")

    def told_to_fail(self, status: int) -> dict[str, Any]:
        return {"error": {"message": "told to fail", "type": "engine_error", "param": None, "code": status}}

    def _health(self) -> None:
        self._wait_if_hung()
        limits = {"max_model_len": self.longest, "chat": True}
        counts = {"active_requests": 0, "queued_requests": 0, "scheduling": None}
        self._json(200, {"status": "healthy", "model": self.model, **counts, "capabilities": limits})

    def _problem(self, status: int, message: str, kind: str) -> None:
        self._json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def _stored(self, *, remove: bool) -> None:  # noqa: ARG002 - as the base
        self._json(404, {"detail": "Not Found"})

    def _model(self) -> dict[str, Any]:
        return {**super()._model(), "owned_by": "tensorrt-edgellm", "max_model_len": self.longest}

    def _head(self, body: dict[str, Any], kind: str) -> dict[str, Any]:
        return {**super()._head(body, kind), "model": self.model}

    def _events(self, body: dict[str, Any], parts: list[str]) -> Any:  # noqa: ANN401 - as the base
        yield "data: " + json.dumps({**self._head(body, "chat.completion.chunk"), "choices": [_FIRST]})
        yield from super()._events(body, parts)


_FIRST = {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
"""The first event of a stream has no text."""


if __name__ == "__main__":
    main("tensorrt-edgellm-serve", run)
