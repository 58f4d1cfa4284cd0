"""Searches for the scales of NVFP4's blocks: their definitions."""

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

from orchestrator.errors import RecipeInvalidError
from orchestrator.payloads import quantize
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.format_names import FOUR_OVER_SIX, LOCAL_HESSIAN, MAX, MSE, SCALE_SEARCHES, WEIGHTED
from orchestrator.quantization.formats import nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.onepass import quantize_checkpoint
from orchestrator.quantization.plan import scheme_named
from orchestrator.quantization.schemes import searching

_SEARCHES = (MSE, FOUR_OVER_SIX)
_weights = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(48)), elements=st.floats(-1, 1, width=16)).map(
    lambda weight: weight.astype(ml_dtypes.bfloat16)
)


def _pairs(seed: int) -> NDArray[np.float32]:
    """Return the importance of pairs of 48 inputs that depend on each other."""
    drawn = np.random.default_rng(seed)
    inputs = drawn.standard_normal((3, 100, nvfp4.BLOCK)) @ drawn.standard_normal((3, nvfp4.BLOCK, nvfp4.BLOCK))
    inputs *= np.exp(drawn.standard_normal(nvfp4.BLOCK))
    return nvfp4.pairs_of(np.einsum("bti,btj->bij", inputs, inputs))


_importances = (
    st.none() | hnp.arrays(np.float32, 48, elements=st.floats(0, 1, width=16)) | st.integers(0, 1000).map(_pairs)
)


def _scale(weight: NDArray[Any]) -> np.float32:
    return nvfp4.tensor_scale(float(np.abs(weight.astype(np.float32)).max(initial=0)))


