"""Every reason why a recipe cannot work on its target with its images, found before anything is downloaded.

| code | meaning |
|---|---|
| ARCHITECTURE_MISMATCH | the image is built for another processor |
| ENGINE_UNSUPPORTED | the recipe builds a TensorRT engine, and the image has no trtllm-build |
| MODEL_UNSUPPORTED | the runtime, the engine path or our own quantizer does not have the model's architecture |
| ARCHITECTURE_DIFFERS | the recipe names another architecture than the model's files |
| REQUANTIZE | the model is published quantized and must not be quantized again |
| METHOD_UNSUPPORTED | the method's tool is missing, or does not make the format |
| QUANTIZER_UNSUPPORTED | the method's tool is broken on this GPU |
| FORMAT_UNSUPPORTED | no kernels for the format on this GPU, or the format cannot be loaded |
| FP8_BLOCK_SCALE | FP8 weights with block scales where only one scale per tensor runs |
| KV_CACHE_UNSUPPORTED | no kernels for the KV cache's format, or no scales from this method |
| SPECULATIVE_UNSUPPORTED | the backend or the model cannot decode speculatively that way |
| MULTI_NODE_UNSUPPORTED | the image, the backend or a cluster does not work over several machines |
| BACKEND_UNSUPPORTED | the recipe chooses a backend that the image's runtime does not have |
| TENSOR_PARALLEL | more parts than GPUs, or a TensorRT engine with another number of parts |
| DOES_NOT_FIT | the weights do not fit into memory when quantizing or when serving |
| OPTION_UNKNOWN | a tool of the image does not have the option |
| OPTION_VALUE | the option does not take the value, or is set elsewhere |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from orchestrator.errors import Refusal
from orchestrator.planner.rule_input import RuleInput
from orchestrator.planner.rules import cautions, faults, formats, machine, model, options, published

Rule: TypeAlias = Callable[[RuleInput], Iterable[Refusal]]

RULES: tuple[Rule, ...] = (
    machine.built_for_the_processor,
    model.builds_engines,
    model.has_the_architecture,
    model.knows_the_model,
    model.experts_are_built,
    formats.gpt_oss_stays_as_it_is,
    published.starts_from_unquantized,
    formats.method_can,
    formats.can_be_compared,
    faults.known_faults,
    formats.has_kernels,
    formats.reads_it_as_it_is,
    formats.has_block_scale_kernels,
    formats.engines_have_one_format,
    formats.engine_has_its_cache,
    formats.mxfp4_is_gpt_oss,
    formats.awq_is_dense,
    formats.has_kv_cache_kernels,
    formats.method_makes_the_scales,
    model.speculates_as_the_model_can,
    machine.one_node_per_engine,
    machine.one_machine_per_pod,
    machine.parallel_as_the_machine,
    machine.fits_when_quantized,
    machine.fits_when_served,
    machine.reserved_cache_fits,
    options.engine_options,
    options.quantization_options,
    options.serve_options,
)
"""The order for a reader: first what makes the rest irrelevant."""


CAUTIONS: tuple[Rule, ...] = (
    cautions.is_experimental,
    model.has_the_parameters,
    cautions.known_faults,
    model.class_is_listed,
    model.size_is_validated,
    model.type_is_read,
    cautions.engine_memory_is_tight,
    cautions.serving_memory_is_tight,
    cautions.serving_memory_is_enough,
    cautions.loading_is_tight,
    cautions.cache_leaves_memory_for_the_system,
    cautions.hybrid_reuses_no_blocks,
    cautions.engine_options_are_used,
    cautions.quantization_is_used,
    cautions.every_gpu_serves,
    cautions.code_is_trusted,
)


def refusals(given: RuleInput) -> tuple[Refusal, ...]:
    """Apply every rule. No refusal means that no reason is known why the recipe should not work."""
    return _applied(RULES, given)


def warnings(given: RuleInput) -> tuple[Refusal, ...]:
    """Return what may go wrong without a known refusal."""
    return _applied(CAUTIONS, given)


def _applied(rules: tuple[Rule, ...], given: RuleInput) -> tuple[Refusal, ...]:
    return tuple(dict.fromkeys(found for rule in rules for found in rule(given)))
