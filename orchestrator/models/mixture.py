"""Decoders with a mixture of experts: Mixtral, MiniMax, Qwen, gpt-oss, Llama 4, DeepSeek, GLM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from orchestrator.errors import ConfigInvalidError
from orchestrator.models.dense import Stack, norms, qwen_windows, tied, window_of
from orchestrator.models.fields import Fields
from orchestrator.models.parts import (
    Heads,
    Tensors,
    attention,
    experts_of,
    gated,
    heads_of,
    kept,
    linear,
    placed,
    renamed,
    vector,
)
from orchestrator.models.shape import Memory, ModelShape, Tensor


def mixtral(fields: Fields, architecture: str) -> ModelShape:
    """Mixtral."""
    heads, inner = heads_of(fields), fields.size("intermediate_size")
    hidden, experts = heads.hidden, experts_of(fields, "num_local_experts")
    moe = (*kept("gate", experts.total, hidden, "router"), *experts.of(_mixtral_expert(hidden, inner)))
    tensors = (*renamed(attention(heads), "self_attn"), *renamed(moe, "block_sparse_moe"), *norms(hidden))
    windows = window_of(fields, fields.size("num_hidden_layers"), lambda _: True)
    layers = [(tensors, heads.memory(window)) for window in windows]
    return Stack(fields, tied(fields)).shape(architecture, layers, heads, inner)


def _mixtral_expert(hidden: int, inner: int) -> Tensors:
    return (
        *linear("w1", inner, hidden, "expert"),
        *linear("w2", hidden, inner, "expert"),
        *linear("w3", inner, hidden, "expert"),
    )


def minimax_m2(fields: Fields, architecture: str) -> ModelShape:
    """MiniMax M2: Mixtral's experts behind a corrected router. All heads are normalized together."""
    heads, inner = heads_of(fields), fields.size("intermediate_size")
    hidden, experts = heads.hidden, experts_of(fields, "num_local_experts")
    joined = (vector("q_norm", heads.query_width), vector("k_norm", heads.key_width))
    moe = (
        *kept("gate", experts.total, hidden, "router"),
        Tensor("e_score_correction_bias", (experts.total,), "bias", dtype="F32"),
        *experts.of(_mixtral_expert(hidden, inner)),
    )
    parts = (*renamed((*attention(heads), *joined), "self_attn"), *renamed(moe, "block_sparse_moe"), *norms(hidden))
    layers = [(parts, heads.memory())] * fields.size("num_hidden_layers")
    return Stack(fields, tied(fields)).shape(architecture, layers, heads, inner)


def _qwen_sparse(fields: Fields) -> Callable[[int], bool]:
    """Return the layers of a Qwen mixture that have experts."""
    step = fields.size_or("decoder_sparse_step", 1)
    dense = set(fields.items("mlp_only_layers")) if fields.has("mlp_only_layers") else set()
    return lambda number: number not in dense and (number + 1) % step == 0


def qwen_moe_layers(
    fields: Fields, heads: Heads, parts: Tensors, moe: Tensors
) -> tuple[list[tuple[Tensors, Memory]], int]:
    """Stack layers of Qwen, with experts as configured, and return the widest MLP."""
    hidden, sparse = heads.hidden, _qwen_sparse(fields)
    windows = qwen_windows(fields)
    some_dense = not all(sparse(number) for number in range(len(windows)))
    inner = fields.size("intermediate_size") if some_dense else 0
    dense_mlp = gated(hidden, inner) if some_dense else ()
    layers = []
    for number, window in enumerate(windows):
        mlp = moe if sparse(number) else dense_mlp
        layers.append(((*renamed(parts, "self_attn"), *renamed(mlp, "mlp"), *norms(hidden)), heads.memory(window)))
    return layers, max(inner, fields.size("moe_intermediate_size"))


