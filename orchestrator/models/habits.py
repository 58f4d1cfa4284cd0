"""Lists what a model's own code fixes and no field of its config.json says. One entry per model type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from types import MappingProxyType
from typing import Literal

from orchestrator.values import frozen

Part = Literal[
    "experts", "latent", "indexer", "delta_rule", "mamba", "blocks", "proposers", "layer_inputs", "shared_cache"
]
"""A structure that fields may ask for. A field of a structure that a known model type does not have is an error."""

EVERY_PART: frozenset[Part] = frozenset(
    ("experts", "latent", "indexer", "delta_rule", "mamba", "blocks", "proposers", "layer_inputs", "shared_cache")
)
TWO_NORMS = ("input_layernorm", "post_attention_layernorm")
FOUR_NORMS = (*TWO_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")


@frozen
class Habits:
    """The habits of one model type. The defaults are Llama's."""

    source: str
    """Where this was read: a module of transformers, or the model's own repository."""
    parts: frozenset[Part] = frozenset()
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Values of fields that its files leave out."""
    exact: bool = True
    """Sizes follow exactly. False for a model type that has no entry."""
    left_out: str = ""
    """What config.json does not describe, in words."""

    qkv_bias: bool | None = None
    """Queries, keys and values have a bias. None: `attention_bias` decides."""
    out_bias: bool | None = None
    """As `qkv_bias`, for the output projection."""
    qk_norm: Literal["none", "head", "all", "field", "weightless"] = "none"
    """Normalization of queries and keys: per head, over all heads, or as `use_qk_norm` says."""
    gated_queries: bool = False
    """The query projection includes an output gate."""
    fused: bool = False
    """Related projections are one matrix, as in Phi-3."""
    sinks: bool = False
    """Each head has a learned sink."""
    head_dim_required: bool = False
    """The size of a head does not follow from the hidden size."""
    windows: Literal["none", "all", "even", "period", "option"] = "none"
    """Layers with `sliding_window`, if no `layer_types` says so; `option`: only with `use_sliding_window`."""

    norms: tuple[str, ...] = TWO_NORMS
    mixer: str = "self_attn"
    mlp: str = "mlp"
    mixture: str = "mlp"
    """The module that holds router and experts."""
    mixture_norms: tuple[str, ...] = ()
    """More normalizations in a layer with experts."""
    beside_mlp: bool = False
    """A layer with experts also has an MLP."""
    dense_first: bool = False
    """The first layers have no experts; `first_k_dense_replace` or `mlp_layer_types` must say which."""
    plain: bool = False
    """MLPs have no gate."""
    experts_as_mlp: bool = False
    """Experts are as wide as `intermediate_size`."""
    expert: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    stacked: bool = False
    """Experts are stored as one tensor with a dimension more."""
    router: str = "gate"
    router_extras: bool = False
    """The router has a scale per input and one per expert."""
    router_bias: bool = False
    expert_bias: bool = False
    correction: str = ""
    """The name of the correction of the router's scores."""
    shared_always: bool = False
    """One shared expert, as large as a routed one, that no field announces."""

    root: str = "model"
    embedding: str = "embed_tokens"
    norm: str = "norm"
    head: str = "lm_head"
    head_bias: bool = False
    scalar: bool = False
    """Each layer has one number that scales its output."""
    split_delta: bool = False
    """The delta rule's projections are stored apart, as in Qwen 3.5."""


UNKNOWN = Habits(
    "none: each structure is counted at its largest",
    parts=EVERY_PART,
    defaults=MappingProxyType({"attention_bias": True, "mlp_bias": True}),
    exact=False,
    qk_norm="all",
    gated_queries=True,
    norms=FOUR_NORMS,
    router_bias=True,
    correction="gate.e_score_correction_bias",
)
"""A model type without an entry: an upper limit of its sizes."""

_EXPERTS: frozenset[Part] = frozenset(("experts",))
_MISTRAL = Habits("mistral/modeling_mistral.py", qkv_bias=False, out_bias=False, windows="all")
_MIXTRAL = replace(
    _MISTRAL,
    source="mixtral/modeling_mixtral.py",
    parts=_EXPERTS,
    mixture="block_sparse_moe",
    experts_as_mlp=True,
    expert=("w1", "w3", "w2"),
)
_QWEN2 = Habits("qwen2/modeling_qwen2.py", qkv_bias=True, out_bias=False, windows="option")
_QWEN3 = Habits("qwen3/modeling_qwen3.py", qk_norm="head", windows="option")
_QWEN3_MOE = replace(_QWEN3, source="qwen3_moe/modeling_qwen3_moe.py", parts=_EXPERTS)
_NEXT = Habits(
    "qwen3_next/modeling_qwen3_next.py",
    parts=frozenset(("experts", "delta_rule")),
    qkv_bias=False,
    out_bias=False,
    qk_norm="head",
    gated_queries=True,
    defaults=MappingProxyType({"full_attention_interval": 4}),
    left_out="a layer that proposes tokens is left out: this config.json does not say what it is like",
)
_QWEN3_5 = replace(_NEXT, source="qwen3_5/modeling_qwen3_5.py", parts=frozenset(("delta_rule",)), split_delta=True)
_GEMMA2 = Habits(
    "gemma2/modeling_gemma2.py",
    qkv_bias=False,
    out_bias=False,
    head_dim_required=True,
    windows="even",
    norms=FOUR_NORMS,
    defaults=MappingProxyType({"tie_word_embeddings": True}),
)
_GEMMA3 = replace(
    _GEMMA2,
    source="gemma3/modeling_gemma3.py",
    qk_norm="head",
    windows="period",
    defaults=MappingProxyType({"tie_word_embeddings": True, "sliding_window_pattern": 6}),
)
_DEEPSEEK_V2 = Habits(
    "deepseek_v2/modeling_deepseek_v2.py",
    dense_first=True, parts=frozenset(("experts", "latent", "proposers")), qkv_bias=False,
    out_bias=False,
)  # fmt: skip
_DEEPSEEK = replace(
    _DEEPSEEK_V2, source="deepseek_v3/modeling_deepseek_v3.py", correction="gate.e_score_correction_bias"
)
_SPARSE = replace(_DEEPSEEK, source="deepseek_v32/modeling_deepseek_v32.py", parts=_DEEPSEEK.parts | {"indexer"})

