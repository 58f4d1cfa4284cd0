"""A decoder is read by its fields; what is not understood is named, and what is not exact says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.app.model_files import read_object
from orchestrator.errors import ArchitectureUnknownError, ConfigInvalidError
from orchestrator.models import shape_of
from orchestrator.models.files import ModelFiles
from orchestrator.models.habits import HABITS
from orchestrator.planner.bytes import kv_bytes, kv_bytes_per_token, kv_bytes_read
from orchestrator.planner.scheme import scheme_of_files
from tests.unit.planner.byte_configs import DEEPSEEK_V2, LLAMA, MISTRAL_SMALL, MIXTRAL, Config

ANOTHER: Config = {**LLAMA, "architectures": ["AnotherForCausalLM"], "model_type": "another"}


def test_a_model_type_without_an_entry_has_a_limit_and_not_a_size() -> None:
    limit, real = shape_of(ANOTHER), shape_of(LLAMA)
    assert not limit.exact
    assert real.exact
    assert real.parameters < limit.parameters < 1.1 * real.parameters  # an output gate counts, too
    assert kv_bytes_per_token(limit) == kv_bytes_per_token(real)


def test_a_mixture_without_an_entry_is_read_as_a_mixture() -> None:
    limit, real = shape_of({**MIXTRAL, "architectures": ["AnotherForCausalLM"]}), shape_of(MIXTRAL)
    assert limit.is_moe
    assert not limit.exact
    assert real.parameters < limit.parameters < 1.1 * real.parameters
    assert real.active_parameters < limit.active_parameters < 1.1 * real.active_parameters


def test_latent_attention_is_read_by_its_fields() -> None:
    limit = shape_of({**DEEPSEEK_V2, "architectures": ["AnotherForCausalLM"]})
    assert kv_bytes_per_token(limit) == kv_bytes_per_token(shape_of(DEEPSEEK_V2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_local_experts", 8),
        ("kv_lora_rank", 512),
        ("linear_num_value_heads", 32),
        ("hidden_size_per_layer_input", 256),
        ("moe_intermediate_size", 512),
        ("altup_num_inputs", 4),
        ("kv_channels", 128),
        ("layer_types_of_tomorrow", ["full"]),
    ],
)
def test_a_field_that_changes_sizes_and_is_not_understood_is_named(field: str, value: object) -> None:
    with pytest.raises(ConfigInvalidError, match=f"{field}: .* may change sizes and is not understood"):
        shape_of({**LLAMA, field: value})


def test_a_text_model_is_read_by_its_own_type_and_not_by_what_is_around_it() -> None:
    text = {**MISTRAL_SMALL["text_config"], **{k: v for k, v in DEEPSEEK_V2.items() if k != "architectures"}}
    shape = shape_of({**MISTRAL_SMALL, "text_config": {**text, "model_type": "mistral4"}})
    assert shape.is_moe
    assert not shape.exact
    assert shape.parameters > shape_of(DEEPSEEK_V2).parameters


def test_a_zero_or_null_field_changes_nothing() -> None:
    unused: Config = {"num_local_experts": 0, "kv_lora_rank": None, "hidden_size_per_layer_input": 0, "moe_layers": []}
    assert shape_of({**LLAMA, **unused}).parameters == shape_of(LLAMA).parameters


@pytest.mark.parametrize(
    ("changes", "sparse"),
    [({}, [0, 1, 2, 3]), ({"interleave_moe_layer_step": 2}, [1, 3]), ({"moe_layers": [0, 2]}, [0, 2])],
)
def test_layers_with_experts_are_those_that_llama_4_lists_or_every_few(changes: Config, sparse: list[int]) -> None:
    experts: Config = {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 96}
    names = {"architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text"}
    shape = shape_of({**LLAMA, "num_hidden_layers": 4, **experts, **names, **changes})
    found = [name for tensor in shape.tensors for name in tensor.names() if name.endswith("router.weight")]
    assert [int(name.partition(".layers.")[2].partition(".")[0]) for name in found] == sparse


@pytest.mark.parametrize("kind", sorted(HABITS))
def test_every_entry_names_its_source(kind: str) -> None:
    source = HABITS[kind].source
    assert source.startswith("https://") or source.endswith(".py")


def test_layers_that_share_a_cache_keep_none_of_their_own() -> None:
    sizes = {**LLAMA, "architectures": ["Gemma4ForCausalLM"], "head_dim": 128}
    own, shared = shape_of(sizes), shape_of({**sizes, "num_kv_shared_layers": 8})
    assert kv_bytes(shared, 1000) == kv_bytes(own, 1000) * 24 / 32
    assert kv_bytes_read(shared, 1000) == kv_bytes_read(own, 1000)
    assert shared.attention_layers == 24
    assert own.parameters - shared.parameters == 8 * (2 * 4096 * 8 * 128 + 128)


def test_the_audio_tower_that_no_field_describes_is_named() -> None:
    shape = shape_of({**MISTRAL_SMALL, "audio_config": {"hidden_size": 8}})
    assert any("audio tower is left out" in note for note in shape.notes)
    assert not shape.exact


def test_a_known_language_model_inside_an_unknown_model_is_not_exact() -> None:
    text = {**{name: value for name, value in LLAMA.items() if name != "architectures"}, "model_type": "llama"}
    assert not shape_of({"architectures": ["AnotherForConditionalGeneration"], "text_config": text}).exact


def test_a_tower_without_an_entry_is_counted_at_most() -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 14}
    text = {**{k: v for k, v in LLAMA.items() if k != "architectures"}, "model_type": "llama"}
    config = {"architectures": ["AnotherForConditionalGeneration"], "text_config": text, "vision_config": sizes}
    shape = shape_of(config)
    assert not shape.exact
    assert 0.3e9 < shape.parameters - shape_of(LLAMA).parameters < 0.6e9


@pytest.mark.parametrize("layers", [2049, 10**9, 10**18])
def test_too_many_layers_are_an_error_at_once(layers: int) -> None:
    with pytest.raises(ConfigInvalidError, match="num_hidden_layers"):
        shape_of({**ANOTHER, "num_hidden_layers": layers})


def test_a_class_with_strange_characters_is_refused_in_words_that_can_be_printed() -> None:
    with pytest.raises(ArchitectureUnknownError) as caught:
        shape_of({**LLAMA, "architectures": ["\ud800ForCausalLM"]})
    assert caught.value.message.encode()


def test_a_file_with_half_a_character_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**LLAMA, "\ud800": 1}), encoding="utf-8")
    with pytest.raises(ConfigInvalidError, match="half of a character"):
        read_object(file)


def test_infinity_and_nan_and_a_null_quantization_are_read(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    config = {**LLAMA, "time_step_limit": [0.0, float("inf")], "scale": float("nan"), "quantization_config": None}
    file.write_text(json.dumps(config), encoding="utf-8")
    found = read_object(file)
    assert shape_of(found).parameters == shape_of(LLAMA).parameters
    assert scheme_of_files(ModelFiles(str(file), found)) is None
