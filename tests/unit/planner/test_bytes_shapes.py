"""Tensors from a config.json: as many parameters as published, and what each layer remembers."""

from __future__ import annotations

import re

import pytest

from orchestrator.catalog.models import find_model, known_repos
from orchestrator.errors import ConfigInvalidError
from orchestrator.models import shape_of
from orchestrator.planner.bytes import (
    flops_per_token,
    kv_bytes,
    kv_bytes_per_token,
    kv_bytes_read,
    state_bytes,
)
from tests.unit.planner.byte_configs import (
    BY_CODE,
    DEEPSEEK_V2,
    GEMMA3,
    GEMMA3_27B,
    GLM,
    LLAMA,
    MISTRAL_SMALL,
    MIXTRAL,
    NEMOTRON,
    PHI3,
    PUBLISHED,
    QWEN3_NEXT,
    Config,
)

CATALOGUE = {
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-235B-A22B": 235_093_634_560,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "microsoft/Phi-4-reasoning-plus": 14_659_507_200,
    "microsoft/Phi-4-multimodal-instruct": 5_574_460_384,
    "meta-llama/Llama-4-Scout-17B-16E-Instruct": 108_641_793_536,
    "deepseek-ai/DeepSeek-Coder-V2-Lite-Instruct": 15_706_484_224,
    "openai/gpt-oss-120b": 116_829_156_672,
    "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": 31_577_940_288,
    "nvidia/Llama-3_3-Nemotron-Super-49B-v1_5-FP8": 49_867_145_216,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_model_has_as_many_parameters_as_published(name: str) -> None:
    config, published = PUBLISHED[name]
    assert shape_of(config).parameters == published


@pytest.mark.parametrize("name", sorted(BY_CODE))
def test_a_model_has_as_many_parameters_as_its_own_code_makes(name: str) -> None:
    config, made = BY_CODE[name]
    assert shape_of(config).parameters == made


@pytest.mark.parametrize("repo", sorted(CATALOGUE))
def test_the_catalogue_counts_as_published(repo: str) -> None:
    entry = find_model(repo)
    assert entry is not None
    assert shape_of(entry.config).parameters == CATALOGUE[repo]


@pytest.mark.parametrize("repo", known_repos())
def test_every_model_of_the_catalogue_has_a_shape_and_a_source(repo: str) -> None:
    entry = find_model(repo)
    assert entry is not None
    assert entry.source.startswith("https://")
    assert shape_of(entry.config).parameters > 1e9


def test_a_repository_that_the_catalogue_does_not_know_is_not_guessed() -> None:
    assert find_model("nobody/nothing") is None


def test_layers_that_propose_tokens_are_stored_but_not_counted() -> None:
    shape = shape_of(GLM)
    assert shape.stored_parameters == 110_468_824_832
    assert shape.parameters < shape.stored_parameters
    assert shape.active_parameters < 13e9


def test_a_token_reads_its_experts_and_one_row_of_the_embedding() -> None:
    shape = shape_of(MIXTRAL)
    assert shape.active_parameters == pytest.approx(12.75e9, rel=0.01)
    assert shape.is_moe
    dense = shape_of(LLAMA)
    assert dense.active_parameters == dense.parameters - 128256 * 4096 + 4096


def test_a_tied_embedding_is_read_as_the_head() -> None:
    shape = shape_of({**LLAMA, "tie_word_embeddings": True})
    assert shape.active_parameters == shape.parameters == shape_of(LLAMA).parameters - 128256 * 4096


def test_no_text_reads_towers_and_adapters() -> None:
    for name in ("google/gemma-3-27b-it", "mistralai/Mistral-Small-3.1-24B-Instruct-2503"):
        shape = shape_of(PUBLISHED[name][0])
        towers = sum(tensor.elements for tensor in shape.tensors if tensor.role == "vision")
        assert shape.parameters * 0.01 < towers < shape.parameters * 0.02
        assert all(tensor.used == 0 and not tensor.quantizable for tensor in shape.tensors if tensor.role == "vision")
    entry = find_model("microsoft/Phi-4-multimodal-instruct")
    assert entry is not None
    assert shape_of(entry.config).active_parameters == 3_836_021_760  # Phi-4-mini's


def test_three_of_four_layers_of_qwen3_next_keep_a_matrix_per_head_and_no_cache() -> None:
    shape = shape_of(QWEN3_NEXT)
    assert shape.attention_layers == 12
    assert state_bytes(shape) == 36 * (32 * 128 * 128 * 4 + 8192 * 3 * 2)
    assert kv_bytes_per_token(shape) == 12 * 2 * 2 * 256 * 2
    assert shape.active_parameters == pytest.approx(3.56e9, rel=0.01)


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (GEMMA3_27B, {"vision_config": {"hidden_size": 1152}}, "vision_config: patch_size is missing"),
        (MISTRAL_SMALL, {"vision_config": None}, "vision_config is missing"),
        (QWEN3_NEXT, {"layer_types": ["sliding_attention"] * 48}, "sliding_window is missing"),
        (QWEN3_NEXT, {"layer_types": ["other"] * 48}, "full_attention, attention, sliding_attention"),
        (QWEN3_NEXT, {"mlp_only_layers": [0]}, "intermediate_size is missing"),
        (QWEN3_NEXT, {"num_experts_per_tok": 513}, "num_experts is only 512"),
    ],
)
def test_what_a_tower_or_a_layer_lacks_is_named(config: Config, changes: Config, says: str) -> None:
    with pytest.raises(ConfigInvalidError, match=re.escape(says)):
        shape_of({**config, **changes})


