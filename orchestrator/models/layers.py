"""Reads the kind of each layer: what mixes its tokens, which of them it sees, and whether it has experts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.habits import Habits
from orchestrator.values import frozen

MixerKind = Literal["full", "window", "delta_rule", "mamba", "none"]
MlpKind = Literal["dense", "experts", "none"]


@frozen
class Layer:
    """One layer. Equal layers have equal tensors."""

    mixer: MixerKind
    mlp: MlpKind
    window: int | None = None
    """Tokens that attention sees; None: all."""
    shared: bool = False
    """Its keys and values are those of an earlier layer."""
    indexed: bool = True
    """It has an indexer of its own, in a model with sparse attention."""


_WORDS: Mapping[str, MixerKind] = MappingProxyType(
    {
        "full_attention": "full",
        "attention": "full",
        "sliding_attention": "window",
        "chunked_attention": "window",
        "linear_attention": "delta_rule",
        "indexed_attention": "full",
    }
)
"""`layer_types` of config.json."""
_BLOCKS: Mapping[str, tuple[str, Layer]] = MappingProxyType(
    {
        "mamba": ("M", Layer("mamba", "none")),
        "attention": ("*", Layer("full", "none")),
        "mlp": ("-", Layer("none", "dense")),
        "moe": ("E", Layer("none", "experts")),
    }
)
"""`layers_block_type` of config.json, and the letters of `hybrid_override_pattern`."""


def layers_of(fields: Fields, habits: Habits, *, mixture: bool) -> list[Layer]:
    """Return every layer.

    Args:
        fields: The configuration.
        habits: Of its model type.
        mixture: The model has experts.

    Raises:
        ConfigInvalidError: A field is missing, or contradicts the number of layers.
    """
    count = fields.size("num_hidden_layers")
    if fields.has("layers_block_type") or fields.has("hybrid_override_pattern"):
        return _blocks(fields, count)
    mixers = _mixers(fields, habits, count)
    sparse = _sparse(fields, habits, count) if mixture else [False] * count
    shared = fields.count("num_kv_shared_layers", 0) if "shared_cache" in habits.parts else 0
    indexed = _indexed(fields, habits, count)
    return [
        replace(
            layer,
            mlp="experts" if sparse[number] else "dense",
            shared=number >= count - shared,
            indexed=indexed[number],
        )
        for number, layer in enumerate(mixers)
    ]


def _blocks(fields: Fields, count: int) -> list[Layer]:
    """Read layers that are one of several blocks each. Newer files have a list of words instead of letters."""
    if fields.has("layers_block_type"):
        words = fields.items("layers_block_type", count)
        if not all(word in _BLOCKS for word in words):
            fields.wrong("layers_block_type", f"only {', '.join(_BLOCKS)}")
        return [_BLOCKS[str(word)][1] for word in words]
    pattern, letters = fields.text("hybrid_override_pattern"), dict(_BLOCKS.values())
    if len(pattern) != count:
        message = f"{fields.where}: hybrid_override_pattern has {len(pattern)} layers, but num_hidden_layers is {count}"
        raise ConfigInvalidError(message)
    if not set(pattern) <= set(letters):
        fields.wrong("hybrid_override_pattern", f"only {', '.join(letters)}")
    return [letters[letter] for letter in pattern]


def _mixers(fields: Fields, habits: Habits, count: int) -> list[Layer]:
    if "mamba" in habits.parts and fields.has("attn_layer_period"):
        period, offset = fields.size("attn_layer_period"), fields.count("attn_layer_offset")
        return [Layer("full" if number % period == offset else "mamba", "dense") for number in range(count)]
    window = _window(fields, habits)
    if fields.named("no_rope_layers"):  # Llama 4: layers without positions see the whole sequence
        turning = fields.items("no_rope_layers", count)
        fields.ignore("layer_types", "no_rope_layer_interval")
        return [_attending(fields, "window" if turns and window else "full", window) for turns in turning]
    if fields.has("layer_types") and (habits.windows != "option" or window):
        return [_attending(fields, kind, window) for kind in _words(fields, habits, count)]
    fields.ignore("layer_types")
    if "delta_rule" in habits.parts and fields.has("full_attention_interval"):
        every = fields.size("full_attention_interval")
        return [Layer("delta_rule" if (number + 1) % every else "full", "dense") for number in range(count)]
    return [
        Layer("window" if window and slides else "full", "dense", window if slides else None)
        for slides in _sliding(fields, habits, count)
    ]


def _attending(fields: Fields, kind: MixerKind, window: int | None) -> Layer:
    if kind == "window" and window is None:
        fields.missing("sliding_window")
    return Layer(kind, "dense", window if kind == "window" else None)


def _words(fields: Fields, habits: Habits, count: int) -> list[MixerKind]:
    known = {word: kind for word, kind in _WORDS.items() if kind != "delta_rule" or "delta_rule" in habits.parts}
    words = fields.items("layer_types", count)
    if not all(isinstance(word, str) and word in known for word in words):
        others = sorted({repr(word) for word in words if word not in known})
        fields.wrong("layer_types", f"only {', '.join(known)}, not {', '.join(others)[:80]}")
    fields.ignore("full_attention_interval", "sliding_window_pattern")
    return [known[str(word)] for word in words]


def _window(fields: Fields, habits: Habits) -> int | None:
    """Return the tokens that a layer with a window or chunk sees; None if no layer has one."""
    if fields.has("attention_chunk_size"):
        return fields.size("attention_chunk_size")
    if not fields.flag("use_sliding_window", default=habits.windows != "option"):
        fields.ignore("sliding_window")
        return None
    return fields.size("sliding_window") if fields.has("sliding_window") else None


def _sliding(fields: Fields, habits: Habits, count: int) -> list[bool]:
    """Return which layers have the window, by the habit of a model type."""
    if fields.has("attention_chunk_size"):  # three layers of four see one chunk
        return [(number + 1) % 4 != 0 for number in range(count)]
    if habits.windows == "period":
        period = fields.size("sliding_window_pattern")
        return [(number + 1) % period != 0 for number in range(count)]
    first = fields.count("max_window_layers", 0) if habits.windows == "option" else 0
    match habits.windows:
        case "all":
            return [True] * count
        case "even":
            return [number % 2 == 0 for number in range(count)]
        case "option":
            return [number >= first for number in range(count)]
        case _:
            return [False] * count


def _indexed(fields: Fields, habits: Habits, count: int) -> list[bool]:
    """Return which layers have an indexer of their own; the others use the choice of an earlier one."""
    if "indexer" not in habits.parts or not fields.has("indexer_types"):
        return [True] * count
    kinds = fields.items("indexer_types", count)
    if not all(kind in ("full", "shared") for kind in kinds):
        fields.wrong("indexer_types", "only full and shared")
    return [kind == "full" for kind in kinds]


def _sparse(fields: Fields, habits: Habits, count: int) -> list[bool]:
    """Return the layers with experts: those listed, all but the first few, or every second or so."""
    if fields.has("mlp_layer_types"):
        kinds = fields.items("mlp_layer_types", count)
        if not all(kind in ("dense", "sparse") for kind in kinds):
            fields.wrong("mlp_layer_types", "only dense and sparse")
        fields.ignore("first_k_dense_replace", "moe_layer_freq")
        return [kind == "sparse" for kind in kinds]
    if fields.has("interleave_moe_layer_step"):
        every = fields.size("interleave_moe_layer_step")
        if fields.has("moe_layers"):  # transformers calculates it where it is not given
            listed = fields.items("moe_layers")
            return [number in listed for number in range(count)]
        return [(number + 1) % every == 0 for number in range(count)]
    if fields.has("expert_layer_period"):
        every, offset = fields.size("expert_layer_period"), fields.count("expert_layer_offset")
        return [number % every == offset for number in range(count)]
    if habits.dense_first or fields.has("first_k_dense_replace"):
        return _after_dense(fields, count)
    every = fields.size_or("decoder_sparse_step", 1)
    dense = fields.items("mlp_only_layers") if fields.has("mlp_only_layers") else []
    return [number not in dense and (number + 1) % every == 0 for number in range(count)]


def _after_dense(fields: Fields, count: int) -> list[bool]:
    dense = fields.count("first_k_dense_replace")
    if dense > count:
        message = f"{fields.where}: first_k_dense_replace is {dense}, but num_hidden_layers is only {count}"
        raise ConfigInvalidError(message)
    every = fields.size_or("moe_layer_freq", 1)
    return [number >= dense and number % every == 0 for number in range(count)]
