"""What is published quantized, in 16 bits; that it is what transformers makes is compared in tests/integration."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import CheckpointError
from orchestrator.payloads import quantize
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.dequantize import dequantize_checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.formats import fp8_blocks
from orchestrator.quantization.onepass import CHUNK_BYTES, quantize_checkpoint
from orchestrator.quantization.quality import examine
from tests.support.checkpoints import FP8_BLOCKS, GPT_OSS, write_fp8_blocks, write_gpt_oss

_DOWN = "model.layers.1.mlp.experts.down_proj"


def test_experts_are_decoded_and_turned_and_the_rest_stays(tmp_path: Path) -> None:
    source = write_gpt_oss(tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    quantize.main(["--checkpoint", str(source), "--output", str(tmp_path / "out"), "--format", "bf16"])
    before, after = Checkpoint.open(source), Checkpoint.open(tmp_path / "out")
    assert not [name for name in after.tensors if name.endswith(("_blocks", "_scales"))]
    assert {tensor.dtype for tensor in after.tensors.values()} == {"BF16"}
    code = int(before.read(f"{_DOWN}_blocks")[2, 5, 0, 3]) & 15
    magnitude = [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7] * 2.0 ** (int(before.read(f"{_DOWN}_scales")[2, 5, 0]) - 127)
    assert float(after.read(_DOWN)[2, 6, 5]) == (-magnitude if code & 8 else magnitude)
    assert after.tensors[_DOWN].shape == (3, 32, 64)
    for name in ("lm_head.weight", f"{_DOWN}_bias", "model.layers.0.self_attn.sinks"):
        assert after.read(name).tobytes() == before.read(name).tobytes()
    config = read_json(tmp_path / "out" / "config.json")
    assert config == {
        **{key: value for key, value in GPT_OSS.items() if key != "quantization_config"},
        "torch_dtype": "bfloat16",
    }
    assert (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({f"{_DOWN}_scales": None}, f"{_DOWN}_blocks has no _scales beside it"),
        ({f"{_DOWN}_blocks": None}, f"{_DOWN}_scales has no _blocks beside it"),
        ({f"{_DOWN}_scales": np.full((3, 64, 2), 120, np.uint8)}, "expected bytes of shapes"),
        ({f"{_DOWN}_scales": np.full((3, 64, 1), 1, ml_dtypes.bfloat16)}, "expected bytes of shapes"),
        ({f"{_DOWN}_scales": np.full((3, 64, 1), 255, np.uint8)}, "expert 0 holds what is no number in BF16"),
    ],
    ids=["no scales", "no blocks", "other shape", "other type", "not a number"],
)
def test_what_is_broken_is_named_and_nothing_is_left(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    source = write_gpt_oss(tmp_path / "source", changes)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=reason):
        dequantize_checkpoint(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_only_what_is_known_is_decoded(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found None, expected mxfp4 or fp8"):
        dequantize_checkpoint(tiny, tmp_path / "out")
    with pytest.raises(CheckpointError, match="the output folder is the source folder"):
        dequantize_checkpoint(tiny, tiny)


def test_a_claim_of_mxfp4_without_any_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_json(folder / "config.json", GPT_OSS)
    with pytest.raises(CheckpointError, match="no tensor ends in _blocks"):
        dequantize_checkpoint(folder, tmp_path / "out")


# --- FP8 with block scales ---

_GATE = "model.layers.1.mlp.gate_proj.weight"
_E4M3, _E8M0 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e8m0fnu


def test_every_number_has_the_scale_of_its_block_and_edges_have_smaller_ones(numbers: np.random.Generator) -> None:
    codes = numbers.integers(0, 127, (200, 300), np.uint8).view(_E4M3)
    scales = np.exp(numbers.uniform(-20, 20, (2, 3))).astype(np.float32)
    whole = fp8_blocks.decode(codes, scales, (128, 128))
    for row, column in [(0, 0), (127, 127), (128, 127), (127, 128), (199, 255), (199, 256), (199, 299)]:
        product = np.float32(codes[row, column]) * scales[row // 128, column // 128]
        assert whole[row, column] == product.astype(ml_dtypes.bfloat16)
    pieces = [fp8_blocks.decode(codes[first : first + 77], scales, (128, 128), first) for first in (0, 77, 154)]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()


def test_fp8_with_block_scales_becomes_bf16_which_can_be_quantized(tmp_path: Path) -> None:
    source = write_fp8_blocks(tmp_path / "source")
    quantize.main(["--checkpoint", str(source), "--output", str(tmp_path / "out"), "--format", "bf16"])
    before, after = Checkpoint.open(source), Checkpoint.open(tmp_path / "out")
    assert {tensor.dtype for tensor in after.tensors.values()} == {"BF16"}
    assert set(after.tensors) == {name for name in before.tensors if not name.endswith("_scale_inv")}
    product = np.float32(before.read(_GATE)[130, 5]) * before.read(f"{_GATE}_scale_inv")[1, 0]
    assert after.read(_GATE)[130, 5] == product.astype(ml_dtypes.bfloat16)
    assert after.read("lm_head.weight").tobytes() == before.read("lm_head.weight").tobytes()
    config = read_json(tmp_path / "out" / "config.json")
    assert config == {key: value for key, value in FP8_BLOCKS.items() if key != "quantization_config"}
    quantize_checkpoint(tmp_path / "out", tmp_path / "nvfp4")
    assert Checkpoint.open(tmp_path / "nvfp4").tensors[_GATE].dtype == "U8"


@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e8m0fnu])
def test_scales_may_be_in_fewer_bits(tmp_path: Path, kind: type) -> None:
    scales = np.array([[0.5, 0.25], [2, 4], [1, 8]], np.float32)
    source = write_fp8_blocks(tmp_path / "source", {f"{_GATE}_scale_inv": scales.astype(kind)})
    dequantize_checkpoint(source, tmp_path / "out")
    codes = Checkpoint.open(source).read(_GATE).astype(np.float32)
    expected = codes * np.repeat(np.repeat(scales, 128, 0), 128, 1)
    assert np.array_equal(Checkpoint.open(tmp_path / "out").read(_GATE).astype(np.float32), expected)


@pytest.mark.parametrize("suffix", [".scale", ".qscale_weight"])
def test_scales_may_have_the_names_of_deepseek_v4_and_mistral(tmp_path: Path, suffix: str) -> None:
    usual = Checkpoint.open(write_fp8_blocks(tmp_path / "usual"))
    changes: dict[str, NDArray[Any] | None] = {"model.layers.0.hc.scale": np.ones(3, np.float32)}  # a parameter
    for name in usual.tensors:
        if name.endswith("_scale_inv"):
            changes |= {name: None, name.replace(".weight_scale_inv", suffix): usual.read(name)}
    source = write_fp8_blocks(tmp_path / "source", changes)
    dequantize_checkpoint(source, tmp_path / "out")
    dequantize_checkpoint(tmp_path / "usual", tmp_path / "expected")
    found, expected = Checkpoint.open(tmp_path / "out"), Checkpoint.open(tmp_path / "expected")
    assert set(found.tensors) == {*expected.tensors, "model.layers.0.hc.scale"}
    assert all(found.read(name).tobytes() == expected.read(name).tobytes() for name in expected.tensors)


def test_experts_in_four_bits_are_refused_and_not_read_as_others(tmp_path: Path) -> None:
    expert = "model.layers.1.mlp.experts.0.w1"
    packed = {
        f"{expert}.weight": np.ones((64, 64), np.int8),
        f"{expert}.scale": np.full((64, 4), 127, np.uint8).view(_E8M0),
    }
    with pytest.raises(CheckpointError, match=f"{expert}.weight I8.*two numbers of four bits in a byte"):
        dequantize_checkpoint(write_fp8_blocks(tmp_path / "source", packed), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({f"{_GATE}_scale_inv": None}, f"{_GATE} has no {_GATE}_scale_inv beside it"),
        ({_GATE: None}, f"{_GATE}_scale_inv has no {_GATE} beside it"),
        ({f"{_GATE}_scale_inv": np.ones((2, 3), np.float32)}, r"expected shape \[3, 2\]"),
        (
            {f"{_GATE}_scale_inv": np.ones((3, 2), np.uint8)},
            "expected a matrix in F8_E4M3 with scales in F32, BF16 or F8_E8M0",
        ),
        ({_GATE: np.ones((384, 256), ml_dtypes.float8_e5m2)}, "expected a matrix in F8_E4M3"),
        ({_GATE: np.full((384, 256), np.nan, _E4M3)}, f"{_GATE} holds what is no number in BF16"),
        ({f"{_GATE}_scale_inv": np.full((3, 2), np.inf, np.float32)}, f"{_GATE} holds what is no number in BF16"),
        ({f"{_GATE}_scale_inv": np.full((3, 2), 255, np.uint8).view(_E8M0)}, f"{_GATE} holds what is no number"),
    ],
    ids=["no scales", "no codes", "other shape", "other scales", "other codes", "not a number", "infinite", "E8M0"],
)
def test_broken_fp8_is_named_and_nothing_is_left(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    source = write_fp8_blocks(tmp_path / "source", changes)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=reason):
        dequantize_checkpoint(source, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        ({"quantization_config": {"quant_method": "fp8"}}, "weight_block_size: found None"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "found 'compressed-tensors'"),
        ({"torch_dtype": "float16"}, "found 'float16', expected bfloat16"),
    ],
)
def test_another_kind_of_fp8_is_refused(tmp_path: Path, declared: dict[str, object], reason: str) -> None:
    source = write_fp8_blocks(tmp_path / "source", config={**FP8_BLOCKS, **declared})
    with pytest.raises(CheckpointError, match=reason):
        dequantize_checkpoint(source, tmp_path / "out")


@pytest.mark.parametrize("write", [write_fp8_blocks, write_gpt_oss])
@pytest.mark.parametrize("chunk_bytes", [3000, CHUNK_BYTES])
def test_a_packed_source_is_quantized_as_its_copy_in_bf16_is(
    tmp_path: Path, write: Callable[[Path], Path], chunk_bytes: int
) -> None:
    source = write(tmp_path / "source")
    dequantize_checkpoint(source, tmp_path / "copy")
    read = quantize_checkpoint(source, tmp_path / "direct", chunk_bytes=chunk_bytes).bytes_read
    copied = quantize_checkpoint(tmp_path / "copy", tmp_path / "expected", chunk_bytes=chunk_bytes).bytes_read
    for expected in (tmp_path / "expected").iterdir():
        assert (tmp_path / "direct" / expected.name).read_bytes() == expected.read_bytes(), expected.name
    assert read < copied


def test_a_result_is_compared_with_what_its_packed_source_stands_for(tmp_path: Path) -> None:
    source = write_fp8_blocks(tmp_path / "source")
    quantize_checkpoint(source, tmp_path / "out")
    found = {check.name: check for check in examine(tmp_path / "out", reference=source, min_snr_db=15).checks}
    assert found["signal_to_noise"].passed


def test_fp8_with_one_scale_is_served_as_it_is(tmp_path: Path) -> None:
    source = write_fp8_blocks(
        tmp_path / "source", config={**FP8_BLOCKS, "quantization_config": {"quant_method": "fp8"}}
    )
    with pytest.raises(CheckpointError, match="expected an unquantized checkpoint") as caught:
        quantize_checkpoint(source, tmp_path / "out")
    assert "method none" in caught.value.hint
