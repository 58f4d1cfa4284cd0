from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from orchestrator.quantization.formats import nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded


def _bf16(bits: NDArray[np.uint16]) -> NDArray[Any]:
    return bits.view(ml_dtypes.bfloat16)


def _amax(weight: NDArray[Any]) -> float:
    return float(np.abs(weight.astype(np.float32)).max(initial=0))


def _roundtrip(weight: NDArray[Any]) -> NDArray[np.float32]:
    scale_2 = nvfp4.tensor_scale(_amax(weight))
    return nvfp4.decode(nvfp4.encode(weight, scale_2), scale_2)


_weights = hnp.arrays(
    np.uint16,
    st.tuples(st.integers(1, 4), st.integers(1, 3).map(lambda blocks: blocks * nvfp4.BLOCK)),
    elements=st.integers(0, 0xFFFF).filter(lambda bits: bits & 0x7F80 != 0x7F80),
).map(_bf16)
_ordinary = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(32)), elements=st.floats(-1, 1, width=32)).map(
    lambda weight: weight.astype(ml_dtypes.bfloat16)
)


@given(_weights)
def test_every_finite_weight_decodes_to_finite_numbers(weight: NDArray[Any]) -> None:
    assert np.isfinite(_roundtrip(weight)).all()


@given(_weights)
def test_signs_never_flip(weight: NDArray[Any]) -> None:
    assert (_roundtrip(weight) * np.sign(weight.astype(np.float32)) >= 0).all()


@given(_ordinary)
def test_the_error_of_a_number_is_at_most_a_sixth_of_its_block(weight: NDArray[Any]) -> None:
    # The widest gap between codes is 2 of 6, so half of it is a sixth of the block's largest magnitude; E4M3 rounds the
    # scale by up to 1/16, and by up to 2^-10 of the tensor's scale where it is subnormal.
    exact = weight.astype(np.float32)
    block = np.repeat(np.abs(exact.reshape(len(exact), -1, 16)).max(-1), 16, axis=1)
    allowed = block / 6 * (1 + 1 / 8) + _amax(weight) / 448 * 2.0**-9
    assert (np.abs(_roundtrip(weight) - exact) <= allowed).all()


_codes = st.integers(0, 15).filter(lambda code: code != 8)


@given(
    blocks=st.lists(st.lists(_codes, min_size=15, max_size=15), min_size=1, max_size=4),
    scales=st.lists(st.integers(1, 0x7E), min_size=4, max_size=4),
    exponent=st.integers(-30, 10),
)
@settings(deadline=None)
def test_encoding_what_was_decoded_gives_the_same_bytes(
    blocks: list[list[int]], scales: list[int], exponent: int
) -> None:
    # A block whose largest code is 6 determines its own scale; negative zero would come back as zero.
    codes = np.array([[7, *block] for block in blocks], np.uint8)
    encoded = Encoded(
        codes[:, 0::2] | codes[:, 1::2] << np.uint8(4),
        np.array(scales[: len(blocks)], np.uint8).reshape(-1, 1).view(ml_dtypes.float8_e4m3fn),
    )
    scale_2 = np.float32(2.0**exponent)
    again = nvfp4.encode(nvfp4.decode(encoded, scale_2), scale_2)
    assert again.codes.tobytes() == encoded.codes.tobytes()
    assert again.scales.tobytes() == encoded.scales.tobytes()


@given(_weights, st.integers(1, 3))
def test_rows_can_be_encoded_in_pieces(weight: NDArray[Any], cut: int) -> None:
    scale_2 = nvfp4.tensor_scale(_amax(weight))
    whole = nvfp4.encode(weight, scale_2)
    pieces = [nvfp4.encode(part, scale_2) for part in (weight[:cut], weight[cut:])]
    assert b"".join(piece.codes.tobytes() for piece in pieces) == whole.codes.tobytes()
    assert b"".join(piece.scales.tobytes() for piece in pieces) == whole.scales.tobytes()


def test_ties_go_to_the_even_code() -> None:
    # Block scale 1 and tensor scale 1, so the numbers are their own multiples of a step.
    ties = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]
    weight = np.array([[*ties, *(-number for number in ties)]], np.float32)
    encoded = nvfp4.encode(weight, np.float32(1))
    assert encoded.scales.tobytes() == b"\x38"
    assert encoded.codes.tobytes().hex() == "20426476a8caecfe"


def test_a_block_has_the_bytes_that_modelopt_gives_it() -> None:
    weight = np.array([[0.5, -0.5, 0.02, -0.02, 0, 1, -1, 0.3, 0.08, 0.09, -0.25, 0.42, 0.41, 0.66, 0.9, -0.9]])
    scale_2 = nvfp4.tensor_scale(1.0)
    encoded = nvfp4.encode(weight.astype(ml_dtypes.bfloat16), scale_2)
    assert scale_2.tobytes().hex() == "310cc339"
    assert encoded.scales.tobytes() == b"\x7e"
    assert encoded.codes.tobytes().hex() == "d580704f115b64f7"


