"""Derives a model's tensors from its config.json: names, shapes, quantization, and what one token reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from orchestrator.errors import ArchitectureUnknownError, ConfigInvalidError
from orchestrator.models import dense, hybrid, mixture, phi4, vision
from orchestrator.models.fields import Fields
from orchestrator.models.shape import Memory, ModelShape, Role, Tensor

FAMILIES: Mapping[str, Callable[[Fields, str], ModelShape]] = MappingProxyType(
    {
        "LlamaForCausalLM": dense.llama,
        "MistralForCausalLM": dense.mistral,
        "Mistral3ForConditionalGeneration": vision.mistral3,
        "MixtralForCausalLM": mixture.mixtral,
        "Qwen2ForCausalLM": dense.qwen2,
        "Qwen2MoeForCausalLM": mixture.qwen2_moe,
        "Qwen3ForCausalLM": dense.qwen3,
        "Qwen3MoeForCausalLM": mixture.qwen3_moe,
        "Qwen3NextForCausalLM": hybrid.qwen3_next,
        "Qwen3_5ForConditionalGeneration": vision.qwen3_5_vl,
        "Qwen3_5MoeForConditionalGeneration": vision.qwen3_5_moe_vl,
        "Qwen3VLForConditionalGeneration": vision.qwen3_vl,
        "Qwen3VLMoeForConditionalGeneration": vision.qwen3_vl_moe,
        "Phi3ForCausalLM": dense.phi3,
        "Phi4MMForCausalLM": phi4.phi4_multimodal,
        "Gemma2ForCausalLM": dense.gemma2,
        "Gemma3ForCausalLM": dense.gemma3,
        "Gemma3ForConditionalGeneration": vision.gemma3_vl,
        "GptOssForCausalLM": mixture.gpt_oss,
        "DeepseekV2ForCausalLM": mixture.deepseek,
        "DeepseekV3ForCausalLM": mixture.deepseek,
        "DeepseekV32ForCausalLM": mixture.deepseek_v32,
        "Glm4MoeForCausalLM": mixture.glm4_moe,
        "Glm4MoeLiteForCausalLM": mixture.deepseek,
        "MiniMaxM2ForCausalLM": mixture.minimax_m2,
        "Llama4ForConditionalGeneration": vision.llama4_vl,
        "Llama4ForCausalLM": mixture.llama4,
        "NemotronHForCausalLM": hybrid.nemotron_h,
        "DeciLMForCausalLM": dense.decilm,
        "JambaForCausalLM": hybrid.jamba,
    }
)
"""Architectures whose tensors are known, by `architectures[0]` of config.json."""


def shape_of(config: Mapping[str, object], where: str = "config.json") -> ModelShape:
    """Derive a model's tensors and memory from its config.json.

    Args:
        config: The parsed file.
        where: Its name in messages.

    Raises:
        ArchitectureUnknownError: Its architecture is not one of `FAMILIES`.
        ConfigInvalidError: A field is missing, impossible or contradicts another.
    """
    architecture = _architecture(config, where)
    insist_on_known(architecture, where)
    return FAMILIES[architecture](Fields(config, where), architecture)


def insist_on_known(architecture: str, where: str) -> None:
    """Refuse an architecture with unknown tensors.

    Raises:
        ArchitectureUnknownError: It is not one of `FAMILIES`.
    """
    if architecture not in FAMILIES:
        message = f"{where}: architectures: {architecture}: its tensors do not follow from anything known here"
        raise ArchitectureUnknownError(message, hint=f"known are: {', '.join(FAMILIES)}")


def _architecture(config: Mapping[str, object], where: str) -> str:
    declared = config.get("architectures")
    if declared is None:
        kind = config.get("model_type") or config.get("_class_name")
        what = f"; it seems to describe {kind!r:.60}" if kind else ""
        message = f"{where}: architectures is missing, so this is not the config.json of a language model{what}"
        raise ConfigInvalidError(message, hint="take the config.json beside the model's weights")
    if not isinstance(declared, list | tuple) or len(declared) != 1 or not isinstance(declared[0], str):
        message = f"{where}: architectures: found {declared!r:.80}, expected a list with one name"
        raise ConfigInvalidError(message)
    return declared[0]


__all__ = ["FAMILIES", "Memory", "ModelShape", "Role", "Tensor", "insist_on_known", "shape_of"]
