from __future__ import annotations

from math import prod
from typing import Any

import pytest

from orchestrator.errors import RecipeInvalidError
from orchestrator.quantization import layout
from tests.support.architectures import expected_tensors, selected

_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 12,
    "vocab_size": 300,
    "torch_dtype": "bfloat16",
}


def _tensors(**changes: object) -> dict[str, tuple[int, ...]]:
    return {name: spec.shape for name, spec in expected_tensors({**_CONFIG, **changes}).items()}


def _select(*exclude: str) -> layout.Selection:
    return selected(_CONFIG, exclude)


def _summary(*exclude: str) -> list[str]:
    selection = _select(*exclude)
    return layout.exclude_modules(selection.excluded, selection.quantized)


def test_a_llama_has_the_shapes_of_its_configuration() -> None:
    tensors = _tensors()
    assert len(tensors) == 12 * 9 + 3
    assert tensors["model.layers.11.self_attn.q_proj.weight"] == (64, 64)
    assert tensors["model.layers.11.self_attn.k_proj.weight"] == (32, 64)
    assert tensors["model.layers.11.mlp.down_proj.weight"] == (64, 96)
    assert tensors["lm_head.weight"] == tensors["model.embed_tokens.weight"] == (300, 64)


def test_a_head_size_of_its_own_widens_the_attention() -> None:
    tensors = _tensors(head_dim=32)
    assert tensors["model.layers.0.self_attn.q_proj.weight"] == (128, 64)
    assert tensors["model.layers.0.self_attn.o_proj.weight"] == (64, 128)


def test_without_key_heads_every_head_has_its_own() -> None:
    assert _tensors(num_key_value_heads=None)["model.layers.0.self_attn.k_proj.weight"] == (64, 64)


def test_a_tied_head_is_not_stored() -> None:
    assert "lm_head.weight" not in _tensors(tie_word_embeddings=True)


@pytest.mark.parametrize(
    ("architecture", "changes", "extra"),
    [
        ("LlamaForCausalLM", {"attention_bias": True}, ["k_proj.bias", "o_proj.bias", "q_proj.bias", "v_proj.bias"]),
        ("LlamaForCausalLM", {"mlp_bias": True}, ["down_proj.bias", "gate_proj.bias", "up_proj.bias"]),
        ("MistralForCausalLM", {"attention_bias": True}, []),
        ("Qwen2ForCausalLM", {}, ["k_proj.bias", "q_proj.bias", "v_proj.bias"]),
        ("Qwen3ForCausalLM", {}, ["k_norm.weight", "q_norm.weight"]),
    ],
)
def test_architectures_differ_in_biases_and_norms(
    architecture: str, changes: dict[str, object], extra: list[str]
) -> None:
    names = set(_tensors(architectures=[architecture], **changes)) - set(_tensors())
    assert sorted(name.split(".", 4)[-1] for name in names if name.startswith("model.layers.0.")) == extra


@pytest.mark.parametrize(("key", "word"), [("dtype", "float16"), ("torch_dtype", "float16")])
def test_the_stored_type_is_read_under_both_names(key: str, word: str) -> None:
    config = {name: value for name, value in _CONFIG.items() if name != "torch_dtype"}
    assert expected_tensors({**config, key: word})["model.norm.weight"].dtype == "F16"


def test_fused_modules_form_a_group() -> None:
    assert _select().groups[:4] == (
        tuple(f"model.layers.0.self_attn.{name}_proj" for name in "qkv"),
        ("model.layers.0.self_attn.o_proj",),
        ("model.layers.0.mlp.gate_proj", "model.layers.0.mlp.up_proj"),
        ("model.layers.0.mlp.down_proj",),
    )


def test_embedding_and_head_are_never_quantized() -> None:
    assert _summary() == ["lm_head", "model.embed_tokens"]


@pytest.mark.parametrize(
    ("exclude", "summary"),
    [
        # The expected lists are what ModelOpt 0.47 writes for the same exclusions.
        (["model.layers.0.*"], ["model.layers.0*"]),
        (["model.layers.1.*"], ["model.layers.1.*"]),
        (["*.down_proj"], [f"model.layers.{layer}.mlp.down_proj" for layer in range(12)]),
        (["model.layers.3.mlp.*"], ["model.layers.3.mlp*"]),
    ],
)
def test_what_is_excluded_is_summarized_by_the_shortest_prefixes(exclude: list[str], summary: list[str]) -> None:
    assert _summary(*exclude) == sorted(["lm_head", "model.embed_tokens", *summary])


def test_excluding_everything_leaves_nothing_to_quantize() -> None:
    assert _select("*").groups == ()
    assert _summary("*") == ["lm_head", "model*"]


