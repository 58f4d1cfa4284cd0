"""Describes which products a GPU and a runtime support."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.catalog.image import Image
from orchestrator.catalog.target import Gpu, Target
from orchestrator.planner.constants import Kernels, default_constants
from orchestrator.planner.scheme import GGUF_FORMATS
from orchestrator.planner.serving import Serving
from orchestrator.serving.runtimes import runtime_with_costs

GPT_OSS = "GptOssForCausalLM"

_FIRST_FOUR_BITS = 100
"""The first compute capability whose tensor cores multiply four-bit floats: Blackwell's."""


def kernels_of(runtime: str) -> Kernels:
    """Return what a runtime has kernels for, by its name in the planner's constants."""
    return default_constants().kernels.get(runtime, Kernels())


def has_four_bits(gpu: Gpu) -> bool:
    """Tell whether a GPU's tensor cores multiply four-bit floats."""
    return gpu.sm >= _FIRST_FOUR_BITS


def uses_marlin(serving: Serving) -> bool:
    """Tell whether quantized weights are unpacked by Marlin kernels.

    vLLM's own FP8 kernels are for other compute capabilities than GB10's, and it falls back to Marlin. A checkpoint of
    ModelOpt, which lists what is quantized and has one static scale per tensor, is multiplied in eight bits.
    """
    scheme, gpu = serving.scheme, serving.target.gpu
    if serving.kernels != "auto" or gpu is None:
        return serving.kernels == "marlin"
    falls_back = gpu.sm in kernels_of(serving.runtime).marlin_fp8
    listed = scheme.exclude is not None or scheme.modules is not None or scheme.as_stored
    return falls_back and (scheme.algorithm == "FP8_BLOCK" or (scheme.algorithm == "FP8" and not listed))


def arithmetic(image: Image, target: Target, weight_format: str) -> str:
    """Say how an image multiplies a format on a target's GPU, if that is not what the format's name says; else "".

    Quality is measured with the format's own arithmetic. One with activations of more bits loses no more than that.
    """
    sm = target.gpu.sm if target.gpu else None
    kernel = image.weight_only.get(f"sm_{sm}", {}).get(weight_format)
    if kernel is not None:
        return f"{weight_format} weights are unpacked and multiplied with 16-bit activations, by {kernel}"
    if image.activations:
        return f"what is not quantized is computed in {image.activations}, also of a BF16 model, whose range is larger"
    return ""


def limits_of_kernels(serving: Serving) -> Iterator[str]:
    """Describe what a runtime lacks for a format on a GPU."""
    algorithm, runtime, gpu = serving.scheme.algorithm, serving.runtime, serving.target.gpu
    kernels, module = kernels_of(runtime), runtime_with_costs(runtime)
    label = module.LABEL if module else runtime
    if (serving.scheme.gguf in GGUF_FORMATS) != kernels.gguf:
        loads = "only GGUF files" if kernels.gguf else "no GGUF files"
        yield f"{runtime} loads {loads}; the figures are for the bytes alone"
    if gpu and not has_four_bits(gpu) and algorithm in ("NVFP4", "MXFP4"):
        runs = f"{algorithm} runs with 16-bit activations, if at all"
        yield f"SM {gpu.sm} has no four-bit floating-point products: {runs}"
    if gpu and gpu.sm in kernels.no_fp8_blocks and algorithm == "FP8_BLOCK":
        yield f"{label} has no kernels for FP8 with block scales on SM {gpu.sm}; take one scale per tensor"
    if algorithm == "MXFP4" and kernels.mxfp4 and serving.shape.architecture not in kernels.mxfp4:
        yield f"{label} loads MXFP4 only as gpt-oss publishes it"
