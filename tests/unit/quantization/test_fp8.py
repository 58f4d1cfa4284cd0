from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from orchestrator.quantization.formats import fp8

_EVERY = np.arange(1 << 16, dtype=np.uint16)
_FINITE = _EVERY[(_EVERY & 0x7F80) != 0x7F80].view(ml_dtypes.bfloat16)
_POSITIVE = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
"""Every number of E4M3 from 0 to 448; the index is the byte."""


def _nearest(magnitude: float) -> int:
    """The byte of the nearest number of E4M3, in float64 from the definition: ties to the even byte, saturating."""
    distances = np.abs(_POSITIVE - min(magnitude, 448))
    candidates = np.flatnonzero(distances == distances.min())
    return int(next((byte for byte in candidates if byte % 2 == 0), candidates[0]))


def _bf16_of(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round to 8 significant bits, ties to even, in float64; no exponent here is too small for BF16."""
    mantissas, exponents = np.frexp(numbers)
    rounded: NDArray[np.float64] = np.ldexp(np.rint(mantissas * 256), exponents - 8)
    return rounded


def test_every_bf16_number_has_the_byte_of_the_definition() -> None:
    encoded = fp8.encode(_FINITE, np.float32(1)).view(np.uint8)
    expected = [_nearest(abs(number)) | int(np.signbit(number)) << 7 for number in _FINITE.astype(np.float64)]
    assert encoded.tolist() == expected


def test_a_quotient_is_rounded_to_bf16_first() -> None:
    scale = fp8.tensor_scale(0.3)
    weight = _FINITE[np.abs(_FINITE.astype(np.float32)) < 0.3]
    weight = weight[np.abs(weight.astype(np.float32)) > 1e-30]
    quotients = _bf16_of((weight.astype(np.float32) / scale).astype(np.float64))
    expected = [_nearest(abs(number)) | int(np.signbit(number)) << 7 for number in quotients]
    assert fp8.encode(weight, scale).view(np.uint8).tolist() == expected
    once = (weight.astype(np.float32) / scale).astype(ml_dtypes.float8_e4m3fn)
    assert once.tobytes() != fp8.encode(weight, scale).tobytes()


def test_every_boundary_between_two_numbers_goes_to_the_even_byte() -> None:
    halfway = ((_POSITIVE[:-1] + _POSITIVE[1:]) / 2).astype(np.float32)
    encoded = fp8.encode(halfway, np.float32(1)).view(np.uint8)
    assert encoded.tolist() == [byte + byte % 2 for byte in range(0x7E)]
    below = fp8.encode(np.nextafter(halfway, np.float32(0)), np.float32(1)).view(np.uint8)
    above = fp8.encode(np.nextafter(halfway, np.float32(1000)), np.float32(1)).view(np.uint8)
    assert below.tolist() == list(range(0x7E))
    assert above.tolist() == list(range(1, 0x7F))


@pytest.mark.parametrize("magnitude", [448, 463, 464, 465, 1e9, 3e38])
def test_what_is_too_large_saturates(magnitude: float) -> None:
    numbers = np.array([magnitude, -magnitude], np.float32)
    assert fp8.encode(numbers, np.float32(1)).view(np.uint8).tolist() == [0x7E, 0xFE]
    assert fp8.encode(numbers, np.float32(1e-30)).view(np.uint8).tolist() == [0x7E, 0xFE]


def test_a_tensor_of_zeros_has_scale_one_and_decodes_to_zeros() -> None:
    scale = fp8.tensor_scale(0)
    encoded = fp8.encode(np.array([0.0, -0.0], ml_dtypes.bfloat16), scale)
    assert scale == 1
    assert encoded.view(np.uint8).tolist() == [0, 0x80]
    assert not fp8.decode(encoded, scale).any()


@given(
    hnp.arrays(np.uint16, st.integers(1, 40), elements=st.integers(0, 0xFFFF).filter(lambda b: b & 0x7F80 != 0x7F80))
)
def test_whatever_is_encoded_decodes_close_to_itself(bits: NDArray[np.uint16]) -> None:
    weight: NDArray[Any] = bits.view(ml_dtypes.bfloat16)
    exact = weight.astype(np.float64)
    amax = float(np.abs(exact).max())
    scale = fp8.tensor_scale(amax)
    decoded = fp8.decode(fp8.encode(weight, scale), scale)
    assert np.isfinite(decoded).all()
    # Half a step of E4M3 is 1/16 of a normal number and 2^-10 of the scale below; BF16 and the scale add a little.
    allowed = np.abs(exact) * (1 / 16 + 1 / 128) + float(scale) * 2.0**-9 + 2.0**-133
    assert (np.abs(decoded - exact) <= allowed).all()


def test_numbers_are_encoded_the_same_in_pieces() -> None:
    weight = np.resize(_FINITE, (600, 512))
    pieces = [fp8.encode(part, np.float32(2)).tobytes() for part in (weight[:77], weight[77:])]
    assert b"".join(pieces) == fp8.encode(weight, np.float32(2)).tobytes()


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0])
def test_a_magnitude_that_is_none_is_refused(amax: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        fp8.tensor_scale(amax)
