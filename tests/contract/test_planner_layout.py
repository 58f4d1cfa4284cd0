"""What the planner counts is what the quantizer writes: names, types, shapes and files, for each of its families."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.models import shape_of
from orchestrator.planner.bytes import stored_tensors
from orchestrator.planner.files import file_bytes
from orchestrator.planner.scheme import scheme_of
from orchestrator.quantization import header
from orchestrator.quantization.plan import Plan, scheme_named
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.writer import plan_shards
from tests.support.architectures import ARCHITECTURES, expected_tensors, with_type

SIZES: Mapping[str, Any] = {
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 11,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
    "vocab_size": 320,
}
EXPERTS: Mapping[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
LATENT: Mapping[str, Any] = {
    **EXPERTS,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 12,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}
MORE: Mapping[str, Mapping[str, Any]] = {
    "Qwen3MoeForCausalLM": {**EXPERTS, "num_experts": 12},
    "MixtralForCausalLM": {"num_experts_per_tok": 2, "num_local_experts": 12},
    "Gemma2ForCausalLM": {"sliding_window": 64, "tie_word_embeddings": True},
    "Gemma3ForCausalLM": {"sliding_window": 64, "tie_word_embeddings": True},
    "Qwen2MoeForCausalLM": {**EXPERTS, "num_experts": 12, "shared_expert_intermediate_size": 64},
    "Qwen3NextForCausalLM": {
        **EXPERTS,
        "num_experts": 12,
        "shared_expert_intermediate_size": 64,
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_value_head_dim": 16,
    },
    "DeepseekV2ForCausalLM": {**LATENT, "q_lora_rank": None},
    "DeepseekV3ForCausalLM": {**LATENT, "q_lora_rank": 32},
    "NemotronHForCausalLM": {
        **EXPERTS,
        "hybrid_override_pattern": "ME*-ME*-ME*",
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 2,
        "conv_kernel": 4,
        "n_routed_experts": 12,
        "n_shared_experts": 1,
        "moe_shared_expert_intermediate_size": 96,
    },
}
EXCLUDED: Mapping[str, tuple[str, ...]] = {
    "Phi3ForCausalLM": (),
    "DeepseekV2ForCausalLM": ("model.layers.3.self_attn.*",),
    "DeepseekV3ForCausalLM": ("model.layers.3.self_attn.*",),
    "NemotronHForCausalLM": ("backbone.layers.2.mixer.[qkv]_proj", "backbone.layers.1.mixer.experts.*"),
}
"""One of several layers' attention, where its projections are separate."""
UNPLANNED = {"PhiForCausalLM"}
"""Whose sizes the planner only knows a limit of."""
FAMILIES = sorted(set(ARCHITECTURES) - UNPLANNED)


def test_the_sizes_of_every_family_are_exact_but_those_that_are_named() -> None:
    assert {name for name in ARCHITECTURES if not shape_of(config_of(name)).exact} == UNPLANNED


def config_of(architecture: str, **changes: object) -> dict[str, Any]:
    more = MORE.get(architecture, {})
    return {**SIZES, "tie_word_embeddings": False, **more, "architectures": [architecture], **changes}


def empty_checkpoint(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write a checkpoint of nothing but zeros, which the file system stores as holes.

    Its types are those in which the planner takes such models to be published: they follow from no configuration.
    """
    folder.mkdir()
    types = {name: part.dtype for name, part in stored_tensors(shape_of(config), scheme_of("bf16"))}
    specs = [replace(spec, dtype=types[name]) for name, spec in expected_tensors(config).items()]
    start, _ = header.build(specs)
    file = folder / "model.safetensors"
    file.write_bytes(start)
    with file.open("r+b") as stream:
        stream.truncate(len(start) + sum(spec.size for spec in specs))
    (folder / "config.json").write_text(json.dumps(with_type(config)), encoding="utf-8")
    return folder


def written_bytes(shards: list[list[TensorSpec]]) -> int:
    return sum(len(header.build(shard)[0]) + sum(spec.size for spec in shard) for shard in shards)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_the_same_tensors_before_quantization(architecture: str, tied: bool) -> None:
    config = config_of(architecture, tie_word_embeddings=tied or architecture == "Gemma3ForCausalLM")
    expected = {name: spec.shape for name, spec in expected_tensors(config).items()}
    counted = {name: part.shape for name, part in stored_tensors(shape_of(config), scheme_of("bf16"))}
    assert counted == expected


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("format_name", ["w4a16_nvfp4", "nvfp4", "fp8"])
@pytest.mark.parametrize("kv_cache", ["none", "fp8"])
def test_the_same_files_after_it(tmp_path: Path, architecture: str, format_name: str, kv_cache: str) -> None:
    config = config_of(architecture)
    exclude = EXCLUDED.get(architecture, ("model.layers.3.self_attn.[qkv]_proj",)) if kv_cache == "none" else ()
    plan = Plan.make(empty_checkpoint(tmp_path / "source", config), scheme_named(format_name), exclude, kv_cache)
    scheme = scheme_of(
        format_name, kv_cache="fp8" if kv_cache == "fp8" else "bf16", kv_scales=kv_cache == "fp8", exclude=exclude
    )
    shape = shape_of(config)
    made = {spec.name: (spec.dtype, spec.shape) for unit in plan.outputs for spec in unit}
    assert {name: (part.dtype, part.shape) for name, part in stored_tensors(shape, scheme)} == made
    for limit in (10**9, 100_000, 20_000):
        assert file_bytes(shape, scheme, limit) == written_bytes(plan_shards(plan.outputs, limit)), limit
