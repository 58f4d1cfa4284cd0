"""Reads layers that each have a width of their own, or lack attention or an MLP (Nemotron NAS)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.fields import Fields
from orchestrator.models.habits import Habits
from orchestrator.models.mlps import mlp as gated
from orchestrator.models.parts import Heads, Tensors, attention, linear, renamed, vector
from orchestrator.models.shape import Memory

_ROUNDED = 256
"""The model's own code rounds the width of an MLP up to a multiple of it."""
_WIDEST = 64
"""A larger multiple of the hidden size is a typing error."""


def layers(fields: Fields, habits: Habits) -> Iterator[tuple[Tensors, Memory, Heads | None, int]]:
    """Return the tensors, the memory, the heads and the width of every layer."""
    hidden, query = fields.size("hidden_size"), fields.size("num_attention_heads")
    for number, block in enumerate(fields.items("block_configs", fields.size("num_hidden_layers"))):
        if not isinstance(block, Mapping):
            fields.wrong("block_configs", "a list of objects")
        part = Fields(block, f"{fields.where}: block_configs[{number}]")
        attending, heads = _attention(part.part("attention"), hidden, query)
        dense_mlp, inner = _mlp(part.part("ffn"), habits, hidden)
        yield (*attending, *dense_mlp), heads.memory() if heads else Memory(), heads, max(inner, 1)


def _attention(part: Fields, hidden: int, query: int) -> tuple[Tensors, Heads | None]:
    norm = vector("input_layernorm", hidden)
    if part.flag("no_op", default=False):
        return (), None
    if part.flag("replace_with_linear", default=False):
        return (*linear("self_attn.linear_attn", hidden, hidden), norm), None
    group = part.size("n_heads_in_group")
    if query % group or hidden % query:
        message = f"{part.where}: n_heads_in_group {group} and hidden_size {hidden} do not go with {query} heads"
        raise ConfigInvalidError(message)
    heads = Heads(query, query // group, hidden // query, hidden)
    return (*renamed(attention(heads), "self_attn"), norm), heads


def _mlp(part: Fields, habits: Habits, hidden: int) -> tuple[Tensors, int]:
    norm = vector("post_attention_layernorm", hidden)
    if part.flag("no_op", default=False):
        return (), 0
    if part.flag("replace_with_linear", default=False):
        return (*linear("mlp.linear_mlp", hidden, hidden), norm), hidden
    factor = part.data.get("ffn_mult")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < _WIDEST:
        part.wrong("ffn_mult", "a number above 0")
    # The model's own code: two thirds of the multiple, rounded up.
    inner = -(-int(2 * factor * hidden / 3) // _ROUNDED) * _ROUNDED
    return (*renamed(gated(habits, hidden, inner), "mlp"), norm), inner
