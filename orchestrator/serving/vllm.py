"""vLLM: `vllm serve` with everything on its command line, measured over HTTP.

The KV cache is given in bytes where CPU and GPU share the memory. There a share of the whole memory is no bound: the
server takes more while it starts (https://github.com/vllm-project/vllm/issues/46307).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.errors import Refusal
from orchestrator.executors.job import Argument
from orchestrator.recipe.model import DraftTarget, Eagle3, KvCache, Mtp, Serve, Speculative
from orchestrator.serving.legal_options import flag_of, further_options, legal, near
from orchestrator.serving.server import Able, Command, EngineLimits, Measurement, Places, Run, Server

LABEL = "vLLM"
COSTS = "vllm"
HUB_LIBRARY = "vllm"
SERVER = "vllm serve"
MEASURED_BY = "streamed requests over HTTP"
CONTROL = "/scale_elastic_ep"
SPREADS_OVER_NODES = False
HAS_BACKENDS = False
RESERVES_CACHE = False
CONVERTS = False
ENGINE_FOLDER = None
ENGINE_HOLDS_WEIGHTS = False
BUILD_OWN: Mapping[str, str] = MappingProxyType({})
CONFIG = None
EAGLE3 = frozenset(
    {
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "Gemma4ForCausalLM",
        "Gemma4ForConditionalGeneration",
        "GptOssForCausalLM",
        "Llama4ForConditionalGeneration",
        "LlamaForCausalLM",
        "MiniMaxM2ForCausalLM",
        "MistralForCausalLM",
        "NemotronHForCausalLM",
        "Phi3ForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "Qwen3NextForCausalLM",
    }
)
"""Classes with SupportsEagle3 in vllm/model_executor/models of 0.27.1 and of 0.33.0."""
MTP = frozenset({"DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM", "NemotronHForCausalLM", "Qwen3NextForCausalLM"})
"""Architectures that vllm/config/speculative.py replaces by a class of their own layers, in 0.27.1 and in 0.33.0."""
ALLOWS_LONGER = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
LOADS_ONE_BY_ONE = None
KERNELS = (
    r"Using (\S+ for (?:NVFP4|MXFP4|MXFP8) GEMM)",
    r"Using ('\S+' \w+ MoE backend)",
    r"Using (\S+ for mixed-precision linear)",
    r"Selected (\S+ for \S+)",
)
"""Lines of vllm/model_executor/kernels/linear/__init__.py and layers/fused_moe/oracle/*.py."""

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {
        "DO_NOT_TRACK": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
)
"""Usage statistics are on by default, and report the model to third parties."""

OWN_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "--api-key": "a bundle's gateway checks keys, from a file; nothing secret is on a command line",
        "--enable-auto-tool-choice": "set serve.tool_parser",
        "--enable-prefix-caching": "set serve.kv_cache.enable_block_reuse",
        "--gpu-memory-utilization": "set serve.kv_cache.free_gpu_memory_fraction, from which the plan calculates bytes",
        "--device-memory-utilization": "set serve.kv_cache.free_gpu_memory_fraction",
        "--host": "the plan decides it",
        "--kv-cache-dtype": "set serve.kv_cache.dtype",
        "--kv-cache-memory-bytes": "set serve.kv_cache.free_gpu_memory_fraction, from which the plan calculates it",
        "--max-model-len": "set serve.max_seq_len",
        "--max-num-batched-tokens": "set serve.max_num_tokens",
        "--max-num-seqs": "set serve.max_batch_size",
        "--model": "the plan decides it",
        "--port": "set serve.port",
        "--quantization": "leave it out: vLLM reads it from the checkpoint",
        "--reasoning-parser": "set serve.reasoning_parser",
        "--served-model-name": "set serve.served_model_name",
        "--spec-method": "set serve.speculative",
        "--speculative-config": "set serve.speculative",
        "--tensor-parallel-size": "set serve.tensor_parallel_size",
        "--tokenizer": "the plan decides it",
        "--tool-call-parser": "set serve.tool_parser",
    }
)
"""Options that `serve.options` must not have, and what to set instead."""

GONE_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "--calculate-kv-scales": "quantize with quantization.kv_cache: fp8, which writes the scales",
        "--disable-log-requests": "requests are not logged by default",
        "--enable-bf16x3-router-gemm": "leave it out",
        "--enable-reasoning": "set serve.reasoning_parser alone",
        "--guided-decoding-backend": 'write structured-outputs-config: {"backend": "xgrammar"}',
        "--override-attention-dtype": "leave it out",
        "--rope-scaling": 'write hf-overrides: {"rope_scaling": …}',
        "--swap-space": "leave it out; the newer versions swap nothing",
        "--task": "write runner and convert",
    }
)
"""Options of older versions, and what to write instead."""

GONE_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "VLLM_ATTENTION_BACKEND": "set serve.options.attention-backend",
        "VLLM_FLASHINFER_MOE_BACKEND": "set serve.options.moe-backend, such as flashinfer_cutlass",
        "VLLM_MXFP4_USE_MARLIN": "set serve.options.moe-backend: marlin",
        "VLLM_NVFP4_GEMM_BACKEND": "set serve.options.linear-backend, such as flashinfer_cutlass",
        "VLLM_RPC_TIMEOUT": "leave it out",
        "VLLM_USE_FLASHINFER_MOE_FP4": "set serve.options.moe-backend: flashinfer_cutlass",
        "VLLM_USE_FLASHINFER_MOE_FP8": "set serve.options.moe-backend: flashinfer_cutlass",
        "VLLM_USE_V1": "leave it out: there is one engine",
    }
)
"""Variables that vLLM 0.24 and newer ignore with a line in the log, and what to write instead (V:vllm/envs.py)."""

FORBIDDEN_VARIABLES: Mapping[str, str] = MappingProxyType(
    {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "it lets a caller load files of the server",
        "VLLM_API_KEY": "a bundle's gateway checks keys, from a file; a recipe is no place for a key",
        "VLLM_SERVER_DEV_MODE": "it lets a caller control the server",
    }
)
_OF_TENSORRT_LLM = ("TLLM_", "TRTLLM_", "TRT_LLM_")
_MARLIN_ONLY = ("w4a16_nvfp4",)
_ANY_LINEAR = ("auto", "marlin", "humming")
"""The kernels for weight-only NVFP4 that SM 120 and 121 have, in 0.27.1 (V:kernels/linear/__init__.py)."""
_TRIED = ("flashinfer_cutlass", "cutlass", "marlin")
"""Kernels of NVIDIA's GPUs that quantized formats have."""
_SM12X = (120, 121)
_MIB = 2**20
_SHUTDOWN_SECONDS = 5
"""For its workers to end in order; after ten seconds a gateway ends them all."""


def adopted(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take a recipe of another runtime as it is."""
    return fields


def command(server: Server, places: Places) -> Command:
    """Make the command line."""
    serve = server.recipe.serve
    words: list[Argument] = [*server.image.tools["vllm"].command, places.checkpoint]
    words += ["--host", places.host, "--port", str(places.port), *arguments(server, places.draft)]
    if serve.served_model_name is not None:
        words += ["--served-model-name", serve.served_model_name]
    return tuple(words)


def arguments(server: Server, draft: str) -> tuple[str, ...]:
    """Make the recipe's own part of it, without model, names and address."""
    serve = server.recipe.serve
    words = ["--tensor-parallel-size", str(serve.tensor_parallel_size)]
    words += ["--max-num-seqs", str(serve.max_batch_size), "--max-num-batched-tokens", str(serve.max_num_tokens)]
    if serve.max_seq_len is not None:
        words += ["--max-model-len", str(serve.max_seq_len)]
    if "--shutdown-timeout" in server.options:
        words += ["--shutdown-timeout", str(_SHUTDOWN_SECONDS)]
    words += [*_memory(server), *_cache(serve.kv_cache), *_parsers(serve)]
    if serve.speculative is not None:
        words += ["--speculative-config", json.dumps(_speculative(serve.speculative, draft))]
    return (*words, *further_options(server, OWN_OPTIONS, SERVER))


def starting(places: Places) -> Command:  # noqa: ARG001 - as every runtime
    """Return no option: the command line is whole."""
    return ()


def files(server: Server) -> Mapping[str, str]:  # noqa: ARG001 - as every runtime
    """Return no file: everything is on the command line."""
    return {}


def config(server: Server, draft: str) -> str:  # noqa: ARG001 - as every runtime
    """Return nothing: everything is on the command line."""
    return ""


def environment(server: Server) -> Mapping[str, str]:
    """Return the recipe's variables, and those that keep vLLM from reporting and from downloading."""
    return {**ENVIRONMENT, **server.recipe.serve.environment}


def engine_limits(engine_config: Mapping[str, Any]) -> EngineLimits:  # noqa: ARG001 - as every runtime
    """Return no limit: it has no engine."""
    return EngineLimits()


def measurement(server: Server, places: Places, run: Run) -> Measurement | None:
    """Measure over HTTP: one server answers every level of concurrency in turn."""
    if not server.image.serves:
        return None
    levels = [word for level in run.settings.concurrency for word in ("--concurrency", str(level))]
    options = ("--port", str(places.port), "--tool", LABEL, *levels)
    serve, checks = server.recipe.serve, server.recipe.checks
    more = ("--gpus", str(serve.tensor_parallel_size), "--startup-timeout", str(checks.startup_timeout))
    return Measurement("measure", (command(server, places),), options=(*options, *more))


def kernels(server: Server) -> Mapping[str, tuple[str, ...]]:
    """Name the kernels for products of experts, else of linear layers, that the image's table has."""
    experts = server.recipe.model.active_parameters is not None
    name = "moe-backend" if experts else "linear-backend"
    option = server.options.get(f"--{name}")
    quantized = server.recipe.quantization.format != "bf16"
    return (
        {f"serve.options.{name}": tuple(one for one in _TRIED if one in option.choices)} if option and quantized else {}
    )


def refusals(server: Server, able: Able) -> Iterator[Refusal]:
    """Refuse what vLLM or this version of it does not have."""
    recipe = server.recipe
    if "backend" in recipe.model_fields_set or recipe.engine.convert or recipe.engine.build:
        message = f"backend and engine are choices of TensorRT-LLM; image {recipe.image} runs vLLM"
        yield Refusal("BACKEND_UNSUPPORTED", message, "remove backend and engine, or use an image of TensorRT-LLM")
    if server.target.nodes > 1:
        message = f"serving with vLLM over the {server.target.nodes} machines of {recipe.target} is not written yet"
        yield Refusal("MULTI_NODE_UNSUPPORTED", message, "use an image of TensorRT-LLM, or one machine")
    if recipe.serve.kv_cache.max_tokens is not None:
        message = "serve.kv_cache.max_tokens: vLLM takes the size of its cache in bytes"
        yield Refusal("OPTION_VALUE", message, "set serve.kv_cache.free_gpu_memory_fraction")
    for name, value in recipe.serve.options.items():
        yield from _option(server, able, name, value)
    yield from _variables(server)
    yield from _linear_backend(server)


def _memory(server: Server) -> tuple[str, ...]:
    memory = server.memory()
    if server.target.unified_memory:
        return ("--kv-cache-memory-bytes", f"{memory.cache // _MIB}M")
    return ("--gpu-memory-utilization", f"{int(memory.share * 100) / 100:g}")


def _cache(cache: KvCache) -> tuple[str, ...]:
    """The default is the checkpoint's own format, and to reuse blocks where the model allows it."""
    dtype = () if cache.dtype == "auto" else ("--kv-cache-dtype", cache.dtype)
    return dtype if cache.enable_block_reuse else (*dtype, "--no-enable-prefix-caching")


def _parsers(serve: Serve) -> Iterator[str]:
    if serve.tool_parser is not None:
        yield from ("--enable-auto-tool-choice", "--tool-call-parser", serve.tool_parser)
    if serve.reasoning_parser is not None:
        yield from ("--reasoning-parser", serve.reasoning_parser)


def _speculative(speculative: Speculative, draft: str) -> dict[str, str | int]:
    match speculative:
        case DraftTarget(max_draft_len=length):
            return {"method": "draft_model", "model": draft, "num_speculative_tokens": length}
        case Eagle3(max_draft_len=length):
            return {"method": "eagle3", "model": draft, "num_speculative_tokens": length}
        case Mtp(num_nextn_predict_layers=layers):
            return {"method": "mtp", "num_speculative_tokens": layers}


def _option(server: Server, able: Able, name: str, value: object) -> Iterator[Refusal]:
    where, flag = f"serve.options.{name}", flag_of(name)
    option = server.options.get(flag)
    own = OWN_OPTIONS.get(option.flags[0] if option else flag)
    if own is not None:
        yield Refusal("OPTION_VALUE", f"{where} is set elsewhere", own)
    elif option is None and flag in GONE_OPTIONS:
        message = f"{where}: {SERVER} {server.image.version} has no option {flag} any more"
        yield Refusal("OPTION_UNKNOWN", message, GONE_OPTIONS[flag])
    elif option is None:
        others = able(lambda _, options: flag in options)
        message = f"{where}: {SERVER} of image {server.recipe.image} has no option {flag}"
        yield Refusal("OPTION_UNKNOWN", message, f"use image {others[0]}" if others else near(flag, server.options))
    elif option.type == "flag" and value is False and f"--no-{flag.removeprefix('--')}" not in server.options:
        yield Refusal("OPTION_VALUE", f"{where} is false, and {flag} has no opposite", "leave it out")
    elif isinstance(value, str | int | float):
        yield from legal(where, option, value)


def _variables(server: Server) -> Iterator[Refusal]:
    for name in server.recipe.serve.environment:
        where = f"serve.environment.{name}"
        if name in GONE_VARIABLES:
            message = f"{where}: vLLM {server.image.version} does not read it any more"
            yield Refusal("OPTION_UNKNOWN", message, GONE_VARIABLES[name])
        elif name in FORBIDDEN_VARIABLES:
            yield Refusal("OPTION_VALUE", f"{where} is not for a deployment", FORBIDDEN_VARIABLES[name])
        elif name.startswith(_OF_TENSORRT_LLM):
            yield Refusal("OPTION_UNKNOWN", f"{where}: TensorRT-LLM reads it, vLLM does not", "remove it")


def _linear_backend(server: Server) -> Iterator[Refusal]:
    """Weight-only NVFP4 has few kernels on SM 120 and 121. With another one the server does not start."""
    wanted = server.recipe.serve.options.get("linear-backend", server.recipe.serve.options.get("linear_backend"))
    sm = server.target.gpu.sm if server.target.gpu else None
    weight_only = server.recipe.quantization.format in _MARLIN_ONLY
    if weight_only and sm in _SM12X and isinstance(wanted, str) and wanted not in _ANY_LINEAR:
        message = f"serve.options.linear-backend is {wanted}, which has no kernel for w4a16_nvfp4 on SM {sm}"
        yield Refusal("OPTION_VALUE", message, f"use {', '.join(_ANY_LINEAR)}")
