"""TensorRT-LLM: trtllm-serve with its configuration file, measured by trtllm-bench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from orchestrator.errors import Refusal
from orchestrator.executors.job import Argument
from orchestrator.recipe.model import Recipe
from orchestrator.serving.legal_options import legal, near
from orchestrator.serving.server import DRAFT, Able, Command, EngineLimits, Measurement, Places, Run, Server
from orchestrator.serving.trtllm_config import (
    GUIDED,
    KEYS_WITH_A_FIELD,
    bench_config,
    bundle_config,
    config_text,
    llm_api_config,
)

LABEL = "TensorRT-LLM"
COSTS = "trtllm"
HUB_LIBRARY = "tensorrt-llm"
SERVER = "trtllm-serve"
MEASURED_BY = "trtllm-bench"
CONTROL = "/update_weights"
SPREADS_OVER_NODES = True
HAS_BACKENDS = True
RESERVES_CACHE = False
CONVERTS = True
ENGINE_FOLDER = "trtllm_engine"
"""The path in a multi-LLM NIM 1.x."""
ENGINE_HOLDS_WEIGHTS = True
CONFIG = "trtllm_config.yaml"
EAGLE3 = frozenset(
    {
        "LlamaForCausalLM",
        "Llama4ForConditionalGeneration",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "GptOssForCausalLM",
    }
)
"""TensorRT-LLM's table of features by model, and the heads that NVIDIA publishes."""
MTP = frozenset({"NemotronHForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM"})
"""TensorRT-LLM's table of features by model."""
KERNELS: tuple[str, ...] = ()
ALLOWS_LONGER = "TLLM_ALLOW_LONG_MAX_MODEL_LEN"
LOADS_ONE_BY_ONE = "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL"

BUILD_OWN: Mapping[str, str] = MappingProxyType(
    {"checkpoint_dir": "the plan", "output_dir": "the plan", "output_timing_cache": "the plan"}
)
STEP_CONFIG = "llm_api.yaml"
"""The configuration file of a step."""
_DATASET = "dataset.jsonl"
_GUIDED_BACKENDS = ("xgrammar", "llguidance")
"""What TensorRT-LLM's images have to force a grammar on an answer."""
_PYTORCH_ONLY = frozenset(
    {
        "allreduce_strategy",
        "attn_backend",
        "cuda_graph_config",
        "disable_overlap_scheduler",
        "enable_autotuner",
        "enable_iter_perf_stats",
        "enable_iter_req_stats",
        "enable_layerwise_nvtx_marker",
        "enable_min_latency",
        "force_dynamic_quantization",
        "garbage_collection_gen0_threshold",
        "moe_config",
        "nvfp4_gemm_config",
        "print_iter_log",
        "sampler_type",
        "stream_interval",
        "torch_compile_config",
    }
)
"""Arguments that only the PyTorch backend has: fields of TorchLlmArgs in tensorrt_llm/llmapi/llm_args.py."""
_KV_CACHE_OWN = frozenset({"dtype", "free_gpu_memory_fraction", "max_tokens", "enable_block_reuse"})
_SM12X = (120, 121)
_SM12X_MOE_BACKENDS = ("AUTO", "CUTLASS", "CUTEDSL")


