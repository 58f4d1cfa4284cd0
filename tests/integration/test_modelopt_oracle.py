"""Is what we write what the real ModelOpt writes? Needs an environment with torch, transformers and ModelOpt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.models.weight_files import SINGLE
from orchestrator.payloads import generate
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.format_names import MAX
from orchestrator.quantization.onepass import quantize_checkpoint
from tests.support.checkpoints import write_model
from tests.support.oracle import find_environment

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

_SCRIPT = Path(__file__).with_name("oracle_export.py")

# What ModelOpt 0.47 does not write and we do: vLLM reads the group size there, and ModelOpt 0.48 writes it.
_ADDED = {"group_size": 16}

Oracle = Callable[..., str]


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """Run the script with the interpreter that has ModelOpt; return what it printed."""
    return partial(find_environment().with_modelopt.run, _SCRIPT)


@dataclass(frozen=True)
class Pair:
    """The same model quantized twice."""

    source: Path
    ours: Path
    theirs: Path

    def differences(self) -> list[str]:
        """Tensors that are not the same in name, type, shape and every byte."""
        ours, theirs = Checkpoint.open(self.ours), Checkpoint.open(self.theirs)
        names = ours.tensors.keys() | theirs.tensors.keys()
        return sorted(name for name in names if _described(ours, name) != _described(theirs, name))


def _described(checkpoint: Checkpoint, name: str) -> tuple[str, tuple[int, ...], bytes] | None:
    tensor = checkpoint.tensors.get(name)
    return None if tensor is None else (tensor.dtype, tensor.shape, checkpoint.read(name).tobytes())


def _generate(folder: Path, *options: str) -> Path:
    generate.main(["--output", str(folder), *options])
    return folder


_SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "max_position_embeddings": 128,
    "vocab_size": 320,
    "torch_dtype": "bfloat16",
}


_OF_ZEROS = "model.layers.0.mlp.down_proj"


def _unusual() -> dict[str, NDArray[Any]]:
    """Blocks of zeros, negative zeros, subnormal numbers, the largest numbers, and every finite BF16 number."""
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = every[(every & 0x7F80) != 0x7F80].view(ml_dtypes.bfloat16)
    size = 96 * 96
    weight = np.zeros((96, 96), ml_dtypes.bfloat16)
    weight[0, :16] = 1
    weight[1, :32] = -0.0
    weight[2, :16] = finite[1:17]
    return {
        "model.layers.0.self_attn.q_proj.weight": weight,
        "model.layers.0.self_attn.o_proj.weight": finite[:size].reshape(96, 96),
        "model.layers.1.self_attn.o_proj.weight": finite[-size:].reshape(96, 96),
        "model.layers.1.self_attn.q_proj.weight": np.resize(finite[::7], (96, 96)),
        "model.layers.0.mlp.down_proj.weight": np.resize(finite[:127], (96, 160)),
    }


@dataclass(frozen=True)
class Case:
    """A model, and what of it stays as it is; families as they come are in test_calibrated_oracle."""

    config: Mapping[str, Any]
    changes: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    exclude: tuple[str, ...] = ()


_DEEP = {"num_hidden_layers": 12}
CASES: Mapping[str, Case] = {
    "plain": Case({}),
    "tied": Case({"tie_word_embeddings": True}),
    "biases": Case({"attention_bias": True, "mlp_bias": True}),
    "unusual numbers": Case({}, _unusual()),
    "zeros": Case({}, {f"{_OF_ZEROS}.weight": np.zeros((96, 160), ml_dtypes.bfloat16)}),
    "layer excluded": Case(_DEEP, exclude=("model.layers.1.*",)),
    "module excluded": Case(_DEEP, exclude=("*.down_proj",)),
    "several excluded": Case(_DEEP, exclude=("model.layers.3.mlp.*", "model.layers.1?.*")),
}
_GENERATED = "generated"


@pytest.fixture(scope="session")
def pairs(oracle: Oracle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Every case, by ModelOpt in one process, and by us."""
    folder = tmp_path_factory.mktemp("weights")
    for name, case in CASES.items():
        write_model(folder / name / "source", {**_SMALL, **case.config}, case.changes)
    _generate(folder / _GENERATED / "source", "--seed", "20")
    exclude = {name: case.exclude for name, case in CASES.items()} | {_GENERATED: ()}
    requests = [_request(folder / name, excluded) for name, excluded in exclude.items()]
    (folder / "requests.json").write_text(json.dumps(requests))
    oracle("calibrate", folder / "requests.json")
    for name, excluded in exclude.items():
        quantize_checkpoint(folder / name / "source", folder / name / "ours", scale_search=MAX, exclude=excluded)
    return {name: Pair(*(folder / name / part for part in ("source", "ours", "theirs"))) for name in exclude}


