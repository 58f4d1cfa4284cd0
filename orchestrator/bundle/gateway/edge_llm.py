"""TensorRT Edge-LLM: how the gateway starts tensorrt-edgellm-serve, and which fields its requests have.

The server takes the checkpoint and looks for an engine of it in a cache, which it writes to. The bundle's engine is
read-only, so its files are linked into a cache. With other sizes than the engine's the server would build another one
while it starts, which takes minutes; the gateway refuses them. It does not listen before everything is loaded, and both
of its health checks are 200 from then on, whatever happens to the engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from .documents import Serve
from .errors import ContradictionError, DocumentError
from .options import MergedOptions, OptionTable
from .routes import Route
from .starting import Links, OptionNames, Prepared
from .variables import Environment

LABEL = "TensorRT Edge-LLM"
PROGRAM = "tensorrt-edgellm-serve"
OPTIONS = OptionNames(
    length="--max-kv-cache-capacity",
    batch="--max-batch-size",
    tensor_parallel=None,
    pipeline_parallel=None,
    trust=None,
    model_name="--served-model-name",
)
OWN_OPTIONS: Mapping[str, str] = {
    "--allowed-local-media-path": "clients send images as data",
    "--api-key": "NIM_GATEWAY_API_KEYS_FILE names a file of keys, which covers every route",
    "--cache-dir": "NIM_CACHE_PATH is the folder of caches",
    "--clear-engine-cache": "it has links to one engine",
    "--host": "tensorrt-edgellm-serve listens on 127.0.0.1; NIM_GATEWAY_HOST is the address for clients",
    "--port": "NIM_SERVER_PORT is the port for clients, NIM_GATEWAY_RUNTIME_PORT that of tensorrt-edgellm-serve",
    "--served-model-name": "set NIM_SERVED_MODEL_NAME",
}
GONE_OPTIONS: Mapping[str, str] = {}
GONE_VARIABLES: Mapping[str, str] = {
    "EDGELLM_DUMP_LOGITS_KVCACHE_DIR": "it writes what clients ask and are answered to a disk",
    "EDGELLM_FORCE_TOKENS_FILE": "it replaces the model's answers",
    "EDGELLM_PLUGIN_PATH": "the image decides it",
}
MEANINGS: Mapping[str, str] = {
    "NIM_TENSOR_PARALLEL_SIZE": "Refused: it uses one GPU.",
    "NIM_PIPELINE_PARALLEL_SIZE": "Refused: it uses one GPU.",
    "NIM_MAX_MODEL_LEN": "`--max-kv-cache-capacity`: only the number that the engine was built for.",
    "NIM_KVCACHE_PERCENT": "Refused: an engine's cache has the size that it was built for.",
    "NIM_ENABLE_KV_CACHE_REUSE": "`--enable-context-reuse`: requests share the cache of equal beginnings.",
    "NIM_DISABLE_CUDA_GRAPH": "`EDGELLM_DISABLE_CUDA_GRAPH=1`.",
    "NIM_GUIDED_DECODING_BACKEND": "Refused: it forces answers into `response_format` by itself.",
    "NIM_PER_REQ_METRICS_ENABLE": "Refused: it has no metrics; the gateway counts.",
    "NIM_TRUST_CUSTOM_CODE": "Refused: it runs no Python code that is beside the model.",
    "NIM_CACHE_PATH": "The folder with links to the engine, for its server.",
}
METRICS_PATH = None
METRICS: Mapping[str, str] = {}
STORED: tuple[Route, ...] = ()
DEAD: frozenset[int] = frozenset()
KERNELS: tuple[str, ...] = ()
FIELDS: Mapping[str, frozenset[str]] = {
    "/v1/chat/completions": frozenset({
        "add_generation_prompt", "chat_template_kwargs", "enable_thinking", "frequency_penalty", "guided_decoding",
        "logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n",
        "parallel_tool_calls", "presence_penalty", "reasoning_effort", "response_format", "seed", "stop", "stream",
        "stream_options", "temperature", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
    })
}  # fmt: skip
"""Fields of ChatCompletionRequest in experimental/server/api/protocol.py, which refuses all others.

