"""Experts that are stored as one tensor are split, wherever their matrices lie, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import ModelUnsupportedError, RecipeInvalidError
from orchestrator.quantization import quality, structure
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.experts import split_experts
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import fp8, nvfp4
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.plan import Plan
from orchestrator.quantization.quantized import Quantized
from orchestrator.quantization.schemes import SCHEMES

Save = Callable[..., Path]
Arrays = Mapping[str, NDArray[Any]]

_EXPERTS, _HIDDEN, _INNER = 3, 64, 48
_LAYER = "model.layers.0"


@pytest.fixture
def matrices(numbers: np.random.Generator) -> Arrays:
    """The matrices of each expert, as a checkpoint with a tensor for each has them."""
    shapes = {"gate_proj": (_INNER, _HIDDEN), "up_proj": (_INNER, _HIDDEN), "down_proj": (_HIDDEN, _INNER)}
    return {
        f"experts.{expert}.{name}.weight": numbers.standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
        for expert in range(_EXPERTS)
        for name, shape in shapes.items()
    }


def _stacked(matrices: Arrays, *, transposed: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
    def of(expert: int, name: str) -> NDArray[Any]:
        return matrices[f"experts.{expert}.{name}.weight"]

    gate_up = np.stack([np.concatenate([of(e, "gate_proj"), of(e, "up_proj")]) for e in range(_EXPERTS)])
    down = np.stack([of(e, "down_proj") for e in range(_EXPERTS)])
    return (gate_up.swapaxes(1, 2), down.swapaxes(1, 2)) if transposed else (gate_up, down)


@pytest.fixture
def model(tiny: Path, save: Save) -> Callable[..., Path]:
    """A model of no known architecture, whose first layer has the given tensors in place of its MLP."""
    unknown = {"architectures": ["MixtureForCausalLM"], "model_type": "mixture"}

    def make(tensors: Arrays, name: str, **config: object) -> Path:
        dense = Checkpoint.open(tiny)
        kept = {one: dense.read(one) for one in dense.tensors if f"{_LAYER}.mlp." not in one}
        inside = {f"{_LAYER}.{one}": np.ascontiguousarray(value) for one, value in tensors.items()}
        folder = save({**kept, **inside}, name=name)
        write_json(folder / "config.json", {**read_json(tiny / "config.json"), **unknown, **config})
        return folder

    return make


def _named(block: str, first: str, second: str, pair: tuple[NDArray[Any], NDArray[Any]]) -> Arrays:
    return {f"{block}.{first}": pair[0], f"{block}.{second}": pair[1]}


_NAMES = {
    "experts": ("mlp.experts", "gate_up_proj", "down_proj", "mlp"),
    "experts, as weights": ("mlp.experts", "gate_up_proj.weight", "down_proj.weight", "mlp"),
    "Granite": ("block_sparse_moe", "input_linear.weight", "output_linear.weight", "block_sparse_moe"),
}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("names", _NAMES)
def test_every_byte_is_that_of_a_model_with_a_tensor_for_each_matrix(
    model: Callable[..., Path], matrices: Arrays, tmp_path: Path, names: str, *, transposed: bool
) -> None:
    module, first, second, block = _NAMES[names]
    one = model(_named(module, first, second, _stacked(matrices, transposed=transposed)), "stacked")
    each = model({f"{block}.{name}": value for name, value in matrices.items()}, "each")
    quantize_checkpoint(one, tmp_path / "one", chunk_bytes=1000)
    quantize_checkpoint(each, tmp_path / "other")
    for file in ("model.safetensors", "hf_quant_config.json", "config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()


@pytest.mark.parametrize("transposed", [False, True])
def test_excluded_experts_are_copied_as_a_tensor_for_each_matrix(
    model: Callable[..., Path], matrices: Arrays, tmp_path: Path, *, transposed: bool
) -> None:
    source = model(_named("mlp.experts", "gate_up_proj", "down_proj", _stacked(matrices, transposed=transposed)), "one")
    quantize_checkpoint(source, tmp_path / "out", exclude=["*.experts.*"])
    written = Checkpoint.open(tmp_path / "out")
    for name, expected in matrices.items():
        assert written.read(f"{_LAYER}.mlp.{name}").tobytes() == expected.tobytes()


@pytest.mark.parametrize("transposed", [False, True])
def test_rows_of_a_matrix_are_read_alone(model: Callable[..., Path], matrices: Arrays, *, transposed: bool) -> None:
    source = model(_named("mlp.experts", "gate_up_proj", "down_proj", _stacked(matrices, transposed=transposed)), "one")
    checkpoint = Plan.make(source, SCHEMES["w4a16_nvfp4"]).checkpoint
    name = "experts.1.up_proj.weight"
    expected = matrices[name][5:9].tobytes()
    assert checkpoint.read(f"{_LAYER}.mlp.{name}", 5, 9).tobytes() == expected
    memory = np.empty(10_000, np.uint8)
    assert checkpoint.read(f"{_LAYER}.mlp.{name}", 5, 9, into=memory).tobytes() == expected
    assert memory[: len(expected)].tobytes() == expected


def test_gate_and_up_of_a_size_that_fits_both_ways_are_told_apart_by_down(
    model: Callable[..., Path], numbers: np.random.Generator
) -> None:
    square, half = _HIDDEN, _HIDDEN // 2
    for shape, transposed in (((2, _HIDDEN, half), False), ((2, half, _HIDDEN), True)):
        pair = numbers.standard_normal((2, square, square), np.float32), np.ones(shape, np.float32)
        checkpoint = Plan.make(
            model(_named("mlp.experts", "gate_up_proj", "down_proj", pair), str(transposed)), SCHEMES["w4a16_nvfp4"]
        ).checkpoint
        expected = pair[0][1].T[half:] if transposed else pair[0][1][half:]
        assert np.array_equal(checkpoint.read(f"{_LAYER}.mlp.experts.1.up_proj.weight"), expected)


# --- experts that stay in one tensor ---

_WHOLE: Mapping[str, tuple[Arrays, Mapping[str, Any]]] = {
    "Llama 4": ({}, {"model_type": "llama4_text"}),
    "biases": ({"mlp.experts.gate_up_proj_bias": np.ones((_EXPERTS, 2 * _INNER), np.float32)}, {}),
}


@pytest.mark.parametrize("case", _WHOLE)
def test_experts_that_stay_in_one_tensor_have_one_scale_and_are_decoded_by_their_original(
    model: Callable[..., Path], matrices: Arrays, tmp_path: Path, case: str
) -> None:
    more, config = _WHOLE[case]
    pair = _stacked(matrices, transposed=True)
    source = model({**_named("mlp.experts", "gate_up_proj", "down_proj", pair), **more}, "source", **config)
    quantize_checkpoint(source, tmp_path / "out")
    written = Checkpoint.open(tmp_path / "out")
    down = f"{_LAYER}.mlp.experts.down_proj"
    found = {name: tensor.shape for name, tensor in written.tensors.items() if name.startswith(down)}
    assert found == {
        down: (_EXPERTS, _INNER // 2, _HIDDEN),
        f"{down}_weight_scale": (_EXPERTS, _INNER // 16, _HIDDEN),
        f"{down}_weight_scale_2": (),
    }
    scale = np.float32(written.read(f"{down}_weight_scale_2"))
    assert scale == nvfp4.tensor_scale(float(np.abs(pair[1].astype(np.float32)).max()))
    quantized = Quantized.open(tmp_path / "out", Plan.make(source, SCHEMES["w4a16_nvfp4"]))
    for expert in range(_EXPERTS):
        part = quantized.layer(0)[f"mlp.experts.down_proj.{expert}"]
        expected = nvfp4.encode(matrices[f"experts.{expert}.down_proj.weight"], scale)
        assert np.array_equal(part.weight, expected.codes)
        assert part.block_scales is not None
        assert part.block_scales.tobytes() == expected.scales.tobytes()
    report = quality.examine(tmp_path / "out", reference=source, min_snr_db=15)
    assert {check.name for check in report.checks if not check.passed} <= {"tokenizer"}
    assert f"{_LAYER}.mlp.experts.gate_up_proj.2" in {layer.name for layer in report.layers}


def test_excluded_experts_that_stay_in_one_tensor_are_copied_and_listed_as_one_module(
    model: Callable[..., Path], matrices: Arrays, tmp_path: Path
) -> None:
    pair = _stacked(matrices, transposed=True)
    source = model(_named("mlp.experts", "gate_up_proj", "down_proj", pair), "source", model_type="llama4")
    quantize_checkpoint(source, tmp_path / "out", exclude=["*.experts.*"])
    written = Checkpoint.open(tmp_path / "out").read(f"{_LAYER}.mlp.experts.gate_up_proj")
    assert written.tobytes() == np.ascontiguousarray(pair[0]).tobytes()
    listed = read_json(tmp_path / "out" / "hf_quant_config.json")["quantization"]["exclude_modules"]
    assert f"{_LAYER}.mlp*" in listed


def test_some_experts_of_one_tensor_cannot_be_excluded(model: Callable[..., Path], matrices: Arrays) -> None:
    pair = _stacked(matrices, transposed=True)
    source = model(_named("mlp.experts", "gate_up_proj", "down_proj", pair), "source", model_type="llama4")
    with pytest.raises(RecipeInvalidError, match="would stay as it is while the rest of"):
        Plan.make(source, SCHEMES["w4a16_nvfp4"], ["*.gate_up_proj.1"])


def test_fp8_divides_experts_of_one_tensor_in_fp32(model: Callable[..., Path], matrices: Arrays) -> None:
    pair = _stacked(matrices, transposed=True)
    plan = Plan.make(
        model(_named("mlp.experts", "gate_up_proj", "down_proj", pair), "source", model_type="llama4"), SCHEMES["fp8"]
    )
    weight, scale = matrices["experts.0.down_proj.weight"], np.float32(0.003)
    whole = plan.scheme_of(f"{_LAYER}.mlp.experts.down_proj.0.weight").encode(weight, scale)[""]
    plain = plan.scheme_of("model.layers.1.mlp.down_proj.weight").encode(weight, scale)[""]
    assert whole.tobytes() == fp8.encode(weight.astype(np.float32), scale).tobytes()
    assert whole.tobytes() != plain.tobytes()


# --- what is refused ---

_ONES = np.ones((2, 64, 64), np.float32)
_REFUSED: Mapping[str, tuple[Arrays, Mapping[str, Any]]] = {
    "Llama 4, not transposed": (
        _named("mlp.experts", "gate_up_proj", "down_proj", (_ONES, _ONES[:, :, :32])),
        {"model_type": "llama4"},
    ),
    "down is missing": ({"mlp.experts.gate_up_proj": _ONES}, {}),
    "no gate": (_named("mlp.experts", "gate_up_proj", "down_proj", (_ONES, _ONES)), {}),
    "another number of experts": (_named("mlp.experts", "gate_up_proj", "down_proj", (_ONES, _ONES[:1, :, :32])), {}),
    "another name": ({"moe.w13": _ONES}, {}),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_experts_that_are_not_understood_are_left_whole_and_refused(model: Callable[..., Path], case: str) -> None:
    tensors, config = _REFUSED[case]
    source = model(tensors, "source", **config)
    document, checkpoint = read_json(source / "config.json"), Checkpoint.open(source)
    whole = split_experts(checkpoint, document, structure.read(document, checkpoint.tensors.values()))
    assert whole.tensors.keys() == checkpoint.tensors.keys()
    with pytest.raises(ModelUnsupportedError, match="all experts of a layer in one tensor"):
        Plan.make(source, SCHEMES["w4a16_nvfp4"])


def test_other_tensors_of_three_dimensions_stay_as_they_are(
    model: Callable[..., Path], matrices: Arrays, tmp_path: Path
) -> None:
    gates = np.ones((4, 16, 16), ml_dtypes.bfloat16)
    inside = {"mlp.up_proj.weight": matrices["experts.0.up_proj.weight"], "rg_lru.input_gate": gates}
    quantize_checkpoint(model(inside, "recurrent"), tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").read(f"{_LAYER}.rg_lru.input_gate").tobytes() == gates.tobytes()