def qwen2_moe(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 1.5 and 2 with experts, one of them shared and gated."""
    heads = heads_of(fields)
    experts = experts_of(fields, "num_experts")
    moe = (
        *kept("gate", experts.total, heads.hidden, "router"),
        *experts.of(gated(heads.hidden, fields.size("moe_intermediate_size"), "expert")),
        *renamed(gated(heads.hidden, fields.size("shared_expert_intermediate_size"), "shared_expert"), "shared_expert"),
        *kept("shared_expert_gate", 1, heads.hidden, "router"),
    )
    layers, inner = qwen_moe_layers(fields, heads, attention(heads, bias=True), moe)
    inner = max(inner, fields.size("shared_expert_intermediate_size"))
    return Stack(fields, tied(fields)).shape(architecture, layers, heads, inner)


def qwen3_moe(fields: Fields, architecture: str) -> ModelShape:
    """Qwen 3 with experts."""
    heads = heads_of(fields)
    experts = experts_of(fields, "num_experts")
    if fields.count_or("shared_expert_intermediate_size", 0):
        fields.wrong("shared_expert_intermediate_size", "0: this architecture has no shared expert")
    moe = (
        *kept("gate", experts.total, heads.hidden, "router"),
        *experts.of(gated(heads.hidden, fields.size("moe_intermediate_size"), "expert")),
    )
    bias = fields.flag("attention_bias", default=False)
    parts = attention(heads, bias=bias, out_bias=bias, normed=True)
    layers, inner = qwen_moe_layers(fields, heads, parts, moe)
    return Stack(fields, tied(fields)).shape(architecture, layers, heads, inner)


def gpt_oss(fields: Fields, architecture: str) -> ModelShape:
    """gpt-oss: biases everywhere, a learned sink per head, a window in every other layer."""
    heads, inner = heads_of(fields), fields.size("intermediate_size")
    hidden, experts = heads.hidden, experts_of(fields, "num_local_experts")
    bias = fields.flag("attention_bias", default=True)
    moe = (
        *kept("router", experts.total, hidden, "router", bias=True),
        *experts.stacked("experts.gate_up_proj", (2 * inner, hidden), bias_name="experts.gate_up_proj_bias"),
        *experts.stacked("experts.down_proj", (hidden, inner), bias_name="experts.down_proj_bias"),
    )
    sinks = Tensor("sinks", (heads.query,), "attention")
    tensors = (
        *renamed((*attention(heads, bias=bias, out_bias=bias), sinks), "self_attn"),
        *renamed(moe, "mlp"),
        *norms(hidden),
    )
    windows = window_of(fields, fields.size("num_hidden_layers"), lambda number: number % 2 == 0)
    layers = [(tensors, heads.memory(window)) for window in windows]
    return Stack(fields, tied(fields)).shape(architecture, layers, heads, inner)


def llama4(fields: Fields, architecture: str) -> ModelShape:
    """Llama 4's language model: every few layers one with experts and a shared one."""
    heads = heads_of(fields)
    hidden, inner, wide = heads.hidden, fields.size("intermediate_size"), fields.size("intermediate_size_mlp")
    experts = experts_of(fields, "num_local_experts")
    step = fields.size_or("interleave_moe_layer_step", 1)
    moe = (
        *kept("router", experts.total, hidden, "router"),
        *experts.stacked("experts.gate_up_proj", (2 * inner, hidden)),
        *experts.stacked("experts.down_proj", (hidden, inner)),
        *renamed(gated(hidden, inner, "shared_expert"), "shared_expert"),
    )
    bias = fields.flag("attention_bias", default=False)
    parts = renamed(attention(heads, bias=bias, out_bias=bias), "self_attn")
    # Three layers see one chunk. The fourth has no positions and sees the whole sequence.
    chunk = fields.size("attention_chunk_size") if fields.has("attention_chunk_size") else None
    count = fields.size("num_hidden_layers")
    turning = fields.items("no_rope_layers", count) if fields.data.get("no_rope_layers") else None
    layers = []
    for number in range(count):
        mlp = moe if (number + 1) % step == 0 else gated(hidden, wide)
        turns = bool(turning[number]) if turning else (number + 1) % 4 != 0
        memory = heads.memory(chunk if turns else None)
        layers.append(((*parts, *renamed(mlp, "feed_forward"), *norms(hidden)), memory))
    stack = Stack(fields, tied(fields), root="language_model.model", head="language_model.lm_head")
    return stack.shape(architecture, layers, heads, max(inner, wide))


def _latent_attention(fields: Fields) -> tuple[Tensors, Memory, Heads]:
    """Multi-head latent attention: keys and values of all heads are computed from one short vector per token."""
    hidden, count = fields.size("hidden_size"), fields.size("num_attention_heads")
    rank, rotary = fields.size("kv_lora_rank"), fields.size("qk_rope_head_dim")
    plain, value = fields.size("qk_nope_head_dim"), fields.size("v_head_dim")
    key = plain + rotary
    if fields.has("q_lora_rank"):
        query_rank = fields.size("q_lora_rank")
        queries: Tensors = (
            *linear("q_a_proj", query_rank, hidden, "attention"),
            vector("q_a_layernorm", query_rank),
            *linear("q_b_proj", count * key, query_rank, "attention"),
        )
    else:
        queries = linear("q_proj", count * key, hidden, "attention")
    tensors = (
        *queries,
        *linear("kv_a_proj_with_mqa", rank + rotary, hidden, "attention"),
        vector("kv_a_layernorm", rank),
        *linear("kv_b_proj", count * (plain + value), rank, "attention"),
        *linear("o_proj", hidden, count * value, "attention"),
    )
    memory = Memory(rank + rotary, score_width=count * (key + value))
    return tensors, memory, Heads(count, 1, key, hidden)


def deepseek(fields: Fields, architecture: str) -> ModelShape:
    """DeepSeek V2, V3, R1, GLM 4.7 Flash: latent attention, shared experts, the first layers dense."""
    parts, memory, heads = _latent_attention(fields)
    return _deepseek(fields, architecture, parts, memory, heads, corrected=architecture != "DeepseekV2ForCausalLM")


def deepseek_v32(fields: Fields, architecture: str) -> ModelShape:
    """DeepSeek V3.2: an indexer chooses which tokens the attention reads."""
    parts, memory, heads = _latent_attention(fields)
    size, count = fields.size("index_head_dim"), fields.size("index_n_heads")
    indexer = (
        *linear("wq_b", size * count, fields.size("q_lora_rank"), "attention"),
        *linear("wk", size, heads.hidden, "attention"),
        vector("k_norm", size),
        Tensor("k_norm.bias", (size,), "bias"),
        Tensor("weights_proj.weight", (count, heads.hidden), "attention"),
    )
    sparse = Memory(
        memory.values_per_token,
        lookback=fields.size("index_topk"),
        index_bytes_per_token=size + 4 * -(-size // 128),  # FP8, and an FP32 scale for 128
        score_width=memory.score_width,
    )
    return _deepseek(fields, architecture, (*parts, *renamed(indexer, "indexer")), sparse, heads, corrected=True)


def _deepseek(
    fields: Fields, architecture: str, parts: Tensors, memory: Memory, heads: Heads, *, corrected: bool
) -> ModelShape:
    hidden, inner = heads.hidden, fields.size("intermediate_size")
    chosen = _deepseek_sparse(fields)
    count = len(chosen)
    moe = _deepseek_moe(fields, hidden, corrected=corrected)
    around = (*renamed(parts, "self_attn"), *norms(hidden))
    sparse = (*around, *renamed(moe, "mlp"))
    dense_mlp = (*around, *renamed(gated(hidden, inner), "mlp"))
    layers = [(sparse if has_experts else dense_mlp, memory) for has_experts in chosen]
    proposers = fields.count_or("num_nextn_predict_layers", 0)
    beside = tuple(
        tensor for number in range(count, count + proposers) for tensor in _proposer(fields, sparse, hidden, number)
    )
    stack = Stack(fields, tied(fields))
    return stack.shape(architecture, layers, heads, max(inner, fields.size("moe_intermediate_size")), beside=beside)


def _deepseek_sparse(fields: Fields) -> list[bool]:
    """Return the layers with experts: all but the first few. Newer files list them."""
    count = fields.size("num_hidden_layers")
    if fields.has("mlp_layer_types"):
        kinds = fields.items("mlp_layer_types", count)
        if not all(kind in ("dense", "sparse") for kind in kinds):
            fields.wrong("mlp_layer_types", "only dense and sparse")
        return [kind == "sparse" for kind in kinds]
    dense = fields.count("first_k_dense_replace")
    if dense > count:
        message = f"{fields.where}: first_k_dense_replace is {dense}, but num_hidden_layers is only {count}"
        raise ConfigInvalidError(message)
    every = fields.size_or("moe_layer_freq", 1)
    return [number >= dense and number % every == 0 for number in range(count)]


def _deepseek_moe(fields: Fields, hidden: int, *, corrected: bool) -> Tensors:
    experts, inner = experts_of(fields, "n_routed_experts"), fields.size("moe_intermediate_size")
    shared = fields.count_or("n_shared_experts", 0)
    correction = Tensor("gate.e_score_correction_bias", (experts.total,), "bias", dtype="F32")
    return (
        # A plain parameter, not an nn.Linear: no quantizer changes it and no configuration lists it.
        Tensor("gate.weight", (experts.total, hidden), "router"),
        *((correction,) if corrected else ()),
        *experts.of(gated(hidden, inner, "expert")),
        *(renamed(gated(hidden, shared * inner, "shared_expert"), "shared_experts") if shared else ()),
    )


def _proposer(fields: Fields, layer: Tensors, hidden: int, number: int) -> Tensors:
    """Return a layer of multi-token prediction: a normal layer, and the tensors that join it to the model."""
    vocabulary = fields.size("vocab_size")
    tensors = (
        *layer,
        Tensor("embed_tokens.weight", (vocabulary, hidden), "embedding"),
        vector("enorm", hidden),
        vector("hnorm", hidden),
        Tensor("eh_proj.weight", (hidden, 2 * hidden), "mtp"),
        vector("shared_head.norm", hidden),
        Tensor("shared_head.head.weight", (vocabulary, hidden), "head"),
    )
    # Publishers quantize it like the rest. ModelOpt does not quantize it.
    return tuple(
        replace(tensor, role="mtp", used=0.0, quantizable=False) for tensor in placed("model.layers", number, tensors)
    )


def glm4_moe(fields: Fields, architecture: str) -> ModelShape:
    """GLM 4.5 to 4.7: grouped-query attention with DeepSeek's experts."""
    heads = heads_of(fields)
    bias, normed = fields.flag("attention_bias", default=False), fields.flag("use_qk_norm", default=False)
    parts = attention(heads, bias=bias, normed=normed)
    return _deepseek(fields, architecture, parts, heads.memory(), heads, corrected=True)
