"""Bad configurations: a clear error each, never a number."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ArchitectureUnknownError, ConfigInvalidError
from orchestrator.models import shape_of
from orchestrator.models.habits import HABITS
from orchestrator.planner.scheme import scheme_of, scheme_of_quant_config
from tests.unit.planner.byte_configs import DEEPSEEK_V2, GEMMA3, LLAMA, MIXTRAL, NEMOTRON, Config

CLASSES = sorted(f"{kind}ForCausalLM" for kind in (*HABITS, "another"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 0),
        ("hidden_size", -4096),
        ("hidden_size", 4096.0),
        ("hidden_size", "4096"),
        ("hidden_size", True),
        ("hidden_size", math.nan),
        ("hidden_size", 10**9),
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 0),
        ("vocab_size", 10**12),
        ("num_key_value_heads", 5),
        ("num_attention_heads", 33),
        ("tie_word_embeddings", "no"),
    ],
)
def test_an_impossible_value_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigInvalidError, match=field):
        shape_of({**LLAMA, field: value})


@pytest.mark.parametrize(
    "field",
    [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "vocab_size",
        "max_position_embeddings",
    ],
)
def test_a_missing_field_is_named(field: str) -> None:
    config = {key: value for key, value in LLAMA.items() if key != field}
    with pytest.raises(ConfigInvalidError, match=f"{field} is missing"):
        shape_of(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({**MIXTRAL, "num_experts_per_tok": 9}, "num_experts_per_tok is 9, but num_local_experts is only 8"),
        ({**NEMOTRON, "num_hidden_layers": 57}, "hybrid_override_pattern has 56 layers"),
        ({**NEMOTRON, "hybrid_override_pattern": "X" * 56}, "only M"),
        ({**GEMMA3, "layer_types": ["full_attention"]}, "layer_types has 1 entries, expected 26"),
        ({**GEMMA3, "layer_types": ["other"] * 26}, "only full_attention, attention, sliding_attention"),
        ({**GEMMA3, "layer_types": ["sliding_attention"] * 26, "sliding_window": None}, "sliding_window is missing"),
        ({**GEMMA3, "head_dim": None}, "head_dim is missing"),
        ({**DEEPSEEK_V2, "first_k_dense_replace": 61}, "num_hidden_layers is only 60"),
        ({**DEEPSEEK_V2, "kv_lora_rank": None}, "kv_lora_rank is missing"),
        ({**DEEPSEEK_V2, "first_k_dense_replace": None}, "first_k_dense_replace is missing"),
        ({**DEEPSEEK_V2, "mlp_layer_types": ["other"] * 60}, "only dense and sparse"),
        ({**NEMOTRON, "layers_block_type": ["other"] * 56}, "only mamba, attention, mlp, moe"),
        ({**NEMOTRON, "mamba_ssm_cache_dtype": "int8"}, "mamba_ssm_cache_dtype"),
        ({**LLAMA, "architectures": ["DeciLMForCausalLM"], "block_configs": [{}]}, "block_configs has 1 entries"),
        ({**LLAMA, "architectures": ["DeciLMForCausalLM"], "block_configs": [{}] * 32}, "attention is missing"),
        ({**LLAMA, "architectures": ["DeciLMForCausalLM"], "block_configs": 1}, "expected a list"),
    ],
)
def test_fields_that_contradict_each_other_are_named(config: Config, words: str) -> None:
    with pytest.raises(ConfigInvalidError, match=words):
        shape_of(config)


def test_a_class_of_another_kind_is_refused_by_its_name() -> None:
    with pytest.raises(ArchitectureUnknownError, match="BertForMaskedLM") as caught:
        shape_of({"architectures": ["BertForMaskedLM"], "hidden_size": 768})
    assert "LlamaForCausalLM" in caught.value.hint
    assert caught.value.exit_status == 3


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"_class_name": "UNet2DConditionModel", "in_channels": 4},
        {"architectures": []},
        {"architectures": "LlamaForCausalLM"},
        {"architectures": ["A", "B"]},
        {"model_type": "clip"},
    ],
)
def test_another_kind_of_file_is_no_language_model(config: Config) -> None:
    with pytest.raises(ConfigInvalidError, match="architectures"):
        shape_of(config)


@pytest.mark.parametrize("architecture", CLASSES)
def test_an_empty_configuration_is_an_error_in_every_family(architecture: str) -> None:
    with pytest.raises(ConfigInvalidError, match="is missing"):
        shape_of({"architectures": [architecture]})


@given(
    architecture=st.sampled_from(CLASSES),
    noise=st.dictionaries(
        st.sampled_from(sorted({*LLAMA, *MIXTRAL, *NEMOTRON, *DEEPSEEK_V2, "text_config", "block_configs"})),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(),
            st.sampled_from(["", "full", "M*-E"]),
            st.lists(st.integers(), max_size=3),
            st.dictionaries(st.sampled_from(["attention", "ffn"]), st.integers(), max_size=2),
        ),
        max_size=6,
    ),
)
def test_whatever_a_configuration_says_it_is_a_shape_or_an_error_of_ours(
    architecture: str, noise: dict[str, Any]
) -> None:
    try:
        shape = shape_of({**LLAMA, **NEMOTRON, **MIXTRAL, **DEEPSEEK_V2, **noise, "architectures": [architecture]})
    except ConfigInvalidError:
        return
    assert shape.parameters > 0


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"quantization": {}},
        {"quantization": {"quant_algo": "INT3"}},
        {"quantization": {"quant_algo": 8}},
        {"quantization": {"quant_algo": "NVFP4", "exclude_modules": "lm_head"}},
        {"quantization": {"quant_algo": "NVFP4", "exclude_modules": [1]}},
        {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "INT2"}},
        {"quantization": {"quant_algo": "MIXED_PRECISION"}},
        {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"a": {}}}},
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {"weights": {}, "targets": ["Linear"]}}},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {}, "b": {}}},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
    ],
)
def test_a_quantization_that_is_not_understood_is_an_error(document: Config) -> None:
    with pytest.raises(ConfigInvalidError):
        scheme_of_quant_config(document)


def test_an_unknown_format_says_which_are_known() -> None:
    with pytest.raises(ConfigInvalidError) as caught:
        scheme_of("int3")
    assert "nvfp4" in caught.value.hint
