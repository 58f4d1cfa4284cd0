"""Configurations of tiny models follow from the names of fields."""

from __future__ import annotations

from tests.families.tiny import LAYERS, shrunk


def test_sizes_are_shrunk_and_other_fields_stay() -> None:
    small = shrunk("any", {"hidden_size": 4096, "head_dim": None, "hidden_act": "silu", "model_type": "any"})
    assert small == {"hidden_size": 64, "head_dim": 16, "hidden_act": "silu"}


def test_each_kind_of_layer_stays_in_the_fewer_layers() -> None:
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    small = shrunk("any", {"num_hidden_layers": 48, "layer_types": kinds * 12})
    assert small == {"num_hidden_layers": LAYERS, "layer_types": ["linear_attention", "full_attention"] * 2}


def test_a_tower_gets_sizes_of_its_own() -> None:
    small = shrunk("any", {"vision_config": {"hidden_size": 1024}, "text_config": {"hidden_size": 4096}})
    assert small == {"vision_config": {"hidden_size": 32}, "text_config": {"hidden_size": 64}}


def test_a_latent_has_as_many_heads_of_keys_as_of_queries() -> None:
    small = shrunk("any", {"kv_lora_rank": 512, "num_attention_heads": 128, "num_key_value_heads": 8})
    assert small["num_key_value_heads"] == small["num_attention_heads"]


def test_the_rotation_of_a_model_of_images_is_divided_among_three_directions() -> None:
    text = {"rope_parameters": {"rope_theta": 1e6}}
    small = shrunk("any", {"vision_config": {}, "text_config": text})
    assert small["text_config"]["rope_parameters"]["mrope_section"] == [2, 3, 3]
    assert "mrope_section" not in text["rope_parameters"]


def test_what_names_do_not_tell_is_in_the_list_of_fields() -> None:
    assert shrunk("zaya", {"num_experts_per_tok": 1}) == {"num_experts_per_tok": 1}