def test_grouped_queries_keep_only_their_key_heads() -> None:
    assert kv_bytes_per_token(shape_of(LLAMA)) == 32 * 2 * 8 * 128 * 2
    assert kv_bytes_per_token(shape_of({**LLAMA, "num_key_value_heads": None})) == 32 * 2 * 32 * 128 * 2
    assert kv_bytes_per_token(shape_of(LLAMA), "fp8") == 32 * 2 * 8 * 128


def test_latent_attention_keeps_one_short_vector() -> None:
    assert kv_bytes_per_token(shape_of(DEEPSEEK_V2)) == 60 * (512 + 64) * 2


def test_a_window_bounds_what_a_layer_keeps() -> None:
    shape = shape_of(GEMMA3)
    full = 4 * 2 * 256 * 2
    windowed = 22 * 2 * 256 * 2
    assert kv_bytes(shape, 512) == 512 * (full + windowed)
    assert kv_bytes(shape, 20000) == 20000 * full + 512 * windowed
    assert kv_bytes(shape_of(PHI3), 4096) == 2047 * kv_bytes_per_token(shape_of(PHI3))


def test_a_list_of_layer_types_wins_over_the_pattern() -> None:
    types = ["full_attention"] * 26
    assert kv_bytes(shape_of({**GEMMA3, "layer_types": types}), 20000) == 20000 * 26 * 2 * 256 * 2


def test_sparse_attention_reads_less_than_it_keeps() -> None:
    sparse: Config = {
        **DEEPSEEK_V2,
        "architectures": ["DeepseekV32ForCausalLM"],
        "index_head_dim": 128,
        "index_n_heads": 64,
        "index_topk": 2048,
    }
    shape = shape_of(sparse)
    assert kv_bytes(shape, 100_000) == 100_000 * 60 * (576 * 2 + 132)
    assert kv_bytes_read(shape, 100_000) == 60 * (2048 * 576 * 2 + 100_000 * 132)


def test_a_hybrid_keeps_a_state_whatever_the_length() -> None:
    shape = shape_of(NEMOTRON)
    assert shape.is_hybrid
    assert shape.attention_layers == 4
    assert state_bytes(shape) == 27 * (10240 * 128 * 4 + (10240 + 2 * 8 * 128) * 3 * 2)
    assert state_bytes(shape_of({**NEMOTRON, "mamba_ssm_cache_dtype": "float16"})) < state_bytes(shape)
    assert state_bytes(shape_of(LLAMA)) == 0


def test_a_token_multiplies_every_weight_once() -> None:
    shape = shape_of(LLAMA)
    norms = 65 * 4096
    assert flops_per_token(shape, 0) == pytest.approx(2 * (8_030_261_248 - 128256 * 4096 - norms))
    assert flops_per_token(shape, 1000) - flops_per_token(shape, 0) == 2 * 1000 * 32 * 2 * 4096


def test_newer_files_list_the_kinds_of_layers_in_words() -> None:
    words = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
    pattern = str(NEMOTRON["hybrid_override_pattern"])
    listed = {**NEMOTRON, "hybrid_override_pattern": None, "layers_block_type": [words[kind] for kind in pattern]}
    assert shape_of(listed).parameters == shape_of(NEMOTRON).parameters
    sparse = {**DEEPSEEK_V2, "first_k_dense_replace": None, "mlp_layer_types": ["dense"] + ["sparse"] * 59}
    assert shape_of(sparse).parameters == shape_of(DEEPSEEK_V2).parameters
