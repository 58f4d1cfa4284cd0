"""GPTQ for NVFP4: its definition, and which weights are rounded by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from orchestrator.payloads import quantize
from orchestrator.quantization.format_names import (
    FOUR_OVER_SIX,
    GPTQ,
    LOCAL_HESSIAN,
    MAX,
    MSE,
    NEAREST,
    SCALE_SEARCHES,
    WEIGHTED,
)
from orchestrator.quantization.formats import gptq, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.formats.gptq import Changes
from orchestrator.quantization.plan import scheme_named
from orchestrator.quantization.schemes import searching

_COLUMNS = 48
_VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
_weights = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.just(_COLUMNS)), elements=st.floats(-1, 1, width=16)
).map(lambda weight: weight.astype(ml_dtypes.bfloat16))
_seeds = st.integers(0, 100)


def _hessian(seed: int, columns: int = _COLUMNS) -> NDArray[np.float64]:
    """Return the products of inputs that depend on each other and differ in size, damped."""
    numbers = np.random.default_rng(seed)
    inputs = numbers.standard_normal((4 * columns, columns)) @ numbers.standard_normal((columns, columns))
    inputs *= np.exp(numbers.standard_normal(columns))
    products: NDArray[np.float64] = inputs.T @ inputs
    products += 0.01 * products.diagonal().mean() * np.eye(columns)
    return products


def _upper(hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the upper triangular factor of the inverse."""
    factor: NDArray[np.float64] = np.linalg.cholesky(np.linalg.inv(hessian)).T
    return factor