def _errors(
    weight: NDArray[Any], encoded: Encoded[NDArray[Any]], scale_2: np.float32, importance: NDArray[np.float32] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the error of each block in float64, in units of the scale of the tensor, and what roundings may change."""
    decoded = nvfp4.decode(encoded, np.float32(1)).astype(np.float64)
    off = (decoded - weight.astype(np.float64) / np.float64(scale_2)).reshape(len(weight), -1, nvfp4.BLOCK)
    if importance is not None and importance.ndim > 1:
        first, second = np.triu_indices(nvfp4.BLOCK)
        terms = off[..., first] * off[..., second] * importance.astype(np.float64)
    else:
        terms = np.square(off) * (1 if importance is None else importance.astype(np.float64).reshape(-1, nvfp4.BLOCK))
    return terms.sum(-1), np.abs(terms).sum(-1) * 1e-5 + 1e-30


@pytest.mark.parametrize("search", _SEARCHES)
@given(weight=_weights, importance=_importances)
@settings(deadline=None)
def test_a_chosen_scale_is_never_worse_than_that_of_max(
    search: str, weight: NDArray[Any], importance: NDArray[np.float32] | None
) -> None:
    scale_2 = _scale(weight)
    found, plain = nvfp4.encode(weight, scale_2, search, importance), nvfp4.encode(weight, scale_2)
    (least, slack), (before, more) = (_errors(weight, one, scale_2, importance) for one in (found, plain))
    assert (least <= before + slack + more).all()


@given(weight=_weights, importance=_importances)
@settings(deadline=None, max_examples=50)
def test_no_scale_in_reach_is_better_by_more_than_roundings(
    weight: NDArray[Any], importance: NDArray[np.float32] | None
) -> None:
    scale_2 = _scale(weight)
    found, plain = nvfp4.encode(weight, scale_2, MSE, importance), nvfp4.encode(weight, scale_2)
    least, slack = _errors(weight, found, scale_2, importance)
    codes = plain.scales.view(np.uint8).astype(int)
    for offset in range(-4, 9):
        scales = np.clip(codes + offset, 1, 126).astype(np.uint8).view(ml_dtypes.float8_e4m3fn)
        other, more = _errors(weight, _with(weight, scales, scale_2), scale_2, importance)
        assert (least <= other + slack + more).all()


def _with(weight: NDArray[Any], scales: NDArray[Any], scale_2: np.float32) -> Encoded[NDArray[Any]]:
    """Encode with given scales, without the code that is tested: the nearest of all sixteen values."""
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    steps = np.repeat(scales.astype(np.float64), nvfp4.BLOCK, axis=1) * np.float64(scale_2)
    off = np.abs(weight.astype(np.float64)[..., np.newaxis] / steps[..., np.newaxis] - values)
    codes = off.argmin(-1).astype(np.uint8)
    return Encoded(codes[:, 0::2] | codes[:, 1::2] << np.uint8(4), scales)


@pytest.mark.parametrize("search", _SEARCHES)
@given(weight=_weights, importance=_importances, exponent=st.integers(-60, 60))
@settings(deadline=None)
def test_scaling_a_weight_by_a_power_of_two_changes_no_byte(
    search: str, weight: NDArray[Any], importance: NDArray[np.float32] | None, exponent: int
) -> None:
    scaled = np.ldexp(weight.astype(np.float32), exponent).astype(weight.dtype)
    if not weight.astype(np.float32).any():
        return  # the scale of a tensor of zeros is 1
    one = nvfp4.encode(weight, _scale(weight), search, importance)
    other = nvfp4.encode(scaled, _scale(scaled), search, importance)
    assert one.scales.tobytes() == other.scales.tobytes()
    assert one.codes.tobytes() == other.codes.tobytes()


@pytest.mark.parametrize("search", _SEARCHES)
@given(weight=_weights, importance=_importances, seed=st.integers(0, 100))
@settings(deadline=None)
def test_permuting_rows_permutes_bytes(
    search: str, weight: NDArray[Any], importance: NDArray[np.float32] | None, seed: int
) -> None:
    order, scale_2 = np.random.default_rng(seed).permutation(len(weight)), _scale(weight)
    found = nvfp4.encode(weight, scale_2, search, importance)
    permuted = nvfp4.encode(weight[order], scale_2, search, importance)
    assert permuted.scales.tobytes() == found.scales[order].tobytes()
    assert permuted.codes.tobytes() == found.codes[order].tobytes()


@given(weight=_weights)
@settings(deadline=None)
def test_an_importance_of_ones_is_none(weight: NDArray[Any]) -> None:
    ones = np.ones(weight.shape[1], np.float32)
    found = [nvfp4.encode(weight, _scale(weight), MSE, importance) for importance in (None, ones)]
    assert found[0].scales.tobytes() == found[1].scales.tobytes()


def test_a_number_that_counts_alone_decides() -> None:
    weight = np.zeros((1, 16), np.float32)
    weight[0, :3] = 6, 5, 5
    scale_2 = np.float32(1 / 64)
    alone = np.zeros(16, np.float32)
    alone[1:3] = 1
    found = nvfp4.encode(weight, scale_2, MSE, alone)
    decoded = nvfp4.decode(found, scale_2)[0]
    assert decoded[1] == decoded[2] == 5
    assert nvfp4.decode(nvfp4.encode(weight, scale_2), scale_2)[0, 1] == 4


@pytest.mark.parametrize("search", _SEARCHES)
def test_scales_that_are_equally_good_stay_as_max_has_them(search: str) -> None:
    weight = np.array([[6, 3, 1.5, 0.5, *[0] * 12]], np.float32)
    for unseen in (weight, np.zeros((1, 16), np.float32)):
        found, plain = nvfp4.encode(unseen, np.float32(0.25), search), nvfp4.encode(unseen, np.float32(0.25))
        assert found.scales.tobytes() == plain.scales.tobytes()


def test_numbers_that_all_become_zero_keep_the_scale_of_max() -> None:
    weight = np.full((1, 16), 2.0**-12, np.float32)
    assert nvfp4.encode(weight, np.float32(1), MSE).scales.view(np.uint8).tolist() == [[1]]


def test_the_block_of_the_documentation() -> None:
    numbers = [0.5, -0.5, 0.02, -0.02, 0, 1, -1, 0.3, 0.08, 0.09, -0.25, 0.42, 0.41, 0.66, 0.9, -0.9]
    block = np.array([numbers], np.float32).astype(ml_dtypes.bfloat16)
    scale_2 = nvfp4.tensor_scale(2.0)  # the matrix has a number twice as large elsewhere
    encoded = {search: nvfp4.encode(block, scale_2, search) for search in (MAX, *_SEARCHES)}
    scales = {search: one.scales.view(np.uint8).item() for search, one in encoded.items()}
    assert scales == {"max": 0x76, "mse": 0x75, "four_over_six": 0x7A}
    assert encoded[MSE].codes.tobytes().hex() == "d580704f115b65f7"
    errors = {
        search: _errors(block, one, scale_2, None)[0].item() * float(scale_2) ** 2 for search, one in encoded.items()
    }
    assert errors == pytest.approx({"max": 0.0349, "mse": 0.0225, "four_over_six": 0.0269}, abs=5e-5)
    inputs = np.full(16, 0.1, np.float32)
    inputs[5:7], inputs[14:16] = 1, 0.01  # the inputs of 1 and -1 are large, those of 0.9 and -0.9 small
    assert nvfp4.encode(block, scale_2, MSE, inputs).scales.view(np.uint8).item() == 0x76
    products = np.diag(inputs.astype(np.float64))[np.newaxis]
    assert nvfp4.encode(block, scale_2, MSE, nvfp4.pairs_of(products)).scales.view(np.uint8).item() == 0x76
    products[0, 5, 6] = products[0, 6, 5] = 1  # always equal, so that errors of 1 and -1 cancel
    together = nvfp4.encode(block, scale_2, MSE, nvfp4.pairs_of(products))
    assert together.scales.view(np.uint8).item() == 0x75
    assert together.codes.tobytes() == encoded[MSE].codes.tobytes()


def test_products_become_weights_of_pairs_over_the_largest_square() -> None:
    products = np.random.default_rng(0).standard_normal((2, 16, 16))
    products += products.transpose(0, 2, 1)
    products[1, 3, 3] = 8
    pairs = nvfp4.pairs_of(products.astype(np.float32))
    off = np.random.default_rng(1).standard_normal((2, 16))
    first, second = np.triu_indices(16)
    whole = np.einsum("bi,bij,bj->b", off, products / 8, off)
    np.testing.assert_allclose((pairs * off[:, first] * off[:, second]).sum(1), whole, rtol=1e-5, atol=1e-5)
    assert pairs.dtype == np.float32


def test_errors_that_outputs_add_up_are_smaller_than_by_other_searches() -> None:
    weight = np.random.default_rng(1).standard_normal((64, 48)).astype(ml_dtypes.bfloat16)
    scale_2, pairs = _scale(weight), _pairs(3)
    own = pairs[:, np.concatenate([[0], np.cumsum(np.arange(16, 1, -1))])].reshape(-1)
    ways = {MAX: None, MSE: None, WEIGHTED: own, LOCAL_HESSIAN: pairs}
    found = {
        name: _errors(weight, nvfp4.encode(weight, scale_2, MAX if name == MAX else MSE, way), scale_2, pairs)[0].sum()
        for name, way in ways.items()
    }
    assert found[LOCAL_HESSIAN] < 0.9 * found[WEIGHTED] < 0.9 * found[MSE] < 0.9 * found[MAX]


@pytest.mark.parametrize("search", SCALE_SEARCHES)
def test_a_scheme_searches_as_its_name_says(search: str, numbers: np.random.Generator) -> None:
    weight = numbers.standard_normal((4, 48)).astype(ml_dtypes.bfloat16)
    importance, scale_2 = numbers.random(48).astype(np.float32), _scale(weight)
    pairs = numbers.random((3, 136)).astype(np.float32)
    scheme = scheme_named("nvfp4", scale_search=search)
    expected = {
        MAX: (MAX, None),
        MSE: (MSE, None),
        FOUR_OVER_SIX: (FOUR_OVER_SIX, None),
        WEIGHTED: (MSE, importance),
        LOCAL_HESSIAN: (MSE, pairs),
    }[search]
    found = scheme.encode(weight, scale_2, importance=expected[1] if scheme.weighs_pairs else importance)
    assert found["_scale"].tobytes() == nvfp4.encode(weight, scale_2, *expected).scales.tobytes()
    assert scheme.weighs_errors == (expected[1] is not None)
    assert scheme.weighs_pairs == (search == LOCAL_HESSIAN)
    alone = scheme.encode(weight, scale_2)["_scale"].tobytes()
    assert alone == nvfp4.encode(weight, scale_2, MSE if scheme.weighs_errors else search).scales.tobytes()


def test_other_formats_have_no_search() -> None:
    assert searching(WEIGHTED)["fp8"] == searching(MAX)["fp8"]


@pytest.mark.parametrize("search", [WEIGHTED, LOCAL_HESSIAN])
def test_a_search_that_follows_inputs_is_refused_without_calibration(search: str, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalidError, match=f"{search} needs calibration"):
        quantize_checkpoint(tiny, tmp_path / "out", scale_search=search)
    assert not (tmp_path / "out").exists()


def test_the_option_is_refused_for_formats_without_nvfp4(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        quantize.main(
            ["--checkpoint", str(tiny), "--output", str(tmp_path), "--format", "fp8", "--scale-search", "mse"]
        )
    refused = "--scale-search goes with --format w4a16_nvfp4, nvfp4, auto: fp8 has no blocks of NVFP4"
    assert refused in capsys.readouterr().err


def test_a_search_changes_scales_and_leaves_the_scale_of_the_tensor(tiny: Path, tmp_path: Path) -> None:
    for search in (MAX, MSE):
        quantize_checkpoint(tiny, tmp_path / search, scale_search=search)
    plain, searched = (Checkpoint.open(tmp_path / search) for search in (MAX, MSE))
    weight = "model.layers.0.mlp.down_proj.weight"
    assert plain.read(f"{weight}_scale_2") == searched.read(f"{weight}_scale_2")
    assert plain.read(f"{weight}_scale").tobytes() != searched.read(f"{weight}_scale").tobytes()
    assert plain.tensors.keys() == searched.tensors.keys()