`min_p` and `repetition_penalty` are not among them, because it replaces their values with defaults without telling the
client; nor are `audio`, `modalities`, `disable_spec_decode`, `reuse_context`, `cache_generated_tokens` and
`apply_chat_template`.
"""

IGNORED_FORMATS: frozenset[tuple[str, str]] = frozenset()
"""`_normalize_response_format` of experimental/server/runtime/engine.py follows a format, or refuses it."""
CACHE_ENTRY = "cache_entry.json"
"""The file beside the engine that names its place in the cache."""
_SIZES = ("--max-input-len", "--max-kv-cache-capacity", "--max-batch-size")
"""The options by which the server finds an engine, besides its checkpoint."""
_REUSE = "--enable-context-reuse"
_LEVELS = {"TRACE": "debug", "DEFAULT": "info", "CRITICAL": "error"}
_REFUSED = {
    "NIM_KVCACHE_PERCENT": "the engine's cache has the size that it was built for",
    "NIM_GUIDED_DECODING_BACKEND": "it forces answers into response_format by itself",
}


def model_words(model: Path, engine: str | None) -> tuple[str, ...]:  # noqa: ARG001 - as every runtime
    """Name the checkpoint; the server finds the engine in its cache."""
    return (str(model),)


def options_of(environment: Environment) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the options that variables set, besides those that every runtime has.

    Raises:
        ContradictionError: A variable that the server cannot follow.
    """
    for name, why in _REFUSED.items():
        if environment.text(name):
            message = f"{name}: {PROGRAM} has no such setting: {why}"
            raise ContradictionError(message)
    if environment.switch("NIM_PER_REQ_METRICS_ENABLE"):
        message = f"NIM_PER_REQ_METRICS_ENABLE: {PROGRAM} has no metrics; the gateway counts"
        raise ContradictionError(message)
    if environment.switch("NIM_ENABLE_KV_CACHE_REUSE"):
        yield "NIM_ENABLE_KV_CACHE_REUSE", (_REUSE,)
    level = environment.text("NIM_LOG_LEVEL")
    if level:
        yield f"NIM_LOG_LEVEL={level}", ("--log-level", _LEVELS.get(level, level.lower()))


def prepare(serve: Serve, environment: Environment, merged: MergedOptions, table: OptionTable, model: Path) -> Prepared:
    """Link the engine into the server's cache, and set variables.

    Raises:
        ContradictionError: Other sizes than those of the engine.
        DocumentError: The engine does not tell its place in the cache.
    """
    if environment.switch("NIM_ENABLE_KV_CACHE_REUSE") is False:
        merged.options.pop(_REUSE, None)
    _require_sizes(serve, merged, table)
    cache = environment.text("NIM_CACHE_PATH") or environment.default("NIM_CACHE_PATH")
    folder = Path(cache) / "edge_llm" / serve.profile.id[:16]  # of this checkpoint and engine
    links = Links(model / serve.engine, folder, _place(model / serve.engine)) if serve.engine else None
    graphs = {"EDGELLM_DISABLE_CUDA_GRAPH": "1"} if environment.switch("NIM_DISABLE_CUDA_GRAPH") else {}
    return Prepared(words=("--cache-dir", str(folder)), links=links, environment={"HF_HUB_OFFLINE": "1", **graphs})


def _require_sizes(serve: Serve, merged: MergedOptions, table: OptionTable) -> None:
    built = {option.name: option for option in table.parse(serve.arguments, "serve.json")}
    for name in _SIZES:
        given = merged.last(name)
        if given is not None and name in built and given.value != built[name].value:
            what = f"the TensorRT engine was built for {built[name].value}: build another one"
            message = f"{given.origin} asks for {name} {given.value}, but {what}"
            raise ContradictionError(message)


def _place(engine: Path) -> str:
    file = engine / CACHE_ENTRY
    try:
        place = PurePosixPath(json.loads(file.read_bytes())["path"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        message = f"{file}: expected the engine's place in a cache, which the build writes: {error}"
        raise DocumentError(message) from error
    if place.is_absolute() or ".." in place.parts:
        message = f"{file}: the place {place} is not inside a cache"
        raise DocumentError(message)
    return str(place)
