"""Reads a model: its tensors, what each layer caches, and what one token reads, from config.json and from headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from orchestrator.errors import ArchitectureUnknownError, ConfigInvalidError
from orchestrator.models import decoder
from orchestrator.models.fields import OWN_CONFIG, TEXT_PARTS, Fields
from orchestrator.models.habits import HABITS, UNKNOWN
from orchestrator.models.phi4 import with_adapters
from orchestrator.models.roles import described
from orchestrator.models.shape import Memory, ModelShape, Role, Tensor
from orchestrator.models.vision import with_towers

_CLASS = re.compile(r"(?P<stem>\w+?)(For(CausalLM|ConditionalGeneration|ImageTextToText)|LMHeadModel)", re.ASCII)
_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "n_embd": "hidden_size",
        "d_model": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_layers": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_heads": "num_attention_heads",
        "n_positions": "max_position_embeddings",
        "max_seq_len": "max_position_embeddings",
    }
)
"""Other names of a few fields, and the usual one."""
_GEMMA3: Mapping[str, object] = MappingProxyType(
    {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
    }
)
"""Gemma3TextConfig's own values (transformers, configuration_gemma3.py), which its multimodal files leave out."""


def shape_of(
    config: Mapping[str, object], where: str = "config.json", weights: tuple[Tensor, ...] | None = None
) -> ModelShape:
    """Derive a model's tensors and memory from its config.json, and its tensors from headers if there are any.

    Args:
        config: The parsed file.
        where: Its name in messages.
        weights: What its checkpoint holds, by its headers. They take precedence over arithmetic.

    Raises:
        ArchitectureUnknownError: Its class is not that of a language model.
        ConfigInvalidError: A field is missing, impossible, contradicts another, or changes sizes and is not understood.
    """
    architecture = _architecture(config, where)
    require_one_architecture(architecture, config.get("model_type"), where)
    whole = Fields(config, where)
    kind = kind_of(architecture, where)
    inner = next((name for name in TEXT_PARTS if whole.has(name)), None)
    text = _text(whole, inner) if inner else whole
    text_kind = _kind(text.text("model_type")) if inner and text.has("model_type") else kind
    habits = HABITS.get(text_kind, UNKNOWN)
    more = _GEMMA3 if inner and kind == "gemma3" else {}
    fields = Fields({**habits.defaults, **more, **_named_usually(text.data)}, text.where)
    shape = replace(decoder.read(fields, habits, architecture), model_type=_type_for_transformers(config))
    if weights is not None:
        return described(replace(shape, tensors=weights, notes=(), exact=True))
    if kind == "phi4mm":
        shape = with_adapters(shape, whole)
    elif inner:
        shape = with_towers(shape, whole, kind)
    return described(shape)


def kind_of(architecture: str, where: str) -> str:
    """Return the model type of a class.

    Raises:
        ArchitectureUnknownError: It is no class of a language model.
    """
    found = _CLASS.fullmatch(architecture)
    if found is None:
        message = f"{where}: architectures: {architecture!r:.100}: this is not the class of a language model"
        hint = "expected a class like LlamaForCausalLM or Gemma3ForConditionalGeneration"
        raise ArchitectureUnknownError(message, hint=hint)
    return _kind(found["stem"])


def require_one_architecture(architecture: str, model_type: object, where: str = "config.json") -> None:
    """Check that the class and the model type of a configuration are those of one architecture.

    transformers builds a model by its `model_type`, runtimes by its class.

    Raises:
        ArchitectureUnknownError: It is no class of a language model.
        ConfigInvalidError: Both are known, and differ.
    """
    if not isinstance(model_type, str | None):
        message = f"{where}: model_type: found {model_type!r:.60}, expected a string"
        raise ConfigInvalidError(message, hint=OWN_CONFIG)
    declared = HABITS.get(_kind(model_type)) if model_type else None
    if declared is not None and HABITS.get(kind_of(architecture, where), declared) != declared:
        message = f"{where}: architectures: found {architecture}, but model_type is {model_type!r}"
        raise ConfigInvalidError(message, hint=OWN_CONFIG)


def is_known(config: Mapping[str, object]) -> bool:
    """Tell whether the sizes of a configuration's class, model type and language model are known.

    Raises:
        ArchitectureUnknownError: Its class is not that of a language model.
        ConfigInvalidError: It declares no class.
    """
    parts = [config, *(part for name in TEXT_PARTS if isinstance(part := config.get(name), Mapping))]
    types = [part["model_type"] for part in parts if isinstance(part.get("model_type"), str)]
    return all(kind in HABITS for kind in (kind_of(_architecture(config, ""), ""), *map(_kind, map(str, types))))


def _kind(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").removesuffix("text")


def _type_for_transformers(config: Mapping[str, object]) -> str | None:
    declared = config.get("model_type")
    return declared if isinstance(declared, str) and "auto_map" not in config else None


def _text(whole: Fields, name: str) -> Fields:
    """Take the language model's fields. The tied head may be declared inside or outside."""
    text = whole.part(name)
    outside = {"tie_word_embeddings": whole.data["tie_word_embeddings"]} if whole.has("tie_word_embeddings") else {}
    return Fields({**text.data, **outside}, text.where)


def _named_usually(data: Mapping[str, object]) -> dict[str, object]:
    others = {usual: data[name] for name, usual in _ALIASES.items() if name in data and usual not in data}
    return {**{name: value for name, value in data.items() if name not in _ALIASES}, **others}


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


__all__ = [
    "Memory",
    "ModelShape",
    "Role",
    "Tensor",
    "is_known",
    "kind_of",
    "require_one_architecture",
    "shape_of",
]