HABITS: Mapping[str, Habits] = MappingProxyType(
    {
        "llama": Habits("llama/modeling_llama.py"),
        "mistral": _MISTRAL,
        "mistral3": _MISTRAL,
        "ministral3": replace(_MISTRAL, source="ministral3/modeling_ministral3.py"),
        "mixtral": _MIXTRAL,
        "minimaxm2": replace(
            _MIXTRAL,
            source="minimax_m2/modeling_minimax_m2.py",
            windows="none",
            qk_norm="all",
            correction="e_score_correction_bias",
        ),
        "qwen2": _QWEN2,
        "mimo": replace(
            _QWEN2,
            source="https://huggingface.co/XiaomiMiMo/MiMo-7B-Base/blob/main/modeling_mimo.py",
            left_out="a layer that proposes tokens is left out: this config.json does not say what it is like",
        ),
        "qwen2moe": replace(_QWEN2, source="qwen2_moe/modeling_qwen2_moe.py", parts=_EXPERTS),
        "qwen3": _QWEN3,
        "qwen3moe": _QWEN3_MOE,
        "qwen3vl": replace(_QWEN3, source="qwen3_vl/modeling_qwen3_vl.py"),
        "qwen3vlmoe": replace(_QWEN3_MOE, source="qwen3_vl_moe/modeling_qwen3_vl_moe.py", stacked=True),
        "qwen3next": _NEXT,
        "qwen35": _QWEN3_5,
        "qwen35moe": replace(_QWEN3_5, source="qwen3_5_moe/modeling_qwen3_5_moe.py", parts=_NEXT.parts, stacked=True),
        "phi3": Habits("phi3/modeling_phi3.py", qkv_bias=False, out_bias=False, fused=True, windows="all"),
        "phi4mm": Habits(
            "https://huggingface.co/microsoft/Phi-4-multimodal-instruct/blob/main/modeling_phi4mm.py",
            qkv_bias=False,
            out_bias=False,
            fused=True,
            windows="all",
        ),
        "gemma2": _GEMMA2,
        "gemma3": _GEMMA3,
        "gemma4": replace(
            _GEMMA3,
            source="gemma4/modeling_gemma4.py",
            parts=frozenset(("experts", "layer_inputs", "shared_cache")),
            qkv_bias=None,
            out_bias=None,
            mixture="",
            mixture_norms=(
                "post_feedforward_layernorm_1",
                "post_feedforward_layernorm_2",
                "pre_feedforward_layernorm_2",
            ),
            beside_mlp=True,
            stacked=True,
            router="router.proj",
            router_extras=True,
            scalar=True,
        ),
        "gptoss": Habits(
            "gpt_oss/modeling_gpt_oss.py",
            parts=_EXPERTS,
            defaults=MappingProxyType({"attention_bias": True}),
            sinks=True,
            windows="even",
            stacked=True,
            router="router",
            router_bias=True,
            expert_bias=True,
            experts_as_mlp=True,
        ),
        "deepseekv2": _DEEPSEEK_V2,
        "deepseekv3": _DEEPSEEK,
        "kimik2": _DEEPSEEK,
        "glm4moelite": replace(_DEEPSEEK, source="glm4_moe_lite/modeling_glm4_moe_lite.py"),
        "deepseekv32": _SPARSE,
        "glmmoedsa": replace(_SPARSE, source="glm_moe_dsa/modeling_glm_moe_dsa.py"),
        "glm4moe": Habits(
            "glm4_moe/modeling_glm4_moe.py",
            dense_first=True,
            parts=frozenset(("experts", "proposers")),
            out_bias=False,
            qk_norm="field",
            correction="gate.e_score_correction_bias",
        ),
        "llama4": Habits(
            "llama4/modeling_llama4.py",
            parts=_EXPERTS,
            mlp="feed_forward",
            mixture="feed_forward",
            stacked=True,
            router="router",
            shared_always=True,
            experts_as_mlp=True,
            qk_norm="weightless",
            defaults=MappingProxyType({"interleave_moe_layer_step": 1}),
            root="language_model.model",
            head="language_model.lm_head",
        ),
        "nemotronh": Habits(
            "nemotron_h/modeling_nemotron_h.py",
            parts=frozenset(("experts", "mamba")),
            norms=("norm",),
            mixer="mixer",
            mlp="mixer",
            mixture="mixer",
            plain=True,
            correction="gate.e_score_correction_bias",
            root="backbone",
            embedding="embeddings",
            norm="norm_f",
        ),
        "decilm": Habits(
            "https://huggingface.co/nvidia/Llama-3_3-Nemotron-Super-49B-v1/blob/main/modeling_decilm.py",
            parts=frozenset(("blocks",)),
            qkv_bias=False,
            out_bias=False,
        ),
        "jamba": Habits(
            "jamba/modeling_jamba.py",
            parts=frozenset(("experts", "mamba")),
            qkv_bias=False,
            out_bias=False,
            norms=("input_layernorm", "pre_ff_layernorm"),
            mlp="feed_forward",
            mixture="feed_forward",
            experts_as_mlp=True,
            router="router",
            norm="final_layernorm",
        ),
    }
)
"""By model type: in lower case, without underscores and without `_text`."""
