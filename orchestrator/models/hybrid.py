"""Decoders that mix attention with recurrent states: Nemotron-H, Nemotron 2 and 3, Jamba, Qwen3-Next, Qwen 3.5."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.dense import Stack, norms, tied
from orchestrator.models.fields import Fields
from orchestrator.models.parts import (
    Heads,
    Mamba2,
    Tensors,
    attention,
    experts_of,
    gated,
    heads_of,
    kept,
    linear,
    plain,
    renamed,
    vector,
)
from orchestrator.models.shape import Memory, ModelShape, Tensor

_KINDS = {"mamba": "M", "attention": "*", "mlp": "-", "moe": "E"}
_STATE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def nemotron_h(fields: Fields, architecture: str) -> ModelShape:
    """Nemotron-H, Nemotron Nano 2, Nemotron 3: one Mamba-2, attention, MLP or mixture of experts per layer."""
    heads = heads_of(fields, size_name="head_dim" if fields.has("head_dim") else "attention_head_dim")
    pattern = _pattern(fields)
    kinds = {kind: _nemotron_layer(fields, heads, kind) for kind in dict.fromkeys(pattern)}
    norm = vector("norm", heads.hidden)
    layers = [((norm, *renamed(kinds[kind][0], "mixer")), kinds[kind][1]) for kind in pattern]
    proposers = fields.count_or("num_nextn_predict_layers", 0)
    notes = ("its layers that propose tokens are left out: their tensors are not known here",) if proposers else ()
    dtype = fields.text("mamba_ssm_cache_dtype") if fields.has("mamba_ssm_cache_dtype") else "float32"
    if dtype not in _STATE_BYTES:
        fields.wrong("mamba_ssm_cache_dtype", f"one of {', '.join(_STATE_BYTES)}")
    stack = Stack(fields, tied(fields), root="backbone", embedding="embeddings", norm="norm_f")
    return stack.shape(
        architecture,
        layers,
        heads,
        fields.size("intermediate_size"),
        notes=notes,
        state_bytes_per_value=_STATE_BYTES[dtype],
    )


def _pattern(fields: Fields) -> str:
    """Read the kind of each layer, one letter each. Newer files have a list of words instead."""
    count = fields.size("num_hidden_layers")
    if fields.has("layers_block_type"):
        words = fields.items("layers_block_type", count)
        if not all(word in _KINDS for word in words):
            fields.wrong("layers_block_type", f"only {', '.join(_KINDS)}")
        return "".join(_KINDS[str(word)] for word in words)
    pattern = fields.text("hybrid_override_pattern")
    if len(pattern) != count:
        message = f"{fields.where}: hybrid_override_pattern has {len(pattern)} layers, but num_hidden_layers is {count}"
        raise ConfigInvalidError(message)
    if not set(pattern) <= set(_KINDS.values()):
        fields.wrong("hybrid_override_pattern", f"only {', '.join(_KINDS.values())}")
    return pattern


def _nemotron_layer(fields: Fields, heads: Heads, kind: str) -> tuple[Tensors, Memory]:
    hidden = heads.hidden
    match kind:
        case "M":
            mamba = Mamba2(
                hidden=hidden,
                heads=fields.size("mamba_num_heads"),
                head_size=fields.size("mamba_head_dim"),
                groups=fields.size("n_groups"),
                state=fields.size("ssm_state_size"),
                kernel=fields.size("conv_kernel"),
                bias=fields.flag("use_bias", default=False),
                convolution_bias=fields.flag("use_conv_bias", default=True),
            )
            return mamba.tensors(), mamba.memory()
        case "*":
            bias = fields.flag("attention_bias", default=False)
            return attention(heads, bias=bias, out_bias=bias), heads.memory()
        case "-":
            bias = fields.flag("mlp_bias", default=False)
            return plain(hidden, fields.size("intermediate_size"), bias=bias), Memory()
        case _:
            return _nemotron_moe(fields, hidden), Memory()


def _nemotron_moe(fields: Fields, hidden: int) -> Tensors:
    experts, inner = experts_of(fields, "n_routed_experts"), fields.size("moe_intermediate_size")
    latent = fields.size("moe_latent_size") if fields.has("moe_latent_size") else None
    around = (
        (
            *linear("fc1_latent_proj", latent, hidden, "mlp"),
            *linear("fc2_latent_proj", hidden, latent, "mlp"),
        )
        if latent
        else ()
    )
    shared = fields.count_or("n_shared_experts", 0)
    wide = fields.size("moe_shared_expert_intermediate_size") * shared if shared else 0
    return (
        Tensor("gate.weight", (experts.total, hidden), "router"),
        Tensor("gate.e_score_correction_bias", (experts.total,), "bias", dtype="F32"),
        *around,
        *experts.of(plain(latent or hidden, inner, "expert")),
        *(renamed(plain(hidden, wide, "shared_expert"), "shared_experts") if shared else ()),
    )


def jamba(fields: Fields, architecture: str) -> ModelShape:
    """Jamba 1 and 1.5: Mamba-1 layers with an occasional attention. Every second MLP is a mixture of experts."""
    heads, inner = heads_of(fields), fields.size("intermediate_size")
    hidden, experts = heads.hidden, experts_of(fields, "num_experts")
    dense_mlp = renamed(gated(hidden, inner), "feed_forward")
    mixture = renamed(
        (*kept("router", experts.total, hidden, "router"), *experts.of(gated(hidden, inner, "expert"))), "feed_forward"
    )
    around = (vector("input_layernorm", hidden), vector("pre_ff_layernorm", hidden))
    mamba = _mamba1(fields, hidden)
    layers = []
    for number in range(fields.size("num_hidden_layers")):
        attends = number % fields.size("attn_layer_period") == fields.count("attn_layer_offset")
        sparse = number % fields.size("expert_layer_period") == fields.count("expert_layer_offset")
        parts, memory = (renamed(attention(heads), "self_attn"), heads.memory()) if attends else mamba
        layers.append(((*parts, *(mixture if sparse and experts.total > 1 else dense_mlp), *around), memory))
    return Stack(fields, tied(fields), norm="final_layernorm").shape(architecture, layers, heads, inner)


def _mamba1(fields: Fields, hidden: int) -> tuple[Tensors, Memory]:
    inner = fields.size("mamba_expand") * hidden
    state, kernel = fields.size("mamba_d_state"), fields.size("mamba_d_conv")
    rank = fields.size("mamba_dt_rank")
    bias = fields.flag("mamba_proj_bias", default=False)
    conv_bias = (Tensor("conv1d.bias", (inner,), "bias"),) if fields.flag("mamba_conv_bias", default=True) else ()
    tensors = (
        *linear("in_proj", 2 * inner, hidden, "mamba", bias=bias),
        Tensor("conv1d.weight", (inner, 1, kernel), "mamba"),
        *conv_bias,
        *linear("x_proj", rank + 2 * state, inner, "mamba"),
        *linear("dt_proj", inner, rank, "mamba", bias=True),
        Tensor("A_log", (inner, state), "mamba"),
        Tensor("D", (inner,), "mamba"),
        *linear("out_proj", hidden, inner, "mamba", bias=bias),
        vector("dt_layernorm", rank),
        vector("b_layernorm", state),
        vector("c_layernorm", state),
    )
    return renamed(tensors, "mamba"), Memory(state_values=inner * state, convolution_values=inner * (kernel - 1))


_UNSAID = "a layer that proposes tokens is left out: this config.json does not say what it is like"


def qwen3_next(fields: Fields, architecture: str) -> ModelShape:
    """Qwen3-Next: three layers with a gated delta rule, then one with gated attention; experts, one of them shared."""
    experts = experts_of(fields, "num_experts")
    one = gated(fields.size("hidden_size"), fields.size("moe_intermediate_size"), "expert")
    parts, widest = _shared_mixture(fields, experts.of(one))
    return _delta_stack(fields, architecture, parts, widest, fused=True)


def qwen3_5(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3.5's language model, dense: the layers of Qwen3-Next with separate projections."""
    inner = fields.size("intermediate_size")
    return _delta_stack(fields, architecture, gated(fields.size("hidden_size"), inner), inner, fused=False)


