"""FP8 with one scale for each block of rows and columns, as DeepSeek publishes its models; decoded only.

A weight `w` of shape [out, in] is published as two tensors:

| tensor | type | shape | is |
|---|---|---|---|
| `weight` | E4M3 | [out, in] | the numbers |
| `weight_scale_inv` | FP32, BF16 or E8M0 | [out/128, in/128], rounded up | the scales; in spite of the name, factors |

and stands for `weight * weight_scale_inv`, each number with the scale of its block: the product in FP32, rounded to
BF16, ties to even (`weight_dequant` of DeepSeek-V3's `inference/kernel.py`; `Fp8Dequantize` of transformers 5, which
takes only matrices that blocks divide). The last blocks of a matrix may be smaller. E8M0 is a power of two by its
exponent, and 0xFF is no number (OCP Microscaling Formats 1.0, section 5.4.1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NUMBERS = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
"""The value of every code."""


def decode(codes: NDArray[Any], scales: NDArray[np.float32], block: tuple[int, int], first: int = 0) -> NDArray[Any]:
    """Decode rows of a weight to BF16. Values that are not numbers, or too large for BF16, become NaN or infinity.

    Args:
        codes: E4M3 of shape [rows, in].
        scales: Of the whole weight: shape [out / block[0], in / block[1]], rounded up.
        block: Rows and columns that share a scale.
        first: The number of the first row.
    """
    rows, columns = codes.shape
    of_rows = scales[(first + np.arange(rows)) // block[0]]
    factors = np.repeat(of_rows, block[1], axis=1)[:, :columns]
    with np.errstate(over="ignore", invalid="ignore"):
        decoded: NDArray[Any] = (_NUMBERS[codes.view(np.uint8)] * factors).astype(ml_dtypes.bfloat16)
    return decoded
