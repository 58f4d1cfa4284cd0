"""Vision-language models: the language model, and the tower beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from orchestrator.models.dense import Stack, gemma3, mistral, qwen3, tied
from orchestrator.models.fields import Fields
from orchestrator.models.hybrid import qwen3_5, qwen3_5_moe
from orchestrator.models.mixture import llama4, qwen_moe_layers
from orchestrator.models.parts import Tensors, attention, experts_of, heads_of, kept
from orchestrator.models.shape import ModelShape
from orchestrator.models.towers import gemma3_tower, llama4_tower, pixtral_tower, qwen3_tower

_GEMMA3: Mapping[str, object] = MappingProxyType(
    {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
    }
)
"""Gemma3TextConfig's own values (transformers, configuration_gemma3.py)."""


def _text(fields: Fields) -> Fields:
    """Take the language model's fields. The tied head may be declared inside or outside."""
    text = fields.part("text_config")
    outside = {"tie_word_embeddings": fields.data["tie_word_embeddings"]} if fields.has("tie_word_embeddings") else {}
    return Fields({**text.data, **outside}, text.where)


def _inside(shape: ModelShape, root: str) -> ModelShape:
    """Rename a language model's tensors as the whole checkpoint names them."""
    tensors = tuple(
        replace(tensor, name=f"{root}.{tensor.name.removeprefix('model.')}")
        if tensor.name.startswith("model.")
        else tensor
        for tensor in shape.tensors
    )
    return replace(shape, tensors=tensors)


def _with(shape: ModelShape, tower: Tensors) -> ModelShape:
    return replace(shape, tensors=(*shape.tensors, *tower))


def qwen3_vl(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3 VL."""
    shape = _inside(qwen3(_text(fields), architecture), "model.language_model")
    return _with(shape, qwen3_tower(fields.part("vision_config"), shape.hidden_size))


def qwen3_vl_moe(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3 VL with experts, which it stores stacked."""
    text = _text(fields)
    heads, experts = heads_of(text), experts_of(text, "num_experts")
    inner = text.size("moe_intermediate_size")
    moe = (
        *kept("gate", experts.total, heads.hidden, "router"),
        *experts.stacked("experts.gate_up_proj", (2 * inner, heads.hidden)),
        *experts.stacked("experts.down_proj", (heads.hidden, inner)),
    )
    layers, widest = qwen_moe_layers(text, heads, attention(heads, normed=True), moe)
    shape = _inside(Stack(text, tied(text)).shape(architecture, layers, heads, widest), "model.language_model")
    return _with(shape, qwen3_tower(fields.part("vision_config"), shape.hidden_size))


def qwen3_5_vl(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3.5."""
    return _qwen3_5(fields, qwen3_5(_text(fields), architecture))


def qwen3_5_moe_vl(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3.5 with experts."""
    return _qwen3_5(fields, qwen3_5_moe(_text(fields), architecture))


def _qwen3_5(fields: Fields, text: ModelShape) -> ModelShape:
    shape = _inside(text, "model.language_model")
    return _with(shape, qwen3_tower(fields.part("vision_config"), shape.hidden_size, tapped=False))


def llama4_vl(fields: Fields, architecture: str) -> ModelShape:
    """Llama 4."""
    shape = llama4(_text(fields), architecture)
    if not fields.has("vision_config"):
        return replace(shape, notes=("the vision tower is left out: its sizes are not in this config.json",))
    return _with(shape, llama4_tower(fields.part("vision_config"), shape.hidden_size))


def gemma3_vl(fields: Fields, architecture: str) -> ModelShape:
    """Gemma 3 from 4B on. Its files leave out the defaults of its code."""
    text = _text(fields)
    shape = _inside(gemma3(Fields({**_GEMMA3, **text.data}, text.where), architecture), "language_model.model")
    if not fields.has("vision_config"):
        return replace(shape, notes=("the vision tower is left out: its sizes are not in this config.json",))
    return _with(shape, gemma3_tower(fields.part("vision_config"), shape.hidden_size))


def mistral3(fields: Fields, architecture: str) -> ModelShape:
    """Mistral Small 3.1 and later, Ministral 3: Mistral with Pixtral's tower."""
    shape = _inside(mistral(_text(fields), architecture), "language_model.model")
    head = tuple(
        replace(tensor, name=f"language_model.{tensor.name}") if tensor.role == "head" else tensor
        for tensor in shape.tensors
    )
    tower = pixtral_tower(
        fields.part("vision_config"),
        shape.hidden_size,
        fields.size_or("spatial_merge_size", 2),
        bias=fields.flag("multimodal_projector_bias", default=False),
    )
    return _with(replace(shape, tensors=head), tower)