def adopted(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take a recipe of another runtime as it is."""
    return fields


def command(server: Server, places: Places) -> Command:
    """Make the command line of trtllm-serve, without what the configuration file contains."""
    recipe = server.recipe
    words: list[Argument] = [*server.image.tools["trtllm-serve"].command, places.engine or places.checkpoint]
    if places.engine is not None:
        words += ["--tokenizer", places.checkpoint]  # an engine has none of its own
    words += ["--host", places.host, "--port", str(places.port), *_sizes(recipe)]
    words += ["--config", places.file(STEP_CONFIG), *_parsers(recipe)]
    if recipe.serve.served_model_name is not None and "--served_model_name" in server.options:
        words += ["--served_model_name", recipe.serve.served_model_name]
    return (*words, *_silence(server))


def arguments(server: Server, draft: str) -> tuple[str, ...]:  # noqa: ARG001 - the file names the draft
    """Make the recipe's own part of it, without model, names and address."""
    return (*_sizes(server.recipe), *_parsers(server.recipe), *_silence(server))


def starting(places: Places) -> Command:  # noqa: ARG001 - as every runtime
    """Return no option: the command line is whole."""
    return ()


def files(server: Server) -> Mapping[str, str]:
    """Write the configuration file of a step."""
    return {STEP_CONFIG: config_text(llm_api_config(server.recipe, server.image, draft=DRAFT))}


def config(server: Server, draft: str) -> str:
    """Write the configuration file of a bundle."""
    return config_text(bundle_config(server.recipe, server.image, draft=draft))


def environment(server: Server) -> Mapping[str, str]:
    """Return the recipe's variables."""
    return server.recipe.serve.environment


def engine_limits(engine_config: Mapping[str, Any]) -> EngineLimits:
    """Read what an engine was built for from its config.json."""
    build = engine_config.get("build_config", {})
    mapping = engine_config.get("pretrained_config", {}).get("mapping", {})
    return EngineLimits(
        tensor_parallel_size=mapping.get("tp_size"),
        pipeline_parallel_size=mapping.get("pp_size", 1),
        max_seq_len=build.get("max_seq_len"),
        max_batch_size=build.get("max_batch_size"),
    )


def measurement(server: Server, places: Places, run: Run) -> Measurement | None:
    """Measure by trtllm-bench, one run for each level of concurrency."""
    if not server.image.has("trtllm-bench"):
        return None
    return Measurement(
        payload="benchmark",
        commands=tuple(_bench(server, places, run, concurrency) for concurrency in run.settings.concurrency),
        files={STEP_CONFIG: config_text(bench_config(server.recipe, server.image))},
    )


def kernels(server: Server) -> Mapping[str, tuple[str, ...]]:
    """Name the kernels of experts and of attention that the image's LLM API can choose."""
    keys, experts = server.image.llm_api, server.recipe.model.active_parameters is not None
    if server.recipe.backend == "tensorrt":
        return {}
    found = {"serve.options.moe_config.backend": ("CUTLASS", "TRTLLM")} if experts and "moe_config" in keys else {}
    return found | ({"serve.options.attn_backend": ("FLASHINFER",)} if "attn_backend" in keys else {})


def refusals(server: Server, able: Able) -> Iterator[Refusal]:
    """Refuse options of trtllm-serve that only some images have, and keys of its configuration file."""
    serve = server.recipe.serve
    for name in ("served_model_name", "reasoning_parser", "tool_parser"):
        value = getattr(serve, name)
        if value is not None:
            yield from _option(server, able, name, value)
    for key in serve.options:
        yield from _key(server, key)
    yield from _moe_backend(server)
    yield from _kv_cache_once(server)


def _sizes(recipe: Recipe) -> tuple[str, ...]:
    serve = recipe.serve
    options = ["--backend", recipe.backend]
    options += ["--max_batch_size", str(serve.max_batch_size), "--max_num_tokens", str(serve.max_num_tokens)]
    if serve.max_seq_len is not None:
        options += ["--max_seq_len", str(serve.max_seq_len)]
    return (*options, "--tensor_parallel_size", str(serve.tensor_parallel_size))


def _parsers(recipe: Recipe) -> tuple[str, ...]:
    options = {"--reasoning_parser": recipe.serve.reasoning_parser, "--tool_parser": recipe.serve.tool_parser}
    return tuple(word for option, value in options.items() if value is not None for word in (option, value))


def _silence(server: Server) -> tuple[str, ...]:
    """Telemetry is on by default if it exists, and reports the model to third parties."""
    return ("--no-telemetry",) if "--no-telemetry" in server.options else ()


def _bench(server: Server, places: Places, run: Run, concurrency: int) -> Command:
    recipe, serve = server.recipe, server.recipe.serve
    words: list[Argument] = [*server.image.tools["trtllm-bench"].command, "--model", run.model]
    words += ["--model_path", places.checkpoint, "throughput", "--backend", recipe.backend]
    if places.engine is not None:
        words += ["--engine_dir", places.engine]
    # Without both limits it queries the GPU's memory in a way that GB10's driver does not support, and fails.
    words += ["--max_batch_size", str(serve.max_batch_size), "--max_num_tokens", str(serve.max_num_tokens)]
    if serve.max_seq_len is not None:
        words += ["--max_seq_len", str(serve.max_seq_len)]
    words += ["--tp", str(serve.tensor_parallel_size)]
    # its name differs from trtllm-serve's
    words += ["--kv_cache_free_gpu_mem_fraction", str(serve.kv_cache.free_gpu_memory_fraction)]
    words += ["--config", places.file(STEP_CONFIG), "--dataset", run.output(_DATASET)]
    words += ["--num_requests", str(run.settings.requests), "--concurrency", str(concurrency), "--streaming"]
    return (*words, "--report_json", run.output(f"report-{concurrency}.json"))


def _option(server: Server, able: Able, name: str, value: str) -> Iterator[Refusal]:
    if not server.image.serves:
        return
    option = server.options.get(f"--{name}")
    if option is None:
        others = able(lambda _, options: f"--{name}" in options)
        message = f"serve.{name}: trtllm-serve of image {server.recipe.image} has no option --{name}"
        yield Refusal("OPTION_UNKNOWN", message, f"remove it, or use image {others[0]}" if others else "remove it")
    else:
        yield from legal(f"serve.{name}", option, value)


def _key(server: Server, key: str) -> Iterator[Refusal]:
    recipe, image = server.recipe, server.image
    if key in KEYS_WITH_A_FIELD:
        hint = f"it belongs to {KEYS_WITH_A_FIELD[key]}"
        yield Refusal("OPTION_VALUE", f"serve.options.{key} is set elsewhere", hint)
    elif image.serves and key not in image.llm_api:
        message = f"serve.options.{key}: trtllm-serve of image {recipe.image} has no such key"
        yield Refusal("OPTION_UNKNOWN", message, near(key, image.llm_api))
    elif key == GUIDED and recipe.serve.options[key] not in (None, *_GUIDED_BACKENDS):
        message = f"serve.options.{key}: found {recipe.serve.options[key]!r}, which no image has"
        yield Refusal("OPTION_VALUE", message, f"use {' or '.join(_GUIDED_BACKENDS)}")
    elif recipe.backend == "tensorrt" and key in _PYTORCH_ONLY:
        message = f"serve.options.{key} is for backend pytorch; serving a TensorRT engine fails with it"
        yield Refusal("OPTION_UNKNOWN", message, "remove it, or use backend pytorch")


def _moe_backend(server: Server) -> Iterator[Refusal]:
    """SM 120 and 121 have no kernels that need the tensor memory of SM 100, and none of those of SM 90."""
    setting = server.recipe.serve.options.get("moe_config")
    wanted = setting.get("backend") if isinstance(setting, dict) else None
    sm = server.target.gpu.sm if server.target.gpu else None
    if sm in _SM12X and isinstance(wanted, str) and wanted not in _SM12X_MOE_BACKENDS:
        message = f"serve.options.moe_config.backend is {wanted}, which has no kernels on SM {sm}"
        yield Refusal("OPTION_VALUE", message, "use CUTLASS or AUTO")


def _kv_cache_once(server: Server) -> Iterator[Refusal]:
    """serve.options must not set again what serve.kv_cache sets."""
    setting = server.recipe.serve.options.get("kv_cache_config")
    for key in setting if isinstance(setting, dict) else ():
        if key in _KV_CACHE_OWN:
            message = f"serve.options.kv_cache_config.{key} has its own field"
            yield Refusal("OPTION_VALUE", message, f"set serve.kv_cache.{key}")
