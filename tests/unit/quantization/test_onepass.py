from __future__ import annotations

import json
import resource
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import CheckpointError, RecipeInvalidError
from orchestrator.events import Event, Progress
from orchestrator.models.weight_files import INDEX
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import nvfp4
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.plan import Plan, scheme_named
from tests.support.architectures import expected_tensors

Save = Callable[..., Path]

_MLP = "model.layers.0.mlp"


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_weight_becomes_three_tensors_and_everything_else_stays(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "out")
    before, after = Checkpoint.open(tiny), Checkpoint.open(tmp_path / "out")
    described = {name.removeprefix(_MLP): (t.dtype, t.shape) for name, t in after.tensors.items() if _MLP in name}
    assert {name: value for name, value in described.items() if "down" in name} == {
        ".down_proj.weight": ("U8", (64, 48)),
        ".down_proj.weight_scale": ("F8_E4M3", (64, 6)),
        ".down_proj.weight_scale_2": ("F32", ()),
    }
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        assert after.read(name).tobytes() == before.read(name).tobytes()


def test_the_bytes_are_those_of_the_format(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "out", chunk_bytes=1000)
    before, after = Checkpoint.open(tiny), Checkpoint.open(tmp_path / "out")
    weight = before.read(f"{_MLP}.down_proj.weight")
    scale_2 = nvfp4.tensor_scale(float(np.abs(weight.astype(np.float32)).max()))
    expected = nvfp4.encode(weight, scale_2)
    assert after.read(f"{_MLP}.down_proj.weight_scale_2") == scale_2
    assert after.read(f"{_MLP}.down_proj.weight").tobytes() == expected.codes.tobytes()
    assert after.read(f"{_MLP}.down_proj.weight_scale").tobytes() == expected.scales.tobytes()


def test_fused_modules_share_the_scale_of_the_largest(altered: Callable[..., Path], tmp_path: Path) -> None:
    large = np.full((32, 64), 8, ml_dtypes.bfloat16)
    quantize_checkpoint(altered({"model.layers.0.self_attn.v_proj.weight": large}), tmp_path / "out")
    after = Checkpoint.open(tmp_path / "out")
    scales = {name: float(after.read(f"model.layers.0.self_attn.{name}_proj.weight_scale_2")) for name in "qkvo"}
    assert scales["q"] == scales["k"] == scales["v"] == nvfp4.tensor_scale(8)
    assert scales["o"] < scales["q"]


def test_neither_chunks_nor_repetition_change_a_byte(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "once")
    quantize_checkpoint(tiny, tmp_path / "again")
    quantize_checkpoint(tiny, tmp_path / "by row", chunk_bytes=1)
    assert _files(tmp_path / "once") == _files(tmp_path / "again") == _files(tmp_path / "by row")


def test_the_largest_group_that_is_kept_leaves_buffers_for_its_result(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "once")
    pieces = 11 * 64 * 2  # bytes of 11 rows: the 64, 32 and 32 rows of q, k and v are 6, 3 and 3 pieces
    quantize_checkpoint(tiny, tmp_path / "pieces", chunk_bytes=pieces)
    assert _files(tmp_path / "once") == _files(tmp_path / "pieces")


def test_shards_hold_the_same_tensors_as_one_file(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "one")
    quantize_checkpoint(tiny, tmp_path / "many", shard_bytes=20_000)
    one, many = Checkpoint.open(tmp_path / "one"), Checkpoint.open(tmp_path / "many")
    assert (tmp_path / "many" / INDEX).is_file()
    assert not (tmp_path / "one" / INDEX).exists()
    assert {n: one.read(n).tobytes() for n in one.tensors} == {n: many.read(n).tobytes() for n in many.tensors}


