"""TensorRT-LLM: how the gateway starts trtllm-serve, what its metrics mean, and which fields its requests have.

In older versions the configuration file wins over the command line. So an option that the file has too is changed
there, in a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from . import routes
from .config_file import read_config
from .documents import Serve
from .errors import ContradictionError
from .options import MergedOptions, OptionTable, SetOption
from .starting import ConfigChanges, Key, OptionNames, Prepared, Scalar
from .variables import Environment

LABEL = "TensorRT-LLM"
PROGRAM = "trtllm-serve"
OPTIONS = OptionNames(
    length="--max_seq_len",
    batch="--max_batch_size",
    tensor_parallel="--tensor_parallel_size",
    pipeline_parallel="--pipeline_parallel_size",
    trust="--trust_remote_code",
    model_name="--served_model_name",
)
OWN_OPTIONS: Mapping[str, str] = {
    "--host": "trtllm-serve listens on 127.0.0.1; NIM_GATEWAY_HOST is the address for clients",
    "--port": "NIM_SERVER_PORT is the port for clients, NIM_GATEWAY_RUNTIME_PORT that of trtllm-serve",
    "--config": "change trtllm_config.yaml",
    "--tokenizer": "the tokenizer is in the model's folder",
    "--served_model_name": "set NIM_SERVED_MODEL_NAME",
    "--grpc": "the gateway speaks HTTP",
}
GONE_OPTIONS: Mapping[str, str] = {}
MEANINGS: Mapping[str, str] = {}
GONE_VARIABLES: Mapping[str, str] = {}
METRICS_PATH = "/prometheus/metrics"
METRICS: Mapping[str, str] = {
    "trtllm_kv_cache_utilization": "gpu_cache_usage_perc",
    "trtllm_num_requests_running": "num_requests_running",
    "trtllm_num_requests_waiting": "num_requests_waiting",
    "trtllm_max_num_active_requests": "num_request_max",
    "trtllm_prompt_tokens_total": "prompt_tokens_total",
    "trtllm_generation_tokens_total": "generation_tokens_total",
    "trtllm_time_to_first_token_seconds": "time_to_first_token_seconds",
    "trtllm_time_per_output_token_seconds": "time_per_output_token_seconds",
    "trtllm_e2e_request_latency_seconds": "e2e_request_latency_seconds",
    "trtllm_request_success_total": "request_success_total",
    "trtllm_request_error_total": "request_failure_total",
}
STORED = routes.STORED
DEAD: frozenset[int] = frozenset()
KERNELS: tuple[str, ...] = ()

_COMMON = {"metadata", "model", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"}
_SAMPLING = {
    "best_of", "early_stopping", "frequency_penalty", "ignore_eos", "include_stop_str_in_output", "length_penalty",
    "logit_bias", "logprobs", "max_tokens", "min_p", "min_tokens", "n", "presence_penalty", "prompt_ignore_length",
    "repetition_penalty", "response_format", "seed", "skip_special_tokens", "spaces_between_special_tokens", "stop",
    "stop_token_ids", "stream", "stream_options", "suffix", "temperature", "thinking_token_budget", "top_k", "top_p",
    "top_p_min", "truncate_prompt_tokens", "use_beam_search",
}  # fmt: skip
_CHAT = {
    "add_generation_prompt", "add_special_tokens", "audio", "chat_template", "chat_template_kwargs", "documents",
    "echo", "enable_thinking", "function_call", "functions", "max_completion_tokens", "messages", "modalities",
    "parallel_tool_calls", "prediction", "reasoning_effort", "thinking", "tool_choice", "tools", "top_logprobs",
    "verbosity", "web_search_options",
}  # fmt: skip
_COMPLETION = {
    "add_special_tokens",
    "detokenize",
    "echo",
    "prompt",
}
_RESPONSES = {
    "background", "conversation", "include", "input", "instructions", "max_output_tokens", "max_tool_calls",
    "parallel_tool_calls", "previous_response_id", "prompt", "reasoning", "stream", "stream_options", "temperature",
    "text", "tool_choice", "tools", "top_k", "top_logprobs", "top_p", "truncation",
}  # fmt: skip
FIELDS: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset(_COMMON | _SAMPLING | _CHAT),
    "/v1/completions": frozenset(_COMMON | _SAMPLING | _COMPLETION),
    "/v1/responses": frozenset(_COMMON | _RESPONSES),
}
"""The fields that OpenAI has, and those of tensorrt_llm/serve/openai_protocol.py that decide how to sample.

