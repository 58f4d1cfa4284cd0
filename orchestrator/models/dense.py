"""Decoders whose layers are one attention and one MLP: Llama and similar, Phi-3, Gemma, DeciLM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.parts import (
    Heads,
    Tensors,
    attention,
    embedding,
    gated,
    heads_of,
    kept,
    linear,
    placed,
    renamed,
    vector,
)
from orchestrator.models.shape import Memory, ModelShape


@dataclass(frozen=True)
class Stack:
    """The tensors around the layers, and their names in the checkpoint."""

    fields: Fields
    tied: bool
    root: str = "model"
    embedding: str = "embed_tokens"
    norm: str = "norm"
    head: str = "lm_head"
    head_bias: bool = False

    def shape(  # noqa: D417 - the fields of a shape
        self,
        architecture: str,
        layers: list[tuple[Tensors, Memory]],
        heads: Heads,
        inner: int,
        *,
        notes: tuple[str, ...] = (),
        state_bytes_per_value: int = 4,
        beside: Tensors = (),
    ) -> ModelShape:
        """Build a model from its layers.

        Args:
            beside: Tensors outside the stack: a vision tower, layers that propose tokens.
        """
        fields = self.fields
        hidden, vocabulary = fields.size("hidden_size"), fields.size("vocab_size")
        tensors = [embedding(f"{self.root}.{self.embedding}", fields, tied=self.tied)]
        for number, (parts, _) in enumerate(layers):
            tensors.extend(placed(f"{self.root}.layers", number, parts))
        tensors.append(vector(f"{self.root}.{self.norm}", hidden))
        if not self.tied:
            tensors.extend(kept(self.head, vocabulary, hidden, "head", bias=self.head_bias))
        return ModelShape(
            architecture=architecture,
            tensors=(*tensors, *beside),
            layers=tuple(memory for _, memory in layers),
            hidden_size=hidden,
            vocab_size=vocabulary,
            max_position=fields.size("max_position_embeddings"),
            tied=self.tied,
            attention_heads=heads.query,
            key_value_heads=heads.key,
            largest_intermediate=inner,
            state_bytes_per_value=state_bytes_per_value,
            notes=notes,
        )


def tied(fields: Fields, *, default: bool = False) -> bool:
    """Read whether the head is tied to the embedding."""
    return fields.flag("tie_word_embeddings", default=default)


def window_of(fields: Fields, count: int, slides: Callable[[int], bool]) -> list[int | None]:
    """Return for each layer the number of tokens that its attention sees.

    Args:
        fields: The configuration. Its `layer_types` has priority.
        count: Layers.
        slides: Which layers have a window if there is no such list.
    """
    window = fields.size("sliding_window") if fields.has("sliding_window") else None
    if not fields.has("layer_types"):
        return [window if slides(number) else None for number in range(count)]
    types = fields.items("layer_types", count)
    unknown = set(map(str, types)) - {"full_attention", "sliding_attention"}
    if unknown:
        fields.wrong("layer_types", f"only full_attention and sliding_attention, not {', '.join(sorted(unknown))}")
    if window is None and "sliding_attention" in types:
        fields.missing("sliding_window")
    return [window if kind == "sliding_attention" else None for kind in types]


def norms(hidden: int) -> Tensors:
    """Return the two normalizations of a layer."""
    return vector("input_layernorm", hidden), vector("post_attention_layernorm", hidden)


def _llama(fields: Fields, architecture: str, windows: list[int | None], heads: Heads, parts: Tensors) -> ModelShape:
    hidden, inner = heads.hidden, fields.size("intermediate_size")
    mlp = renamed(gated(hidden, inner, bias=fields.flag("mlp_bias", default=False)), "mlp")
    tensors = (*renamed(parts, "self_attn"), *mlp, *norms(hidden))
    layers = [(tensors, heads.memory(window)) for window in windows]
    return Stack(fields, tied(fields)).shape(architecture, layers, heads, inner)


def llama(fields: Fields, architecture: str) -> ModelShape:
    """Llama 2, 3 and similar models."""
    heads = heads_of(fields)
    bias = fields.flag("attention_bias", default=False)
    windows: list[int | None] = [None] * fields.size("num_hidden_layers")
    return _llama(fields, architecture, windows, heads, attention(heads, bias=bias, out_bias=bias))


def mistral(fields: Fields, architecture: str) -> ModelShape:
    """Mistral: Llama without biases, with a window in its first version."""
    heads = heads_of(fields)
    windows = window_of(fields, fields.size("num_hidden_layers"), lambda _: True)
    return _llama(fields, architecture, windows, heads, attention(heads))


def qwen2(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 2 and 2.5: queries, keys and values have a bias."""
    heads = heads_of(fields)
    return _llama(fields, architecture, qwen_windows(fields), heads, attention(heads, bias=True))