def test_memory_does_not_grow_with_a_tensor(save: Save, tmp_path: Path, numbers: np.random.Generator) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 300}
    peaks = []
    for rows in (1 << 15, 1 << 17):
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", **sizes}
        config["intermediate_size"] = rows
        folder = save(_model(config, numbers), name=f"model {rows}")
        write_json(folder / "config.json", config)
        tracemalloc.start()
        quantize_checkpoint(folder, tmp_path / f"out {rows}", chunk_bytes=300_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The weights are 4 and 16 MiB; the buffers and what encoding takes are the same for both.
    assert max(peaks) < 10_000_000
    assert peaks[1] < peaks[0] * 1.1


def test_a_disk_that_takes_no_more_ends_the_pass(tiny: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            quantize_checkpoint(tiny, tmp_path / "out", chunk_bytes=1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.suffix for path in (tmp_path / "out").iterdir()] == [".part"]


def _model(config: dict[str, Any], numbers: np.random.Generator) -> dict[str, NDArray[Any]]:

    return {
        name: numbers.standard_normal(spec.shape, np.float32).astype(ml_dtypes.bfloat16)
        for name, spec in expected_tensors(config).items()
    }


def test_progress_grows_to_its_total(tiny: Path, tmp_path: Path) -> None:
    progress: list[Progress] = []

    def observe(event: Event) -> None:
        assert isinstance(event, Progress)
        progress.append(event)

    quantize_checkpoint(tiny, tmp_path / "out", observer=observe)
    assert [event.done for event in progress] == sorted(event.done for event in progress)
    assert progress[-1].done == progress[-1].total
    assert {event.unit for event in progress} == {"bytes"}


def test_both_configurations_say_what_was_done(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "out", exclude=["model.layers.1.*"])
    config = read_json(tmp_path / "out" / "config.json")
    quantization = config.pop("quantization_config")
    assert config == read_json(tiny / "config.json")
    excluded = ["lm_head", "model.embed_tokens", "model.layers.1*"]
    assert quantization == {
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"dynamic": False, "group_size": 16, "num_bits": 4, "type": "float"},
            }
        },
        "group_size": 16,
        "ignore": excluded,
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quant_algo": "W4A16_NVFP4",
        "quant_method": "modelopt",
    }
    assert read_json(tmp_path / "out" / "hf_quant_config.json") == {
        "producer": {"name": "modelopt", "version": "0.47.0"},
        "quantization": {
            "exclude_modules": excluded,
            "group_size": 16,
            "kv_cache_quant_algo": None,
            "quant_algo": "W4A16_NVFP4",
        },
    }


def test_an_excluded_module_stays_as_it_is(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "out", exclude=["model.layers.1.*"])
    before, after = Checkpoint.open(tiny), Checkpoint.open(tmp_path / "out")
    layer = [name for name in after.tensors if name.startswith("model.layers.1.")]
    assert len(layer) == 9
    assert all(after.read(name).tobytes() == before.read(name).tobytes() for name in layer)


def test_tokenizer_template_and_licence_travel_with_the_weights(tiny: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tiny, tmp_path / "source"))
    also = ("chat_template.jinja", "LICENSE.txt", "merges.txt", "words.tiktoken", "modeling_own.py")
    for name in (*also, "training_args.bin", "convert.py"):
        (source / name).write_text(name)
    quantize_checkpoint(source, tmp_path / "out")
    copied = {name for name, data in _files(tmp_path / "out").items() if data == _files(source).get(name)}
    assert copied == {
        "LICENSE.txt",
        "chat_template.jinja",
        "generation_config.json",
        "merges.txt",
        "modeling_own.py",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "words.tiktoken",
    }


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("declared", ["bfloat16", None])
def test_other_floating_point_weights_are_quantized_as_the_configuration_says_and_kept_as_they_are(
    altered: Callable[..., Path],
    tmp_path: Path,
    kind: type[np.generic],
    numbers: np.random.Generator,
    declared: str | None,
) -> None:
    weight = numbers.standard_normal((64, 96)).astype(kind)
    changes = {f"{_MLP}.down_proj.weight": weight, "model.norm.weight": np.linspace(0, 1, 64, dtype=kind)}
    quantize_checkpoint(altered(changes, torch_dtype=declared), tmp_path / "out")
    after = Checkpoint.open(tmp_path / "out")
    scale_2 = np.float32(after.read(f"{_MLP}.down_proj.weight_scale_2"))
    expected = weight.astype(ml_dtypes.bfloat16) if declared else weight
    assert after.read(f"{_MLP}.down_proj.weight").tobytes() == nvfp4.encode(expected, scale_2).codes.tobytes()
    assert after.read("model.norm.weight").tobytes() == changes["model.norm.weight"].tobytes()
    assert after.read("model.norm.weight").dtype == kind


