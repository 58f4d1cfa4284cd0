"""Stored rotation frequencies are compared with what follows from `config.json` before they are left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import CheckpointError
from orchestrator.quantization import quality
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json
from orchestrator.quantization.frequencies import require_calculated
from orchestrator.quantization.onepass import quantize_checkpoint

NAME = "model.layers.0.self_attn.rotary_emb.inv_freq"
HEAD = 32
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"type": "linear", "factor": 4.0}
Frequencies = NDArray[np.float64]


def plain(theta: float = 1e4, size: int = HEAD) -> Frequencies:
    return np.array([theta ** -(number / size) for number in range(0, size, 2)])


def llama3() -> Frequencies:
    """Calculate them one by one, as Llama's own code does."""
    found = []
    for one in plain():
        wave = 2 * np.pi / one
        smooth = (64 / wave - 1) / (4 - 1)
        found.append(one if wave < 64 / 4 else one / 8 if wave > 64 else (1 - smooth) * one / 8 + smooth * one)
    return np.array(found)


SOUND: dict[str, tuple[dict[str, object], Frequencies]] = {
    "the usual ones": ({}, plain()),
    "another base": ({"rope_theta": 1e6}, plain(1e6)),
    "the base where transformers 5 has it": ({"rope_parameters": {"rope_theta": 5e5}}, plain(5e5)),
    "half of a head": ({"partial_rotary_factor": 0.5}, plain(size=HEAD // 2)),
    "scaled by a factor": ({"rope_scaling": LINEAR}, plain() / 4),
    "positions that are scaled instead": ({"rope_scaling": LINEAR}, plain()),
    "scaled as they grow": ({"rope_scaling": {"type": "dynamic", "factor": 4.0}}, plain()),
    "scaled as in Llama 3.1": ({"rope_scaling": LLAMA3}, llama3()),
    "layers of two kinds": ({"rope_theta": 1e6, "rope_local_base_freq": 1e4}, plain()),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("fields", "stored"), SOUND.values(), ids=SOUND)
def test_what_follows_from_the_configuration_is_left_out(
    altered: Callable[..., Path], fields: dict[str, object], stored: Frequencies, dtype: type
) -> None:
    folder = altered({NAME: stored.astype(dtype)}, **fields)
    require_calculated(Checkpoint.open(folder), read_json(folder / "config.json"))


@pytest.mark.parametrize(
    ("fields", "stored", "problem"),
    [
        ({}, plain(1e6), "differs from the frequencies that follow from config.json"),
        ({}, plain(size=2 * HEAD), "differs from"),
        ({}, np.ones(HEAD // 2), "differs from"),
        ({"rope_scaling": LLAMA3}, plain(), "differs from"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, plain(), "are not calculated here"),
        ({"rope_scaling": {"type": "linear"}}, plain(), "describes no rotation"),
    ],
)
def test_anything_else_is_refused_by_both(
    altered: Callable[..., Path], tmp_path: Path, fields: dict[str, object], stored: Frequencies, problem: str
) -> None:
    folder = altered({NAME: stored.astype(np.float32)}, **fields)
    with pytest.raises(CheckpointError, match=problem) as raised:
        quantize_checkpoint(folder, tmp_path / "out")
    assert NAME in raised.value.message
    assert not (tmp_path / "out").exists()
    report = quality.examine(folder, chat_template=False)
    assert [check.name for check in report.checks if not check.passed and problem in check.detail] == ["tensors"]


def test_a_sound_model_with_stored_frequencies_passes(altered: Callable[..., Path]) -> None:
    report = quality.examine(altered({NAME: plain().astype(np.float32)}), chat_template=False)
    assert next(check for check in report.checks if check.name == "tensors").passed
