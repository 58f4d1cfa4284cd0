"""Reads a decoder: a stack of layers between an embedding and a head, by the fields of its config.json."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.models import blocks, mixers, mlps
from orchestrator.models.fields import Fields, NotDescribedError
from orchestrator.models.habits import Habits
from orchestrator.models.layers import Layer, layers_of
from orchestrator.models.mixers import Mixer
from orchestrator.models.parts import Heads, Tensors, linear, renamed, vector, weights
from orchestrator.models.shape import Memory, ModelShape, Tensor
from orchestrator.values import frozen

_STATE_BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float16": 2, "bfloat16": 2})


@frozen
class Built:
    """The tensors of one layer, what it caches, and its widest activation."""

    tensors: Tensors
    memory: Memory
    heads: Heads | None
    inner: int


def read(fields: Fields, habits: Habits, architecture: str) -> ModelShape:
    """Read a decoder.

    Args:
        fields: The configuration of the language model.
        habits: Of its model type.
        architecture: Its class.

    Raises:
        ConfigInvalidError: A field is missing, impossible, contradicts another, or changes sizes and is not understood.
    """
    hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
    experts = mlps.experts_of(fields, habits)
    built = _layers(fields, habits, experts)
    heads = max((one.heads for one in built if one.heads), key=lambda heads: heads.key, default=None)
    tied = fields.flag("tie_word_embeddings", default=False)
    tensors: list[Tensor] = list(linear(f"{habits.root}.{habits.embedding}", vocabulary, hidden))
    for number, layer in enumerate(built):
        tensors.extend(renamed(layer.tensors, f"{habits.root}.layers.{number}"))
    tensors.append(vector(f"{habits.root}.{habits.norm}", hidden))
    if not tied:
        tensors.extend(linear(habits.head, vocabulary, hidden, bias=habits.head_bias))
    tensors.extend(_layer_inputs(fields, habits, len(built)))
    proposers, notes = _proposers(fields, habits, built)
    shape = ModelShape(
        architecture=architecture,
        tensors=(*tensors, *proposers),
        layers=tuple(layer.memory for layer in built),
        hidden_size=hidden,
        vocab_size=vocabulary,
        max_position=fields.size("max_position_embeddings"),
        tied=tied,
        attention_heads=heads.query if heads else fields.size("num_attention_heads"),
        key_value_heads=heads.key if heads else 1,
        largest_intermediate=max(layer.inner for layer in built),
        state_bytes_per_value=_state_bytes(fields),
        chosen=experts.chosen if experts else 1,
        notes=notes,
        exact=habits.exact,
    )
    _insist_on_understood(fields)
    return shape


def _insist_on_understood(fields: Fields) -> None:
    """Refuse fields that may change sizes and were not read."""
    unread = list(fields.unread())
    if unread:
        name = unread[0]
        message = f"{fields.where}: {name:.60}: {fields.data[name]!r:.60} may change sizes and is not understood"
        raise NotDescribedError(
            message, hint="no size is guessed: docs/explanation/reading-a-model.md tells how a field becomes understood"
        )


def _layers(fields: Fields, habits: Habits, experts: mlps.Experts | None) -> list[Built]:
    if "blocks" in habits.parts and (fields.has("block_configs") or habits.exact):
        return [Built(*one) for one in blocks.layers(fields, habits)]
    found: dict[Layer, Built] = {}
    layers = layers_of(fields, habits, mixture=experts is not None)
    for layer in layers:
        if layer not in found:
            found[layer] = _layer(fields, habits, layer, experts)
    return [found[layer] for layer in layers]


def _layer(fields: Fields, habits: Habits, layer: Layer, experts: mlps.Experts | None) -> Built:
    hidden = fields.size("hidden_size")
    mixer = _mixer(fields, habits, layer)
    tensors, inner = list(renamed(mixer.tensors, _mixer_name(habits, layer))), 1
    if layer.mlp == "dense" or (layer.mlp == "experts" and habits.beside_mlp):
        doubled = layer.shared and fields.flag("use_double_wide_mlp", default=False)
        mlp, inner = mlps.dense(fields, habits, widened=2 if doubled else 1)
        tensors.extend(renamed(mlp, habits.mlp))
    if layer.mlp == "experts":
        if experts is None:
            fields.missing(*mlps.EXPERTS)
        mixture, widest = mlps.mixture(fields, habits, experts)
        inner = max(inner, widest)
        tensors.extend(renamed(mixture, habits.mixture) if habits.mixture else mixture)
        tensors.extend(vector(name, hidden) for name in habits.mixture_norms)
    tensors.extend(vector(name, hidden) for name in habits.norms)
    tensors.extend(_layer_input(fields, habits))
    if habits.scalar:
        tensors.append(Tensor("layer_scalar", (1,)))
    return Built(tuple(tensors), mixer.memory, mixer.heads, inner)


def _mixer(fields: Fields, habits: Habits, layer: Layer) -> Mixer:
    match layer.mixer:
        case "full" | "window":
            return mixers.attention(fields, habits, layer)
        case "delta_rule":
            return mixers.delta_rule(fields, habits)
        case "mamba":
            return mixers.mamba(fields)
        case "none":
            return Mixer((), Memory())


def _mixer_name(habits: Habits, layer: Layer) -> str:
    if habits.mixer == "mixer":
        return habits.mixer
    return {"delta_rule": "linear_attn", "mamba": "mamba"}.get(layer.mixer, habits.mixer)


def _layer_input(fields: Fields, habits: Habits) -> Tensors:
    """Return what adds an input of its own to a layer (Gemma 3n and 4)."""
    if "layer_inputs" not in habits.parts or not fields.named("hidden_size_per_layer_input"):
        return ()
    hidden, size = fields.size("hidden_size"), fields.size("hidden_size_per_layer_input")
    return (
        *linear("per_layer_input_gate", size, hidden),
        *linear("per_layer_projection", hidden, size),
        vector("post_per_layer_input_norm", hidden),
    )


def _layer_inputs(fields: Fields, habits: Habits, count: int) -> Tensors:
    """Return the embedding from which every layer gets an input of its own."""
    if "layer_inputs" not in habits.parts or not fields.named("hidden_size_per_layer_input"):
        return ()
    size = fields.size("hidden_size_per_layer_input")
    vocabulary = fields.size("vocab_size_per_layer_input", "vocab_size")
    return (
        *linear(f"{habits.root}.embed_tokens_per_layer", vocabulary, count * size),
        *linear(f"{habits.root}.per_layer_model_projection", count * size, fields.size("hidden_size")),
        vector(f"{habits.root}.per_layer_projection_norm", size),
    )


def _proposers(fields: Fields, habits: Habits, built: list[Built]) -> tuple[Tensors, tuple[str, ...]]:
    """Return the layers that propose tokens, and a note if they cannot be counted."""
    count = fields.count("num_nextn_predict_layers", 0)
    notes = (habits.left_out,) if habits.left_out else ()
    if not count or notes:
        return (), notes
    if "proposers" not in habits.parts:
        return (), ("its layers that propose tokens are left out: their tensors are not known here",)
    first = len(built)
    return tuple(part for number in range(first, first + count) for part in _proposer(fields, built[-1], number)), ()


def _proposer(fields: Fields, layer: Built, number: int) -> Tensors:
    """Return a layer of multi-token prediction: a normal layer, and the tensors that join it to the model."""
    hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
    joined = {"embed_tokens": (vocabulary, hidden), "enorm": (hidden,), "hnorm": (hidden,)}
    joined |= {"eh_proj": (hidden, 2 * hidden), "shared_head.norm": (hidden,), "shared_head.head": (vocabulary, hidden)}
    return renamed((*layer.tensors, *weights(joined)), f"model.layers.{number}")


def _state_bytes(fields: Fields) -> int:
    dtype = fields.text("mamba_ssm_cache_dtype") if fields.has("mamba_ssm_cache_dtype") else "float32"
    if dtype not in _STATE_BYTES:
        fields.wrong("mamba_ssm_cache_dtype", f"one of {', '.join(_STATE_BYTES)}")
    return _STATE_BYTES[dtype]