_STORED_OTHERWISE = {
    "LlamaForCausalLM": ("model.layers.1.input_layernorm.weight", "model.embed_tokens.weight", "lm_head.weight"),
    "MixtralForCausalLM": ("model.layers.0.block_sparse_moe.gate.weight",),
    "Qwen2ForCausalLM": ("model.layers.0.self_attn.q_proj.bias", "model.norm.weight"),
    "DeepseekV3ForCausalLM": ("model.layers.0.mlp.gate.weight", "model.layers.1.mlp.gate.e_score_correction_bias"),
}


_TYPES = {
    "LlamaForCausalLM": "llama",
    "MixtralForCausalLM": "mixtral",
    "Qwen2ForCausalLM": "qwen2",
    "DeepseekV3ForCausalLM": "deepseek_v3",
}


@pytest.mark.parametrize("kind", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("architecture", _STORED_OTHERWISE)
def test_what_is_not_quantized_keeps_the_type_that_is_stored(
    save: Save, tmp_path: Path, numbers: np.random.Generator, architecture: str, kind: type[np.generic]
) -> None:
    config = {**_SIZES, "architectures": [architecture], "model_type": _TYPES[architecture]}
    stored = _model(config, numbers)
    stored |= {name: stored[name].astype(kind) * kind(1.001) for name in _STORED_OTHERWISE[architecture]}
    source = save(stored)
    write_json(source / "config.json", config)
    quantize_checkpoint(source, tmp_path / "out")
    after = Checkpoint.open(tmp_path / "out")
    copied = {name for name in stored if f"{name}_scale" not in after.tensors}
    assert copied > set(_STORED_OTHERWISE[architecture])
    assert {name: (after.read(name).dtype, after.read(name).tobytes()) for name in copied} == {
        name: (stored[name].dtype, stored[name].tobytes()) for name in copied
    }


_SIZES: dict[str, Any] = {
    "torch_dtype": "bfloat16",
    "hidden_size": 64,
    "intermediate_size": 64,
    "moe_intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 32,
    "num_local_experts": 2,
    "n_routed_experts": 2,
    "n_shared_experts": 1,
    "num_experts_per_tok": 1,
    "first_k_dense_replace": 0,
    "moe_layer_freq": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_named_with_its_row(
    altered: Callable[..., Path], tmp_path: Path, bad: float
) -> None:
    weight = np.ones((64, 96), ml_dtypes.bfloat16)
    weight[37, 5] = bad
    with pytest.raises(CheckpointError, match=rf"{_MLP}.down_proj.weight: found (nan|inf) in row 37"):
        quantize_checkpoint(altered({f"{_MLP}.down_proj.weight": weight}), tmp_path / "out", chunk_bytes=1000)


def test_a_weight_of_zeros_does_not_become_nan(altered: Callable[..., Path], tmp_path: Path) -> None:
    zeros = np.zeros((64, 96), ml_dtypes.bfloat16)
    quantize_checkpoint(altered({f"{_MLP}.down_proj.weight": zeros}), tmp_path / "out")
    after = Checkpoint.open(tmp_path / "out")
    assert float(after.read(f"{_MLP}.down_proj.weight_scale_2")) == 1
    assert set(after.read(f"{_MLP}.down_proj.weight_scale").tobytes()) == {0x38}
    assert not after.read(f"{_MLP}.down_proj.weight").any()


def test_a_head_that_is_stored_although_it_is_tied_is_left_out(
    tiny: Path, altered: Callable[..., Path], tmp_path: Path
) -> None:
    repeated = {
        "lm_head.weight": Checkpoint.open(tiny).read("model.embed_tokens.weight"),
        "model.layers.0.self_attn.rotary_emb.inv_freq": (1e4 ** -(np.arange(16) / 16)).astype(np.float32),
    }
    quantize_checkpoint(altered(repeated, tie_word_embeddings=True), tmp_path / "out")
    names = Checkpoint.open(tmp_path / "out").tensors
    assert "lm_head.weight" not in names
    assert not any("inv_freq" in name for name in names)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"model.embed_tokens.weight": None}, "LlamaForCausalLM: found no embedding"),
        ({"model.embed_tokens.weight": np.ones((261, 63), np.float32)}, r"shape \[261, 63\], expected 64 for hidden_"),
        (
            {"model.layers.0.mlp.experts.up_proj": np.ones((2, 96, 64), np.float32)},
            r"all experts of a layer in one tensor, which onepass cannot split",
        ),
        (
            {f"{_MLP}.up_proj.weight": np.ones((96, 64), np.uint8)},
            r"up_proj.weight U8 .*, expected one of BF16",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_its_configuration_is_refused(
    altered: Callable[..., Path], tmp_path: Path, tensors: dict[str, NDArray[Any]], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        quantize_checkpoint(altered(tensors), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inputs_that_are_not_whole_blocks_are_refused(altered: Callable[..., Path], tmp_path: Path) -> None:
    narrow = {
        f"model.layers.{layer}.mlp.{name}_proj.weight": np.ones((64, 40) if name == "down" else (40, 64), np.float32)
        for layer in range(2)
        for name in ("gate", "up", "down")
    }
    with pytest.raises(CheckpointError, match=f"{_MLP}.down_proj.weight: found 40 inputs, expected a multiple of 16"):
        quantize_checkpoint(altered(narrow, intermediate_size=40), tmp_path / "out")
    quantize_checkpoint(altered(narrow, intermediate_size=40), tmp_path / "out", exclude=["*.down_proj"])


def test_a_checkpoint_that_is_quantized_already_is_refused(altered: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has a quantization_config"):
        quantize_checkpoint(altered(quantization_config={"quant_method": "fp8"}), tmp_path / "out")


def test_an_unknown_format_is_refused_with_the_known_ones(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalidError, match=r"quantization.format: found 'int4_awq'") as caught:
        quantize_checkpoint(tiny, tmp_path / "out", number_format="int4_awq")
    assert "w4a16_nvfp4" in caught.value.hint


def test_a_format_that_needs_calibration_is_not_made_from_weights_alone(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalidError, match=r"quantization.format: fp8 needs calibration"):
        quantize_checkpoint(tiny, tmp_path / "out", number_format="fp8")


def test_the_source_is_never_the_output(tiny: Path) -> None:
    before = _files(tiny)
    with pytest.raises(CheckpointError, match="the output folder is the source folder"):
        quantize_checkpoint(tiny, tiny)
    assert _files(tiny) == before


@pytest.mark.parametrize("text", ["", "[]", "{", "\xff"])
def test_a_configuration_that_is_no_json_object_is_refused(tiny: Path, tmp_path: Path, text: str) -> None:
    source = Path(shutil.copytree(tiny, tmp_path / "source"))
    (source / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config.json: "):
        quantize_checkpoint(source, tmp_path / "out")


def test_a_missing_configuration_is_refused(save: Save, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json: no such file"):
        quantize_checkpoint(save({"a": np.zeros(1, np.uint8)}), tmp_path / "out")


def test_the_index_is_readable_json_with_the_total_size(tiny: Path, tmp_path: Path) -> None:
    quantize_checkpoint(tiny, tmp_path / "out", shard_bytes=20_000)
    tensors = Checkpoint.open(tmp_path / "out").tensors.values()
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(tensor.size for tensor in tensors)


def test_layers_for_further_tokens_are_copied_and_listed(save: Save, tmp_path: Path) -> None:
    latent = {"kv_lora_rank": 32, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    config = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_attention_heads": 2,
        "vocab_size": 64,
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "torch_dtype": "bfloat16",
        "num_hidden_layers": 1,
        **latent,
        "first_k_dense_replace": 9,
        "n_routed_experts": 2,
        "moe_intermediate_size": 32,
    }
    tensors = {name: np.ones(spec.shape, ml_dtypes.bfloat16) for name, spec in expected_tensors(config).items()}
    further = {
        "model.layers.1.eh_proj.weight": np.ones((32, 64), ml_dtypes.bfloat16),
        "model.layers.1.enorm.weight": np.ones(32, np.float32),
        "mtp.0.self_attn.q_proj.weight": np.ones((32, 32), ml_dtypes.bfloat16),
    }
    source = save({**tensors, **further})
    write_json(source / "config.json", config)
    quantize_checkpoint(source, tmp_path / "out")
    after = Checkpoint.open(tmp_path / "out")
    for name, array in further.items():
        assert after.tensors[name].shape == array.shape
        assert after.read(name).tobytes() == array.tobytes()
    listed = read_json(tmp_path / "out" / "hf_quant_config.json")["quantization"]["exclude_modules"]
    assert {"model.layers.1*", "mtp*"} <= set(listed)
    ends = Plan.make(source, scheme_named("fp8")).ends
    assert sorted(ends) == ["lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"]


@pytest.mark.parametrize(
    ("name", "place", "bad"),
    [
        ("model.embed_tokens.weight", (7, 3), np.nan),
        ("lm_head.weight", (260, 63), np.inf),
        ("model.norm.weight", (5,), np.nan),
        ("model.layers.1.input_layernorm.weight", (0,), -np.inf),
    ],
)
def test_a_number_in_what_is_copied_that_is_none_stops_it(
    altered: Callable[..., Path], tmp_path: Path, name: str, place: tuple[int, ...], bad: float
) -> None:
    tensor = Checkpoint.open(altered()).read(name).copy()
    tensor[place] = bad
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {name}: found (nan|inf) in row {place[0]}"):
        quantize_checkpoint(altered({name: tensor}), tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN"])
def test_numbers_of_the_configuration_come_out_as_they_went_in(
    altered: Callable[..., Path], tmp_path: Path, number: str
) -> None:
    source = altered()
    config = {**read_json(source / "config.json"), "time_step_limit": [0.0, float(number)]}
    write_json(source / "config.json", config, allow_nan=True)
    quantize_checkpoint(source, tmp_path / "out")
    lines = (tmp_path / "out" / "config.json").read_text().splitlines()
    assert f"    {number}" in lines
    for line in (source / "config.json").read_text().splitlines():
        assert line.rstrip(",") in [written.rstrip(",") for written in lines]


@pytest.mark.parametrize("same", [True, False])
def test_a_head_that_is_called_tied_is_compared_with_the_embedding(
    tiny: Path, altered: Callable[..., Path], tmp_path: Path, same: bool
) -> None:
    original = Checkpoint.open(tiny)
    head = original.read("model.embed_tokens.weight" if same else "lm_head.weight")
    source = altered({"lm_head.weight": head}, tie_word_embeddings=True)
    quantize_checkpoint(source, tmp_path / "out")
    written = Checkpoint.open(tmp_path / "out")
    assert ("lm_head.weight" in written.tensors) is not same
    assert read_json(tmp_path / "out" / "config.json")["tie_word_embeddings"] is same
    if not same:
        assert written.read("lm_head.weight").tobytes() == head.tobytes()


def test_one_number_makes_another_head(tiny: Path, altered: Callable[..., Path], tmp_path: Path) -> None:
    head = Checkpoint.open(tiny).read("model.embed_tokens.weight").copy()
    head[-1, -1] += 1
    quantize_checkpoint(altered({"lm_head.weight": head}, tie_word_embeddings=True), tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").read("lm_head.weight").tobytes() == head.tobytes()