`disaggregated_params`, `lora_request`, `prompt_token_ids`, `cache_salt`, `mm_processor_kwargs` and the like are not
among them.
"""

IGNORED_FORMATS: frozenset[tuple[str, str]] = frozenset()

_FILE_KEYS: Mapping[str, Key] = {
    "--free_gpu_memory_fraction": ("kv_cache_config", "free_gpu_memory_fraction"),
    "--kv_cache_dtype": ("kv_cache_config", "dtype"),
    "--enable_chunked_prefill": ("enable_chunked_prefill",),
}
"""Options that also have a key in the configuration file."""
_GUIDED: Key = ("guided_decoding_backend",)
_DRAFT: Key = ("speculative_config", "speculative_model_dir")
_LEVELS = {"DEFAULT": "info", "CRITICAL": "error"}


def model_words(model: Path, engine: str | None) -> tuple[str, ...]:
    """Name the checkpoint, or the engine and the folder of its tokenizer."""
    return (str(model),) if engine is None else (str(model / engine), "--tokenizer", str(model))


def options_of(environment: Environment) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the options that variables set, besides those that every runtime has."""
    level = environment.text("NIM_LOG_LEVEL")
    if level:
        yield f"NIM_LOG_LEVEL={level}", ("--log_level", _LEVELS.get(level, level.lower()))


def prepare(serve: Serve, environment: Environment, merged: MergedOptions, table: OptionTable, model: Path) -> Prepared:
    """Move what the configuration file decides from the command line into the file."""
    config = Path(serve.config)
    changes = dict(_changes(serve, environment)) | _move_into_file(merged, config) | _move_draft(serve, model)
    flag = "--config" if table.has("--config") else "--extra_llm_api_options"
    guided = bool(changes.get(_GUIDED) or read_config(config).get("guided_decoding_backend"))
    return Prepared(ConfigChanges(config, flag, changes), guided=guided)


def _changes(serve: Serve, environment: Environment) -> Iterator[tuple[Key, Scalar]]:
    share = environment.number("NIM_KVCACHE_PERCENT")
    if share is not None:
        yield ("kv_cache_config", "free_gpu_memory_fraction"), _share(share)
    reuse = environment.switch("NIM_ENABLE_KV_CACHE_REUSE")
    if reuse is not None:
        yield ("kv_cache_config", "enable_block_reuse"), reuse
    if environment.switch("NIM_DISABLE_CUDA_GRAPH"):
        yield ("cuda_graph_config",), None
    guided = environment.text("NIM_GUIDED_DECODING_BACKEND")
    if guided:
        yield _GUIDED, guided
    metrics = environment.switch("NIM_PER_REQ_METRICS_ENABLE")
    if metrics is not None:
        yield ("return_perf_metrics",), metrics
        if serve.backend == "pytorch":  # a TensorRT engine always has them
            yield ("enable_iter_perf_stats",), metrics


def _share(value: float) -> float:
    """Read a share that may be written in per cent: NIM 1.x accepted 0.8, but the name suggests 80."""
    share = value / 100 if value > 1 else value
    if not 0 < share <= 1:
        message = f"NIM_KVCACHE_PERCENT={value:g}: expected a share such as 0.8, or per cent such as 80"
        raise ContradictionError(message)
    return share


def _move_into_file(merged: MergedOptions, config: Path) -> dict[Key, Scalar]:
    """Move options that are set in the file from the command line into the file."""
    moved: dict[Key, Scalar] = {}
    present = [(name, key) for name, key in _FILE_KEYS.items() if name in merged.options]
    document = read_config(config) if present else {}
    for name, key in present:
        place: Any = document
        for part in key:
            place = place.get(part) if isinstance(place, dict) else None
        if place is not None:
            (given,) = merged.options.pop(name)[-1:]
            moved[key] = _typed(given)
    return moved


def _move_draft(serve: Serve, model: Path) -> dict[Key, Scalar]:
    """Change the draft model's path in the file, which is written for the image's own model folder."""
    if serve.draft is None or model == Path(serve.model):
        return {}
    return {_DRAFT: str(model / serve.draft)}


def _typed(given: SetOption) -> Scalar:
    match given.option.type:
        case "flag":
            return True
        case "int":
            return int(given.value)
        case "float":
            return float(given.value)
        case _:
            return given.value
