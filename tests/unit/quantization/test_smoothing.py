"""What of smoothing needs no torch; that a model calculates the same bits is in tests/integration."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import CheckpointError
from orchestrator.quantization.activation_probe import Measured
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import write_json
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.quality import Report as Checked
from orchestrator.quantization.quality import examine
from orchestrator.quantization.report import Report
from orchestrator.quantization.smoothing import changes_of, exponents_of, read
from tests.unit.quantization.conftest import Save

_NORM = "model.layers.0.input_layernorm"
_READERS = [f"model.layers.0.self_attn.{name}_proj" for name in "qkv"]
_SIZES = st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)), min_size=1, max_size=40)


def test_the_worked_example() -> None:
    inputs, weights = np.array([16, 1, 1 / 4, 1 / 512]), np.array([1 / 4, 1 / 4, 1 / 4, 1 / 2])
    exponents = exponents_of(inputs, weights)
    assert exponents.tolist() == [3, 1, 0, -4]
    assert np.ldexp(inputs, -exponents).tolist() == np.ldexp(weights, exponents).tolist() == [2, 1 / 2, 1 / 4, 1 / 32]


@given(_SIZES)
def test_inputs_and_weights_of_every_column_come_as_near_to_each_other_as_powers_of_two_allow(
    sizes: list[tuple[float, float]],
) -> None:
    inputs, weights = np.array(sizes).T
    exponents = exponents_of(inputs, weights)
    ratios = np.log2(np.ldexp(inputs, -exponents) / np.ldexp(weights, exponents))
    inside = ratios[abs(exponents) < 8]  # the largest, which others are clipped to
    assert not inside.size or np.ptp(inside) <= 2 + 1e-9


@pytest.mark.parametrize(
    ("inputs", "weights"), [([0, 4, 4], [1, 1, 1]), ([4, 4, 4], [0, 1, 1]), ([np.nan, 4, 4], [1, 1, 1])]
)
def test_a_column_without_a_size_is_left_alone(inputs: list[float], weights: list[float]) -> None:
    assert exponents_of(np.array(inputs), np.array(weights)).tolist() == [0, 0, 0]


def test_exponents_are_limited() -> None:
    assert exponents_of(np.array([2.0**60, 1]), np.array([1.0, 1])).tolist() == [8, -8]


def test_a_norm_and_its_bias_are_divided_and_weights_multiplied() -> None:
    powers = np.array([1, -2], np.int8)
    found = changes_of({"norm": ["q", "k"]}, {"norm": powers})
    assert {name: array.tolist() for name, array in found.items()} == {
        "norm.weight": [-1, 2],
        "norm.bias": [-1, 2],
        "q.weight": [1, -2],
        "k.weight": [1, -2],
    }


def test_a_report_names_norms_and_the_modules_that_get_them_with_all_experts_as_one() -> None:
    report = Report("nvfp4", "none", smoothing="norms")
    experts = [f"mlp.experts.{number}.up_proj" for number in range(3)]
    report.layer("model.layers.1", Measured(smoothed={"norm": ["mlp.gate", *experts]}, unsmoothed=["other"]))
    assert report.document()["smoothing"] == {
        "name": "norms",
        "norms": {"model.layers.1.norm": ["model.layers.1.mlp.gate", "model.layers.1.mlp.experts.*.up_proj"]},
        "left_out": ["model.layers.1.other"],
    }
    assert "smoothing" not in Report("nvfp4", "none").document()


# --- read back ---


@pytest.fixture
def powers(numbers: np.random.Generator) -> np.ndarray[Any, Any]:
    return numbers.integers(-3, 4, 64).astype(np.int8)


@pytest.fixture
def smoothed(tiny: Path, tmp_path: Path, save: Save, powers: np.ndarray[Any, Any]) -> Path:
    """The tiny model, smoothed before its first attention and quantized."""
    original = Checkpoint.open(tiny)
    tensors = {name: original.read(name) for name in original.tensors}
    for name, exponents in changes_of({_NORM: _READERS}, {_NORM: powers}).items():
        if name in tensors:
            tensors[name] = np.ldexp(tensors[name].astype(np.float32), exponents).astype(tensors[name].dtype)
    source = save(tensors, name="multiplied")
    for file in tiny.glob("*.json"):
        if "index" not in file.name:
            shutil.copy(file, source)
    quantize_checkpoint(source, tmp_path / "smoothed")
    claimed(tmp_path / "smoothed", {_NORM: _READERS})
    return tmp_path / "smoothed"


def claimed(folder: Path, norms: dict[str, list[str]]) -> None:
    write_json(folder / "quantization.json", {"smoothing": {"name": "norms", "norms": norms, "left_out": []}})


def failures(report: Checked) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.passed}


def test_exponents_are_read_from_the_norm(smoothed: Path, tiny: Path, powers: np.ndarray[Any, Any]) -> None:
    found = read(Checkpoint.open(smoothed), Checkpoint.open(tiny))
    assert found.keys() == {f"{_NORM}.weight", f"{_NORM}.bias", *(f"{module}.weight" for module in _READERS)}
    assert found[f"{_READERS[0]}.weight"].tolist() == powers.tolist()


def test_a_smoothed_model_is_compared_in_its_own_units(smoothed: Path, tiny: Path, tmp_path: Path) -> None:
    report = examine(smoothed, reference=tiny)
    assert failures(report) == {}
    assert next(check for check in report.checks if check.name == "unquantized").detail.endswith(
        ", 1 of them times powers of two that smooth inputs"
    )
    against = examine(smoothed, reference=tmp_path / "multiplied")
    assert [layer.snr_db for layer in report.layers] == [layer.snr_db for layer in against.layers]


def test_without_a_report_a_norm_must_be_the_originals(smoothed: Path, tiny: Path) -> None:
    (smoothed / "quantization.json").unlink()
    assert failures(examine(smoothed, reference=tiny)) == {
        "unquantized": f"{_NORM}.weight: found other numbers than the original has, from row 0 on"
    }


def test_what_is_no_power_of_two_is_refused(smoothed: Path, tmp_path: Path, save: Save) -> None:
    original = Checkpoint.open(tmp_path / "multiplied")
    tensors = {name: original.read(name) for name in original.tensors}
    for factor, refused in ((4, False), (3, True), (2**9, True), (-2, True), (0, True)):
        norm = np.array(original.read(f"{_NORM}.weight"))
        norm[7] *= factor
        other = Checkpoint.open(save(tensors | {f"{_NORM}.weight": norm}, name=f"by-{factor}"))
        if not refused:
            assert read(Checkpoint.open(smoothed), other)[f"{_NORM}.weight"].tolist() == [0] * 7 + [-2] + [0] * 56
            continue
        with pytest.raises(CheckpointError, match=r"input_layernorm.weight\[7\]: found .* no power of two"):
            read(Checkpoint.open(smoothed), other)


def test_a_norm_that_there_is_not_is_named(smoothed: Path, tiny: Path) -> None:
    claimed(smoothed, {"model.norms.7": ["*"]})
    with pytest.raises(CheckpointError, match=r"model\.norms\.7\.weight was smoothed, but is not in both"):
        read(Checkpoint.open(smoothed), Checkpoint.open(tiny))
