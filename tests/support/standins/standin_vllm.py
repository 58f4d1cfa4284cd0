"""Stand-in for `vllm serve`: its routes, bodies and states, read in the wheels of vLLM 0.27.1 and 0.33.0.

It answers as `standin_serve.py` does, with the same words in square brackets, and `[dead]` besides: the engine ends,
the server answers on, and its health is 503 from then on. Differences from trtllm-serve:

- it does not listen until it is ready; health is 200, or 503 if the engine is dead (serve/instrumentator/health.py);
- metrics are at /metrics, with values from the start (v1/metrics/loggers.py);
- errors are `{"error": {"message", "type", "param", "code"}}` (openai/engine/protocol.py), an unknown model is 404;
- routes of SageMaker, of elastic experts and the like do what anybody asks, without a key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import standin_serve
from .standin_tool import Given, existing, fail, main, read_json, refuse, say, work

_VERSION = "0.27.1"
_CONTROLS = {
    ("POST", "/invocations"), ("POST", "/ping"), ("GET", "/ping"), ("POST", "/generative_scoring"), ("GET", "/load"),
    ("POST", "/scale_elastic_ep"), ("POST", "/is_scaling_elastic_ep"), ("POST", "/tokenize"), ("POST", "/detokenize"),
    ("POST", "/inference/v1/generate"), ("POST", "/v1/messages"), ("POST", "/v1/chat/completions/render"),
    ("GET", "/docs"), ("GET", "/redoc"), ("GET", "/openapi.json"),
}  # fmt: skip
"""What the real one does for anybody who asks."""
_SERIES = (
    ("gauge", "num_requests_running"),
    ("gauge", "num_requests_waiting"),
    ("gauge", "kv_cache_usage_perc"),
    ("counter", "prompt_tokens_total"),
    ("counter", "generation_tokens_total"),
    ("counter", "request_success_total"),
    ("histogram", "time_to_first_token_seconds"),
    ("histogram", "inter_token_latency_seconds"),
    ("histogram", "request_time_per_output_token_seconds"),
    ("histogram", "e2e_request_latency_seconds"),
)
_KERNELS = {
    "NVFP4": "Using FlashInferCutlassNvFp4LinearKernel for NVFP4 GEMM",
    "W4A16_NVFP4": "Using MarlinNvFp4LinearKernel for NVFP4 GEMM",
}
"""Lines of the log, by the algorithm that the checkpoint declares (model_executor/kernels/linear/__init__.py)."""


def run(given: Given) -> None:
    """Serve until SIGTERM."""
    if given.positionals[:1] != ["serve"] or len(given.positionals) != 2:
        refuse(f"expected serve MODEL; found {given.positionals}")
    model = existing(Path(given.positionals[1]))
    config = read_json(model / "config.json")
    if not (model / "tokenizer_config.json").is_file():
        fail(f"OSError: can't load the tokenizer of {model}")
    _check_draft(given)
    _Handler.model = given.get("--served-model-name", str(model))
    _Handler.longest = int(given.get("--max-model-len", str(config.get("max_position_embeddings", 4096))))
    _Handler.chat_template = standin_serve.has_chat_template(model)
    _Handler.has_metrics = "--disable-log-stats" not in given.values
    work("loading")
    algorithm = (config.get("quantization_config") or {}).get("quant_algo")
    if algorithm in _KERNELS:
        say(f"(EngineCore pid=7) INFO 11-27 12:00:00 [__init__.py:1077] {_KERNELS[algorithm]}")
    _Handler.state = "ready"
    server = standin_serve.listen(given.get("--host", "0.0.0.0"), int(given.get("--port", "8000")), _Handler)
    server.serve_forever()


def _check_draft(given: Given) -> None:
    text = given.values.get("--speculative-config")
    if text is None:
        return
    try:
        draft = json.loads(text).get("model")
    except ValueError:
        refuse(f"argument --speculative-config: not JSON: {text}")
    if draft is not None:
        read_json(existing(Path(draft)) / "config.json")


class _Handler(standin_serve.Handler):
    controls = _CONTROLS
    is_guided = True
    metrics_paths = frozenset({"/metrics"})
    longest = 4096

    def pages(self) -> dict[str, Any]:
        return {"/version": {"version": _VERSION}, "/v1/models": {"object": "list", "data": [self._model()]}}

    def metrics_text(self) -> str:
        return "".join(standin_serve.series(kind, f"vllm:{name}", self.done) for kind, name in _SERIES)

    def refuse_body(self, body: object) -> bool:
        """Answer a body that is not valid, and tell whether it was not."""
        if not isinstance(body, dict) or (self.path == "/v1/chat/completions" and not body.get("messages")):
            self._problem(400, "1 validation error: Field required", "BadRequestError")
        elif body.get("model") not in {None, self.model}:
            self._problem(404, f"The model `{body.get('model')}` does not exist.", "NotFoundError")
        elif self.path == "/v1/chat/completions" and not self.chat_template:
            self._problem(400, "default chat template is no longer allowed", "BadRequestError")
        elif self._tokens(body) > self.longest:
            message = f"This model's maximum context length is {self.longest} tokens."
            self._problem(400, message, "BadRequestError")
        else:
            return False
        return True

    def _tokens(self, body: dict[str, Any]) -> int:
        """Count the tokens of a request whose prompt is token numbers, with those of its answer."""
        prompt = body.get("prompt")
        return len(prompt) + int(body.get("max_tokens") or 0) if isinstance(prompt, list) else 0

    def refuse_json(self) -> None:
        self._problem(400, "JSON decode error", "BadRequestError")

    def told_to_fail(self, status: int) -> dict[str, Any]:
        return {"error": {"message": "told to fail", "type": "Told", "param": None, "code": status}}

    def _health(self) -> None:
        self._wait_if_hung()
        self._send(503 if self.state == "dead" else 200, b"", "text/plain")

    def _answer(self, body: dict[str, Any]) -> None:
        if "[dead]" in json.dumps(body):
            _Handler.state = "dead"
        if self.state == "dead":
            self._problem(500, "EngineCore encountered an issue. See stack trace.", "InternalServerError")
            return
        super()._answer(body)

    def _problem(self, status: int, message: str, kind: str) -> None:
        self._json(status, {"error": {"message": message, "type": kind, "param": None, "code": status}})

    def _stored(self, *, remove: bool) -> None:  # noqa: ARG002 - as the base
        self._problem(404, "Response with id not found.", "NotFoundError")

    def _model(self) -> dict[str, Any]:
        return {**super()._model(), "owned_by": "vllm", "root": self.model, "max_model_len": self.longest}


if __name__ == "__main__":
    main("vllm-serve", run)
