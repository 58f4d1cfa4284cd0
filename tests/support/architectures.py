"""The tensors of models in tests: names and shapes, from the architecture in `config.json`.

The program itself reads them from checkpoints.
All supported architectures are stacks of layers between an embedding and a head. Their layers differ. Most
have `self_attn.{q,k,v,o}_proj` and `mlp.{gate,up,down}_proj`, like Llama. Some store projections that runtimes
fuse as one matrix, some have many experts in place of one MLP, some use low-rank projections in attention, and
some layers have a recurrent state instead of attention.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import CheckpointError
from orchestrator.quantization import layout, structure
from orchestrator.quantization.layout import declared_type
from orchestrator.quantization.structure import HEAD, Config, architecture_of
from orchestrator.quantization.tensors import TensorSpec

Shapes = dict[str, tuple[int, ...]]
"""Shapes by name, in the order of their declaration."""


def _counted(config: Config) -> int:
    return dimension(config, "num_hidden_layers")


@dataclass(frozen=True)
class Architecture:
    """One class of models."""

    layer: Callable[[Config, int], Shapes]
    """The tensors of a layer by name, within the layer."""
    stack: str = "model.layers"
    """The prefix of a layer's number."""
    depth: Callable[[Config], int] = _counted
    """From the configuration, how many layers there are."""
    embedding: str = "model.embed_tokens"
    last: tuple[str, ...] = ("model.norm.weight",)
    """Vectors of the hidden size between the last layer and the head."""
    head_bias: bool = False
    tied: bool = False
    """The head is tied to the embedding by default."""

    def tensors(self, config: Config) -> Shapes:
        """Return every tensor of a model by name."""
        hidden, vocabulary = dimension(config, "hidden_size"), dimension(config, "vocab_size")
        shapes: Shapes = {f"{self.embedding}.weight": (vocabulary, hidden)}
        for number in range(self.depth(config)):
            shapes |= {f"{self.stack}.{number}.{name}": shape for name, shape in self.layer(config, number).items()}
        shapes |= dict.fromkeys(self.last, (hidden,))
        if not config.get("tie_word_embeddings", self.tied):
            shapes[f"{HEAD}.weight"] = (vocabulary, hidden)
        if self.head_bias:
            shapes[f"{HEAD}.bias"] = (vocabulary,)
        return shapes


def dimension(config: Config, key: str, default: int | None = None) -> int:
    """Return a size.

    Args:
        config: The configuration.
        key: Its name there.
        default: Its value if the configuration has none.

    Raises:
        CheckpointError: It is no whole number from 1.
    """
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or value < 1:
        message = f"config.json: {key}: found {value!r}, expected a whole number from 1"
        raise CheckpointError(message)
    return value


# --- parts ---------------------------------------------------------------------------------------------------------


def _weights(prefix: str, matrices: Shapes, biased: tuple[str, ...] = ()) -> Shapes:
    """Name the weights of linear modules, and the biases of some of them."""
    shapes: Shapes = {f"{prefix}{name}.weight": shape for name, shape in matrices.items()}
    shapes |= {f"{prefix}{name}.bias": matrices[name][:1] for name in biased}
    return shapes