def test_the_even_column_is_in_the_low_half_of_a_byte() -> None:
    weight = np.zeros((1, 16), np.float32)
    weight[0, 0], weight[0, 3] = 6, -6
    encoded = nvfp4.encode(weight, np.float32(1))
    assert encoded.codes.tobytes().hex() == "07f0000000000000"


def test_the_block_with_the_largest_number_has_the_largest_scale() -> None:
    weight = np.linspace(-3, 5, 32, dtype=np.float32).reshape(1, 32)
    encoded = nvfp4.encode(weight, nvfp4.tensor_scale(5))
    assert float(encoded.scales[0, 1]) == 448


def test_a_block_of_zeros_has_scale_one_and_zero_codes() -> None:
    weight = np.ones((1, 32), ml_dtypes.bfloat16)
    weight[0, 16:] = 0
    encoded = nvfp4.encode(weight, nvfp4.tensor_scale(1))
    assert encoded.scales.tobytes() == b"\x7e\x38"
    assert encoded.codes.tobytes()[8:] == bytes(8)


def test_a_tensor_of_zeros_has_scales_of_one_and_decodes_to_zeros() -> None:
    weight = np.zeros((3, 32), ml_dtypes.bfloat16)
    scale_2 = nvfp4.tensor_scale(0)
    encoded = nvfp4.encode(weight, scale_2)
    assert scale_2 == 1
    assert encoded.scales.tobytes() == b"\x38" * 6
    assert encoded.codes.tobytes() == bytes(48)
    assert not nvfp4.decode(encoded, scale_2).any()


def test_negative_zero_becomes_zero_but_a_small_negative_number_keeps_its_sign() -> None:
    weight = np.array([[-0.0, -0.01, 6, *[0.0] * 13]], np.float32)
    assert nvfp4.encode(weight, np.float32(1)).codes.tobytes()[0] == 0x80


@pytest.mark.parametrize("bits", [0x0001, 0x007F, 0x0080, 0x7F7F])
def test_subnormal_and_extreme_tensors_keep_their_largest_number(bits: int) -> None:
    weight = _bf16(np.full((1, 16), bits, np.uint16))
    assert _roundtrip(weight) == pytest.approx(weight.astype(np.float32), rel=0.05)


def test_numbers_that_are_small_beside_the_tensor_get_the_smallest_scale() -> None:
    weight = np.full((1, 32), 1e-9, np.float32)
    weight[0, 0] = 1e9
    encoded = nvfp4.encode(weight, nvfp4.tensor_scale(1e9))
    assert float(encoded.scales[0, 1]) == 2.0**-9
    assert encoded.codes.tobytes()[8:] == bytes(8)


def test_an_fp32_tensor_too_small_for_a_scale_becomes_zeros() -> None:
    weight = np.full((1, 16), 1e-45, np.float32)
    assert nvfp4.tensor_scale(1e-45) == 1
    assert not _roundtrip(weight).any()


def test_a_magnitude_above_the_given_one_saturates() -> None:
    weight = np.full((1, 16), 100, np.float32)
    scale_2 = nvfp4.tensor_scale(1)
    assert nvfp4.decode(nvfp4.encode(weight, scale_2), scale_2) == pytest.approx(1)


@pytest.mark.parametrize("shape", [(4, 15), (4, 17), (16,), (1, 2, 16)])
def test_rows_that_are_not_whole_blocks_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        nvfp4.encode(np.ones(shape, np.float32), np.float32(1))


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0])
def test_a_magnitude_that_is_none_is_refused(amax: float) -> None:
    with pytest.raises(ValueError, match="finite and not negative"):
        nvfp4.tensor_scale(amax)


def test_an_empty_weight_stays_empty() -> None:
    assert nvfp4.encode(np.empty((0, 16), np.float32), np.float32(1)).codes.shape == (0, 8)


def _code(value: float) -> int:
    """The nearest magnitude, the even code at a tie, from the definition."""
    magnitudes = (0, 0.5, 1, 1.5, 2, 3, 4, 6)
    distances = [abs(magnitude - min(abs(value), 6)) for magnitude in magnitudes]
    nearest = [code for code, distance in enumerate(distances) if distance == min(distances)]
    return next((code for code in nearest if code % 2 == 0), nearest[0]) | (8 if value < 0 else 0)


def test_every_bf16_number_has_the_code_of_the_definition() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    finite = _bf16(every[(every & 0x7F80) != 0x7F80])
    weight = np.zeros((len(finite), 16), ml_dtypes.bfloat16)
    weight[:, 0] = finite
    encoded = nvfp4.encode(weight, np.float32(1))
    steps = encoded.scales.astype(np.float64).reshape(-1)
    quotients = (finite.astype(np.float32) / steps.astype(np.float32)).astype(np.float64)
    assert (encoded.codes[:, 0] & 15).tolist() == [_code(quotient) for quotient in quotients.tolist()]
