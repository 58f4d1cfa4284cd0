"""Does what the compiler makes of our loops give the bytes of the definitions?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from orchestrator.payloads import generate
from orchestrator.quantization.format_names import SCALE_SEARCHES
from orchestrator.quantization.formats import fp8, gptq, kernels, nvfp4
from orchestrator.quantization.onepass import quantize_checkpoint

_EVERY = np.arange(1 << 16, dtype=np.uint16)
_FINITE = _EVERY[(_EVERY & 0x7F80) != 0x7F80]


@pytest.fixture(scope="module", autouse=True)
def compiled() -> Iterator[None]:
    if not kernels.compile_here(threads=3):
        pytest.skip("no C compiler")
    yield
    kernels.forget()


def _bf16(bits: NDArray[np.uint16]) -> NDArray[Any]:
    return np.ascontiguousarray(bits).view(ml_dtypes.bfloat16)


def _same_nvfp4(weight: NDArray[Any], scale_2: np.float32) -> None:
    with np.errstate(over="ignore"):  # what is far above the scale saturates, by way of infinity
        ours, defined = kernels.encode_nvfp4(weight, scale_2), nvfp4.encode(weight, scale_2)
    assert ours.scales.tobytes() == defined.scales.tobytes()
    assert ours.codes.tobytes() == defined.codes.tobytes()


@pytest.mark.parametrize("exponent", [-126, -60, -20, -11, -1, 0, 3, 100])
def test_every_bf16_number_is_encoded_as_defined(exponent: int) -> None:
    scale = np.float32(2.0**exponent * 1.37)
    weight = _bf16(_FINITE)
    with np.errstate(over="ignore"):
        assert kernels.encode_fp8(weight, scale).tobytes() == fp8.encode(weight, scale).tobytes()
    _same_nvfp4(weight.reshape(-1, 16), scale)
    mixed = _bf16(np.random.default_rng(exponent + 200).permutation(_FINITE))
    _same_nvfp4(mixed.reshape(-1, 32), scale)


@settings(deadline=None)
@given(
    hnp.arrays(np.uint16, st.tuples(st.integers(1, 3), st.just(48)), elements=st.sampled_from(_FINITE.tolist())),
    st.floats(2.0**-100, 2.0**100, width=32),
)
def test_any_weight_is_encoded_as_defined(bits: NDArray[np.uint16], scale: float) -> None:
    _same_nvfp4(_bf16(bits), np.float32(scale))
    with np.errstate(over="ignore"):
        expected = fp8.encode(_bf16(bits), np.float32(scale)).tobytes()
    assert kernels.encode_fp8(_bf16(bits), np.float32(scale)).tobytes() == expected


@pytest.mark.parametrize("shape", [(7, 48), (300, 4096), (1, 16), (5, 262144)])
def test_threads_change_no_byte(shape: tuple[int, int]) -> None:
    weight = np.random.default_rng(3).standard_normal(shape, np.float32).astype(ml_dtypes.bfloat16)
    amax = float(np.abs(weight.astype(np.float32)).max())
    assert float(kernels.largest_magnitude(weight)) == amax
    _same_nvfp4(weight, nvfp4.tensor_scale(amax))
    scale = fp8.tensor_scale(amax)
    assert kernels.encode_fp8(weight, scale).tobytes() == fp8.encode(weight, scale).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_the_largest(bad: float) -> None:
    weight = np.ones((300, 1024), ml_dtypes.bfloat16)
    weight[200, 7] = bad
    assert not np.isfinite(kernels.largest_magnitude(weight))


def test_errors_are_those_of_numpy() -> None:
    weight = np.random.default_rng(4).standard_normal((300, 1024), np.float32).astype(ml_dtypes.bfloat16)
    scale = np.float32(0.001)
    encoded = nvfp4.encode(weight, scale)
    exact = weight.astype(np.float64)
    noise = float(np.square(exact - nvfp4.decode(encoded, scale)).sum())
    assert kernels.nvfp4_error(weight, encoded, scale) == pytest.approx(
        (float(np.square(exact).sum()), noise), rel=1e-5
    )
    numbers = fp8.encode(weight, scale * 10)
    noise = float(np.square(exact - fp8.decode(numbers, scale * 10)).sum())
    assert kernels.fp8_error(weight, numbers, scale * 10) == pytest.approx(
        (float(np.square(exact).sum()), noise), rel=1e-5
    )


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_other_types_are_left_to_numpy(kind: type[np.generic]) -> None:
    weight = np.random.default_rng(5).standard_normal((4, 32)).astype(kind)
    _same_nvfp4(weight, np.float32(0.01))


def test_a_weight_that_is_not_in_one_piece_is_left_to_numpy() -> None:
    weight = np.random.default_rng(5).standard_normal((32, 64)).astype(ml_dtypes.bfloat16)
    _same_nvfp4(weight[:, ::2], np.float32(0.01))


def test_a_checkpoint_has_the_same_bytes_with_and_without_a_compiler(tmp_path: Path) -> None:
    generate.main(["--output", str(tmp_path / "model")])
    quantize_checkpoint(tmp_path / "model", tmp_path / "compiled")
    kernels.forget()
    quantize_checkpoint(tmp_path / "model", tmp_path / "defined")
    assert kernels.compile_here(threads=3)
    found, expected = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("compiled", "defined")
    )
    assert found == expected


def test_without_a_compiler_numpy_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not kernels.compile_here()


@pytest.mark.parametrize("search", SCALE_SEARCHES)
@pytest.mark.parametrize(("shape", "exponent"), [((1, 16), 0), ((33, 64), -30), ((150, 512), 3), ((64, 48), -120)])
def test_gptq_rounds_as_defined_on_every_number_of_threads(search: str, shape: tuple[int, int], exponent: int) -> None:
    drawn, columns = np.random.default_rng(shape[0]), shape[1]
    weight = np.ldexp(drawn.standard_normal(shape), exponent).astype(ml_dtypes.bfloat16)
    weight[0, :8] = 0
    matrix = (drawn.standard_normal((columns, columns)) / np.sqrt(columns)).astype(np.float32)
    scale_2 = nvfp4.tensor_scale(float(np.abs(weight.astype(np.float32)).max()))
    order = drawn.permutation(columns // 16).astype(np.int32)
    pairs = drawn.standard_normal((columns // 16, 136)).astype(np.float32)
    changes = gptq.Changes(matrix, drawn.random(columns).astype(np.float32), order, pairs)
    found, expected = (encode(weight, scale_2, search, changes) for encode in (kernels.encode_gptq, gptq.encode))
    assert found.scales.tobytes() == expected.scales.tobytes()
    assert found.codes.tobytes() == expected.codes.tobytes()
