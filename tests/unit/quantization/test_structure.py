"""What is read of a model from its configuration and the names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytest

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization import layout, structure
from orchestrator.quantization.structure import Structure
from orchestrator.quantization.tensors import TensorSpec

_CONFIG: dict[str, Any] = {
    "architectures": ["NobodyKnowsForCausalLM"],
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "vocab_size": 320,
}
_LAYER = {
    "mixer.first.weight": (96, 64),
    "mixer.last.weight": (64, 96),
    "mixer.last.bias": (64,),
    "norm.weight": (64,),
}


def _tensors(
    stack: str = "net.blocks",
    embedding: str = "net.wte",
    layers: int = 3,
    more: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> list[TensorSpec]:
    shapes: dict[str, tuple[int, ...]] = {f"{embedding}.weight": (320, 64), "lm_head.weight": (320, 64)}
    for number in range(layers):
        shapes |= {f"{stack}.{number}.{name}": shape for name, shape in _LAYER.items()}
    shapes |= more
    return [TensorSpec(name, "BF16", shape) for name, shape in shapes.items()]


def _read(tensors: list[TensorSpec], **changes: object) -> Structure:
    return structure.read({**_CONFIG, **changes}, tensors)


@pytest.mark.parametrize("stack", ["model.layers", "transformer.h", "backbone.layers", "model.language_model.layers"])
@pytest.mark.parametrize("embedding", ["model.embed_tokens", "transformer.wte", "backbone.embeddings"])
def test_names_of_stack_and_embedding_are_found(stack: str, embedding: str) -> None:
    tensors = _tensors(stack, embedding)
    found = _read(tensors)
    assert (found.stack, found.embedding, found.depth) == (stack, embedding, 3)
    expected = [f"{stack}.{number}.mixer.{name}" for number in range(3) for name in ("first", "last")]
    assert layout.linears(found, tensors) == expected


def test_a_tower_is_not_the_stack_however_large() -> None:
    large = {f"vision_tower.layers.{number}.mlp.weight": (4096, 4096) for number in range(4)}
    tensors = _tensors(more=large)
    found = _read(tensors)
    assert found.stack == "net.blocks"
    assert found.is_tower("vision_tower.layers.0.mlp.weight")
    assert not any("vision" in module for module in layout.linears(found, tensors))


def test_other_numbered_modules_are_not_the_stack_however_large() -> None:
    large = {f"connector.{number}.weight": (4096, 4096) for number in range(2)}
    assert _read(_tensors(more=large)).stack == "net.blocks"


def test_an_embedding_may_have_rows_beyond_the_vocabulary() -> None:
    assert _read(_tensors(), vocab_size=312).embedding == "net.wte"
    with pytest.raises(CheckpointError, match="expected 321 for vocab_size"):
        _read(_tensors(), vocab_size=321)


def test_a_norm_may_hold_linear_modules() -> None:
    tensors = _tensors(more={"net.blocks.0.norm.down.weight": (8, 64)})
    assert "net.blocks.0.norm.down" in layout.linears(_read(tensors), tensors)


def test_of_several_tables_the_one_with_a_row_for_each_token_is_the_embedding() -> None:
    found = _read(_tensors(more={"net.emb.weight": (128, 64)}))
    assert found.embedding == "net.wte"


def test_a_head_that_is_called_an_embedding_is_none() -> None:
    found = _read(_tensors("gpt_neox.layers", "gpt_neox.embed_in", more={"embed_out.weight": (320, 64)}))
    assert found.embedding == "gpt_neox.embed_in"


def test_an_embedding_of_another_name_is_found_by_its_rows() -> None:
    tensors = _tensors("transformer.h", "transformer.w", more={"transformer.positions.weight": (128, 64)})
    assert _read(tensors).embedding == "transformer.w"


def test_a_larger_tower_of_any_name_is_not_the_stack() -> None:
    large = {f"model.sam.blocks.{number}.mlp.weight": (4096, 64) for number in range(3)}
    found = _read(_tensors("model.layers", "model.embed_tokens", more=large))
    assert (found.stack, found.hidden) == ("model.layers", 64)


def test_experts_in_one_tensor_are_found_whatever_their_names() -> None:
    experts = {f"net.blocks.0.moe.{name}.weight": (4, 96, 64) for name in ("input_linear", "output_linear")}
    others = {"net.blocks.0.conv.weight": (64, 1, 4), "vision_tower.table": (4, 8, 8), "net.blocks.0.bias": (4, 8, 8)}
    assert layout.gathered_experts(_tensors(more={**experts, **others})) == list(experts)


def test_the_language_model_of_a_multimodal_configuration_counts() -> None:
    config = {"architectures": ["AnyForConditionalGeneration"], "num_hidden_layers": 99}
    text = {key: value for key, value in _CONFIG.items() if key != "architectures"}
    found = structure.read({**config, "text_config": {**text, "tie_word_embeddings": True}}, _tensors())
    assert (found.depth, found.tied) == (3, True)


def test_layers_beyond_the_declared_depth_predict_further() -> None:
    found = _read(_tensors(layers=4))
    assert found.layer_of("net.blocks.2.norm.weight") == 2
    assert found.layer_of("net.blocks.3.norm.weight") is None
    assert found.is_further("net.blocks.3.norm.weight")
    assert found.is_further("mtp.0.proj.weight")
    assert not found.is_further("lm_head.weight")


@pytest.mark.parametrize("kinds", ["M*E-", ["mamba", "moe", "mamba", "moe"]])
def test_a_list_of_kinds_counts_layers(kinds: object) -> None:
    changes = {"num_hidden_layers": None, "hybrid_override_pattern": kinds}
    assert _read(_tensors(layers=4), **changes).depth == 4
    assert _read(_tensors(layers=4), num_hidden_layers=None).depth == 4


@pytest.mark.parametrize("tied", [True, False])
def test_a_stored_head_is_redundant_only_if_it_is_tied(tied: bool) -> None:
    found = _read(_tensors(), tie_word_embeddings=tied)
    assert found.is_redundant("lm_head.weight") is tied
    assert found.is_redundant("net.blocks.0.mixer.rotary_emb.inv_freq")


def test_layers_that_are_missing_are_named() -> None:
    tensors = [spec for spec in _tensors() if not spec.name.startswith("net.blocks.1.")]
    with pytest.raises(CheckpointError, match=r"net\.blocks\.1 is missing; config.json asks for 3 layers"):
        _read(tensors)
    with pytest.raises(CheckpointError, match=r"net\.blocks\.3 is missing; config.json asks for 80 layers"):
        _read(_tensors(), num_hidden_layers=80)


def test_a_model_without_numbered_layers_is_refused_by_name() -> None:
    with pytest.raises(ModelUnsupportedError, match="NobodyKnowsForCausalLM: no tensor is in a numbered layer"):
        _read([TensorSpec("model.weight", "BF16", (2, 2))])


def test_a_model_without_embedding_is_refused_by_name() -> None:
    tensors = [spec for spec in _tensors() if "wte" not in spec.name]
    with pytest.raises(ModelUnsupportedError, match="NobodyKnowsForCausalLM: found no embedding"):
        _read(tensors)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": []}, "architectures: found"),
        ({"architectures": "LlamaForCausalLM"}, "architectures: found"),
        ({"architectures": [1]}, "architectures: found"),
        ({"hidden_size": 0}, "hidden_size: found 0"),
        ({"hidden_size": 32}, r"net.wte.weight: found shape \[320, 64\], expected 32 for hidden_size of config.json"),
        ({"vocab_size": "300"}, "vocab_size: found '300'"),
        ({"num_hidden_layers": True}, "num_hidden_layers: found True"),
        ({"hybrid_override_pattern": 7}, "hybrid_override_pattern: found 7"),
        ({"layers_block_type": 7}, "layers_block_type: found 7"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        _read(_tensors(), **changes)


# --- what shares a scale ---


def test_one_norm_lets_attention_and_mlp_share() -> None:
    modules = ["net.0.self_attn.q_proj", "net.0.self_attn.k_proj", "net.0.mlp.gate_proj", "net.0.mlp.down_proj"]
    together = layout.sharing_groups(modules, {"net.0"})
    assert together == [tuple(modules[:3]), (modules[3],)]
    assert layout.sharing_groups(modules) == [tuple(modules[:2]), (modules[2],), (modules[3],)]


def test_what_attention_reads_is_told_by_names_and_shapes_if_the_model_does_not_run() -> None:
    attention = {
        **dict.fromkeys(["self.query", "self.key", "gate_proj", "indexer.wk", "q_proj.linear"], (32, 64)),
        **dict.fromkeys(["o_proj", "output.dense", "o_proj.linear"], (64, 64)),
        **dict.fromkeys(["q_b_proj", "indexer.wq_b"], (64, 48)),
        "kv_b_proj": (64, 32),
    }
    others = {"encoder_attn.q_proj": (64, 64), "mlp.c_fc_0": (96, 64), "mlp.c_fc_1": (96, 64), "mlp.c_proj": (64, 96)}
    shapes = {f"net.blocks.0.self_attn.{name}.weight": shape for name, shape in attention.items()}
    shapes |= {f"net.blocks.0.{name}.weight": shape for name, shape in others.items()}
    weights = [TensorSpec(name, "BF16", shape) for name, shape in shapes.items()]
    modules = [weight.name.removesuffix(".weight") for weight in weights]
    alike = layout.named_alike(_read(_tensors()), weights, modules)
    together = [group for group in layout.sharing_groups(modules, (), alike) if len(group) > 1]
    assert [[module.removeprefix("net.blocks.0.") for module in group] for group in together] == [
        [f"self_attn.{name}" for name in ("self.query", "self.key", "gate_proj", "indexer.wk", "q_proj.linear")],
        ["self_attn.q_b_proj", "self_attn.indexer.wq_b"],
        ["mlp.c_fc_0", "mlp.c_fc_1"],
    ]


def test_branches_of_a_recurrent_block_share_and_modules_with_mixtures_of_their_own_do_not() -> None:
    shapes: dict[str, tuple[int, ...]] = {
        f"temporal_block.linear_{name}.weight": (64, 64) for name in ("x", "y", "out")
    }
    shapes |= {f"attention.{name}.weight": (64, 64) for name in ("key", "value", "receptance", "output")}
    shapes |= {f"attention.time_mix_{name}": (1, 1, 64) for name in ("key", "value", "receptance")}
    tensors = [TensorSpec(f"net.blocks.0.{name}", "BF16", shape) for name, shape in shapes.items()]
    modules = [spec.name.removesuffix(".weight") for spec in tensors if len(spec.shape) == 2]
    alike = layout.named_alike(_read(_tensors()), tensors, modules)
    together = [group for group in layout.sharing_groups(modules, (), alike) if len(group) > 1]
    assert together == [("net.blocks.0.temporal_block.linear_x", "net.blocks.0.temporal_block.linear_y")]


def test_an_mlp_beside_attention_with_one_norm_shares_with_what_attention_reads() -> None:
    weights = [TensorSpec(f"net.blocks.0.{name}.weight", "BF16", (96, 64)) for name in ("attn.qkv_proj", "mlp.fc_in")]
    modules = [weight.name.removesuffix(".weight") for weight in weights]
    alike = layout.named_alike(_read(_tensors()), weights, modules)
    assert layout.sharing_groups(modules, {"net.blocks.0"}, alike) == [tuple(modules)]


def test_modules_that_get_the_same_tensor_are_joined_in_order() -> None:
    units = [("a", "b"), ("c",), ("d",), ("e",)]
    assert layout.joined(units, {"d": "b"}) == [("a", "b", "d"), ("c",), ("e",)]
    assert layout.joined(units, {"e": "c", "d": "x"}) == [("a", "b"), ("c", "e"), ("d",)]
    assert layout.joined(units, {}) == units


@pytest.mark.parametrize("name", ["mlp.gate", "mixer.gate", "block_sparse_moe.gate", "router", "mixer.conv1d"])
def test_routers_and_convolutions_stay_whatever_the_family(name: str) -> None:
    shape = (4, 64)
    tensors = [*_tensors(), TensorSpec(f"net.blocks.0.{name}.weight", "BF16", shape)]
    assert f"net.blocks.0.{name}" not in layout.linears(_read(tensors), tensors)
