"""Rules about the model: what serves it, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from orchestrator.catalog.image import Image
from orchestrator.errors import Refusal
from orchestrator.planner.figures import in_words
from orchestrator.planner.rule_input import RuleInput

_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        "JambaForCausalLM": (
            "vLLM and llama.cpp serve Jamba; here, nemotron-3-nano-30b-a3b-nvfp4-published is hybrid too"
        ),
        "DeepseekV2ForCausalLM": (
            "newer TensorRT-LLM has it in its experimental AutoDeploy backend only; here, qwen3-30b-a3b-nvfp4 is a "
            "mixture of experts with about as many active parameters"
        ),
    }
)
"""Suggestions for models that no image serves (TensorRT-LLM's lists of supported models)."""

_PREDICTS_TOKENS = frozenset({"NemotronHForCausalLM", "DeepseekV3ForCausalLM", "DeepseekV32ForCausalLM"})
"""Models with layers of their own that propose tokens: TensorRT-LLM's table of features by model."""

_ROUNDING = 0.05
"""Of a number of parameters: model cards round it, and count tied heads or towers or not."""

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


def builds_engines(given: RuleInput) -> Iterator[Refusal]:
    """The TensorRT engine path ended in July 2026. Newer images have no trtllm-build."""
    if given.recipe.backend == "tensorrt" and not given.image.has("trtllm-build"):
        message = (
            f"image {given.recipe.image} has no trtllm-build: TensorRT-LLM removed the engine backend after 1.3.0rc20"
        )
        able = given.images_where(lambda image: image.has("trtllm-build"))
        hint = f"use image {able[0]} or backend pytorch" if able else "use backend pytorch"
        yield Refusal("ENGINE_UNSUPPORTED", message, hint)


def knows_the_model(given: RuleInput) -> Iterator[Refusal]:
    """The image's backend supports the model's architecture."""
    architecture = given.recipe.model.architecture
    if given.recipe.backend == "pytorch":
        if architecture not in given.image.pytorch_architectures:
            message = f"TensorRT-LLM in image {given.recipe.image} does not serve {architecture}"
            yield Refusal("MODEL_UNSUPPORTED", message, _who_serves(given, architecture))
    elif given.image.has("trtllm-build") and architecture not in given.image.engine_families:
        known = ", ".join(given.image.engine_families)
        message = (
            f"image {given.recipe.image} has no conversion of {architecture} to a TensorRT engine; it has: {known}"
        )
        yield Refusal("MODEL_UNSUPPORTED", message, _who_serves(given, architecture))


def has_the_architecture(given: RuleInput) -> Iterator[Refusal]:
    """The recipe names the architecture that the model's files have."""
    known, named = given.model.known, given.recipe.model.architecture
    if known is not None and known.shape.architecture != named:
        message = f"model.architecture: found {named}, but the model is {known.shape.architecture} by {known.basis}"
        yield Refusal("ARCHITECTURE_DIFFERS", message, f"set model.architecture to {known.shape.architecture}")


def has_the_parameters(given: RuleInput) -> Iterator[Refusal]:
    """The recipe names about as many parameters as the model's files have."""
    known, named = given.model.known, given.recipe.model.parameters
    if known is None or not known.shape.exact:
        return
    counted = known.shape.parameters
    if not (1 - _ROUNDING) * counted <= named <= (1 + _ROUNDING) * counted:
        message = f"model.parameters: found {in_words(named)}, but there are {in_words(counted)} by {known.basis}"
        yield Refusal("PARAMETERS_DIFFER", message, f"set model.parameters to {counted:.4g}")


def _who_serves(given: RuleInput, architecture: str) -> str:
    if given.recipe.backend == "tensorrt" and architecture in given.image.pytorch_architectures:
        return "use backend pytorch"

    def serves(image: Image) -> bool:
        return architecture in image.pytorch_architectures

    able = given.images_where(serves)
    if able:
        return f"use image {able[-1]} with backend pytorch"
    return _ELSEWHERE.get(architecture, "no image of the catalogue serves it; vLLM may")


def speculates_as_the_model_can(given: RuleInput) -> Iterator[Refusal]:
    """Only the PyTorch backend supports drafts here, and two of the kinds need support by the model."""
    speculative = given.recipe.serve.speculative
    if speculative is None:
        return
    architecture = given.recipe.model.architecture
    if given.recipe.backend == "tensorrt":
        message = "serve.speculative is for backend pytorch; a TensorRT engine must be built for it"
        yield Refusal("SPECULATIVE_UNSUPPORTED", message, "use backend pytorch")
    if speculative.type == "mtp" and architecture not in _PREDICTS_TOKENS:
        message = f"{architecture} has no layers that predict tokens (mtp)"
        yield Refusal("SPECULATIVE_UNSUPPORTED", message, "use draft_target with a small model of the same vocabulary")
    if speculative.type == "eagle3" and architecture not in _TAKES_EAGLE3:
        message = f"TensorRT-LLM runs no EAGLE-3 head for {architecture}"
        yield Refusal(
            "SPECULATIVE_UNSUPPORTED", message, "use mtp" if architecture in _PREDICTS_TOKENS else "use draft_target"
        )
