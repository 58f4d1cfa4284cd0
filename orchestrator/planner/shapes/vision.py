"""Language models that also see: the language model, and the tower beside it."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.planner.shapes.dense import Stack, gemma3, qwen3, tied
from orchestrator.planner.shapes.fields import Fields
from orchestrator.planner.shapes.mixture import llama4, qwen_moe_layers
from orchestrator.planner.shapes.model import ModelShape, Tensor
from orchestrator.planner.shapes.parts import Tensors, attention, experts_of, heads_of, kept


def _text(fields: Fields) -> Fields:
    """Take the language model's fields; whether the head is tied is said inside or outside."""
    text = fields.part("text_config")
    outside = {"tie_word_embeddings": fields.data["tie_word_embeddings"]} if fields.has("tie_word_embeddings") else {}
    return Fields({**text.data, **outside}, text.where)


def _inside(shape: ModelShape, root: str) -> ModelShape:
    """Rename a language model as the checkpoint of the whole calls it."""
    tensors = tuple(
        replace(tensor, name=f"{root}.{tensor.name.removeprefix('model.')}")
        if tensor.name.startswith("model.")
        else tensor
        for tensor in shape.tensors
    )
    return replace(shape, tensors=tensors)


def qwen3_vl(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3 VL."""
    shape = _inside(qwen3(_text(fields), architecture), "model.language_model")
    return replace(shape, tensors=(*shape.tensors, *_qwen3_tower(fields.part("vision_config"), shape.hidden_size)))


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
    return replace(shape, tensors=(*shape.tensors, *_qwen3_tower(fields.part("vision_config"), shape.hidden_size)))


def _qwen3_tower(fields: Fields, hidden: int) -> Tensors:
    """Give the vision tower of Qwen 3 VL: all of it stays as it is, and text does not read it."""
    width, inner, out = fields.size("hidden_size"), fields.size("intermediate_size"), fields.size("out_hidden_size")
    if out != hidden:
        message = f"{fields.where}: out_hidden_size is {out}, but the language model's hidden_size is {hidden}"
        raise ConfigInvalidError(message)
    merged = width * fields.size("spatial_merge_size") ** 2
    patch = (fields.size("in_channels"), fields.size("temporal_patch_size"), *2 * (fields.size("patch_size"),))
    block = (
        *_affine("norm1", width),
        *_affine("norm2", width),
        *_full("attn.qkv", 3 * width, width),
        *_full("attn.proj", width, width),
        *_full("mlp.linear_fc1", inner, width),
        *_full("mlp.linear_fc2", width, inner),
    )
    taps = len(fields.items("deepstack_visual_indexes"))
    tower = (
        Tensor("patch_embed.proj.weight", (width, *patch), "vision"),
        Tensor("patch_embed.proj.bias", (width,), "vision"),
        Tensor("pos_embed.weight", (fields.size("num_position_embeddings"), width), "vision"),
        *(
            replace(tensor, name=f"blocks.{number}.{tensor.name}")
            for number in range(fields.size("depth"))
            for tensor in block
        ),
        *_merger("merger", width, merged, out),
        *(tensor for n in range(taps) for tensor in _merger(f"deepstack_merger_list.{n}", merged, merged, out)),
    )
    return tuple(replace(tensor, name=f"model.visual.{tensor.name}", used=0.0) for tensor in tower)


def _affine(name: str, size: int) -> Tensors:
    return Tensor(f"{name}.weight", (size,), "vision"), Tensor(f"{name}.bias", (size,), "vision")


def _full(name: str, out: int, columns: int) -> Tensors:
    return Tensor(f"{name}.weight", (out, columns), "vision"), Tensor(f"{name}.bias", (out,), "vision")


def _merger(name: str, normed: int, merged: int, out: int) -> Tensors:
    return (
        *_affine(f"{name}.norm", normed),
        *_full(f"{name}.linear_fc1", merged, merged),
        *_full(f"{name}.linear_fc2", out, merged),
    )


def llama4_vl(fields: Fields, architecture: str) -> ModelShape:
    """Llama 4: only the language model."""
    return llama4(_text(fields), architecture)


def gemma3_vl(fields: Fields, architecture: str) -> ModelShape:
    """Gemma 3 from 4B on: only the language model."""
    shape = _inside(gemma3(_text(fields), architecture), "language_model.model")
    return replace(shape, notes=("the vision tower is left out: its tensors are not known here",))
