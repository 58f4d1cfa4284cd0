"""Shrinks the default configuration of a family to one of a tiny model, by the names of its fields.

A field that is not known keeps its default, so a family whose sizes have names of their own becomes too large, and its
row says so. What the few families in fields.json need besides cannot be told from names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LAYERS = 4
VOCABULARY = 320

_FIELDS_OF_SIZE: Mapping[int, str] = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input ngram_vocab_size_base text_vocab_size audio_vocab_size",
    128: "max_position_embeddings n_positions max_seq_len n_ctx attention_hidden_size max_target_positions"
    " max_source_positions position_embeddings",
    96: "intermediate_size ffn_hidden_size ffn_dim d_ff n_inner block_ff_dim intermediate_size_mlp decoder_ffn_dim"
    " encoder_ffn_dim dense_intermediate_size ff_dim feed_forward_size",
    64: "hidden_size d_model n_embd embedding_size dim conv_dim block_dim mamba_d_ssm attention_dim lru_width"
    " ple_embed_dim embed_dim word_embed_proj_dim emb_dim text_hidden_size",
    48: "q_lora_rank",
    32: "moe_intermediate_size expert_intermediate_size shared_expert_intermediate_size kv_lora_rank o_lora_rank"
    " moe_shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size index_head_dim"
    " attention_head_dim qk_head_dim moe_ffn_hidden_size expert_hidden_size",
    16: "head_dim global_head_dim swa_head_dim attn_head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim"
    " d_head linear_key_head_dim linear_value_head_dim mamba_head_dim mamba_d_head mamba_d_state state_size"
    " ssm_state_size chunk_size mamba_chunk_size hidden_size_per_layer_input laurel_rank attention_chunk_size"
    " block_multiple_of hc_lowrank indexer_head_dim swa_v_head_dim kv_channels rotary_dim d_kv mamba_dt_rank"
    " time_step_rank",
    8: "sliding_window index_topk indexer_budget local_attention window_size attention_window_size",
    LAYERS: "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_attention_heads n_head"
    " n_heads num_heads decoder_attention_heads num_decoder_attention_heads num_experts num_local_experts"
    " n_routed_experts moe_num_experts num_routed_experts index_n_heads indexer_n_heads linear_num_value_heads"
    " linear_conv_kernel_dim mamba_num_heads mamba_n_heads indexer_compress_ratio attention_heads",
    3: "conv_L_cache",
    2: "num_key_value_heads num_global_key_value_heads num_kv_heads swa_num_key_value_heads num_query_groups"
    " num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts o_groups linear_num_key_heads"
    " num_kv_shared_layers altup_num_inputs encoder_layers num_encoder_layers encoder_attention_heads",
    1: "num_shared_experts n_shared_experts moe_num_shared_experts n_group topk_group num_expert_group"
    " first_k_dense_replace mamba_n_groups mamba_expand n_groups expand num_memory_blocks n_mamba_heads"
    " indexer_kv_heads num_dense_layers",
}
_TEXT = {name: size for size, names in _FIELDS_OF_SIZE.items() for name in names.split()}

_TOKENS = (
    "pad_token_id bos_token_id eos_token_id - - image_token_id video_token_id audio_token_id boi_token_id eoi_token_id"
)
"""The tokens 0 to 9. Batches have none of them."""
_TEXT |= {name: number for number, name in enumerate(_TOKENS.split())}
_TEXT |= {"vision_start_token_id": 8, "vision_end_token_id": 9, "image_token_index": 5, "video_token_index": 6}
_OFTEN_UNSET = frozenset(
    (
        *("pad_token_id", "bos_token_id", "eos_token_id", "head_dim", "num_key_value_heads", "num_experts_per_tok"),
        *("n_routed_experts", "n_shared_experts", "moe_intermediate_size", "first_k_dense_replace", "indexer_n_heads"),
        *("indexer_kv_heads", "indexer_head_dim", "indexer_budget", "indexer_compress_ratio"),
    )
)
"""Fields without a default that a model of the family needs."""

_TOWER: Mapping[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "depth": 1,
    "num_attention_heads": 2,
    "num_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 16,
    "embed_dim": 32,
    "out_hidden_size": 64,
    "image_size": 28,
    "patch_size": 14,
    "n_layers": 1,
    "num_layers": 1,
    "deepstack_visual_indexes": [0],
    "fullatt_block_indexes": [0],
    "num_position_embeddings": 16,
    "projection_dim": 64,
    "out_channels": 64,
    "text_hidden_size": 64,
    "projector_hidden_size": 64,
    "vocab_size": VOCABULARY,
}
_TOWERS = ("vision", "visual", "image", "video", "audio", "speech", "qformer", "vq", "codec", "encoder", "perceiver")
"""In the name of a configuration within a configuration: it describes a tower. Others describe the language model."""
_MORE: Mapping[str, Mapping[str, Any]] = json.loads(Path(__file__).with_name("fields.json").read_text(encoding="utf-8"))
"""By family, fields whose tiny values must agree in a way that their names do not tell."""

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_KINDS = ("layer_types", "layers_block_type", "mlp_layer_types", "layers_types")
_OF_NO_SIZE = ("transformers_version", "architectures", "dtype", "torch_dtype", "model_type")


def shrunk(family: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a tiny model, from a family's configuration of transformers as a dictionary."""
    small = _small(config, _TEXT)
    if any(name.startswith("vision") for name in config):
        for part in (small, *(value for name, value in small.items() if "text" in name)):
            _divide_rotation(part)
    for path, value in _MORE.get(family, {}).items():
        *parents, name = path.split(".")
        part = small
        for parent in parents:
            part = part[parent]
        part[name] = value
    return {name: value for name, value in small.items() if name not in _OF_NO_SIZE}


def _divide_rotation(fields: object) -> None:
    """Divide half of a head's rotation among time, height and width, which some models of images rotate apart."""
    rotation = fields.get("rope_parameters") if isinstance(fields, dict) else None
    if isinstance(rotation, dict) and "rope_theta" in rotation:
        half = round(_TEXT["head_dim"] / 2 * rotation.get("partial_rotary_factor", 1))
        rotation["mrope_section"] = [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]


def _small(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    depth = next((config[name] for name in _DEPTHS if isinstance(config.get(name), int)), None)
    small = {name: _value(name, value, sizes, depth) for name, value in config.items()}
    if "kv_lora_rank" in small and "num_key_value_heads" in small:
        small["num_key_value_heads"] = small["num_attention_heads"]  # a latent has no groups of queries
    if isinstance(small.get("per_layer_config"), dict):  # by the number of a layer
        small["per_layer_config"] = {"1": {"head_dim": 32}, "3": {"head_dim": 32}} if sizes is _TEXT else {}
    return small


def _value(name: str, value: Any, sizes: Mapping[str, Any], depth: int | None) -> Any:  # noqa: ANN401 - of JSON
    if isinstance(value, dict):
        if not name.endswith("config") or name == "quantization_config":
            return dict(value)
        return _small(value, _TOWER if any(part in name for part in _TOWERS) else _TEXT)
    layers = sizes["num_hidden_layers"]
    if name in _KINDS and isinstance(value, list):
        return (list(dict.fromkeys(value)) * LAYERS)[:layers]
    if isinstance(value, list) and depth is not None and len(value) == depth > layers:
        return [sizes[name]] * layers if isinstance(sizes.get(name), int) else value[:layers]
    known = name in sizes and (value is not None or name in _OFTEN_UNSET)
    scalar = not isinstance(value, list) or isinstance(sizes.get(name), list)
    return sizes[name] if known and scalar else value
