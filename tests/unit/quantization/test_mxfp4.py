from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from orchestrator.quantization.formats import mxfp4
from orchestrator.quantization.formats.e2m1 import Encoded

_EVERY = np.arange(1 << 16, dtype=np.uint16)
_FINITE = _EVERY[(_EVERY & 0x7F80) != 0x7F80].view(ml_dtypes.bfloat16)
_MAGNITUDES = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


def _exponent(amax: float) -> int:
    """From the definition, in float64: the quotient is rounded to FP32, its logarithm is exact enough for BF16."""
    quotient = float(np.float32(amax) / np.float32(6))
    return max(math.ceil(math.log2(quotient)), -127) if quotient else -127


def _code(value: float) -> int:
    """The nearest magnitude, the smaller one at a tie; the high bit where the number is not above zero."""
    nearest = min(_MAGNITUDES, key=lambda magnitude: (abs(magnitude - abs(value)), magnitude))
    return _MAGNITUDES.index(nearest) | (0 if value > 0 else 8)


def _unpacked(encoded: Encoded[NDArray[Any]]) -> list[int]:
    return [code for byte in encoded.codes.reshape(-1).tolist() for code in (byte & 15, byte >> 4)]


def test_every_bf16_number_has_the_bytes_of_the_definition() -> None:
    # Each number is alone in its block, so it decides the exponent.
    weight = np.zeros((len(_FINITE), 32), ml_dtypes.bfloat16)
    weight[:, 0] = _FINITE
    encoded = mxfp4.encode(weight)
    exponents = [_exponent(abs(number)) for number in _FINITE.astype(np.float64)]
    assert (encoded.scales.reshape(-1).astype(int) - 127).tolist() == exponents
    codes = encoded.codes[:, 0] & 15
    values = np.ldexp(_FINITE.astype(np.float64), -np.array(exponents))
    assert codes.tolist() == [_code(value) for value in values]


def test_every_bf16_number_has_the_code_of_the_definition_beside_a_six() -> None:
    weight = np.zeros((1, 32), ml_dtypes.bfloat16)
    small = _FINITE[np.abs(_FINITE.astype(np.float32)) <= 6]
    weight = np.zeros((len(small), 32), ml_dtypes.bfloat16)
    weight[:, 0], weight[:, 1] = 6, small
    encoded = mxfp4.encode(weight)
    assert (encoded.scales == 127).all()
    assert (encoded.codes[:, 0] >> 4).tolist() == [_code(value) for value in small.astype(np.float64).tolist()]


def test_ties_go_toward_zero() -> None:
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]
    weight = np.array([[*ties, *(-number for number in ties), *[0.0] * 16]], np.float32)
    assert _unpacked(mxfp4.encode(weight))[:16] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_zeros_of_either_sign_have_code_eight(zero: float) -> None:
    encoded = mxfp4.encode(np.full((1, 32), zero, np.float32))
    assert encoded.scales.tolist() == [[0]]
    assert _unpacked(encoded) == [8] * 32
    assert not mxfp4.decode(encoded).any()


def test_the_exponent_is_the_smallest_that_does_not_saturate() -> None:
    weight = np.zeros((3, 32), np.float32)
    weight[:, 0] = [6, np.nextafter(np.float32(6), np.float32(7)), 3]
    assert (mxfp4.encode(weight).scales.reshape(-1).astype(int) - 127).tolist() == [0, 1, -1]


_weights = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 4), st.integers(1, 3).map(lambda blocks: blocks * mxfp4.BLOCK)),
    elements=st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 < 0x7F00),  # what comes out fits FP32
)


@given(_weights)
def test_the_error_of_a_number_is_at_most_a_third_of_its_block(bits: NDArray[np.uint16]) -> None:
    # The power of two is less than twice what the block needs, and half of the widest gap is a sixth of the range.
    weight: NDArray[Any] = bits.view(ml_dtypes.bfloat16)
    exact = weight.astype(np.float64)
    decoded = mxfp4.decode(mxfp4.encode(weight))
    block = np.repeat(np.abs(exact.reshape(len(exact), -1, 32)).max(-1), 32, axis=1)
    assert (np.abs(decoded - exact) <= block / 3 + 2.0**-127).all()


@given(_weights, st.integers(1, 3))
def test_rows_can_be_encoded_in_pieces(bits: NDArray[np.uint16], cut: int) -> None:
    weight: NDArray[Any] = bits.view(ml_dtypes.bfloat16)
    whole = mxfp4.encode(weight)
    pieces = [mxfp4.encode(part) for part in (weight[:cut], weight[cut:])]
    assert b"".join(piece.codes.tobytes() for piece in pieces) == whole.codes.tobytes()
    assert b"".join(piece.scales.tobytes() for piece in pieces) == whole.scales.tobytes()


def test_the_layout_that_gpt_oss_is_published_in_decodes() -> None:
    blocks = np.zeros((2, 3, 16), np.uint8)  # out, in / 32, bytes
    blocks[1, 2, 0] = 0x72
    scales = np.full((2, 3), 127, np.uint8)
    scales[1, 2] = 130
    decoded = mxfp4.decode(Encoded(blocks.reshape(2, 48), scales))
    assert decoded[1, 64:66].tolist() == [8, 48]
    assert np.count_nonzero(decoded) == 2


def test_a_scale_of_255_is_not_a_number() -> None:
    encoded = Encoded(np.zeros((1, 16), np.uint8), np.full((1, 1), 255, np.uint8))
    assert np.isnan(mxfp4.decode(encoded)).all()


@pytest.mark.parametrize("shape", [(4, 16), (4, 33), (32,), (1, 2, 32)])
def test_rows_that_are_not_whole_blocks_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        mxfp4.encode(np.ones(shape, np.float32))
