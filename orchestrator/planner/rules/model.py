"""Rules about the model: what serves it, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from orchestrator.catalog.image import Image
from orchestrator.errors import Refusal
from orchestrator.planner.case import Case

_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "JambaForCausalLM": "vLLM and llama.cpp serve Jamba; here, nemotron-3-nano-30b-a3b-nvfp4 is hybrid too",
        "DeepseekV2ForCausalLM": (
            "newer TensorRT-LLM has it in its experimental AutoDeploy backend only; here, qwen3-30b-a3b-nvfp4 is a "
            "mixture of experts with about as many active parameters"
        ),
    }
)
"""Suggestions for models that no image serves (TensorRT-LLM's lists of supported models)."""

_PREDICTS_TOKENS = frozenset({"NemotronHForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM"})
"""Models with layers of their own that propose tokens: TensorRT-LLM's table of features by model."""

_TAKES_EAGLE3 = frozenset(
    {
        "LlamaForCausalLM",
        "Llama4ForConditionalGeneration",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "GptOssForCausalLM",
    }
)
"""Models that support an EAGLE-3 head: the same table, and the heads that NVIDIA publishes."""


def builds_engines(case: Case) -> Iterator[Refusal]:
    """The TensorRT engine path ended in July 2026. Newer images have no trtllm-build."""
    if case.recipe.backend == "tensorrt" and not case.image.has("trtllm-build"):
        message = (
            f"image {case.recipe.image} has no trtllm-build: TensorRT-LLM removed the engine backend after 1.3.0rc20"
        )
        able = case.images_where(lambda image: image.has("trtllm-build"))
        hint = f"use image {able[0]} or backend pytorch" if able else "use backend pytorch"
        yield Refusal("ENGINE_UNSUPPORTED", message, hint)


def knows_the_model(case: Case) -> Iterator[Refusal]:
    """The image's backend supports the model's architecture."""
    architecture = case.recipe.model.architecture
    if case.recipe.backend == "pytorch":
        if architecture not in case.image.pytorch_architectures:
            message = f"TensorRT-LLM in image {case.recipe.image} does not serve {architecture}"
            yield Refusal("MODEL_UNSUPPORTED", message, _who_serves(case, architecture))
    elif case.image.has("trtllm-build") and architecture not in case.image.engine_families:
        known = ", ".join(case.image.engine_families)
        message = f"no conversion of {architecture} to an engine is known for image {case.recipe.image}; known: {known}"
        yield Refusal("MODEL_UNSUPPORTED", message, _who_serves(case, architecture))


def _who_serves(case: Case, architecture: str) -> str:
    if case.recipe.backend == "tensorrt" and architecture in case.image.pytorch_architectures:
        return "use backend pytorch"

    def serves(image: Image) -> bool:
        return architecture in image.pytorch_architectures

    able = case.images_where(serves)
    if able:
        return f"use image {able[-1]} with backend pytorch"
    return _ELSEWHERE.get(architecture, "no image of the catalogue serves it; vLLM may")


def speculates_as_the_model_can(case: Case) -> Iterator[Refusal]:
    """Only the PyTorch backend supports drafts here, and two of the kinds need support by the model."""
    speculative = case.recipe.serve.speculative
    if speculative is None:
        return
    architecture = case.recipe.model.architecture
    if case.recipe.backend == "tensorrt":
        message = "serve.speculative is for backend pytorch; an engine would have to be built for it"
        yield Refusal("SPECULATIVE_UNSUPPORTED", message, "use backend pytorch")
    if speculative.type == "mtp" and architecture not in _PREDICTS_TOKENS:
        message = f"{architecture} has no layers that predict tokens (mtp)"
        yield Refusal("SPECULATIVE_UNSUPPORTED", message, "use draft_target with a small model of the same vocabulary")
    if speculative.type == "eagle3" and architecture not in _TAKES_EAGLE3:
        message = f"TensorRT-LLM runs no EAGLE-3 head for {architecture}"
        yield Refusal(
            "SPECULATIVE_UNSUPPORTED", message, "use mtp" if architecture in _PREDICTS_TOKENS else "use draft_target"
        )
