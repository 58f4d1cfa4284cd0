"""The architecture that config.json declares is that of the tensors."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import CheckpointError, ConfigInvalidError
from orchestrator.models import shape_of
from orchestrator.models.files import ModelFiles
from orchestrator.quantization.agreement import require_agreeing_names, require_declared_architecture
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.quality import examine
from orchestrator.quantization.tensors import TensorSpec

SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "vocab_size": 320,
    "tie_word_embeddings": False,
}
MORE: Mapping[str, Mapping[str, Any]] = {
    "LlamaForCausalLM": {"model_type": "llama"},
    "Qwen2ForCausalLM": {"model_type": "qwen2"},
    "Qwen3ForCausalLM": {"model_type": "qwen3"},
    "Phi3ForCausalLM": {"model_type": "phi3"},
    "Gemma2ForCausalLM": {"model_type": "gemma2", "sliding_window": 64},
    "MixtralForCausalLM": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
"""Architectures with tensors of their own."""


def config_of(architecture: str, **changes: object) -> dict[str, Any]:
    return {**SIZES, **MORE[architecture], "architectures": [architecture], **changes}


def tensors_of(config: Mapping[str, Any]) -> list[TensorSpec]:
    return [TensorSpec(name, "BF16", one.shape) for one in shape_of(config).tensors for name in one.names()]


@pytest.mark.parametrize("stored", MORE)
@pytest.mark.parametrize("declared", MORE)
def test_tensors_of_another_architecture_are_refused(declared: str, stored: str) -> None:
    tensors = tensors_of(config_of(stored))
    if declared == stored:
        require_declared_architecture(config_of(declared), tensors)
        return
    with pytest.raises(CheckpointError, match=f"{declared} by config.json"):
        require_declared_architecture(config_of(declared), tensors)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_key_value_heads": 4}, r"k_proj.weight BF16 \[32, 64\], expected the shape \[64, 64\]"),
        ({"intermediate_size": 128}, r"gate_proj.weight BF16 \[96, 64\], expected the shape \[128, 64\]"),
        ({"attention_bias": True}, r"model.layers.0.self_attn.q_proj.bias is missing"),
        ({"head_dim": 32}, r"q_proj.weight BF16 \[64, 64\], expected the shape \[128, 64\]"),
        ({"num_attention_heads": 10**9}, "num_attention_heads: found 1000000000, expected a whole number from 1 to"),
        ({"num_key_value_heads": 3}, "num_key_value_heads 3 does not divide num_attention_heads 4"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers: found 1000000000000"),
    ],
)
def test_fields_that_the_tensors_contradict_are_refused(changes: dict[str, object], named: str) -> None:
    tensors = tensors_of(config_of("LlamaForCausalLM"))
    with pytest.raises(CheckpointError, match=named):
        require_declared_architecture(config_of("LlamaForCausalLM", **changes), tensors)


@pytest.mark.parametrize("lost", ["lm_head.weight", "model.norm.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_a_tensor_that_is_missing_is_named(lost: str) -> None:
    config = config_of("LlamaForCausalLM")
    with pytest.raises(CheckpointError, match=f"{'.'.join(lost.split('.')[-2:])} is missing"):
        require_declared_architecture(config, [spec for spec in tensors_of(config) if spec.name != lost])


def test_a_model_type_of_which_nothing_is_known_is_not_compared() -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "unheard_of", "layer_types": ["of its own"]}
    require_declared_architecture(config, tensors_of(config_of("LlamaForCausalLM")))


def test_a_tied_model_needs_no_head_and_old_frequencies_are_no_surprise() -> None:
    config = config_of("LlamaForCausalLM", tie_word_embeddings=True)
    old = TensorSpec("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", (8,))
    require_declared_architecture(config, [*tensors_of(config), old])


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [("MistralForCausalLM", "llama"), ("LlamaForCausalLM", "mistral"), ("Qwen3ForCausalLM", "qwen2")],
)
def test_a_class_and_a_model_type_of_two_architectures_are_refused(architecture: str, model_type: str) -> None:
    config = {**SIZES, "architectures": [architecture], "model_type": model_type}
    with pytest.raises(CheckpointError, match=f"found {architecture}, but model_type is '{model_type}'"):
        require_agreeing_names(config)
    with pytest.raises(ConfigInvalidError, match="architectures"):
        shape_of(config)


@pytest.mark.parametrize(
    ("architecture", "model_type"),
    [
        ("DeepseekV3ForCausalLM", "kimi_k2"),
        ("Gemma3ForCausalLM", "gemma3_text"),
        ("DeciLMForCausalLM", "nemotron-nas"),
        ("AnotherForCausalLM", "llama"),
        ("LlamaForCausalLM", "another"),
        ("BertModel", "llama"),
    ],
)
def test_names_that_published_models_have_agree(architecture: str, model_type: str) -> None:
    require_agreeing_names({"architectures": [architecture], "model_type": model_type})


@pytest.mark.parametrize("more", [{}, {"model_type": None}, {"model_type": ""}, {"auto_map": {"AutoModel": "a.B"}}])
def test_without_a_model_type_nothing_loads_it(more: Mapping[str, object]) -> None:
    config = {**SIZES, "architectures": ["LlamaForCausalLM"], **more}
    with pytest.raises(CheckpointError, match=r"config.json: model_type is missing") as raised:
        require_declared_architecture(config, tensors_of(config))
    assert "or add the type of its class" in str(raised.value.hint)
    with pytest.raises(ConfigInvalidError, match=r"here: model_type is missing"):
        _ = ModelFiles("here", config).shape


def test_a_model_whose_own_code_is_its_type_needs_none() -> None:
    config = {**SIZES, "architectures": ["LlamaForCausalLM"], "auto_map": {"AutoConfig": "configuration_own.Own"}}
    require_agreeing_names(config)
    assert ModelFiles("here", config).shape.parameters


def test_neither_quantize_nor_verify_takes_a_model_of_another_architecture(tiny: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny, tmp_path / "model"))
    config = read_json(model / "config.json")
    for changes in ({"architectures": ["MistralForCausalLM"]}, {"attention_bias": True}):
        write_json(model / "config.json", {**config, **changes})
        with pytest.raises(CheckpointError):
            quantize_checkpoint(model, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        assert not examine(model).passed