def test_excluding_what_stays_anyway_is_no_mistake() -> None:
    assert _summary("lm_head") == ["lm_head", "model.embed_tokens"]


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(RecipeInvalidError, match=r"'model.layer.0\.\*' matches no linear module") as caught:
        _select("model.layer.0.*")
    assert "model.layers.0.self_attn.q_proj" in caught.value.hint


def test_a_pattern_that_splits_what_engines_fuse_is_refused() -> None:
    with pytest.raises(RecipeInvalidError, match=r"model.layers.0.self_attn.k_proj would stay as it is while the rest"):
        _select("*.0.self_attn.k_proj")


def test_modules_named_together_are_fused_only_below_one_parent() -> None:
    modules = [f"layers.0.experts.{expert}.{name}_proj" for expert in range(2) for name in ("gate", "up")]
    assert layout.fusion_groups(modules) == [tuple(modules[:2]), tuple(modules[2:])]


# --- architectures unlike Llama ---

_HYBRID: dict[str, Any] = {
    **{key: value for key, value in _CONFIG.items() if key != "num_hidden_layers"},
    "architectures": ["NemotronHForCausalLM"],
    "hybrid_override_pattern": "M*-E",
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "n_routed_experts": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
}
_LATENT: dict[str, Any] = {
    **_CONFIG,
    "architectures": ["DeepseekV3ForCausalLM"],
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 32,
}


def _layer(config: dict[str, Any], number: int) -> dict[str, tuple[int, ...]]:
    stack = "backbone" if config is _HYBRID else "model"
    prefix = f"{stack}.layers.{number}."
    specs = expected_tensors(config).values()
    return {spec.name.removeprefix(prefix): spec.shape for spec in specs if spec.name.startswith(prefix)}


def test_letters_say_what_each_layer_of_a_hybrid_is() -> None:
    assert _layer(_HYBRID, 0)["mixer.in_proj.weight"] == (64 + 128 + 4, 64)
    assert _layer(_HYBRID, 0)["mixer.conv1d.weight"] == (128, 1, 4)
    assert _layer(_HYBRID, 1)["mixer.k_proj.weight"] == (32, 64)
    assert _layer(_HYBRID, 2) == {
        "norm.weight": (64,),
        "mixer.up_proj.weight": (96, 64),
        "mixer.down_proj.weight": (64, 96),
    }
    assert _layer(_HYBRID, 3)["mixer.experts.1.up_proj.weight"] == (32, 64)


def test_convolutions_and_routers_stay_as_they_are() -> None:
    selection = selected(_HYBRID)
    assert {"backbone.layers.0.mixer.conv1d", "backbone.layers.3.mixer.gate"} < set(selection.excluded)
    assert {"backbone.layers.0.mixer.in_proj", "backbone.layers.0.mixer.out_proj"} < selection.quantized


def test_a_latent_attention_shares_the_scales_of_its_first_projections() -> None:
    groups = selected(_LATENT).groups
    assert tuple(f"model.layers.0.self_attn.{name}" for name in ("kv_a_proj_with_mqa", "q_a_proj")) in groups
    assert ("model.layers.0.self_attn.q_b_proj",) in groups


@pytest.mark.parametrize("word", ["float32", "float16", "bfloat16"])
def test_no_type_follows_from_a_name(word: str) -> None:
    config = {**_LATENT, "dtype": word}
    assert {spec.dtype for spec in expected_tensors(config).values()} == {layout.declared_type(config)}


def test_what_shares_an_input_may_be_excluded_alone_where_engines_do_not_fuse_it() -> None:
    config = {**_CONFIG, "architectures": ["PhiForCausalLM"], "num_hidden_layers": 1}
    attention = tuple(f"model.layers.0.self_attn.{name}_proj" for name in "qkv")
    assert ("model.layers.0.mlp.fc1", *sorted(attention)) in {tuple(sorted(group)) for group in selected(config).groups}
    assert attention in selected(config, ["*.fc1"]).groups


# Of models that the planner does not count; the others' numbers are checked there, and their tensors against ours.
_PHI_2: dict[str, Any] = {
    "architectures": ["PhiForCausalLM"],
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "vocab_size": 51200,
    "tie_word_embeddings": False,
}
_QWEN_NEXT: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "moe_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "shared_expert_intermediate_size": 512,
    "vocab_size": 151936,
}


@pytest.mark.parametrize(("config", "published"), [(_PHI_2, 2_779_683_840), (_QWEN_NEXT, 79_674_391_296)])
def test_a_real_model_has_as_many_parameters_as_published(config: dict[str, Any], published: int) -> None:
    assert sum(prod(spec.shape) for spec in expected_tensors(config).values()) == published
