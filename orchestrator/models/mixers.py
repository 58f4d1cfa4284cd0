"""Reads what mixes the tokens of one layer: attention of each kind, the gated delta rule, Mamba."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.models.fields import Fields
from orchestrator.models.habits import Habits
from orchestrator.models.layers import Layer
from orchestrator.models.parts import Heads, Tensors, heads_of, linear, vector
from orchestrator.models.parts import attention as projections
from orchestrator.models.shape import Memory, Tensor
from orchestrator.values import frozen


@frozen
class Mixer:
    """The mixer of one layer."""

    tensors: Tensors
    memory: Memory
    heads: Heads | None = None
    """None without attention."""


def attention(fields: Fields, habits: Habits, layer: Layer) -> Mixer:
    """Read the attention of one layer."""
    if "latent" in habits.parts and (habits.exact or fields.has("kv_lora_rank")):
        return _latent(fields, habits, layer)
    return _grouped(fields, habits, layer)


def _grouped(fields: Fields, habits: Habits, layer: Layer) -> Mixer:
    if habits.head_dim_required and not fields.has("head_dim"):
        fields.missing("head_dim")
    full = layer.mixer == "full"
    heads = _heads(fields, full=full)
    bias = fields.flag("attention_bias", default=False)
    qkv_bias = bias if habits.qkv_bias is None else habits.qkv_bias
    out_bias = bias if habits.out_bias is None else habits.out_bias
    if habits.fused:
        tensors: Tensors = (
            *linear("qkv_proj", heads.query_width + 2 * heads.key_width, heads.hidden, bias=qkv_bias),
            *linear("o_proj", heads.hidden, heads.query_width, bias=out_bias),
        )
    else:
        tensors = projections(heads, bias=qkv_bias, out_bias=out_bias)
    if habits.gated_queries or fields.flag("attn_output_gate", default=False):
        queries = linear("q_proj", 2 * heads.query_width, heads.hidden, bias=qkv_bias)
        tensors = (*queries, *tensors[len(queries) :])
    tensors = (*tensors, *_query_norms(fields, habits, heads))
    if habits.sinks:
        tensors = (*tensors, Tensor("sinks", (heads.query,)))
    if full and fields.flag("attention_k_eq_v", default=False):
        tensors = tuple(tensor for tensor in tensors if not tensor.name.startswith("v_proj."))
    if layer.shared:
        tensors = tuple(tensor for tensor in tensors if not tensor.name.startswith(("k_", "v_")))
    return Mixer(tensors, replace(heads.memory(layer.window), shared=layer.shared), heads)


def _heads(fields: Fields, *, full: bool) -> Heads:
    heads = heads_of(fields, size_name="head_dim" if fields.has("head_dim") else "attention_head_dim")
    size, key = fields.size_or("global_head_dim", heads.size), fields.size_or("num_global_key_value_heads", heads.key)
    if not full:
        return heads
    if not fields.flag("attention_k_eq_v", default=False):
        key = heads.key
    return Heads(heads.query, key, size, heads.hidden)


def _query_norms(fields: Fields, habits: Habits, heads: Heads) -> Tensors:
    if habits.qk_norm == "none" or (habits.qk_norm == "field" and not fields.flag("use_qk_norm", default=False)):
        return ()
    fields.ignore("use_qk_norm")
    match habits.qk_norm:
        case "weightless":
            return ()
        case "all":
            return vector("q_norm", heads.query_width), vector("k_norm", heads.key_width)
        case _:
            return vector("q_norm", heads.size), vector("k_norm", heads.size)


def _latent(fields: Fields, habits: Habits, layer: Layer) -> Mixer:
    """Multi-head latent attention: keys and values of all heads are computed from one short vector per token."""
    hidden, count = fields.size("hidden_size"), fields.size("num_attention_heads")
    rank, rotary = fields.size("kv_lora_rank"), fields.size("qk_rope_head_dim")
    plain, value = fields.size("qk_nope_head_dim"), fields.size("v_head_dim")
    fields.ignore("head_dim", "qk_head_dim", "num_key_value_heads")  # they follow from the others
    key, query_rank = plain + rotary, fields.size("q_lora_rank") if fields.has("q_lora_rank") else None
    bias = fields.flag("attention_bias", default=False)
    queries: Tensors = (
        (
            *linear("q_a_proj", query_rank, hidden, bias=bias),
            vector("q_a_layernorm", query_rank),
            *linear("q_b_proj", count * key, query_rank),
        )
        if query_rank
        else linear("q_proj", count * key, hidden)
    )
    tensors = (
        *queries,
        *linear("kv_a_proj_with_mqa", rank + rotary, hidden, bias=bias),
        vector("kv_a_layernorm", rank),
        *linear("kv_b_proj", count * (plain + value), rank),
        *linear("o_proj", hidden, count * value, bias=bias),
    )
    mixer = Mixer(tensors, Memory(rank + rotary, score_width=count * (key + value)), Heads(count, 1, key, hidden))
    return _sparse(mixer, fields, layer) if "indexer" in habits.parts and fields.has("index_topk") else mixer


def _sparse(mixer: Mixer, fields: Fields, layer: Layer) -> Mixer:
    """Add what chooses the tokens that the attention reads (DeepSeek V3.2)."""
    size, count, hidden = fields.size("index_head_dim"), fields.size("index_n_heads"), fields.size("hidden_size")
    indexer = (
        *linear("indexer.wq_b", size * count, fields.size("q_lora_rank")),
        *linear("indexer.wk", size, hidden),
        vector("indexer.k_norm", size),
        Tensor("indexer.k_norm.bias", (size,)),
        Tensor("indexer.weights_proj.weight", (count, hidden)),
    )
    memory = replace(mixer.memory, lookback=fields.size("index_topk"))
    if not layer.indexed:
        return replace(mixer, memory=memory)
    memory = replace(
        memory,
        index_bytes_per_token=size + 4 * -(-size // 128),  # FP8, and an FP32 scale for 128
    )
    return replace(mixer, tensors=(*mixer.tensors, *indexer), memory=memory)


def delta_rule(fields: Fields, habits: Habits) -> Mixer:
    """Return a gated delta net (arXiv:2412.06464): per head a matrix of keys by values."""
    hidden = fields.size("hidden_size")
    keys, values = fields.size("linear_num_key_heads"), fields.size("linear_num_value_heads")
    key, value = fields.size("linear_key_head_dim"), fields.size("linear_value_head_dim")
    kernel = fields.size("linear_conv_kernel_dim")
    convolved = 2 * keys * key + values * value
    widths = {"qkvz": convolved + values * value, "ba": 2 * values}
    if habits.split_delta:
        widths = {"qkv": convolved, "z": values * value, "b": values, "a": values}
    inputs = (linear(f"in_proj_{name}", width, hidden) for name, width in widths.items())
    tensors = (
        *(part for parts in inputs for part in parts),
        Tensor("conv1d.weight", (convolved, 1, kernel)),
        Tensor("dt_bias", (values,)),
        Tensor("A_log", (values,)),
        vector("norm", value),
        *linear("out_proj", hidden, values * value),
    )
    return Mixer(tensors, Memory(state_values=values * key * value, convolution_values=convolved * (kernel - 1)))


def mamba(fields: Fields) -> Mixer:
    """Read a Mamba layer: version 2 has heads, version 1 a rank of its time steps."""
    return _mamba1(fields) if fields.has("mamba_dt_rank") else _mamba2(fields)


def _mamba2(fields: Fields) -> Mixer:
    hidden, heads = fields.size("hidden_size"), fields.size("mamba_num_heads", "mamba_n_heads")
    inner = heads * fields.size("mamba_head_dim", "mamba_d_head")
    groups, state = fields.size("n_groups", "mamba_n_groups"), fields.size("ssm_state_size", "mamba_d_state")
    kernel = fields.size("conv_kernel", "mamba_d_conv")
    bias = fields.flag("use_bias", default=False) or fields.flag("mamba_proj_bias", default=False)
    conv_bias = fields.flag("use_conv_bias", default=True) and fields.flag("mamba_conv_bias", default=True)
    fields.ignore("mamba_expand")
    convolved = inner + 2 * groups * state
    tensors = (
        *linear("in_proj", inner + convolved + heads, hidden, bias=bias),
        *_convolution(convolved, kernel, bias=conv_bias),
        Tensor("dt_bias", (heads,)),
        Tensor("A_log", (heads,)),
        Tensor("D", (heads,)),
        vector("norm", inner),
        *linear("out_proj", hidden, inner, bias=bias),
    )
    return Mixer(tensors, Memory(state_values=inner * state, convolution_values=convolved * (kernel - 1)))


def _mamba1(fields: Fields) -> Mixer:
    hidden = fields.size("hidden_size")
    inner, state = fields.size("mamba_expand") * hidden, fields.size("mamba_d_state")
    kernel, rank = fields.size("mamba_d_conv"), fields.size("mamba_dt_rank")
    bias = fields.flag("mamba_proj_bias", default=False)
    tensors = (
        *linear("in_proj", 2 * inner, hidden, bias=bias),
        *_convolution(inner, kernel, bias=fields.flag("mamba_conv_bias", default=True)),
        *linear("x_proj", rank + 2 * state, inner),
        *linear("dt_proj", inner, rank, bias=True),
        Tensor("A_log", (inner, state)),
        Tensor("D", (inner,)),
        *linear("out_proj", hidden, inner, bias=bias),
        vector("dt_layernorm", rank),
        vector("b_layernorm", state),
        vector("c_layernorm", state),
    )
    return Mixer(tensors, Memory(state_values=inner * state, convolution_values=inner * (kernel - 1)))


def _convolution(channels: int, kernel: int, *, bias: bool) -> Tensors:
    weight = Tensor("conv1d.weight", (channels, 1, kernel))
    return (weight, Tensor("conv1d.bias", (channels,))) if bias else (weight,)
