"""Headers give the tensors that arithmetic gives, whatever a checkpoint is stored as, and win if they differ."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from orchestrator.errors import ConfigInvalidError
from orchestrator.models import ModelShape, shape_of
from orchestrator.models.files import ModelFiles
from orchestrator.models.headers import Stored
from orchestrator.models.shape import Tensor
from orchestrator.models.stored import originals_of
from orchestrator.planner.bytes import checkpoint_bytes, kept_tensors, loaded_bytes, weights_read_per_step
from orchestrator.planner.scheme import Scheme, scheme_of, scheme_of_files
from tests.support.architectures import with_type
from tests.unit.planner.byte_configs import (
    DEEPSEEK_V2,
    GEMMA3,
    GLM,
    LLAMA,
    MIXTRAL,
    NEMOTRON,
    QWEN3_NEXT,
    Config,
)

FAMILIES: dict[str, Config] = {
    "Llama": LLAMA,
    "tied": {**LLAMA, "tie_word_embeddings": True},
    "Mixtral": {**MIXTRAL, "num_hidden_layers": 3},
    "DeepSeek": {**DEEPSEEK_V2, "num_hidden_layers": 3},
    "Gemma": GEMMA3,
    "GLM with layers that propose tokens": {**GLM, "num_hidden_layers": 3},
    "Nemotron": NEMOTRON,
    "Qwen 3 Next": {**QWEN3_NEXT, "num_hidden_layers": 4, "num_experts": 16},
}
BYTES = {"F32": 4, "BF16": 2, "F8_E4M3": 1, "U8": 1}


def headers_of(shape: ModelShape, scheme: Scheme) -> dict[str, Stored]:
    """What the files of a checkpoint would list."""
    return {
        name: Stored(part.dtype, part.shape, 0, math.prod(part.shape) * BYTES[part.dtype])
        for kept in kept_tensors(shape, scheme)
        for name, part in kept.parts
    }


def read(config: Config, scheme: Scheme, **quantization: object) -> ModelFiles:
    declared = quantization or None
    return ModelFiles.of("here", with_type(config), declared, headers_of(shape_of(config), scheme))


@pytest.mark.parametrize("name", FAMILIES)
def test_headers_and_arithmetic_describe_the_same_tensors(name: str) -> None:
    arithmetic = shape_of(FAMILIES[name])
    found = read(FAMILIES[name], scheme_of("bf16")).shape

    def rows(shape: ModelShape) -> list[Tensor]:
        return sorted((replace(tensor, stored=None) for tensor in shape.tensors), key=lambda tensor: tensor.name)

    assert rows(found) == rows(arithmetic)
    assert found.layers == arithmetic.layers


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("format_name", ["nvfp4", "w4a16_nvfp4", "fp8", "int4_awq"])
def test_a_quantized_checkpoint_has_the_parameters_of_its_original_and_its_own_bytes(
    name: str, format_name: str
) -> None:
    arithmetic, scheme = shape_of(FAMILIES[name]), scheme_of(format_name, kv_cache="fp8", kv_scales=True)
    algorithm = {"int4_awq": "W4A16_AWQ"}.get(format_name, format_name.upper())
    files = read(FAMILIES[name], scheme, quantization={"quant_algo": algorithm, "kv_cache_quant_algo": "FP8"})
    declared = scheme_of_files(files)
    assert declared is not None
    assert files.shape.parameters == arithmetic.parameters
    listed = sum(tensor.size for tensor in headers_of(arithmetic, scheme).values())
    assert checkpoint_bytes(files.shape, declared) == listed
    assert listed == pytest.approx(checkpoint_bytes(arithmetic, scheme), rel=1e-8)
    read_per_step = weights_read_per_step(files.shape, declared)
    assert read_per_step == pytest.approx(weights_read_per_step(arithmetic, scheme), rel=1e-4)


def test_headers_win_over_arithmetic() -> None:
    headers = headers_of(shape_of(LLAMA), scheme_of("bf16"))
    headers["model.vision_tower.patch.weight"] = Stored("F16", (100,), 0, 200)
    headers["mtp.fc.weight"] = Stored("BF16", (50, 2), 0, 200)
    found = ModelFiles.of(
        "here", {**LLAMA, "model_type": "another", "architectures": ["NewForCausalLM"]}, None, headers
    )
    assert found.shape.exact
    assert found.shape.stored_parameters == shape_of(LLAMA).parameters + 200
    assert found.shape.parameters == shape_of(LLAMA).parameters + 100
    scheme = replace(scheme_of("bf16"), as_stored=True)
    assert checkpoint_bytes(found.shape, scheme) - loaded_bytes(found.shape, scheme) == 200


def test_what_is_read_is_kept_and_what_is_damaged_is_not_there() -> None:
    files = read(LLAMA, scheme_of("bf16"))
    document = files.to_document()
    again = ModelFiles.from_document(document, "here", "c" * 40)
    assert again is not None
    assert again.weights == files.weights
    several: list[object] = [[], {}, {**document, "config": 1}, {**document, "weights": [["w", [1], "one"]]}]
    for damaged in several:
        assert ModelFiles.from_document(damaged, "here", "c" * 40) is None


@pytest.mark.parametrize(
    "declared",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
        {"quant_method": "compressed-tensors", "config_groups": {"a": {}, "b": {}}},
    ],
)
def test_only_headers_give_the_bytes_of_another_packing(declared: Config) -> None:
    config = {**LLAMA, "quantization_config": declared}
    found = scheme_of_files(
        ModelFiles.of("here", with_type(config), None, headers_of(shape_of(LLAMA), scheme_of("bf16")))
    )
    assert found is not None
    assert found.label == declared["quant_method"].upper()
    with pytest.raises(ConfigInvalidError):
        scheme_of_files(ModelFiles("here", config))


def mixed(*names: str) -> Config:
    layers = {name: {"quant_algo": "NVFP4"} for name in names}
    return {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers}}


def test_a_listed_module_covers_what_is_inside() -> None:
    inside = [f"model.layers.3.block_sparse_moe.experts.{n}.{w}" for n in range(8) for w in ("w1", "w2", "w3")]
    by_parent = scheme_of_files(
        ModelFiles("here", with_type(MIXTRAL), mixed("model.layers.3.block_sparse_moe.experts"))
    )
    by_name = scheme_of_files(ModelFiles("here", with_type(MIXTRAL), mixed(*inside)))
    assert by_parent is not None
    assert by_name is not None
    shape = shape_of(MIXTRAL)
    assert checkpoint_bytes(shape, by_parent) == checkpoint_bytes(shape, by_name)
    assert checkpoint_bytes(shape, by_parent) < checkpoint_bytes(shape, scheme_of("bf16"))


def test_a_listed_module_that_the_model_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigInvalidError, match=r"model\.layers\.99\.mlp: the model has no such module"):
        scheme_of_files(
            ModelFiles("here", with_type(LLAMA), mixed("model.layers.0.mlp.up_proj", "model.layers.99.mlp"))
        )


def test_scales_of_deepseek_v4_count_to_their_weights_and_other_scales_are_parameters() -> None:
    weights = {
        "layers.0.attn.wq_a.weight": Stored("F8_E4M3", (256, 128), 0, 256 * 128),
        "layers.0.attn.wq_a.scale": Stored("F8_E8M0", (2, 1), 0, 2),
        "layers.0.ffn.experts.0.w1.weight": Stored("I8", (64, 64), 0, 64 * 64),
        "layers.0.ffn.experts.0.w1.scale": Stored("F8_E8M0", (64, 4), 0, 64 * 4),
        "layers.0.attn.q_norm.scale": Stored("BF16", (128,), 0, 256),
    }
    found = {tensor.name: (tensor.shape, tensor.stored) for tensor in originals_of(weights)}
    assert found == {
        "layers.0.attn.wq_a.weight": ((256, 128), 256 * 128 + 2),
        "layers.0.ffn.experts.{}.w1.weight": ((64, 128), 64 * 64 + 64 * 4),
        "layers.0.attn.q_norm.scale": ((128,), 256),
    }
