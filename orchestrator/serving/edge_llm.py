"""TensorRT Edge-LLM: an engine that `tensorrt-edgellm-build` builds from the checkpoint, and `tensorrt-edgellm-serve`.

The server takes the checkpoint and looks for an engine of it in its own cache, by checkpoint and by three sizes. So the
builder and the server always get the same three; the defaults of the builder (32 and 96 tokens) are those of a test.
"E:" marks a file of the tensorrt-edgellm 0.11.0 wheel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.errors import Refusal
from orchestrator.executors.job import Argument
from orchestrator.recipe.model import Recipe, Serve
from orchestrator.serving.legal_options import flag_of, further_options, legal, near
from orchestrator.serving.server import Able, Command, EngineLimits, Measurement, Places, Run, Server

LABEL = "TensorRT Edge-LLM"
COSTS = "edge_llm"
HUB_LIBRARY = "tensorrt-edge-llm"
SERVER = "tensorrt-edgellm-serve"
MEASURED_BY = "streamed conversations over HTTP"
CONTROL = "/v1/messages"
SPREADS_OVER_NODES = False
HAS_BACKENDS = False
RESERVES_CACHE = True
CONVERTS = False
ENGINE_FOLDER = ".edgellm"
"""The server leaves it out when it identifies a checkpoint (E:experimental/server/runtime/engine_build.py)."""
ENGINE_HOLDS_WEIGHTS = False
CONFIG = None
EAGLE3: frozenset[str] = frozenset()
MTP: frozenset[str] = frozenset()
ALLOWS_LONGER = ""
LOADS_ONE_BY_ONE = None
KERNELS: tuple[str, ...] = ()

SIZES: Mapping[str, str] = MappingProxyType(
    {
        "max-input-len": "serve.max_num_tokens, and at most serve.max_seq_len",
        "max-kv-cache-capacity": "serve.max_seq_len",
        "max-batch-size": "serve.max_batch_size",
    }
)
"""The sizes by which the server finds an engine, and what in a recipe decides them."""
BUILD_OWN: Mapping[str, str] = MappingProxyType(
    {
        **SIZES,
        "model-dir": "the plan",
        "engine-dir": "the plan",
        "components": "the plan: every part of the checkpoint",
        "draft-model-dir": "the plan",
        "draft-reduced-vocab-dir": "the plan",
        "max-lora-rank": "nothing: adapters (LoRA) are not served with TensorRT Edge-LLM yet",
        "num-decoder-layer": "tests of the builder: an engine of some layers answers nonsense",
        "plugin-path": "the image",
        "reduced-vocab-dir": "the plan",
        "spec-type": "serve.speculative, which is not served with TensorRT Edge-LLM yet",
        "tp-rank": "the plan",
        "tp-size": "serve.tensor_parallel_size",
        "tree-base": "serve.speculative, which is not served with TensorRT Edge-LLM yet",
    }
)
"""Options that `engine.build` must not have, and what they belong to."""
OWN_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "--allowed-local-media-path": "clients send images as data",
        "--api-key": "a bundle's gateway checks keys, from a file; nothing secret is on a command line",
        "--cache-dir": "the plan decides it",
        "--clear-engine-cache": "leave it out: each engine has a cache of its own",
        "--draft-step": "set serve.speculative, which is not served with TensorRT Edge-LLM yet",
        "--draft-top-k": "set serve.speculative, which is not served with TensorRT Edge-LLM yet",
        "--enable-auto-tool-choice": "set serve.tool_parser",
        "--enable-context-reuse": "set serve.kv_cache.enable_block_reuse",
        "--enable-in-flight-batching": "set serve.max_batch_size: above 1 it is on",
        "--host": "the plan decides it",
        "--max-batch-size": "set serve.max_batch_size",
        "--max-draft-tree-size": "set serve.speculative, which is not served with TensorRT Edge-LLM yet",
        "--max-image-tokens": "set engine.build.max-image-tokens",
        "--max-image-tokens-per-image": "set engine.build.max-image-tokens-per-image",
        "--max-input-len": "set serve.max_num_tokens",
        "--max-kv-cache-capacity": "set serve.max_seq_len",
        "--max-verify-tree-size": "set serve.speculative, which is not served with TensorRT Edge-LLM yet",
        "--port": "set serve.port",
        "--reasoning-parser": "set serve.reasoning_parser",
        "--served-model-name": "set serve.served_model_name",
        "--speculative-config": "set serve.speculative, which is not served with TensorRT Edge-LLM yet",
        "--tool-call-parser": "set serve.tool_parser",
        "--verify-tree-size": "set serve.speculative, which is not served with TensorRT Edge-LLM yet",
    }
)
"""Options that `serve.options` must not have, and what to set instead."""
_OF_OTHERS = ("TLLM_", "TRTLLM_", "TRT_LLM_", "VLLM_")
_FORBIDDEN_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "EDGELLM_DUMP_LOGITS_KVCACHE_DIR": "it writes what clients ask and are answered to a disk",
        "EDGELLM_FORCE_TOKENS_FILE": "it replaces the model's answers",
        "EDGELLM_IGNORE_EOS": "answers would never end by themselves",
        "EDGELLM_PLUGIN_PATH": "the image decides it; with another value the server does not start",
    }
)
_PARSERS: Mapping[str, str] = MappingProxyType(
    {"reasoning_parser": "--reasoning-parser", "tool_parser": "--tool-call-parser"}
)
_ASSUMED_LENGTH = 8192
"""Tokens for a recipe that was written for another runtime and names no length: the server's own default."""