def _changes(hessian: NDArray[np.float64], order: NDArray[Any] | None = None) -> Changes:
    """Return what errors change in float64, in an order of the blocks."""
    blocks = np.arange(len(hessian) // 16) if order is None else order
    columns = _columns(blocks)
    upper = _upper(hessian[np.ix_(columns, columns)])
    costs = 1 / np.square(upper.diagonal())
    matrix = (upper / upper.diagonal()[:, np.newaxis]).astype(np.float32)
    inside = np.stack([hessian[here : here + 16, here : here + 16] for here in 16 * blocks])
    return Changes(matrix, (costs / costs.max()).astype(np.float32), blocks.astype(np.int32), nvfp4.pairs_of(inside))


def _columns(blocks: NDArray[Any]) -> NDArray[Any]:
    found: NDArray[Any] = (blocks[:, np.newaxis] * 16 + np.arange(16)).reshape(-1)
    return found


def _scale(weight: NDArray[Any]) -> np.float32:
    return nvfp4.tensor_scale(float(np.abs(weight.astype(np.float32)).max(initial=0)))


def _loss(
    weight: NDArray[Any], encoded: Encoded[NDArray[Any]], scale_2: np.float32, hessian: NDArray[np.float64]
) -> float:
    """Return the squared error of the outputs over all inputs, in float64."""
    off = nvfp4.decode(encoded, scale_2).astype(np.float64) - weight.astype(np.float64)
    return float(np.einsum("ri,ij,rj->", off, hessian, off))


def _plain(weight: NDArray[Any], scale_2: np.float32, hessian: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round as the paper has it, in float64: divide by the factor's diagonal, change all columns that are left."""
    rest, upper, step = weight.astype(np.float64), _upper(hessian), float(scale_2)
    rounded = np.zeros_like(rest)
    steps = np.zeros(len(rest))
    for column in range(rest.shape[1]):
        if column % 16 == 0:
            wanted = np.abs(rest[:, column : column + 16]).max(1) / (6 * step)
            scales = np.clip(np.where(wanted == 0, 1, wanted), 2.0**-9, 448).astype(ml_dtypes.float8_e4m3fn)
            steps = scales.astype(np.float64) * step
        magnitudes = np.abs(rest[:, column]) / steps
        nearest = _VALUES[np.abs(magnitudes[:, np.newaxis] - _VALUES).argmin(1)]
        rounded[:, column] = np.sign(rest[:, column]) * nearest * steps
        error = (rest[:, column] - rounded[:, column]) / upper[column, column]
        rest[:, column:] -= np.outer(error, upper[column, column:])
    return rounded


@pytest.mark.parametrize("seed", range(5))
def test_it_rounds_as_plain_gptq_in_float64(seed: int) -> None:
    numbers, hessian = np.random.default_rng(seed), _hessian(seed, 256)
    weight = numbers.standard_normal((64, 256)).astype(ml_dtypes.bfloat16)
    scale_2 = _scale(weight)
    found = gptq.encode(weight, scale_2, MAX, _changes(hessian))
    ours, plain = nvfp4.decode(found, scale_2), _plain(weight, scale_2, hessian)
    # A number at a tie may go either way in FP32, and changes what comes after it in its row.
    same = np.isclose(ours, plain, rtol=1e-5, atol=0)
    assert same.mean() > 0.97
    assert np.isclose(ours, plain, rtol=1e-5, atol=0).all(1).mean() > 0.9
    off = plain - weight.astype(np.float64)
    assert _loss(weight, found, scale_2, hessian) == pytest.approx(np.einsum("ri,ij,rj->", off, hessian, off), rel=0.02)


@pytest.mark.parametrize("search", SCALE_SEARCHES)
def test_outputs_are_closer_than_with_the_nearest_numbers(search: str, numbers: np.random.Generator) -> None:
    hessian = _hessian(1, 256)
    weight = numbers.standard_normal((64, 256)).astype(ml_dtypes.bfloat16)
    scale_2 = _scale(weight)
    nearest = nvfp4.encode(weight, scale_2, search)
    rounded = gptq.encode(weight, scale_2, search, _changes(hessian))
    assert _loss(weight, rounded, scale_2, hessian) < 0.6 * _loss(weight, nearest, scale_2, hessian)


@given(weight=_weights, seed=_seeds)
@settings(deadline=None, max_examples=50)
def test_the_error_of_outputs_is_the_sum_of_what_was_made_up_for(weight: NDArray[Any], seed: int) -> None:
    hessian, scale_2 = _hessian(seed), _scale(weight)
    upper, found = _upper(hessian), gptq.encode(weight, _scale(weight), MSE, _changes(hessian))
    rounded, rest = nvfp4.decode(found, scale_2).astype(np.float64), weight.astype(np.float64)
    total = 0.0
    for column in range(_COLUMNS):
        error = (rest[:, column] - rounded[:, column]) / upper[column, column]
        rest[:, column:] -= np.outer(error, upper[column, column:])
        total += float(np.square(error).sum())
    assert _loss(weight, found, scale_2, hessian) == pytest.approx(total, rel=1e-6, abs=1e-20)


@pytest.mark.parametrize("search", [MAX, MSE, FOUR_OVER_SIX])
@given(weight=_weights)
@settings(deadline=None, max_examples=50)
def test_inputs_that_do_not_depend_on_each_other_round_to_the_nearest(search: str, weight: NDArray[Any]) -> None:
    changes, scale_2 = _changes(np.diag(_hessian(0).diagonal())), _scale(weight)
    found, nearest = gptq.encode(weight, scale_2, search, changes), nvfp4.encode(weight, scale_2, search)
    assert found.scales.tobytes() == nearest.scales.tobytes()
    assert found.codes.tobytes() == nearest.codes.tobytes()


@pytest.mark.parametrize("search", [MSE, WEIGHTED, LOCAL_HESSIAN])
@given(weight=_weights, seed=_seeds)
@settings(deadline=None, max_examples=10)
def test_permuting_rows_permutes_bytes(search: str, weight: NDArray[Any], seed: int) -> None:
    order, scale_2 = np.random.default_rng(seed).permutation(len(weight)), _scale(weight)
    changes = _changes(_hessian(seed))
    found, permuted = (gptq.encode(rows, scale_2, search, changes) for rows in (weight, weight[order]))
    assert permuted.scales.tobytes() == found.scales[order].tobytes()
    assert permuted.codes.tobytes() == found.codes[order].tobytes()


@pytest.mark.parametrize("search", [MSE, WEIGHTED, LOCAL_HESSIAN])
@given(weight=_weights, seed=_seeds, exponent=st.integers(-60, 60))
@settings(deadline=None, max_examples=10)
def test_scaling_a_weight_by_a_power_of_two_changes_no_byte(
    search: str, weight: NDArray[Any], seed: int, exponent: int
) -> None:
    if not weight.astype(np.float32).any():
        return  # the scale of a tensor of zeros is 1
    scaled = np.ldexp(weight.astype(np.float32), exponent).astype(weight.dtype)
    one, other = (gptq.encode(w, _scale(w), search, _changes(_hessian(seed))) for w in (weight, scaled))
    assert one.scales.tobytes() == other.scales.tobytes()
    assert one.codes.tobytes() == other.codes.tobytes()


@pytest.mark.parametrize("search", [MSE, WEIGHTED, LOCAL_HESSIAN])
@given(weight=_weights, seed=_seeds)
@settings(deadline=None, max_examples=10)
def test_another_order_of_blocks_is_that_of_a_weight_with_its_blocks_in_this_order(
    search: str, weight: NDArray[Any], seed: int
) -> None:
    order, scale_2 = np.random.default_rng(seed).permutation(_COLUMNS // 16), _scale(weight)
    columns, hessian = _columns(order), _hessian(seed)
    found = gptq.encode(weight, scale_2, search, _changes(hessian, order))
    moved = np.ascontiguousarray(weight[:, columns])
    expected = gptq.encode(moved, scale_2, search, _changes(hessian[np.ix_(columns, columns)]))
    assert found.scales[:, order].tobytes() == expected.scales.tobytes()
    assert nvfp4.decode(found, scale_2)[:, columns].tobytes() == nvfp4.decode(expected, scale_2).tobytes()


def _cost_of(numbers: NDArray[np.float64], upper: NDArray[np.float64], step: float) -> float:
    """Return, in float64, the error of a row's outputs that the rounding of its first block leaves."""
    rest, total = numbers.copy(), 0.0
    for column in range(16):
        nearest = _VALUES[np.abs(abs(rest[column]) / step - _VALUES).argmin()]
        error = (rest[column] - np.sign(rest[column]) * nearest * step) / upper[column, column]
        rest[column:] -= error * upper[column, column:16]
        total += error**2
    return float(total)


@pytest.mark.parametrize("seed", range(4))
def test_weighted_takes_the_scale_whose_rounding_leaves_the_least_error_of_outputs(seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((64, _COLUMNS)).astype(ml_dtypes.bfloat16)
    hessian, scale_2 = _hessian(seed), _scale(weight)
    order = np.argsort(-hessian.diagonal().reshape(-1, 16).sum(1))
    changes, columns = _changes(hessian, order), _columns(order)
    upper = _upper(hessian[np.ix_(columns, columns)])
    first = weight.astype(np.float64)[:, columns[:16]]
    by_max, found = (gptq.encode(weight, scale_2, search, changes).scales[:, order[0]] for search in (MAX, WEIGHTED))
    candidates = np.stack([by_max, *nvfp4.candidates(by_max)])
    costs = np.array(
        [
            [_cost_of(row, upper, float(one) * float(scale_2)) for one, row in zip(scales, first, strict=True)]
            for scales in candidates
        ]
    )
    chosen = np.take_along_axis(costs, np.argmax(candidates == found, axis=0)[np.newaxis], axis=0)[0]
    assert (candidates == found).any(0).all()
    assert (chosen <= costs[0] * (1 + 1e-5)).all()
    assert chosen.sum() < 0.9 * costs[0].sum()
    # Roundings of FP32 decide ties, and which of nearly equal candidates is the least.
    assert np.isclose(chosen, costs.min(0), rtol=1e-4).mean() > 0.95


def test_searches_that_follow_inputs_leave_less_error_of_outputs_than_the_others() -> None:
    weight = np.random.default_rng(7).standard_normal((64, 96)).astype(ml_dtypes.bfloat16)
    hessian, scale_2 = _hessian(1, 96), _scale(weight)
    losses = {
        search: _loss(weight, gptq.encode(weight, scale_2, search, _changes(hessian)), scale_2, hessian)
        for search in SCALE_SEARCHES
    }
    following = [losses.pop(WEIGHTED), losses.pop(LOCAL_HESSIAN)]
    assert max(following) < 0.8 * min(losses.values())


def test_a_weight_without_whole_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        gptq.encode(np.zeros((2, 24), np.float32), np.float32(1), MAX, _changes(np.eye(16)))


@pytest.mark.parametrize("search", SCALE_SEARCHES)
def test_a_scheme_rounds_what_calibration_knows_and_falls_back_otherwise(
    search: str, numbers: np.random.Generator
) -> None:
    weight = numbers.standard_normal((16, _COLUMNS)).astype(ml_dtypes.bfloat16)
    changes, scale_2 = _changes(_hessian(3)), _scale(weight)
    scheme = scheme_named("w4a16_nvfp4", scale_search=search, rounding=GPTQ)
    assert scheme.compensates
    rounded = scheme.encode(weight, scale_2, changes=changes)
    expected = gptq.encode(weight, scale_2, search, changes)
    assert rounded[""].tobytes() == expected.codes.tobytes()
    assert rounded["_scale"].tobytes() == expected.scales.tobytes()
    alone = scheme.encode(weight, scale_2)
    assert alone[""].tobytes() == nvfp4.encode(weight, scale_2, MSE).codes.tobytes()


def test_other_roundings_and_formats_do_not_compensate() -> None:
    assert not scheme_named("nvfp4", scale_search=WEIGHTED).compensates
    assert searching(MAX, GPTQ)["fp8"] == searching(MAX, NEAREST)["fp8"]
    assert not searching(MAX, GPTQ)["fp8"].compensates


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--format", "fp8", "--calibration", "text.jsonl"),
            "goes with --format w4a16_nvfp4, nvfp4, auto, not with fp8",
        ),
        (("--format", "nvfp4"), "needs --calibration"),
    ],
)
def test_the_option_is_refused_where_it_means_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    output = tmp_path / "out"
    with pytest.raises(SystemExit):
        quantize.main(["--checkpoint", str(tiny), "--output", str(output), "--rounding", "gptq", *arguments])
    assert message in capsys.readouterr().err
    assert not output.exists()
