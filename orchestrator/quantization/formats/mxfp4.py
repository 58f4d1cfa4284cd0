"""MXFP4: 4-bit floating point in blocks of 32 that share a power of two.

A weight `w` of shape [out, in] becomes two tensors:

| tensor | type | shape | is |
|---|---|---|---|
| `weight` | uint8 | [out, in/2] | two E2M1 codes a byte, the even column in the low half |
| `weight_scale` | uint8 (E8M0) | [out, in/32] | the exponent of each block of 32 consecutive inputs, plus 127 |

and stands for `E2M1(code) * 2^(weight_scale - 127)`. Encoded as NVIDIA's Model Optimizer 0.47 does it:

1. `e = ceil(log2(block_amax / 6))`, the division in FP32, at least -127: the smallest power of two with which no
   number of the block exceeds 6. (The Open Compute Project's text takes `floor(log2(block_amax)) - 2`, and saturates.)
2. `v = w / 2^e` in FP32.
3. The code's lower three bits are the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 to `|v|`, ties toward zero (NVFP4's go to
   the even code); its high bit is set where `v` is not above 0, so zero, of either sign, has code 8.

A block of zeros has exponent -127 (byte 0) and codes 8. A scale byte of 255 stands for NaN; encoding never writes it.
What FP32 cannot hold decodes to infinity: only magnitudes close to 2^128, the end of BF16, come to that.

OpenAI publishes gpt-oss in this format, cut into `blocks` [..., in/32, 16] of packed bytes and `scales` [..., in/32];
`decode` reads those as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization.formats import e2m1
from orchestrator.quantization.formats.e2m1 import Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 32
"""Consecutive inputs that share one exponent."""

_BIAS = 127
_NAN = 255
_ELEMENTS_AT_ONCE = 1 << 18


def encode(weight: NDArray[Any]) -> Encoded[NDArray[Any]]:
    """Encode a weight, or any run of its rows; temporary memory is bounded.

    Args:
        weight: Finite numbers of shape [out, in], BF16, FP16 or FP32.

    Raises:
        ValueError: The shape is not two-dimensional with whole blocks in each row.
    """
    e2m1.check_shape("MXFP4", BLOCK, weight.shape)
    rows, columns = weight.shape
    codes = np.empty((rows, columns // 2), np.uint8)
    scales = np.empty((rows, columns // BLOCK), np.uint8)
    step = max(1, _ELEMENTS_AT_ONCE // max(1, columns))
    for first in range(0, rows, step):
        some = slice(first, first + step)
        blocks = weight[some].astype(np.float32).reshape(-1, columns // BLOCK, BLOCK)
        exponents = _exponents(blocks)
        scales[some] = exponents + _BIAS
        codes[some] = e2m1.pack(_codes(blocks, exponents).reshape(-1, columns))
    return Encoded(codes, scales)


def decode(encoded: Encoded[NDArray[Any]]) -> NDArray[np.float32]:
    """Decode a weight, or some of its rows, to FP32 of shape [out, in]."""
    rows, half = encoded.codes.shape
    blocks = e2m1.VALUES[e2m1.unpack(encoded.codes)].reshape(rows, -1, BLOCK)
    exponents = encoded.scales.astype(np.int32) - _BIAS
    with np.errstate(over="ignore"):
        decoded = np.ldexp(blocks, exponents[..., np.newaxis])
    decoded[encoded.scales == _NAN] = np.nan
    return decoded.reshape(rows, half * 2)


def _exponents(blocks: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return the smallest exponents with which the blocks' numbers do not exceed 6."""
    mantissas, exponents = np.frexp(np.abs(blocks).max(axis=-1) / np.float32(e2m1.LARGEST))
    exponents = exponents - (mantissas == 0.5)  # noqa: PLR2004 - frexp's mantissa of a power of two
    exponents[mantissas == 0] = -_BIAS
    smallest: NDArray[np.int32] = np.maximum(exponents, -_BIAS)
    return smallest


def _codes(blocks: NDArray[np.float32], exponents: NDArray[np.int32]) -> NDArray[np.uint8]:
    values = np.ldexp(blocks, -exponents[..., np.newaxis])
    codes = (~(values > 0)).astype(np.uint8) << np.uint8(3)
    np.abs(values, out=values)
    for point in e2m1.HALFWAY:
        codes += values > point
    return codes
