"""GPTQ for NVFP4: each column is rounded so that it makes up for the errors of the columns before it.

Rounding every number to the nearest is best for each weight alone. A module's output is what counts: with the inputs
`x` of calibration and `H` the sum of `x xᵀ`, the error of a row's output is `(w - q) H (w - q)ᵀ`. GPTQ (Frantar et al.,
arXiv 2210.17323) rounds the columns in order, and after each one changes all that are left so that this error is least.
With the upper triangular `U` of `UᵀU = H⁻¹`, and `T[j, k] = U[j, k] / U[j, j]`:

1. A block's scale is chosen when its first column is reached, by its numbers as they are then, with one of the
   searches of `nvfp4`. `weight_scale_2` is that of the weight before any change.
2. Column `j` gets its codes as in `nvfp4`. `e[j] = w[j] - E2M1(code) * (weight_scale * weight_scale_2)`.
3. For each later column `k`: `w[k] = w[k] - e[j] * T[j, k]`.

Everything is IEEE FP32, one rounding per operation, and a number's changes come in the order of `j`. So rows do not
depend on each other, and with one `T` every backend gets the same bytes. `T` itself follows from matrix products, see
`hessian`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.quantization.formats import e2m1, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.formats.nvfp4 import BLOCK

if TYPE_CHECKING:
    from numpy.typing import NDArray


def encode(
    weight: NDArray[Any],
    scale_2: np.float32,
    search: str,
    importance: NDArray[np.float32] | None,
    changes: NDArray[np.float32],
) -> Encoded[NDArray[Any]]:
    """Encode a weight, or any run of its rows.

    Args:
        weight: Finite numbers of shape [out, in], BF16, FP16 or FP32.
        scale_2: As for `nvfp4.encode`.
        search: As for `nvfp4.encode`.
        importance: As for `nvfp4.encode`.
        changes: `T`, of shape [in, in]. Only what is above its diagonal counts.

    Raises:
        ValueError: The shape is not two-dimensional with whole blocks in each row.
    """
    e2m1.check_shape("NVFP4", BLOCK, weight.shape)
    rows, columns = weight.shape
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, columns // BLOCK), ml_dtypes.float8_e4m3fn)
    rest = weight.astype(np.float32)
    for block in range(columns // BLOCK):
        first = block * BLOCK
        here = slice(first, first + BLOCK)
        weights = None if importance is None else importance[here]
        scale = scales[:, block : block + 1] = nvfp4.chosen_scales(rest[:, np.newaxis, here], scale_2, search, weights)
        for column in range(first, first + BLOCK):
            numbers = rest[:, column]
            code = codes[:, column] = nvfp4.codes_of(numbers[:, np.newaxis, np.newaxis], scale, scale_2).reshape(-1)
            off = numbers - e2m1.VALUES[code] * nvfp4.steps_of(scale, scale_2).reshape(-1)
            rest[:, column + 1 :] -= off[:, np.newaxis] * changes[column, column + 1 :]
    return Encoded(e2m1.pack(codes), scales)