def sizes(recipe: Recipe) -> Mapping[str, int]:
    """Return the sizes of a recipe's engine by the builder's and the server's name of them."""
    serve = recipe.serve
    length = serve.max_seq_len or _ASSUMED_LENGTH  # a recipe without one is refused
    prompt = min(serve.max_num_tokens, length)
    return dict(zip(SIZES, (prompt, length, serve.max_batch_size), strict=True))


def adopted(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Give a recipe of another runtime what this one must be told."""
    serve = {"max_seq_len": _ASSUMED_LENGTH, **fields.get("serve", {})}
    dtype = serve.get("kv_cache", {}).get("dtype", "auto")
    cache = {"dtype": dtype, "enable_block_reuse": False}
    return {**fields, "backend": "tensorrt", "serve": {**serve, "kv_cache": cache}}


def command(server: Server, places: Places) -> Command:
    """Make the command line, without the folder of engines, which the payload that starts it makes."""
    serve = server.recipe.serve
    words: list[Argument] = [*server.image.tools["tensorrt-edgellm-serve"].command, places.checkpoint]
    words += ["--host", places.host, "--port", str(places.port), *arguments(server, places.draft)]
    if serve.served_model_name is not None:
        words += ["--served-model-name", serve.served_model_name]
    return tuple(words)


def arguments(server: Server, draft: str) -> tuple[str, ...]:  # noqa: ARG001 - as every runtime
    """Make the recipe's own part of it, without model, names and address."""
    serve = server.recipe.serve
    words = [word for name, size in sizes(server.recipe).items() for word in (f"--{name}", str(size))]
    if serve.max_batch_size > 1:
        words.append("--enable-in-flight-batching")  # without it, one request is answered at a time
    if serve.kv_cache.enable_block_reuse:
        words.append("--enable-context-reuse")
    return (*words, *_parsers(serve), *further_options(server, OWN_OPTIONS, SERVER))


def starting(places: Places) -> Command:
    """Name the engine for the payload that starts the server."""
    return () if places.engine is None else ("--engine", places.engine)


def files(server: Server) -> Mapping[str, str]:  # noqa: ARG001 - as every runtime
    """Return no file: everything is on the command line."""
    return {}


def config(server: Server, draft: str) -> str:  # noqa: ARG001 - as every runtime
    """Return nothing: everything is on the command line."""
    return ""


def environment(server: Server) -> Mapping[str, str]:
    """Return the recipe's variables."""
    return server.recipe.serve.environment


def engine_limits(engine_config: Mapping[str, Any]) -> EngineLimits:
    """Read what an engine was built for from its config.json."""
    built = engine_config.get("builder_config", {})
    return EngineLimits(1, 1, built.get("max_kv_cache_capacity"), built.get("max_batch_size"))


def measurement(server: Server, places: Places, run: Run) -> Measurement | None:
    """Measure over HTTP: one server answers every level of concurrency in turn. It has no route for bare text."""
    if not server.image.serves:
        return None
    levels = [word for level in run.settings.concurrency for word in ("--concurrency", str(level))]
    options: list[Argument] = ["--port", str(places.port), "--tool", LABEL, "--conversations", *levels]
    options += ["--startup-timeout", str(server.recipe.checks.startup_timeout), *starting(places)]
    return Measurement("measure", (command(server, places),), options=tuple(options))


def kernels(server: Server) -> Mapping[str, tuple[str, ...]]:  # noqa: ARG001 - as every runtime
    """Return nothing: its engine has its kernels."""
    return {}


def refusals(server: Server, able: Able) -> Iterator[Refusal]:
    """Refuse what this runtime or this version of it does not have."""
    recipe, image = server.recipe, server.recipe.image
    if recipe.backend != "tensorrt":
        message = f"image {image} serves TensorRT engines only, which it builds from the checkpoint"
        yield Refusal("BACKEND_UNSUPPORTED", message, "set backend: tensorrt")
    if recipe.engine.convert:
        message = "engine.convert: TensorRT Edge-LLM builds from the checkpoint as it is"
        yield Refusal("OPTION_UNKNOWN", message, "remove it; engine.build has the options of tensorrt-edgellm-build")
    yield from _served_by_others(server)
    yield from _cache(server)
    for name in _PARSERS:
        value = getattr(recipe.serve, name)
        if value is not None:
            yield from legal(f"serve.{name}", server.options[_PARSERS[name]], value)
    for name, value in recipe.serve.options.items():
        yield from _option(server, able, name, value)
    yield from _variables(server)


def _served_by_others(server: Server) -> Iterator[Refusal]:
    recipe, gpu, parts = server.recipe, server.target.gpu, server.recipe.serve.tensor_parallel_size
    if gpu is not None and 1 < parts <= gpu.count:  # another rule refuses more than the machine has
        message = f"serve.tensor_parallel_size is {parts}, and {SERVER} uses one GPU"
        yield Refusal("TENSOR_PARALLEL", message, "set it to 1, or use an image of TensorRT-LLM or vLLM")
    if recipe.checks.serve and not recipe.checks.chat_template:
        message = f"checks.chat_template is false, and {SERVER} answers conversations only, which need a chat template"
        yield Refusal("OPTION_VALUE", message, "leave it out, or use an image of TensorRT-LLM or vLLM")


def _cache(server: Server) -> Iterator[Refusal]:
    serve = server.recipe.serve
    if serve.max_seq_len is None:
        message = "serve.max_seq_len is missing: an engine reserves its cache for that many tokens of every request"
        yield Refusal("OPTION_VALUE", message, f"set it, for example to {_ASSUMED_LENGTH}")
    if serve.kv_cache.max_tokens is not None:
        message = "serve.kv_cache.max_tokens: an engine's cache has max_seq_len tokens for each of its requests"
        yield Refusal("OPTION_VALUE", message, "remove it")
    if "free_gpu_memory_fraction" in serve.kv_cache.model_fields_set:
        message = "serve.kv_cache.free_gpu_memory_fraction has no effect: an engine's cache is reserved by its sizes"
        yield Refusal("OPTION_VALUE", message, "remove it; serve.max_seq_len and serve.max_batch_size decide")


def _parsers(serve: Serve) -> Iterator[str]:
    if serve.tool_parser is not None:
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", serve.tool_parser)
    if serve.reasoning_parser is not None:
        yield from ("--reasoning-parser", serve.reasoning_parser)


def _option(server: Server, able: Able, name: str, value: object) -> Iterator[Refusal]:
    where, flag = f"serve.options.{name}", flag_of(name)
    option = server.options.get(flag)
    if flag in OWN_OPTIONS:
        yield Refusal("OPTION_VALUE", f"{where} is set elsewhere", OWN_OPTIONS[flag])
    elif option is None:
        others = able(lambda _, options: flag in options)
        message = f"{where}: {SERVER} of image {server.recipe.image} has no option {flag}"
        yield Refusal("OPTION_UNKNOWN", message, f"use image {others[0]}" if others else near(flag, server.options))
    elif option.type == "flag" and value is False:
        yield Refusal("OPTION_VALUE", f"{where} is false, and {flag} has no opposite", "leave it out")
    elif isinstance(value, str | int | float):
        yield from legal(where, option, value)
    else:
        yield Refusal("OPTION_VALUE", f"{where} is {value!r}", f"{flag} takes one value")


def _variables(server: Server) -> Iterator[Refusal]:
    for name in server.recipe.serve.environment:
        where = f"serve.environment.{name}"
        if name in _FORBIDDEN_VARIABLES:
            yield Refusal("OPTION_VALUE", f"{where} is not for a deployment", _FORBIDDEN_VARIABLES[name])
        elif name.startswith(_OF_OTHERS):
            yield Refusal("OPTION_UNKNOWN", f"{where}: another runtime reads it, {LABEL} does not", "remove it")
