"""Rules about options: each exists in the image's tool, has a legal value, and is set in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from orchestrator.catalog.image import Tool
from orchestrator.errors import Refusal
from orchestrator.planner.rule_input import RuleInput
from orchestrator.recipe.model import OptionValue
from orchestrator.serving.legal_options import legal, near
from orchestrator.serving.server import Options

_CONVERT_OWN = MappingProxyType({"model_dir": "the plan", "output_dir": "the plan", "quant_ckpt_path": "the plan"})
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


def engine_options(given: RuleInput) -> Iterator[Refusal]:
    """Options of convert_checkpoint.py, and of the tool that builds the engine."""
    if given.recipe.backend != "tensorrt":
        return
    yield from _checked(given, "convert_checkpoint.py", "engine.convert", given.recipe.engine.convert, _CONVERT_OWN)
    builder = given.image.builder
    if builder is not None:
        yield from _checked(given, builder, "engine.build", given.recipe.engine.build, given.runtime.BUILD_OWN)


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
    """Settings of the server that the runtime or the image does not have."""
    yield from given.runtime.refusals(given.server, given.able)


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
            yield Refusal("OPTION_UNKNOWN", message, near(name, table))
        elif name in own:
            yield Refusal("OPTION_VALUE", f"{where}.{name} is set elsewhere", f"it belongs to {own[name]}")
        else:
            yield from legal(f"{where}.{name}", option, value)


def _table(given: RuleInput, tool: Tool) -> Options | None:
    image = given.quantizer if tool in ("hf_ptq.py", "quantize.py") else given.image
    return given.options(image, tool) if image.has(tool) else None


def _value_of(given: RuleInput, tool: Tool, where: str, name: str, value: str) -> Iterator[Refusal]:
    table = _table(given, tool)
    if table is not None and value != "none":
        yield from legal(where, table[f"--{name}"], value)
