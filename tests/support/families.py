"""The families of models that the quantizer knows, and how each is proved: the one table, of tests and documentation.

Each family in each format is a test: a small random model is quantized twice, by ModelOpt on the processor and by us,
and every byte is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

SIZES: Mapping[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Of every model, where its family does not say otherwise."""


@dataclass(frozen=True)
class Format:
    """A column of the table."""

    number_format: str
    kv_cache: str = "none"


FORMATS: Mapping[str, Format] = {
    "W4A16 NVFP4": Format("w4a16_nvfp4"),
    "NVFP4": Format("nvfp4"),
    "NVFP4 + FP8 KV": Format("nvfp4", "fp8"),
    "FP8": Format("fp8"),
    "FP8 + FP8 KV": Format("fp8", "fp8"),
}


@dataclass(frozen=True)
class Family:
    """A row of the table: proved in every format by byte equality with ModelOpt."""

    architecture: str
    """As `architectures` in config.json names it."""
    config: Mapping[str, Any]
    """The class of transformers that configures it, and its fields; layers differ where the family allows it."""
    has: str
    """What of it no simpler family has."""
    broken_list: bool = False
    """ModelOpt 0.47 fails to translate the names in `exclude_modules`, and leaves a mark of its own behind each."""
    experts: Literal["as saved", "stacked", "transposed"] = "as saved"
    """How the checkpoint stores experts: as transformers saves them, or all of a layer as one tensor, with matrices of
    [outputs, inputs] or [inputs, outputs]."""
    listed: Mapping[str, str] = field(default_factory=dict)
    """In `exclude_modules`, the ends of names of the checkpoint for which ModelOpt writes those of transformers."""


