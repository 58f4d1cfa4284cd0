"""Matrices that are stored as [inputs, outputs] are found by their biases, and quantized as all others are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.onepass import quantize_checkpoint

Arrays = Mapping[str, NDArray[Any]]

_SHAPES = {"attn.c_attn": (192, 64), "attn.c_proj": (64, 64), "mlp.c_fc": (256, 64), "mlp.c_proj": (64, 256)}
"""By module, outputs and inputs. One is square."""


@pytest.fixture
def arrays(numbers: np.random.Generator) -> Arrays:
    """A layer, with its matrices as [outputs, inputs]."""
    made = {f"h.0.{name}.weight": numbers.standard_normal(shape, np.float32) for name, shape in _SHAPES.items()}
    made |= {f"h.0.{name}.bias": numbers.standard_normal(shape[0], np.float32) for name, shape in _SHAPES.items()}
    made |= {"wte.weight": numbers.standard_normal((320, 64), np.float32), "ln_f.weight": np.ones(64, np.float32)}
    return {name: array.astype(ml_dtypes.bfloat16) for name, array in made.items()}


@pytest.fixture
def stored(tiny: Path, save: Callable[..., Path], arrays: Arrays) -> Callable[..., Path]:
    """The model on disk, with the matrices of the given modules transposed, and with changed tensors."""
    config = {"architectures": ["NobodyKnowsForCausalLM"], "model_type": "nobody", "num_hidden_layers": 1}

    def make(name: str, transposed: Mapping[str, object], **changed: NDArray[Any]) -> Path:
        turned = {f"h.0.{module}.weight" for module in transposed}
        tensors = {key: np.ascontiguousarray(one.T) if key in turned else one for key, one in arrays.items()}
        folder = save({**tensors, **changed}, name=name)
        document = {**read_json(tiny / "config.json"), **config, "hidden_size": 64, "vocab_size": 320}
        write_json(folder / "config.json", document)
        return folder

    return make


def test_every_byte_is_that_of_a_model_with_straight_matrices(stored: Callable[..., Path], tmp_path: Path) -> None:
    quantize_checkpoint(stored("turned", _SHAPES), tmp_path / "one", chunk_bytes=1000)
    quantize_checkpoint(stored("straight", {}), tmp_path / "other", chunk_bytes=1000)
    written = (tmp_path / "one" / "model.safetensors").read_bytes()
    assert written == (tmp_path / "other" / "model.safetensors").read_bytes()


def test_an_excluded_one_is_written_as_it_is_stored(stored: Callable[..., Path], tmp_path: Path) -> None:
    source = stored("turned", _SHAPES)
    quantize_checkpoint(source, tmp_path / "out", exclude=["*.c_fc"])
    name = "h.0.mlp.c_fc.weight"
    written, original = Checkpoint.open(tmp_path / "out"), Checkpoint.open(source)
    assert written.tensors[name].shape == (64, 256)
    assert written.read(name).tobytes() == original.read(name).tobytes()


def test_biases_that_contradict_each_other_turn_nothing(stored: Callable[..., Path], tmp_path: Path) -> None:
    quantize_checkpoint(stored("mixed", {"mlp.c_fc": 1}), tmp_path / "out")
    written = Checkpoint.open(tmp_path / "out").tensors
    assert written["h.0.mlp.c_fc.weight"].shape == (64, 128)
    assert written["h.0.attn.c_attn.weight"].shape == (192, 32)
