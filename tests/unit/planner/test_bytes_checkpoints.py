"""Bytes of checkpoints: as the quantizer writes them, and as published ones declare them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator.catalog.models import find_model
from orchestrator.models import shape_of
from orchestrator.payloads import generate, quantize
from orchestrator.planner.bytes import checkpoint_bytes, loaded_bytes, stored_tensors, weights_read_per_step
from orchestrator.planner.files import file_bytes
from orchestrator.planner.scheme import Scheme, scheme_of, scheme_of_quant_config
from orchestrator.quantization.checkpoint import Checkpoint
from tests.unit.planner.byte_configs import DEEPSEEK_V2, GLM, LLAMA, MIXTRAL, Config

TINY: Config = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 256,
    "intermediate_size": 512,
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
    "vocab_size": 1024,
}


def made(folder: Path, *options: str, tied: bool = False, layers: int = 4) -> Path:
    """Make the tiny model and quantize it."""
    source, output = folder / "source", folder / "output"
    extra = ["--tie-word-embeddings"] if tied else []
    generate.main(["--output", str(source), "--layers", str(layers), *extra])
    quantize.main(["--checkpoint", str(source), "--output", str(output), *options])
    return output


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_the_tiny_recipe_s_checkpoint_has_exactly_the_predicted_bytes(tmp_path: Path) -> None:
    assert bytes_of(made(tmp_path)) == file_bytes(shape_of(TINY), scheme_of("w4a16_nvfp4"))


@pytest.mark.parametrize("exclude", [("model.layers.0.*",), ("*.self_attn.*", "*.layers.3.mlp.*")])
def test_excluded_modules_stay_as_they_are_in_the_prediction_too(tmp_path: Path, exclude: Sequence[str]) -> None:
    options = [word for pattern in exclude for word in ("--exclude", pattern)]
    predicted = file_bytes(shape_of(TINY), scheme_of("w4a16_nvfp4", exclude=tuple(exclude)))
    assert bytes_of(made(tmp_path, *options)) == predicted


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    shape = shape_of({**TINY, "tie_word_embeddings": True})
    assert bytes_of(made(tmp_path, tied=True)) == file_bytes(shape, scheme_of("w4a16_nvfp4"))


def test_several_files_have_the_predicted_bytes_together(tmp_path: Path) -> None:
    shape = shape_of({**TINY, "num_hidden_layers": 12})
    output = made(tmp_path, "--shard-bytes", "700000", layers=12)
    assert len(list(output.glob("*.safetensors"))) > 3
    assert bytes_of(output) == file_bytes(shape, scheme_of("w4a16_nvfp4"), 700_000)


def test_every_tensor_has_the_predicted_name_type_and_shape(tmp_path: Path) -> None:
    output = made(tmp_path)
    found = {tensor.name: (tensor.dtype, tensor.shape) for tensor in Checkpoint.open(output).tensors.values()}
    predicted = stored_tensors(shape_of(TINY), scheme_of("w4a16_nvfp4"))
    assert found == {name: (part.dtype, part.shape) for name, part in predicted}


def test_the_checkpoint_s_own_declaration_predicts_the_same_bytes(tmp_path: Path) -> None:
    output = made(tmp_path, "--exclude", "model.layers.1.mlp.*")
    config = json.loads((output / "config.json").read_bytes())
    declared = scheme_of_quant_config(json.loads((output / "hf_quant_config.json").read_bytes()))
    inside = scheme_of_quant_config(config["quantization_config"])
    assert bytes_of(output) == file_bytes(shape_of(config), declared) == file_bytes(shape_of(config), inside)


@pytest.mark.parametrize(
    ("format_name", "per_weight", "scalars"),
    [
        ("bf16", 2, 0),
        ("fp8", 1, 8),
        ("nvfp4", 0.5 + 1 / 16, 8),
        ("w4a16_nvfp4", 0.5 + 1 / 16, 4),
        ("mxfp4", 0.5 + 1 / 32, 0),
        ("fp8_block_scale", 1 + 4 / 128**2, 0),
    ],
)
def test_each_format_spends_its_bits_and_scales_on_the_linears(
    format_name: str, per_weight: float, scalars: int
) -> None:
    linear = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    rest = 2 * (8_030_261_248 - linear)
    expected = rest + linear * per_weight + 32 * 7 * scalars
    assert checkpoint_bytes(shape_of(LLAMA), scheme_of(format_name)) == expected


def test_gpt_oss_has_the_bytes_of_its_published_index() -> None:
    for repo, total in {"openai/gpt-oss-120b": 65_248_815_744, "openai/gpt-oss-20b": 13_761_264_768}.items():
        entry = find_model(repo)
        assert entry is not None
        assert entry.quantization is not None
        scheme = scheme_of_quant_config(entry.quantization)
        assert checkpoint_bytes(shape_of(entry.config), scheme) == total


def test_the_scales_of_the_cache_are_two_numbers_per_layer() -> None:
    shape = shape_of(LLAMA)
    with_scales = scheme_of("nvfp4", kv_cache="fp8", kv_scales=True)
    assert checkpoint_bytes(shape, with_scales) - checkpoint_bytes(shape, scheme_of("nvfp4")) == 32 * 8


def modelopt(algorithm: str, **more: object) -> Scheme:
    return scheme_of_quant_config({"quantization": {"quant_algo": algorithm, **more}})


def test_an_excluded_parent_excludes_what_is_inside() -> None:
    shape = shape_of(LLAMA)
    attention = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    plain = modelopt("FP8", exclude_modules=["lm_head"])
    for pattern in ("model.layers.*.self_attn", "model.layers.*.self_attn.*", "*self_attn*"):
        spared = modelopt("FP8", exclude_modules=["lm_head", pattern])
        assert checkpoint_bytes(shape, spared) - checkpoint_bytes(shape, plain) == attention - 4 * 32 * 8


def test_a_list_that_leaves_the_head_out_quantizes_it() -> None:
    shape = shape_of(LLAMA)
    head = 128256 * 4096
    listed, unlisted = modelopt("FP8", exclude_modules=["lm_head"]), modelopt("FP8", exclude_modules=[])
    assert checkpoint_bytes(shape, listed) - checkpoint_bytes(shape, unlisted) == head - 8


def test_layer_1_is_not_layer_10() -> None:
    shape = shape_of(LLAMA)
    one = modelopt("FP8", exclude_modules=["lm_head", "model.layers.1.mlp.down_proj"])
    prefix = modelopt("FP8", exclude_modules=["lm_head", "model.layers.1*"])
    assert checkpoint_bytes(shape, one) < checkpoint_bytes(shape, prefix)


def test_single_experts_can_be_excluded() -> None:
    shape = shape_of(MIXTRAL)
    expert = 4096 * 14336
    without = modelopt("FP8", exclude_modules=["lm_head"])
    with_one = modelopt("FP8", exclude_modules=["lm_head", "model.layers.3.block_sparse_moe.experts.5.w1"])
    assert checkpoint_bytes(shape, with_one) - checkpoint_bytes(shape, without) == expert - 8


def test_mixed_precision_quantizes_only_what_it_lists() -> None:
    shape = shape_of(LLAMA)
    layers = {
        "model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4", "group_size": 16},
        "model.layers.*.self_attn.o_proj": {"quant_algo": "FP8"},
    }
    scheme = modelopt("MIXED_PRECISION", quantized_layers=layers)
    down, out = 4096 * 14336, 4096 * 4096
    saved = down * 2 - (down // 2 + down // 16 + 8) + 32 * (out - 8)
    assert checkpoint_bytes(shape, scheme_of("bf16")) - checkpoint_bytes(shape, scheme) == saved


def test_routers_and_latent_gates_stay_as_they_are() -> None:
    names = dict(stored_tensors(shape_of(MIXTRAL), scheme_of("nvfp4")))
    assert names["model.layers.0.block_sparse_moe.gate.weight"].dtype == "BF16"
    assert names["model.layers.0.block_sparse_moe.experts.7.w2.weight"].dtype == "U8"
    assert names["lm_head.weight"].dtype == "BF16"
    deepseek = dict(stored_tensors(shape_of(DEEPSEEK_V2), scheme_of("fp8_block_scale")))
    assert deepseek["model.layers.1.mlp.gate.weight"].dtype == "BF16"
    assert "model.layers.1.self_attn.kv_b_proj.weight_scale_inv" in deepseek


def test_publishers_quantize_the_layer_that_proposes_tokens_and_modelopt_does_not() -> None:
    shape = shape_of(GLM)
    proposing = f"model.layers.{len(shape.layers)}.self_attn.q_proj.weight"
    stored = {name: dict(stored_tensors(shape, scheme_of(name))) for name in ("fp8_block_scale", "fp8")}
    assert stored["fp8_block_scale"][proposing].dtype == "F8_E4M3"
    assert stored["fp8"][proposing].dtype == "BF16"
    assert stored["fp8"][proposing.replace(str(len(shape.layers)), "0")].dtype == "F8_E4M3"
    assert {each["lm_head.weight"].dtype for each in stored.values()} == {"BF16"}


def test_a_batch_reads_the_expected_number_of_experts() -> None:
    shape = shape_of(MIXTRAL)
    experts = 32 * 8 * 3 * 4096 * 14336 * 2
    rest = weights_read_per_step(shape, scheme_of("bf16")) - experts / 4
    embedding = 4096 * 2
    for batch in (1, 4, 64):
        distinct = experts * (1 - (1 - 2 / 8) ** batch)
        found = weights_read_per_step(shape, scheme_of("bf16"), batch)
        assert found == pytest.approx(rest + distinct + (batch - 1) * embedding, rel=1e-6)


def test_a_dense_model_is_read_once_whatever_the_batch() -> None:
    shape = shape_of(LLAMA)
    one, many = (weights_read_per_step(shape, scheme_of("fp8"), batch) for batch in (1, 64))
    assert many - one == pytest.approx(63 * 4096 * 2, rel=0.01)
    assert many < loaded_bytes(shape, scheme_of("fp8"))


@pytest.mark.parametrize(
    ("repo", "format_name", "published"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "q4_k_m", 4.9207e9),
        ("meta-llama/Llama-3.1-8B-Instruct", "q8_0", 8.5408e9),
        ("meta-llama/Llama-3.3-70B-Instruct", "q4_k_m", 42.520e9),
        ("Qwen/Qwen3-30B-A3B", "q8_0", 32.48e9),
        ("openai/gpt-oss-20b", "gguf_mxfp4", 12.11e9),
        ("openai/gpt-oss-120b", "gguf_mxfp4", 63.39e9),
    ],
)
def test_gguf_files_are_as_large_as_published_but_for_their_vocabulary(
    repo: str, format_name: str, published: float
) -> None:
    entry = find_model(repo)
    assert entry is not None
    assert checkpoint_bytes(shape_of(entry.config), scheme_of(format_name)) == pytest.approx(published, rel=0.002)


@pytest.mark.parametrize(
    ("weights", "activations", "algorithm"),
    [
        ({"num_bits": 4, "type": "float", "group_size": 16}, {"num_bits": 4}, "NVFP4"),
        ({"num_bits": 4, "type": "float", "group_size": 16}, None, "W4A16_NVFP4"),
        ({"num_bits": 4, "type": "float", "group_size": 32}, None, "MXFP4"),
        ({"num_bits": 8, "type": "float", "strategy": "tensor"}, {"num_bits": 8}, "FP8"),
        ({"num_bits": 8, "type": "float", "strategy": "block"}, {"num_bits": 8}, "FP8_BLOCK"),
        ({"num_bits": 4, "type": "int", "group_size": 128}, None, "INT4_AWQ"),
    ],
)
def test_what_llm_compressor_declares_is_understood(
    weights: Config, activations: Config | None, algorithm: str
) -> None:
    group = {"weights": weights, "input_activations": activations, "targets": ["Linear"]}
    document = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head", "re:.*self_attn.*"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }
    scheme = scheme_of_quant_config(document)
    assert scheme.algorithm == algorithm
    assert scheme.kv_cache == "fp8"
    names = dict(stored_tensors(shape_of(LLAMA), scheme))
    assert names["model.layers.0.self_attn.q_proj.weight"].dtype == "BF16"
    assert any(
        name.startswith("model.layers.0.mlp.up_proj.weight") and part.dtype != "BF16" for name, part in names.items()
    )


@pytest.mark.parametrize(
    ("declared", "algorithm"),
    [
        ("FP8", "FP8"),
        ("FP8_PB_WO", "FP8_BLOCK"),
        ("NVFP4", "NVFP4"),
        ("W4A16_NVFP4", "W4A16_NVFP4"),
        ("MXFP4", "MXFP4"),
        ("W4A16_AWQ", "INT4_AWQ"),
    ],
)
def test_names_of_modelopt_are_known(declared: str, algorithm: str) -> None:
    assert scheme_of_quant_config({"quantization": {"quant_algo": declared}}).algorithm == algorithm