_EXPERTS: Mapping[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT: Mapping[str, Any] = {
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "first_k_dense_replace": 1,
    **_EXPERTS,
}
_HYBRID: Mapping[str, Any] = {
    "class": "NemotronHConfig",
    "head_dim": 16,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "chunk_size": 16,
    "n_routed_experts": 4,
    "moe_shared_expert_intermediate_size": 48,
    **_EXPERTS,
}

FAMILIES: Mapping[str, Family] = {
    "Llama": Family("LlamaForCausalLM", {"class": "LlamaConfig"}, "grouped queries"),
    "Mistral": Family("MistralForCausalLM", {"class": "MistralConfig", "sliding_window": 16}, "a sliding window"),
    "Qwen2": Family("Qwen2ForCausalLM", {"class": "Qwen2Config"}, "biases of queries, keys and values"),
    "Qwen3": Family(
        "Qwen3ForCausalLM",
        {"class": "Qwen3Config", "head_dim": 16, "tie_word_embeddings": True},
        "normalized queries and keys; a tied head",
    ),
    "Qwen3-MoE": Family(
        "Qwen3MoeForCausalLM",
        {"class": "Qwen3MoeConfig", "head_dim": 16, "num_experts": 8, "mlp_only_layers": [1], **_EXPERTS},
        "experts in some layers",
    ),
    "Qwen2-MoE": Family(
        "Qwen2MoeForCausalLM",
        {"class": "Qwen2MoeConfig", "num_experts": 4, "shared_expert_intermediate_size": 48, **_EXPERTS},
        "an expert for all tokens, with a gate",
    ),
    "Qwen3-Next": Family(
        "Qwen3NextForCausalLM",
        {
            "class": "Qwen3NextConfig",
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "num_experts": 4,
            "shared_expert_intermediate_size": 32,
            **_EXPERTS,
        },
        "gated attention between layers that keep a state",
    ),
    "Mixtral": Family(
        "MixtralForCausalLM",
        {"class": "MixtralConfig", "num_local_experts": 4, "num_experts_per_tok": 2},
        "experts under other names",
    ),
    "Gemma 2": Family(
        "Gemma2ForCausalLM",
        {"class": "Gemma2Config", "head_dim": 16, "sliding_window": 8},
        "capped scores; sliding and full attention in turn",
    ),
    "Gemma 3": Family(
        "Gemma3ForCausalLM",
        {
            "class": "Gemma3TextConfig",
            "head_dim": 16,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "two rotations; a scaled embedding",
    ),
    "Phi": Family(
        "PhiForCausalLM", {"class": "PhiConfig", "qk_layernorm": True}, "attention and MLP side by side; biases"
    ),
    "Phi-3": Family("Phi3ForCausalLM", {"class": "Phi3Config"}, "fused projections"),
    "DeepSeek-V2": Family(
        "DeepseekV2ForCausalLM",
        {"class": "DeepseekV2Config", "q_lora_rank": 48, "n_shared_experts": 2, **_LATENT},
        "latent attention; routed and shared experts",
    ),
    "DeepSeek-V2-Lite": Family(
        "DeepseekV2ForCausalLM",
        {"class": "DeepseekV2Config", "q_lora_rank": None, "n_shared_experts": 1, **_LATENT},
        "latent attention with plain queries",
    ),
    "DeepSeek-V3": Family(
        "DeepseekV3ForCausalLM",
        {
            "class": "DeepseekV3Config",
            "q_lora_rank": 48,
            "n_shared_experts": 1,
            "n_group": 2,
            "topk_group": 1,
            **_LATENT,
        },
        "groups of experts with corrected scores",
    ),
    "Nemotron-H": Family(
        "NemotronHForCausalLM",
        {**_HYBRID, "hybrid_override_pattern": "M*-E", "num_hidden_layers": 4},
        "state spaces, attention, MLPs and experts as layers of their own",
        broken_list=True,
    ),
    "Nemotron-H, latent experts": Family(
        "NemotronHForCausalLM",
        {**_HYBRID, "hybrid_override_pattern": "ME*", "num_hidden_layers": 3, "moe_latent_size": 32},
        "experts between projections",
        broken_list=True,
    ),
}
"""By the name that people use."""


_LLAMA_4: Mapping[str, Any] = {
    "head_dim": 16,
    "intermediate_size": 48,
    "intermediate_size_mlp": 96,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
    "moe_layers": [0, 2],
    "attention_chunk_size": 16,
}

UNLISTED: Mapping[str, Family] = {
    "Arcee": Family("ArceeForCausalLM", {"class": "ArceeConfig"}, "an MLP without a gate"),
    "Cohere 2": Family(
        "Cohere2ForCausalLM",
        {"class": "Cohere2Config", "sliding_window": 8},
        "one norm for attention and MLP; layers without positions",
    ),
    "dots.1": Family(
        "Dots1ForCausalLM",
        {
            "class": "Dots1Config",
            "head_dim": 16,
            "n_routed_experts": 4,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            **_EXPERTS,
        },
        "routed and shared experts after plain layers",
    ),
    "GLM-4": Family("Glm4ForCausalLM", {"class": "Glm4Config", "head_dim": 16}, "norms around both parts"),
    "GPT-NeoX": Family("GPTNeoXForCausalLM", {"class": "GPTNeoXConfig"}, "fused projections and a head by other names"),
    "Granite-MoE": Family(
        "GraniteMoeForCausalLM",
        {"class": "GraniteMoeConfig", "intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2},
        "all experts of a layer in one tensor",
        listed={"block_sparse_moe.router*": "block_sparse_moe.router"},
    ),
    "gpt-oss": Family(
        "GptOssForCausalLM",
        {
            "class": "GptOssConfig",
            "head_dim": 16,
            "intermediate_size": 48,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
        },
        "experts that stay in one tensor, with biases; sinks",
    ),
    "Llama 4": Family(
        "Llama4ForCausalLM", {"class": "Llama4TextConfig", **_LLAMA_4}, "experts that stay in one tensor"
    ),
    "Llama 4, with images": Family(
        "Llama4ForConditionalGeneration",
        {
            "class": "Llama4Config",
            "text_config": {**SIZES, **_LLAMA_4},
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 128,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
                "projector_input_dim": 64,
                "projector_output_dim": 64,
                "vision_output_dim": 64,
            },
        },
        "experts that stay in one tensor; a vision tower",
    ),
    "Qwen3-VL-MoE": Family(
        "Qwen3VLMoeForConditionalGeneration",
        {
            "class": "Qwen3VLMoeConfig",
            "text_config": {
                **SIZES,
                **_EXPERTS,
                "head_dim": 16,
                "num_experts": 4,
                "moe_intermediate_size": 48,
                "mlp_only_layers": [1],
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [2, 3, 3],
                    "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "hidden_size": 32,
                "intermediate_size": 64,
                "depth": 1,
                "num_heads": 2,
                "out_hidden_size": 64,
                "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
        },
        "all experts of a layer in one tensor, transposed; a vision tower",
        experts="transposed",
    ),
    "Qwen3.5-MoE": Family(
        "Qwen3_5MoeForCausalLM",
        {
            "class": "Qwen3_5MoeTextConfig",
            "head_dim": 16,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "num_experts": 4,
            "shared_expert_intermediate_size": 32,
            **_EXPERTS,
        },
        "the state's projections apart; all experts of a layer in one tensor",
        experts="stacked",
    ),
    "Mistral 3": Family(
        "Mistral3ForConditionalGeneration",
        {
            "class": "Mistral3Config",
            "text_config": {**SIZES, "model_type": "mistral", "head_dim": 16},
            "vision_config": {
                "model_type": "pixtral",
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "head_dim": 16,
                "image_size": 28,
                "patch_size": 14,
            },
        },
        "a vision tower, which stays as it is",
    ),
}
"""Families whose classes no file of the quantizer names; they are proved in the formats of `UNLISTED_FORMATS`."""

UNLISTED_FORMATS = {label: FORMATS[label] for label in ("W4A16 NVFP4", "NVFP4", "FP8 + FP8 KV")}


@dataclass(frozen=True)
class Stored:
    """A model of a family whose checkpoint stores some tensors in a type of their own."""

    family: str
    types: Mapping[str, str]
    """By shell pattern of names, the type as torch names it. What gets FP32 also gets numbers that need it."""


_ROUTERS = ("*.mlp.gate.weight", "*.mixer.gate.weight")

STORED_OTHERWISE: Mapping[str, Stored] = {
    "DeepSeek-V2, routers in BF16": Stored("DeepSeek-V2", dict.fromkeys(_ROUTERS, "bfloat16")),
    "DeepSeek-V2, routers in FP32": Stored("DeepSeek-V2", dict.fromkeys(_ROUTERS, "float32")),
    "DeepSeek-V3, routers in BF16": Stored("DeepSeek-V3", dict.fromkeys(_ROUTERS, "bfloat16")),
    "DeepSeek-V3, routers in FP32": Stored("DeepSeek-V3", dict.fromkeys(_ROUTERS, "float32")),
    "DeepSeek-V3, all of a router in BF16": Stored("DeepSeek-V3", {"*.mlp.gate.*": "bfloat16"}),
    "Qwen3-MoE, routers in FP32": Stored("Qwen3-MoE", dict.fromkeys(_ROUTERS, "float32")),
    "Nemotron-H, routers in BF16": Stored("Nemotron-H", dict.fromkeys(_ROUTERS, "bfloat16")),
    "Nemotron-H, routers in FP32": Stored("Nemotron-H", dict.fromkeys(_ROUTERS, "float32")),
    "Qwen2, norms and biases in FP32": Stored("Qwen2", {"*norm.weight": "float32", "*.bias": "float32"}),
    "Llama, embedding and head in FP32": Stored("Llama", {"*embed_tokens*": "float32", "lm_head*": "float32"}),
    "Llama, all in FP32": Stored("Llama", {"*": "float32"}),
}
"""By what is unusual."""


def table() -> str:
    """Return the table of the documentation."""
    lines = ["| | has | " + " | ".join(FORMATS) + " |", "| --- | --- |" + " --- |" * len(FORMATS)]
    for name, family in FAMILIES.items():
        lines.append(f"| {name}{' ¹' if family.broken_list else ''} | {family.has} |" + " equal |" * len(FORMATS))
    return "\n".join(lines)