def _request(folder: Path, exclude: Sequence[str]) -> dict[str, Any]:
    export = {"output": str(folder / "theirs"), "format": "w4a16_nvfp4", "kv_cache": "none", "exclude": list(exclude)}
    return {"source": str(folder / "source"), "config": {}, "batches": [], "exports": [export]}


def test_every_byte_of_the_generated_model_is_what_modelopt_writes(
    pairs: dict[str, Pair], capsys: pytest.CaptureFixture[str]
) -> None:
    pair = pairs[_GENERATED]
    assert pair.differences() == []
    assert (pair.ours / SINGLE).read_bytes() == (pair.theirs / SINGLE).read_bytes()
    with capsys.disabled():
        tensors = Checkpoint.open(pair.ours).tensors
        print(f"\nModelOpt oracle: {len(tensors)} of {len(tensors)} tensors equal, {SINGLE} the same bytes")  # noqa: T201


def test_both_configurations_are_what_modelopt_writes(pairs: dict[str, Pair]) -> None:
    pair = pairs["plain"]
    ours, theirs = (read_json(folder / "config.json")["quantization_config"] for folder in (pair.ours, pair.theirs))
    assert ours == {**theirs, **_ADDED}
    # Everything else is the source's own; ModelOpt writes it as its transformers would.
    assert read_json(pair.ours / "config.json").keys() - {"quantization_config"} == _SMALL.keys()


@pytest.mark.parametrize("name", [name for name in CASES if name != "zeros"])
def test_every_case_has_the_bytes_and_names_that_modelopt_writes(pairs: dict[str, Pair], name: str) -> None:
    pair = pairs[name]
    assert pair.differences() == []
    assert read_json(pair.ours / "hf_quant_config.json") == read_json(pair.theirs / "hf_quant_config.json")


def test_only_a_tensor_of_zeros_differs_and_ours_has_no_nan(pairs: dict[str, Pair]) -> None:
    pair = pairs["zeros"]
    # A deliberate difference: the scale of ModelOpt's tensor is 0 and the scales of its blocks are NaN.
    assert pair.differences() == [f"{_OF_ZEROS}.{part}" for part in ("weight", "weight_scale", "weight_scale_2")]
    theirs, ours = Checkpoint.open(pair.theirs), Checkpoint.open(pair.ours)
    assert np.isnan(theirs.read(f"{_OF_ZEROS}.weight_scale").astype(np.float32)).all()
    assert float(theirs.read(f"{_OF_ZEROS}.weight_scale_2")) == 0
    assert float(ours.read(f"{_OF_ZEROS}.weight_scale_2")) == 1
    assert not ours.read(f"{_OF_ZEROS}.weight").any()


def test_transformers_loads_the_generated_model_and_its_tokenizer(oracle: Oracle, tmp_path: Path) -> None:
    folder = _generate(tmp_path / "source", "--seed", "20")
    printed = oracle("load", folder)
    result = json.loads(printed.rpartition("RESULT ")[2])
    assert result["dtype"] == "torch.bfloat16"
    assert result["parameters"] == sum(tensor.size for tensor in Checkpoint.open(folder).tensors.values()) // 2
    assert result["special"] == [0, 4, 1]
    assert 1 <= result["generated"] <= 4
    assert result["finite"]
    assert result["prompt"] == (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
        "What is the capital of France? Grüße, 東京<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