def qwen3_5_moe(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3.5's language model with experts, which it stores stacked."""
    experts, inner = experts_of(fields, "num_experts"), fields.size("moe_intermediate_size")
    hidden = fields.size("hidden_size")
    stacked = (
        *experts.stacked("experts.gate_up_proj", (2 * inner, hidden)),
        *experts.stacked("experts.down_proj", (hidden, inner)),
    )
    parts, widest = _shared_mixture(fields, stacked)
    return _delta_stack(fields, architecture, parts, widest, fused=False)


def _shared_mixture(fields: Fields, experts: Tensors) -> tuple[Tensors, int]:
    """Return a router, experts and a gated shared one, and the widest of them."""
    hidden, inner = fields.size("hidden_size"), fields.size("moe_intermediate_size")
    wide = fields.size("shared_expert_intermediate_size")
    if fields.data.get("mlp_only_layers") or fields.size_or("decoder_sparse_step", 1) != 1:
        fields.wrong("mlp_only_layers", "none: which MLPs have no experts is not known here")
    parts = (
        *kept("gate", fields.size("num_experts"), hidden, "router"),
        *experts,
        *renamed(gated(hidden, wide, "shared_expert"), "shared_expert"),
        *kept("shared_expert_gate", 1, hidden, "router"),
    )
    return parts, max(inner, wide)


def _delta_stack(fields: Fields, architecture: str, dense_mlp: Tensors, widest: int, *, fused: bool) -> ModelShape:
    """Stack layers of a gated delta rule and of gated attention, each with the same MLP."""
    heads = heads_of(fields)
    attending = (renamed(_gated_attention(heads), "self_attn"), heads.memory())
    recurrent = _delta_rule(fields, heads.hidden, fused=fused)
    around = (*renamed(dense_mlp, "mlp"), *norms(heads.hidden))
    layers = []
    for attends in _attending(fields):
        parts, memory = attending if attends else recurrent
        layers.append(((*parts, *around), memory))
    return Stack(fields, tied(fields)).shape(architecture, layers, heads, widest, notes=(_UNSAID,))


def _attending(fields: Fields) -> list[bool]:
    """Return the layers with full attention: those listed, else the last of every few."""
    count = fields.size("num_hidden_layers")
    if not fields.has("layer_types"):
        every = fields.size_or("full_attention_interval", 4)
        return [(number + 1) % every == 0 for number in range(count)]
    kinds = fields.items("layer_types", count)
    if not all(kind in ("linear_attention", "full_attention") for kind in kinds):
        fields.wrong("layer_types", "only linear_attention and full_attention")
    return [kind == "full_attention" for kind in kinds]


def _gated_attention(heads: Heads) -> Tensors:
    """Return attention whose query projection includes an output gate."""
    return attention(replace(heads, query=2 * heads.query), normed=True)[:1] + attention(heads, normed=True)[1:]


def _delta_rule(fields: Fields, hidden: int, *, fused: bool) -> tuple[Tensors, Memory]:
    """Return a gated delta net (arXiv:2412.06464): per head a matrix of keys by values."""
    keys, values = fields.size("linear_num_key_heads"), fields.size("linear_num_value_heads")
    key, value = fields.size("linear_key_head_dim"), fields.size("linear_value_head_dim")
    kernel = fields.size("linear_conv_kernel_dim")
    convolved = 2 * keys * key + values * value
    widths = {"qkv": convolved, "z": values * value, "b": values, "a": values}
    if fused:
        widths = {"qkvz": convolved + values * value, "ba": 2 * values}
    small = ("ba", "b", "a")  # ModelOpt does not quantize it
    tensors = (
        *(
            tensor
            for name, width in widths.items()
            for tensor in (kept if name in small else linear)(f"in_proj_{name}", width, hidden, "mamba")
        ),
        Tensor("conv1d.weight", (convolved, 1, kernel), "mamba"),
        Tensor("dt_bias", (values,), "mamba"),
        Tensor("A_log", (values,), "mamba"),
        vector("norm", value),
        *linear("out_proj", hidden, values * value, "mamba"),
    )
    memory = Memory(state_values=values * key * value, convolution_values=convolved * (kernel - 1))
    return renamed(tensors, "linear_attn"), memory
