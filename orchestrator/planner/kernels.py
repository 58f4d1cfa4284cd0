"""Describes which products a GPU and a runtime support."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.catalog.target import Gpu
from orchestrator.planner.question import Question
from orchestrator.planner.scheme import GGUF_FORMATS

GPT_OSS = "GptOssForCausalLM"

_FIRST_FOUR_BITS = 100
"""The first compute capability whose tensor cores multiply four-bit floats: Blackwell's."""
_GB10 = 121


def has_four_bits(gpu: Gpu) -> bool:
    """Tell whether a GPU's tensor cores multiply four-bit floats."""
    return gpu.sm >= _FIRST_FOUR_BITS


def limits_of_kernels(question: Question) -> Iterator[str]:
    """Describe what a runtime lacks for a format on a GPU."""
    algorithm, engine, gpu = question.scheme.algorithm, question.engine, question.target.gpu
    if (question.scheme.gguf in GGUF_FORMATS) != (engine == "llama.cpp"):
        loads = "only GGUF files" if engine == "llama.cpp" else "no GGUF files"
        yield f"{engine} loads {loads}; the figures are for the bytes alone"
    if gpu and not has_four_bits(gpu) and algorithm in ("NVFP4", "MXFP4"):
        runs = f"{algorithm} runs with 16-bit activations, if at all"
        yield f"SM {gpu.sm} has no four-bit floating-point products: {runs}"
    if gpu and gpu.sm == _GB10 and algorithm == "FP8_BLOCK" and engine == "trtllm":
        yield "TensorRT-LLM has no kernels for FP8 with block scales on SM 121; take one scale per tensor"
    if algorithm == "MXFP4" and engine == "trtllm" and question.shape.architecture != GPT_OSS:
        yield "TensorRT-LLM loads MXFP4 only as gpt-oss publishes it"