def qwen3(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3: queries and keys are normalized per head."""
    heads = heads_of(fields)
    bias = fields.flag("attention_bias", default=False)
    parts = attention(heads, bias=bias, out_bias=bias, normed=True)
    return _llama(fields, architecture, qwen_windows(fields), heads, parts)


def qwen_windows(fields: Fields) -> list[int | None]:
    """Return the layers with Qwen's window: none by default, and never the first layers."""
    count = fields.size("num_hidden_layers")
    if not fields.flag("use_sliding_window", default=False):
        return [None] * count
    first = fields.count_or("max_window_layers", 0)
    return window_of(fields, count, lambda number: number >= first)


def phi3(fields: Fields, architecture: str) -> ModelShape:
    """Phi-3 and Phi-4: related projections are stored as one matrix."""
    heads, inner = heads_of(fields), fields.size("intermediate_size")
    hidden = heads.hidden
    tensors = (
        *linear("self_attn.qkv_proj", heads.query_width + 2 * heads.key_width, hidden, "attention"),
        *linear("self_attn.o_proj", hidden, heads.query_width, "attention"),
        *linear("mlp.gate_up_proj", 2 * inner, hidden, "mlp"),
        *linear("mlp.down_proj", hidden, inner, "mlp"),
        *norms(hidden),
    )
    windows = window_of(fields, fields.size("num_hidden_layers"), lambda _: True)
    return Stack(fields, tied(fields)).shape(
        architecture, [(tensors, heads.memory(window)) for window in windows], heads, inner
    )


def _gemma(fields: Fields, architecture: str, slides: Callable[[int], bool], *, normed: bool) -> ModelShape:
    if not fields.has("head_dim"):  # the size of its heads does not follow from the hidden size
        fields.missing("head_dim")
    heads, inner = heads_of(fields), fields.size("intermediate_size")
    hidden = heads.hidden
    tensors = (
        *renamed(attention(heads, normed=normed), "self_attn"),
        *renamed(gated(hidden, inner), "mlp"),
        *norms(hidden),
        vector("pre_feedforward_layernorm", hidden),
        vector("post_feedforward_layernorm", hidden),
    )
    windows = window_of(fields, fields.size("num_hidden_layers"), slides)
    return Stack(fields, tied(fields, default=True)).shape(
        architecture, [(tensors, heads.memory(window)) for window in windows], heads, inner
    )


def gemma2(fields: Fields, architecture: str) -> ModelShape:
    """Gemma 2: every other layer has a window, beginning with the first."""
    return _gemma(fields, architecture, lambda number: number % 2 == 0, normed=False)


def gemma3(fields: Fields, architecture: str) -> ModelShape:
    """Gemma 3: five layers with a window, then one without."""
    period = fields.size_or("sliding_window_pattern", 6)
    return _gemma(fields, architecture, lambda number: (number + 1) % period != 0, normed=True)


def decilm(fields: Fields, architecture: str) -> ModelShape:
    """Nemotron NAS: each layer has its own width, and some have no attention or no MLP."""
    hidden, query = fields.size("hidden_size"), fields.size("num_attention_heads")
    blocks = fields.items("block_configs", fields.size("num_hidden_layers"))
    layers, widest, most = [], 1, 1
    for number, block in enumerate(blocks):
        if not isinstance(block, Mapping):
            fields.wrong("block_configs", "a list of objects")
        part = Fields(block, f"{fields.where}: block_configs[{number}]")
        parts, heads = _block_attention(part.part("attention"), hidden, query)
        dense_mlp, inner = _block_mlp(part.part("ffn"), hidden)
        widest = max(widest, inner)
        most = max(most, heads.key if heads else 1)
        layers.append(((*parts, *dense_mlp), heads.memory() if heads else Memory()))
    largest = Heads(query, most, hidden // query, hidden)
    return Stack(fields, tied(fields)).shape(architecture, layers, largest, widest)


def _block_attention(part: Fields, hidden: int, query: int) -> tuple[Tensors, Heads | None]:
    norm = vector("input_layernorm", hidden)
    if part.flag("no_op", default=False):
        return (), None
    if part.flag("replace_with_linear", default=False):
        return (*linear("self_attn.linear_attn", hidden, hidden, "attention"), norm), None
    group = part.size("n_heads_in_group")
    if query % group or hidden % query:
        message = f"{part.where}: n_heads_in_group {group} and hidden_size {hidden} do not go with {query} heads"
        raise ConfigInvalidError(message)
    heads = Heads(query, query // group, hidden // query, hidden)
    return (*renamed(attention(heads), "self_attn"), norm), heads


def _block_mlp(part: Fields, hidden: int) -> tuple[Tensors, int]:
    norm = vector("post_attention_layernorm", hidden)
    if part.flag("no_op", default=False):
        return (), 0
    if part.flag("replace_with_linear", default=False):
        return (*linear("mlp.linear_mlp", hidden, hidden, "mlp"), norm), hidden
    factor = part.data.get("ffn_mult")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 64:  # noqa: PLR2004 - a typing error
        part.wrong("ffn_mult", "a number above 0")
    # The model's own code: two thirds of the multiple, rounded up to 256.
    inner = -(-int(2 * factor * hidden / 3) // 256) * 256
    return (*renamed(gated(hidden, inner), "mlp"), norm), inner
