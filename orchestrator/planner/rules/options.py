"""Rules about options: each exists in the image's tool, has a legal value, and is set in one place."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from orchestrator.catalog.image import Tool
from orchestrator.catalog.load import Option
from orchestrator.errors import Refusal
from orchestrator.planner.rule_input import Options, RuleInput
from orchestrator.recipe.model import OptionValue

_CONVERT_OWN = MappingProxyType({"model_dir": "the plan", "output_dir": "the plan", "quant_ckpt_path": "the plan"})
_BUILD_OWN = MappingProxyType(
    {"checkpoint_dir": "the plan", "output_dir": "the plan", "output_timing_cache": "the plan"}
)
_QUANTIZE_OWN = MappingProxyType(
    {
        "pyt_ckpt_path": "the plan",
        "model": "the plan",
        "model_dir": "the plan",
        "export_path": "the plan",
        "output_dir": "the plan",
        "qformat": "quantization.format",
        "kv_cache_qformat": "quantization.kv_cache",
        "kv_cache_dtype": "quantization.kv_cache",
        "calib_size": "quantization.calibration.samples",
        "calib_seq": "quantization.calibration.sequence_length",
        "calib_max_seq_length": "quantization.calibration.sequence_length",
        "batch_size": "quantization.calibration.batch_size",
        "dataset": "quantization.calibration.dataset",
        "calib_dataset": "quantization.calibration.dataset",
    }
)
_SERVE_OWN = MappingProxyType(
    {
        "backend": "backend",
        "model": "the plan",
        "tokenizer": "the plan",
        "max_batch_size": "serve.max_batch_size",
        "max_num_tokens": "serve.max_num_tokens",
        "max_seq_len": "serve.max_seq_len",
        "tensor_parallel_size": "serve.tensor_parallel_size",
        "reasoning_parser": "serve.reasoning_parser",
        "tool_parser": "serve.tool_parser",
        "served_model_name": "serve.served_model_name",
        "speculative_config": "serve.speculative",
    }
)
_KV_CACHE_OWN = frozenset({"dtype", "free_gpu_memory_fraction", "max_tokens", "enable_block_reuse"})
_GUIDED = "guided_decoding_backend"
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
_SM12X_MOE_BACKENDS = ("AUTO", "CUTLASS", "CUTEDSL")


def engine_options(given: RuleInput) -> Iterator[Refusal]:
    """Options of convert_checkpoint.py and trtllm-build."""
    if given.recipe.backend != "tensorrt":
        return
    yield from _checked(given, "convert_checkpoint.py", "engine.convert", given.recipe.engine.convert, _CONVERT_OWN)
    yield from _checked(given, "trtllm-build", "engine.build", given.recipe.engine.build, _BUILD_OWN)


def quantization_options(given: RuleInput) -> Iterator[Refusal]:
    """Options of hf_ptq.py or quantize.py. The other methods take none."""
    options = given.quantization.options
    match given.quantization.method:
        case "modelopt":
            yield from _checked(given, "hf_ptq.py", "quantization.options", options, _QUANTIZE_OWN)
            yield from _modelopt_formats(given)
        case "trtllm":
            yield from _checked(given, "quantize.py", "quantization.options", options, _QUANTIZE_OWN)
            yield from _value_of(
                given, "quantize.py", "quantization.kv_cache", "kv_cache_dtype", given.quantization.kv_cache
            )
        case "onepass" | "none":
            for name in options:
                message = f"quantization.options.{name}: method {given.quantization.method} takes no options"
                yield Refusal("OPTION_UNKNOWN", message, "remove it, or use method modelopt")


def serve_options(given: RuleInput) -> Iterator[Refusal]:
    """Options of trtllm-serve that only some images have, and keys of its configuration file."""
    serve = given.recipe.serve
    for name in ("served_model_name", "reasoning_parser", "tool_parser"):
        value = getattr(serve, name)
        if value is not None:
            yield from _serve_option(given, name, value)
    for key in serve.options:
        yield from _serve_key(given, key)


def moe_backend(given: RuleInput) -> Iterator[Refusal]:
    """SM 120 and 121 have no kernels that need the tensor memory of SM 100, and none of those of SM 90."""
    setting = given.recipe.serve.options.get("moe_config")
    wanted = setting.get("backend") if isinstance(setting, dict) else None
    if given.sm in (120, 121) and isinstance(wanted, str) and wanted not in _SM12X_MOE_BACKENDS:
        message = f"serve.options.moe_config.backend is {wanted}, which has no kernels on SM {given.sm}"
        yield Refusal("OPTION_VALUE", message, "use CUTLASS or AUTO")


def kv_cache_once(given: RuleInput) -> Iterator[Refusal]:
    """serve.options must not set again what serve.kv_cache sets."""
    setting = given.recipe.serve.options.get("kv_cache_config")
    for key in setting if isinstance(setting, dict) else ():
        if key in _KV_CACHE_OWN:
            message = f"serve.options.kv_cache_config.{key} has its own field"
            yield Refusal("OPTION_VALUE", message, f"set serve.kv_cache.{key}")


def _modelopt_formats(given: RuleInput) -> Iterator[Refusal]:
    quantization = given.quantization
    if "recipe" in quantization.options:
        return  # ModelOpt's own recipe sets both
    yield from _value_of(given, "hf_ptq.py", "quantization.format", "qformat", quantization.format)
    yield from _value_of(given, "hf_ptq.py", "quantization.kv_cache", "kv_cache_qformat", quantization.kv_cache)


def _checked(
    given: RuleInput, tool: Tool, where: str, values: Mapping[str, OptionValue], own: Mapping[str, str]
) -> Iterator[Refusal]:
    table = _table(given, tool)
    if table is None:
        return  # another rule reports the missing tool
    for name, value in values.items():
        option = table.get(f"--{name}")
        if option is None:
            message = f"{where}.{name}: {tool} of this image has no option --{name}"
            yield Refusal("OPTION_UNKNOWN", message, _near(name, table))
        elif name in own:
            yield Refusal("OPTION_VALUE", f"{where}.{name} is set elsewhere", f"it belongs to {own[name]}")
        else:
            yield from _legal(f"{where}.{name}", option, value)


def _table(given: RuleInput, tool: Tool) -> Options | None:
    image = given.quantizer if tool in ("hf_ptq.py", "quantize.py") else given.image
    return given.options(image, tool) if image.has(tool) else None


def _value_of(given: RuleInput, tool: Tool, where: str, name: str, value: str) -> Iterator[Refusal]:
    table = _table(given, tool)
    if table is not None and value != "none":
        yield from _legal(where, table[f"--{name}"], value)


def _legal(where: str, option: Option, value: OptionValue) -> Iterator[Refusal]:
    if not _has_type(option, value):
        expected = {"flag": "true or false", "int": "a whole number", "float": "a number", "str": "text"}[option.type]
        yield Refusal("OPTION_VALUE", f"{where} is {value!r}", f"{option.flags[0]} takes {expected}")
    elif option.choices and str(value) not in option.choices:
        close = difflib.get_close_matches(str(value), option.choices, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"one of {', '.join(option.choices)}"
        yield Refusal("OPTION_VALUE", f"{where} is {value!r}, which {option.flags[0]} does not take", hint)


def _has_type(option: Option, value: OptionValue) -> bool:
    match option.type:
        case "flag":
            return isinstance(value, bool)
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return isinstance(value, int | float) and not isinstance(value, bool)
        case "str":
            return not isinstance(value, bool)


def _serve_option(given: RuleInput, name: str, value: str) -> Iterator[Refusal]:
    table = _table(given, "trtllm-serve")
    if table is None:
        return
    option = table.get(f"--{name}")
    if option is None:
        able = given.images_where(lambda image: f"--{name}" in given.options(image, "trtllm-serve"))
        message = f"serve.{name}: trtllm-serve of image {given.recipe.image} has no option --{name}"
        yield Refusal("OPTION_UNKNOWN", message, f"remove it, or use image {able[0]}" if able else "remove it")
    else:
        yield from _legal(f"serve.{name}", option, value)


def _serve_key(given: RuleInput, key: str) -> Iterator[Refusal]:
    if key in _SERVE_OWN:
        yield Refusal("OPTION_VALUE", f"serve.options.{key} is set elsewhere", f"it belongs to {_SERVE_OWN[key]}")
    elif given.image.has("trtllm-serve") and key not in given.image.llm_api:
        message = f"serve.options.{key}: trtllm-serve of image {given.recipe.image} has no such key"
        yield Refusal("OPTION_UNKNOWN", message, _near(key, given.image.llm_api))
    elif key == _GUIDED and given.recipe.serve.options[key] not in (None, *_GUIDED_BACKENDS):
        message = f"serve.options.{key}: found {given.recipe.serve.options[key]!r}, which no image has"
        yield Refusal("OPTION_VALUE", message, f"use {' or '.join(_GUIDED_BACKENDS)}")
    elif given.recipe.backend == "tensorrt" and key in _PYTORCH_ONLY:
        message = f"serve.options.{key} is for backend pytorch; serving a TensorRT engine fails with it"
        yield Refusal("OPTION_UNKNOWN", message, "remove it, or use backend pytorch")


def _near(name: str, known: Iterable[str]) -> str:
    names = [found.lstrip("-") for found in known]
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(sorted(names))}"
