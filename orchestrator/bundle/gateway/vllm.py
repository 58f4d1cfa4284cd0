"""vLLM: how the gateway starts `vllm serve`, what its metrics mean, and which fields its requests have.

It has no configuration file. Its health check is 503 only after its engine has died, and it does not listen while it
loads. Its own key would leave routes such as `/invocations` open, so it listens on loopback and has none.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from .documents import Serve
from .errors import ContradictionError, UsageError
from .options import MergedOptions, OptionTable
from .routes import Route
from .starting import OptionNames, Prepared
from .variables import Environment

LABEL = "vLLM"
PROGRAM = "vllm serve"
OPTIONS = OptionNames(
    length="--max-model-len",
    batch="--max-num-seqs",
    tensor_parallel="--tensor-parallel-size",
    pipeline_parallel="--pipeline-parallel-size",
    trust="--trust-remote-code",
    model_name="--served-model-name",
)
OWN_OPTIONS: Mapping[str, str] = {
    "--host": "vllm serve listens on 127.0.0.1; NIM_GATEWAY_HOST is the address for clients",
    "--port": "NIM_SERVER_PORT is the port for clients, NIM_GATEWAY_RUNTIME_PORT that of vllm serve",
    "--api-key": "NIM_GATEWAY_API_KEYS_FILE names a file of keys, which covers every route",
    "--config": "give the options themselves",
    "--model": "set NIM_MODEL_PATH",
    "--root-path": "the gateway's routes are those of a NIM",
    "--served-model-name": "set NIM_SERVED_MODEL_NAME",
    "--tokenizer": "the tokenizer is in the model's folder",
    "--uds": "vllm serve listens on 127.0.0.1",
}
GONE_OPTIONS: Mapping[str, str] = {
    "--calculate-kv-scales": "the checkpoint has the scales of its KV cache",
    "--disable-log-requests": "requests are not logged by default",
    "--enable-bf16x3-router-gemm": "leave it out",
    "--enable-reasoning": "write --reasoning-parser alone",
    "--guided-decoding-backend": "set NIM_GUIDED_DECODING_BACKEND",
    "--override-attention-dtype": "leave it out",
    "--rope-scaling": "write --hf-overrides",
    "--swap-space": "leave it out",
    "--task": "write --runner and --convert",
}
GONE_VARIABLES: Mapping[str, str] = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "it lets a caller load files of the server",
    "VLLM_API_KEY": "NIM_GATEWAY_API_KEYS_FILE names a file of keys",
    "VLLM_ATTENTION_BACKEND": "write --attention-backend in NIM_PASSTHROUGH_ARGS",
    "VLLM_FLASHINFER_MOE_BACKEND": "write --moe-backend in NIM_PASSTHROUGH_ARGS",
    "VLLM_MXFP4_USE_MARLIN": "write --moe-backend marlin in NIM_PASSTHROUGH_ARGS",
    "VLLM_NVFP4_GEMM_BACKEND": "write --linear-backend in NIM_PASSTHROUGH_ARGS",
    "VLLM_RPC_TIMEOUT": "leave it out",
    "VLLM_SERVER_DEV_MODE": "it lets a caller control the server",
    "VLLM_USE_FLASHINFER_MOE_FP4": "write --moe-backend flashinfer_cutlass in NIM_PASSTHROUGH_ARGS",
    "VLLM_USE_FLASHINFER_MOE_FP8": "write --moe-backend flashinfer_cutlass in NIM_PASSTHROUGH_ARGS",
    "VLLM_USE_V1": "leave it out",
}
MEANINGS: Mapping[str, str] = {
    "NIM_TENSOR_PARALLEL_SIZE": "`--tensor-parallel-size`.",
    "NIM_PIPELINE_PARALLEL_SIZE": "`--pipeline-parallel-size`.",
    "NIM_MAX_MODEL_LEN": "`--max-model-len`: tokens of prompt and answer together, at most what the model allows.",
    "NIM_KVCACHE_PERCENT": "Refused: the bundle gives the KV cache in bytes. `NIM_PASSTHROUGH_ARGS` may have "
    "`--kv-cache-memory-bytes 20G`.",
    "NIM_ENABLE_KV_CACHE_REUSE": "`--enable-prefix-caching` or `--no-enable-prefix-caching`.",
    "NIM_DISABLE_CUDA_GRAPH": "`--enforce-eager`.",
    "NIM_GUIDED_DECODING_BACKEND": "`--structured-outputs-config`: what forces answers into `response_format`. If it "
    "is not set, vLLM chooses.",
    "NIM_PER_REQ_METRICS_ENABLE": "Off is `--disable-log-stats`: no metrics of vLLM's own in `/v1/metrics`.",
    "NIM_TRUST_CUSTOM_CODE": "`--trust-remote-code`: runs Python code that is beside the model.",
}
METRICS_PATH = "/metrics"
METRICS: Mapping[str, str] = {
    "vllm:kv_cache_usage_perc": "gpu_cache_usage_perc",
    "vllm:num_requests_running": "num_requests_running",
    "vllm:num_requests_waiting": "num_requests_waiting",
    "vllm:prompt_tokens_total": "prompt_tokens_total",
    "vllm:generation_tokens_total": "generation_tokens_total",
    "vllm:time_to_first_token_seconds": "time_to_first_token_seconds",
    "vllm:request_time_per_output_token_seconds": "time_per_output_token_seconds",
    "vllm:e2e_request_latency_seconds": "e2e_request_latency_seconds",
    "vllm:request_success_total": "request_success_total",
}
STORED: tuple[Route, ...] = ()
"""Answers are stored only with VLLM_ENABLE_RESPONSES_API_STORE, and are never removed then."""
DEAD = frozenset({503})
KERNELS = (
    r"Using (\S+ for (?:NVFP4|MXFP4|MXFP8) GEMM)",
    r"Using ('\S+' \w+ MoE backend)",
    r"Using (\S+ for mixed-precision linear)",
    r"Selected (\S+ for \S+)",
)

_COMMON = {"metadata", "model", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
_SAMPLING = {
    "bad_words", "frequency_penalty", "ignore_eos", "include_stop_str_in_output", "length_penalty", "logit_bias",
    "logprobs", "max_tokens", "min_p", "min_tokens", "n", "presence_penalty", "repetition_penalty", "response_format",
    "seed", "skip_special_tokens", "spaces_between_special_tokens", "stop", "stop_token_ids", "stream",
    "stream_options", "structured_outputs", "suffix", "temperature", "thinking_token_budget", "top_k", "top_p",
    "truncate_prompt_tokens", "use_beam_search",
}  # fmt: skip
_CHAT = {
    "add_generation_prompt", "add_special_tokens", "audio", "chat_template", "chat_template_kwargs",
    "continue_final_message", "documents", "echo", "function_call", "functions", "include_reasoning",
    "max_completion_tokens", "messages", "modalities", "parallel_tool_calls", "prediction", "reasoning_effort",
    "tool_choice", "tools", "top_logprobs", "verbosity", "web_search_options",
}  # fmt: skip
_COMPLETION = {"add_special_tokens", "best_of", "echo", "prompt"}
_RESPONSES = {
    "background", "conversation", "frequency_penalty", "include", "input", "instructions", "max_output_tokens",
    "max_tool_calls", "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt", "reasoning",
    "stream", "stream_options", "temperature", "text", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
    "truncation",
}  # fmt: skip
FIELDS: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset(_COMMON | _SAMPLING | _CHAT),
    "/v1/completions": frozenset(_COMMON | _SAMPLING | _COMPLETION),
    "/v1/responses": frozenset(_COMMON | _RESPONSES),
}
"""The fields that OpenAI has, and those of vllm/entrypoints/openai/*/protocol.py that decide how to sample.

`kv_transfer_params`, `vllm_xargs`, `cache_salt`, `priority`, `prompt_embeds`, `mm_processor_kwargs` and the like are
not among them.
"""

IGNORED_FORMATS = frozenset({("/v1/responses", "json_object")})
"""`to_sampling_params` of vllm/entrypoints/openai/responses/protocol.py reads `json_schema` alone."""

_ENVIRONMENT = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
_CACHES = {"VLLM_CACHE_ROOT": "vllm", "TRITON_CACHE_DIR": "triton", "FLASHINFER_WORKSPACE_BASE": "flashinfer"}
"""Folders of compiled kernels, below NIM_CACHE_PATH."""
_LEVELS = {"DEFAULT": "INFO", "TRACE": "DEBUG"}
_BACKENDS = {"llguidance": "guidance"}
"""vLLM's names of what forces a grammar on an answer, if they differ."""
_SPECULATIVE = "--speculative-config"


def model_words(model: Path, engine: str | None) -> tuple[str, ...]:  # noqa: ARG001 - as every runtime
    """Name the checkpoint."""
    return (str(model),)


def options_of(environment: Environment) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the options that variables set, besides those that every runtime has.

    Raises:
        ContradictionError: A variable that vLLM cannot follow.
    """
    if environment.text("NIM_KVCACHE_PERCENT"):
        message = "NIM_KVCACHE_PERCENT: vLLM takes bytes here: NIM_PASSTHROUGH_ARGS='--kv-cache-memory-bytes 20G'"
        raise ContradictionError(message)
    reuse = environment.switch("NIM_ENABLE_KV_CACHE_REUSE")
    if reuse is not None:
        yield "NIM_ENABLE_KV_CACHE_REUSE", ("--enable-prefix-caching" if reuse else "--no-enable-prefix-caching",)
    if environment.switch("NIM_DISABLE_CUDA_GRAPH"):
        yield "NIM_DISABLE_CUDA_GRAPH", ("--enforce-eager",)
    guided = environment.text("NIM_GUIDED_DECODING_BACKEND")
    if guided:
        backend = json.dumps({"backend": _BACKENDS.get(guided, guided)})
        yield f"NIM_GUIDED_DECODING_BACKEND={guided}", ("--structured-outputs-config", backend)
    if environment.switch("NIM_PER_REQ_METRICS_ENABLE") is False:
        yield "NIM_PER_REQ_METRICS_ENABLE=0", ("--disable-log-stats",)


def prepare(
    serve: Serve,
    environment: Environment,
    merged: MergedOptions,
    table: OptionTable,  # noqa: ARG001 - as every runtime
    model: Path,
) -> Prepared:
    """Find the draft model where the model is, and set variables.

    Raises:
        UsageError: The speculative configuration is not JSON.
    """
    if serve.draft is not None and model != Path(serve.model):
        _move_draft(merged, model / serve.draft)
    cache = environment.text("NIM_CACHE_PATH") or environment.default("NIM_CACHE_PATH")
    caches = {name: str(Path(cache) / folder) for name, folder in _CACHES.items()} if cache else {}
    level = environment.text("NIM_LOG_LEVEL")
    levels = {"VLLM_LOGGING_LEVEL": _LEVELS.get(level, level)} if level else {}
    return Prepared(environment={**_ENVIRONMENT, **caches, **levels})


def _move_draft(merged: MergedOptions, draft: Path) -> None:
    given = merged.last(_SPECULATIVE)
    if given is None:
        return
    try:
        config = json.loads(given.value)
    except ValueError as error:
        message = f"{given.origin}: {_SPECULATIVE}: not JSON: {error}"
        raise UsageError(message) from error
    moved = dataclasses.replace(given, words=(*given.words[:-1], json.dumps({**config, "model": str(draft)})))
    merged.options[given.name] = (moved,)
