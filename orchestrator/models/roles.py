"""Describes tensors by their names: their purpose, whether ModelOpt quantizes them, the share that a token reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from types import MappingProxyType

from orchestrator.models.shape import ModelShape, Role, Tensor

_NUMBER = re.compile(r"\.\d+\.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_ROLES: Mapping[Role, str] = MappingProxyType(
    {
        "adapter": r"\.lora_[AB]\.",
        "audio": r"(^|[._])(audio|speech|sound)",
        "vision": r"(^|\.)(vision|visual|vit|image|img|multi_modal_projector|mm_projector|embed_vision)",
        "mtp": r"(^|\.)(mtp|eagle|medusa|draft)",
        "bias": r"(?<!dt_)bias$",
        "norm": r"norm(_f|_[12])?(\.weight)?$|layer_scalar$",
        "embedding": r"(^|\.)(embed_tokens(_per_layer)?|embeddings?|word_embeddings|wte|tok_embeddings|wpe)\.weight$",
        "head": r"(^|\.)(lm_head|embed_out|output|output_layer)\.weight$",
        "router": r"(^|[._])(gate|router)(\.|$)|shared_expert_gate|per_expert_scale",
        "shared_expert": r"shared_experts?\.|shared_mlp\.",
        "expert": r"(^|\.)experts\.",
        "mamba": r"linear_attn|mamba|\.(in_proj|out_proj|x_proj|dt_proj|conv1d|A_log|D|dt_bias)(\.weight)?$",
        "attention": r"attn|attention|\.(qkv|q|k|v|o)_proj\.",
    }
)
"""What a tensor is for, by its name; the first that fits. All others belong to an MLP."""
_NOT_LINEAR = re.compile(r"conv|weights_proj|in_proj_(ba?|a)\.|eh_proj|shared_head")
"""Matrices that are not quantized: convolutions, small projections, and what joins proposed tokens to the model."""
_TOWERS: frozenset[Role] = frozenset(("vision", "audio"))
_NOT_FOR_TEXT: frozenset[Role] = _TOWERS | {"adapter", "mtp"}
_MATRICES: frozenset[Role] = frozenset(("attention", "mlp", "expert", "shared_expert", "mamba", "head"))


def described(shape: ModelShape) -> ModelShape:
    """Describe a model's tensors, which have only names and sizes yet."""
    tied = not any(_role(tensor.name) == "head" for tensor in shape.tensors)
    return replace(shape, tensors=tuple(_described(tensor, shape, tied=tied) for tensor in shape.tensors))


def _described(tensor: Tensor, shape: ModelShape, *, tied: bool) -> Tensor:
    name, role, used, layer = tensor.name, _role(tensor.name), 1.0, None
    if role not in _TOWERS and (numbered := _LAYER.search(name)):
        layer = int(numbered[1])
    matrix = len(tensor.shape) == 2 and (tensor.stacked or name.endswith(".weight"))  # noqa: PLR2004 - rows and columns
    linear = matrix and role in _MATRICES and not _NOT_LINEAR.search(name)
    quantizable = linear and role != "head"
    if layer is not None and layer >= len(shape.layers):
        role, quantizable = "mtp", False  # publishers quantize it like the rest, ModelOpt does not
    if role in _NOT_FOR_TEXT:
        used = 0.0
    elif tensor.count > 1:
        used = min(1.0, shape.chosen / tensor.count)
    elif role == "embedding" and not (tied and _is_whole(tensor, shape)):
        used = 1 / shape.vocab_size
    kept = tensor.count, used, tensor.dtype
    return Tensor(name, tensor.shape, role, layer, *kept, quantizable, linear, tensor.stacked, tensor.stored)


def _is_whole(tensor: Tensor, shape: ModelShape) -> bool:
    """Tell whether an embedding can be the head as well."""
    return tensor.shape == (shape.vocab_size, shape.hidden_size)


def _role(name: str) -> Role:
    return _role_in_a_layer(_NUMBER.sub(".0.", name))


@cache  # the layers of a model have equal names
def _role_in_a_layer(name: str) -> Role:
    return next((role for role, pattern in _ROLES.items() if re.search(pattern, name)), "mlp")
