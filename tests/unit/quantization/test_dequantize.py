"""gpt-oss in 16 bits; that it is what transformers makes is compared in tests/integration."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from orchestrator.errors import CheckpointError
from orchestrator.payloads import quantize
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.dequantize import dequantize_checkpoint
from orchestrator.quantization.files import read_json, write_json
from tests.support.checkpoints import GPT_OSS, write_gpt_oss

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


def test_only_mxfp4_is_decoded(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="found None, expected 'mxfp4'"):
        dequantize_checkpoint(tiny, tmp_path / "out")
    with pytest.raises(CheckpointError, match="the output folder is the source folder"):
        dequantize_checkpoint(tiny, tiny)


def test_a_claim_of_mxfp4_without_any_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_json(folder / "config.json", GPT_OSS)
    with pytest.raises(CheckpointError, match="found no tensor that ends in _blocks"):
        dequantize_checkpoint(folder, tmp_path / "out")