def _heads(config: Config) -> tuple[int, int, int]:
    """Return the number of query heads, of key-value heads, and the size of one."""
    heads = dimension(config, "num_attention_heads")
    size = dimension(config, "head_dim", dimension(config, "hidden_size") // heads)
    return heads, dimension(config, "num_key_value_heads", heads), size


def _attention(config: Config, queries: int = 1, last: str = "o_proj") -> Shapes:
    """Return the projections of queries, keys, values and of the output.

    Args:
        config: The configuration.
        queries: Factor of a query's size: 2 if each head has a gate.
        last: The name of the last projection.
    """
    hidden = dimension(config, "hidden_size")
    heads, key_heads, size = _heads(config)
    return {
        "q_proj": (queries * heads * size, hidden),
        "k_proj": (key_heads * size, hidden),
        "v_proj": (key_heads * size, hidden),
        last: (hidden, heads * size),
    }


def _gated(hidden: int, inner: int) -> Shapes:
    return {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}


def _experts(block: str, count: int, one: Shapes) -> Shapes:
    return {f"{block}.experts.{number}.{name}.weight": shape for number in range(count) for name, shape in one.items()}


def _has_experts(config: Config, layer: int) -> bool:
    """Tell whether a layer of a model with experts has them. Some configurations leave layers out."""
    dense = config.get("mlp_only_layers") or []
    return layer not in dense and (layer + 1) % int(config.get("decoder_sparse_step") or 1) == 0


# --- like Llama ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Experts:
    """The names of experts, many small MLPs in place of one."""

    block: str
    """The module of a layer that holds the router `gate` and `experts.0`, `experts.1`, …"""
    gate: str
    up: str
    down: str
    count: tuple[str, ...]
    """Configuration keys for the number of experts."""
    size: str
    """The configuration key of an expert's inner size."""
    shared: bool = False
    """One more MLP for every token, with a gate of its own."""

    def shapes(self, config: Config) -> Shapes:
        """Return the tensors of one layer's experts."""
        hidden, inner = dimension(config, "hidden_size"), dimension(config, self.size)
        count = dimension(config, next((key for key in self.count if key in config), self.count[0]))
        one: Shapes = {self.gate: (inner, hidden), self.up: (inner, hidden), self.down: (hidden, inner)}
        shapes: Shapes = {f"{self.block}.gate.weight": (count, hidden), **_experts(self.block, count, one)}
        if self.shared:
            wide = dimension(config, "shared_expert_intermediate_size")
            shapes |= _weights(f"{self.block}.shared_expert.", _gated(hidden, wide))
            shapes[f"{self.block}.shared_expert_gate.weight"] = (1, hidden)
        return shapes


@dataclass(frozen=True)
class LlamaLayer:
    """A layer with attention and MLP, with norms before or around both."""

    attention_bias: Callable[[Config], tuple[str, ...]]
    """From the configuration, the projections of the attention that have a bias."""
    query_key_norm: bool = False
    """Queries and keys are normalized per head."""
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    """Norms of the hidden size between the parts of a layer."""
    fused: bool = False
    """Queries, keys and values are one matrix, gate and up are another."""
    experts: Experts | None = None

    def __call__(self, config: Config, number: int) -> Shapes:
        """Return the tensors of a layer."""
        hidden, (_, _, head) = dimension(config, "hidden_size"), _heads(config)
        shapes = _weights("self_attn.", self._attention(config), self.attention_bias(config))
        if self.query_key_norm:
            shapes |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
        if self.experts and _has_experts(config, number):
            shapes |= self.experts.shapes(config)
        else:
            matrices = self._mlp(config)
            shapes |= _weights("mlp.", matrices, tuple(matrices) if config.get("mlp_bias") else ())
        return shapes | {f"{norm}.weight": (hidden,) for norm in self.norms}

    def _attention(self, config: Config) -> Shapes:
        separate = _attention(config)
        if not self.fused:
            return separate
        rows = sum(separate[name][0] for name in ("q_proj", "k_proj", "v_proj"))
        return {"qkv_proj": (rows, separate["q_proj"][1]), "o_proj": separate["o_proj"]}

    def _mlp(self, config: Config) -> Shapes:
        hidden, inner = dimension(config, "hidden_size"), dimension(config, "intermediate_size")
        if not self.fused:
            return _gated(hidden, inner)
        return {"gate_up_proj": (2 * inner, hidden), "down_proj": (hidden, inner)}


def _biased_if_configured(config: Config) -> tuple[str, ...]:
    return ("q_proj", "k_proj", "v_proj", "o_proj") if config.get("attention_bias") else ()


def _unbiased(config: Config) -> tuple[str, ...]:  # noqa: ARG001 - one of several rules
    return ()


def _biased_inputs(config: Config) -> tuple[str, ...]:  # noqa: ARG001 - one of several rules
    return ("q_proj", "k_proj", "v_proj")


# --- others --------------------------------------------------------------------------------------------------------


def _phi_layer(config: Config, number: int) -> Shapes:  # noqa: ARG001 - all layers are alike
    """Attention and MLP side by side, both fed by one norm."""
    hidden, inner, (_, _, head) = (
        dimension(config, "hidden_size"),
        dimension(config, "intermediate_size"),
        _heads(config),
    )
    attention = _attention(config, last="dense")
    mlp: Shapes = {"fc1": (inner, hidden), "fc2": (hidden, inner)}
    norms: dict[str, int] = {"input_layernorm": hidden}
    if config.get("qk_layernorm"):
        norms |= {"self_attn.q_layernorm": head, "self_attn.k_layernorm": head}
    shapes = _weights("self_attn.", attention, tuple(attention)) | _weights("mlp.", mlp, tuple(mlp))
    return shapes | {f"{norm}.{part}": (size,) for norm, size in norms.items() for part in ("weight", "bias")}


@dataclass(frozen=True)
class DeepseekLayer:
    """Low-rank attention projections; in later layers, routed and shared experts."""

    corrected: bool
    """A bias corrects the scores of the router."""

    def __call__(self, config: Config, number: int) -> Shapes:
        """Return the tensors of a layer."""
        hidden = dimension(config, "hidden_size")
        shapes = self._attention(config)
        first, step = int(config.get("first_k_dense_replace") or 0), dimension(config, "moe_layer_freq", 1)
        if number >= first and number % step == 0:
            shapes |= self._experts(config)
        else:
            shapes |= _weights("mlp.", _gated(hidden, dimension(config, "intermediate_size")))
        return shapes | {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}

    def _attention(self, config: Config) -> Shapes:
        hidden, heads = dimension(config, "hidden_size"), dimension(config, "num_attention_heads")
        turned, plain = dimension(config, "qk_rope_head_dim"), dimension(config, "qk_nope_head_dim")
        value, rank = dimension(config, "v_head_dim"), dimension(config, "kv_lora_rank")
        query = heads * (plain + turned)
        matrices: Shapes = {
            "kv_a_proj_with_mqa": (rank + turned, hidden),
            "kv_b_proj": (heads * (plain + value), rank),
            "o_proj": (hidden, heads * value),
        }
        norms = {"kv_a_layernorm": rank}
        if config.get("q_lora_rank") is None:
            matrices["q_proj"] = (query, hidden)
        else:
            norms["q_a_layernorm"] = low = dimension(config, "q_lora_rank")
            matrices |= {"q_a_proj": (low, hidden), "q_b_proj": (query, low)}
        biased = [name for name in ("q_a_proj", "kv_a_proj_with_mqa", "o_proj") if name in matrices]
        shapes = _weights("self_attn.", matrices, tuple(biased) if config.get("attention_bias") else ())
        return shapes | {f"self_attn.{norm}.weight": (size,) for norm, size in norms.items()}

    def _experts(self, config: Config) -> Shapes:
        hidden, inner = dimension(config, "hidden_size"), dimension(config, "moe_intermediate_size")
        count = dimension(config, "n_routed_experts")
        shapes: Shapes = {"mlp.gate.weight": (count, hidden), **_experts("mlp", count, _gated(hidden, inner))}
        if self.corrected:
            shapes["mlp.gate.e_score_correction_bias"] = (count,)
        if config.get("n_shared_experts"):
            wide = inner * dimension(config, "n_shared_experts")
            shapes |= _weights("mlp.shared_experts.", _gated(hidden, wide))
        return shapes


_QWEN_EXPERTS = Experts(
    "mlp", "gate_proj", "up_proj", "down_proj", ("num_experts", "num_local_experts"), "moe_intermediate_size"
)
_SHARED_QWEN_EXPERTS = Experts(
    "mlp", "gate_proj", "up_proj", "down_proj", ("num_experts",), "moe_intermediate_size", shared=True
)


def _qwen_next_layer(config: Config, number: int) -> Shapes:
    """Most layers keep a state. Every fourth has attention with a gate for each head."""
    hidden, (_, _, head) = dimension(config, "hidden_size"), _heads(config)
    kinds, every = config.get("layer_types"), dimension(config, "full_attention_interval", 4)
    kind = kinds[number] if kinds else ("linear_attention" if (number + 1) % every else "full_attention")
    if kind == "linear_attention":
        shapes = _gated_delta(config)
    else:
        shapes = _weights("self_attn.", _attention(config, queries=2), _biased_if_configured(config))
        shapes |= {"self_attn.q_norm.weight": (head,), "self_attn.k_norm.weight": (head,)}
    if _has_experts(config, number):
        shapes |= _SHARED_QWEN_EXPERTS.shapes(config)
    else:
        shapes |= _weights("mlp.", _gated(hidden, dimension(config, "intermediate_size")))
    return shapes | {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}


def _gated_delta(config: Config) -> Shapes:
    hidden, heads = dimension(config, "hidden_size"), dimension(config, "linear_num_value_heads")
    keys = dimension(config, "linear_num_key_heads") * dimension(config, "linear_key_head_dim")
    head = dimension(config, "linear_value_head_dim")
    values = heads * head
    return {
        "linear_attn.in_proj_qkvz.weight": (2 * keys + 2 * values, hidden),
        "linear_attn.in_proj_ba.weight": (2 * heads, hidden),
        "linear_attn.conv1d.weight": (2 * keys + values, 1, dimension(config, "linear_conv_kernel_dim", 4)),
        "linear_attn.dt_bias": (heads,),
        "linear_attn.A_log": (heads,),
        "linear_attn.norm.weight": (head,),
        "linear_attn.out_proj.weight": (hidden, values),
    }


_MIXERS = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_LONG_MIXERS = {"linear_attention": "mamba", "full_attention": "attention"}


def _mixers(config: Config) -> list[str]:
    """Return the kind of each layer. Newer configurations have a list of words, older ones a string of letters."""
    key = "layers_block_type" if config.get("layers_block_type") else "hybrid_override_pattern"
    found = config.get(key)
    kinds = (
        [_LONG_MIXERS.get(kind, _MIXERS.get(kind, kind)) for kind in found] if isinstance(found, (list, str)) else []
    )
    if not kinds or not set(kinds) <= set(_MIXERS.values()):
        letters = ", ".join(f"{letter} ({kind})" for letter, kind in _MIXERS.items())
        message = f"config.json: {key}: found {found!r}, expected for each layer one of {letters}"
        raise CheckpointError(message)
    return kinds


def _hybrid_depth(config: Config) -> int:
    return len(_mixers(config))


def _nemotron_layer(config: Config, number: int) -> Shapes:
    """Each layer is one of these: a state space, attention, an MLP without a gate, or experts."""
    hidden, kind = dimension(config, "hidden_size"), _mixers(config)[number]
    if kind == "mamba":
        shapes = _state_space(config)
    elif kind == "attention":
        matrices = _attention(config)
        shapes = _weights("mixer.", matrices, tuple(matrices) if config.get("attention_bias") else ())
    elif kind == "mlp":
        shapes = _plain(config, "mixer.", hidden, dimension(config, "intermediate_size"))
    else:
        shapes = _plain_experts(config)
    return {"norm.weight": (hidden,), **shapes}


def _plain(config: Config, prefix: str, hidden: int, inner: int) -> Shapes:
    matrices: Shapes = {"up_proj": (inner, hidden), "down_proj": (hidden, inner)}
    return _weights(prefix, matrices, tuple(matrices) if config.get("mlp_bias") else ())


def _plain_experts(config: Config) -> Shapes:
    hidden, inner = dimension(config, "hidden_size"), dimension(config, "moe_intermediate_size")
    latent = dimension(config, "moe_latent_size", hidden)
    count = dimension(config, "n_routed_experts")
    shapes: Shapes = {
        "mixer.gate.weight": (count, hidden),
        "mixer.gate.e_score_correction_bias": (count,),
        **_experts("mixer", count, {"up_proj": (inner, latent), "down_proj": (latent, inner)}),
    }
    if config.get("moe_latent_size"):
        matrices: Shapes = {"fc1_latent_proj": (latent, hidden), "fc2_latent_proj": (hidden, latent)}
        shapes |= _weights("mixer.", matrices, tuple(matrices) if config.get("mlp_bias") else ())
    return shapes | _plain(
        config, "mixer.shared_experts.", hidden, dimension(config, "moe_shared_expert_intermediate_size")
    )


def _state_space(config: Config) -> Shapes:
    hidden, heads = dimension(config, "hidden_size"), dimension(config, "mamba_num_heads")
    inner = heads * dimension(config, "mamba_head_dim")
    mixed = inner + 2 * dimension(config, "n_groups") * dimension(config, "ssm_state_size")
    matrices: Shapes = {"in_proj": (inner + mixed + heads, hidden), "out_proj": (hidden, inner)}
    shapes = _weights("mixer.", matrices, tuple(matrices) if config.get("use_bias") else ())
    shapes |= {"mixer.conv1d.weight": (mixed, 1, dimension(config, "conv_kernel", 4)), "mixer.norm.weight": (inner,)}
    if config.get("use_conv_bias", True):
        shapes["mixer.conv1d.bias"] = (mixed,)
    return shapes | {f"mixer.{name}": (heads,) for name in ("A_log", "D", "dt_bias")}


# --- all -----------------------------------------------------------------------------------------------------------

_GEMMA_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(LlamaLayer(_biased_if_configured)),
    "MistralForCausalLM": Architecture(LlamaLayer(_unbiased)),
    "Qwen2ForCausalLM": Architecture(LlamaLayer(_biased_inputs)),
    "Qwen3ForCausalLM": Architecture(LlamaLayer(_biased_if_configured, query_key_norm=True)),
    "Qwen3MoeForCausalLM": Architecture(LlamaLayer(_biased_if_configured, query_key_norm=True, experts=_QWEN_EXPERTS)),
    "Qwen2MoeForCausalLM": Architecture(LlamaLayer(_biased_inputs, experts=_SHARED_QWEN_EXPERTS)),
    "Qwen3NextForCausalLM": Architecture(_qwen_next_layer),
    "MixtralForCausalLM": Architecture(
        LlamaLayer(
            _unbiased,
            experts=Experts("block_sparse_moe", "w1", "w3", "w2", ("num_local_experts",), "intermediate_size"),
        )
    ),
    "Gemma2ForCausalLM": Architecture(LlamaLayer(_biased_if_configured, norms=_GEMMA_NORMS), tied=True),
    "Gemma3ForCausalLM": Architecture(
        LlamaLayer(_biased_if_configured, query_key_norm=True, norms=_GEMMA_NORMS), tied=True
    ),
    "PhiForCausalLM": Architecture(
        _phi_layer, last=("model.final_layernorm.weight", "model.final_layernorm.bias"), head_bias=True
    ),
    "Phi3ForCausalLM": Architecture(LlamaLayer(_unbiased, fused=True)),
    "NemotronHForCausalLM": Architecture(
        _nemotron_layer,
        stack="backbone.layers",
        depth=_hybrid_depth,
        embedding="backbone.embeddings",
        last=("backbone.norm_f.weight",),
    ),
    "DeepseekV2ForCausalLM": Architecture(DeepseekLayer(corrected=False)),
    "DeepseekV3ForCausalLM": Architecture(DeepseekLayer(corrected=True)),
}
"""By the name in `architectures` of a `config.json`."""


def expected_tensors(config: Config) -> dict[str, TensorSpec]:
    """Return every tensor that an unquantized checkpoint of this configuration has, by name.

    All have the type that the configuration declares. A checkpoint may store some of them in another type.
    """
    dtype = declared_type(config) or "F32"  # the default of transformers
    shapes = ARCHITECTURES[architecture_of(config)].tensors(config)
    return {name: TensorSpec(name, dtype, shape) for name, shape in shapes.items()}


def selected(config: Config, exclude: Sequence[str] = ()) -> layout.Selection:
    """Choose what is quantized of a model of this configuration."""
    tensors = list(expected_tensors(config).values())
    return layout.select(structure.read(config, tensors), tensors, exclude)


def with_type(config: Config) -> dict[str, Any]:
    """Add the `model_type` that published files of a configuration's class have."""
    name = architecture_of(config)
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.split("For")[0]).lower()
    return {
        "model_type": {"Gemma3ForCausalLM": "gemma3_text", "GPTNeoXForCausalLM": "gpt_neox"}.get(name, words),
        **config,
    }
