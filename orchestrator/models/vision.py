"""Reads what lies beside a language model: towers for images and sound, and projections between both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from orchestrator.models.fields import Fields
from orchestrator.models.parts import Tensors
from orchestrator.models.shape import ModelShape
from orchestrator.models.towers import (
    any_tower,
    gemma3_tower,
    gemma4_tower,
    kimi_tower,
    llama4_tower,
    pixtral_tower,
    qwen3_tower,
)
from orchestrator.values import frozen


@frozen
class Around:
    """How a checkpoint holds a language model and its tower."""

    root: str
    """The name of the language model."""
    tower: Callable[[Fields, int], Tensors]
    """From the whole configuration and the language model's hidden size."""
    head: str = "lm_head"
    optional: bool = False
    """Its files may leave the tower's sizes out."""


def _vision(tower: Callable[[Fields, int], Tensors]) -> Callable[[Fields, int], Tensors]:
    return lambda fields, hidden: tower(fields.part("vision_config"), hidden)


def _pixtral(fields: Fields, hidden: int) -> Tensors:
    return pixtral_tower(
        fields.part("vision_config"),
        hidden,
        fields.size_or("spatial_merge_size", 2),
        bias=fields.flag("multimodal_projector_bias", default=False),
    )


_QWEN = Around("model.language_model", _vision(qwen3_tower))
_AROUND: Mapping[str, Around] = MappingProxyType(
    {
        "qwen3vl": _QWEN,
        "qwen3vlmoe": _QWEN,
        "qwen35": _QWEN,
        "qwen35moe": _QWEN,
        "gemma3": Around("language_model.model", _vision(gemma3_tower), optional=True),
        "gemma4": Around("model.language_model", _vision(gemma4_tower), optional=True),
        "llama4": Around("language_model.model", _vision(llama4_tower), "language_model.lm_head", optional=True),
        "mistral3": Around("language_model.model", _pixtral, "language_model.lm_head"),
        "kimik25": Around("language_model.model", _vision(kimi_tower), "language_model.lm_head"),
    }
)
"""By model type. For any other, towers are counted by the sizes that every tower has."""
_LEFT_OUT = "the {} tower is left out: its sizes are not in this config.json"


def with_towers(shape: ModelShape, fields: Fields, kind: str) -> ModelShape:
    """Add what lies beside a language model.

    Args:
        shape: The language model.
        fields: The whole configuration.
        kind: Its model type.
    """
    around = _AROUND.get(kind)
    if around is None:
        return _with_any_tower(shape, fields)
    shape = _inside(shape, around)
    if around.optional and not fields.has("vision_config"):
        return replace(shape, notes=(*shape.notes, _LEFT_OUT.format("vision")))
    shape = replace(shape, tensors=(*shape.tensors, *around.tower(fields, shape.hidden_size)))
    return _with_sound(shape, fields)


def _with_any_tower(shape: ModelShape, fields: Fields) -> ModelShape:
    """Add an upper limit of a tower of unknown kind. What else such a model holds is not known."""
    shape = replace(shape, exact=False)
    if not fields.has("vision_config"):
        return _with_sound(shape, fields)
    tower = any_tower(fields.part("vision_config"), shape.hidden_size)
    return _with_sound(replace(shape, tensors=(*shape.tensors, *tower)), fields)


def _with_sound(shape: ModelShape, fields: Fields) -> ModelShape:
    """Name an audio tower: its sizes follow from no field that all have."""
    if not fields.named("audio_config", "sound_config", "speech_config"):
        return shape
    note = "the audio tower is left out: only the weights say how large it is"
    return replace(shape, notes=(*shape.notes, note), exact=False)


def _inside(shape: ModelShape, around: Around) -> ModelShape:
    """Rename a language model's tensors as the whole checkpoint names them."""
    names = {"lm_head.weight": f"{around.head}.weight"}
    return replace(
        shape,
        tensors=tuple(
            replace(tensor, name=f"{around.root}.{tensor.name.removeprefix('model.')}")
            if tensor.name.startswith("model.")
            else replace(tensor, name=names.get(tensor.name, tensor.name))
            for tensor in shape.tensors
        ),
    )
