"""GPTQ for NVFP4: each column is rounded so that it makes up for the errors of the columns before it.

Rounding every number to the nearest is best for each weight alone. A module's output is what counts: with the inputs
`x` of calibration and `H` the sum of `x xᵀ`, the error of a row's output is `(w - q) H (w - q)ᵀ`. GPTQ (Frantar et al.,
arXiv 2210.17323) rounds the columns in order, and after each one changes all that are left so that this error is least.
Here whole blocks are put in another order first, and what is below is about columns in that order. With the upper
triangular `U` of `UᵀU = H⁻¹`, and `T[j, k] = U[j, k] / U[j, j]`:

1. A block's scale is chosen when its first column is reached, by its numbers as they are then. `weight_scale_2` is that
   of the weight before any change. The searches are those of `nvfp4`, `local_hessian` with the blocks of `H`, except
   `weighted`, which tries steps 2 and 3.
2. Column `j` gets its codes as in `nvfp4`. `e[j] = w[j] - E2M1(code) * (weight_scale * weight_scale_2)`.
3. For each later column `k`: `w[k] = w[k] - e[j] * T[j, k]`.

The error of a row's output is the sum of `(e[j] / U[j, j])²`. So `weighted` compares for each block, of the same scales
as `mse` and by the same rule at a tie, the sums of `c[j] * e[j]²` over its columns, one after the other. `c[j]` is
`1 / U[j, j]²` over the largest of the weight; `e[j]` is what steps 2 and 3 give within the block, with its numbers over
`weight_scale_2`, and 1 in the place of that.

Everything is IEEE FP32, one rounding per operation, and a number's changes come in the order of `j`. So rows do not
depend on each other, and with one `T` every backend gets the same bytes. `T` itself follows from matrix products, see
`hessian`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.quantization.format_names import LOCAL_HESSIAN, MAX, WEIGHTED
from orchestrator.quantization.formats import e2m1, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.formats.nvfp4 import BLOCK
from orchestrator.values import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNIT = np.float32(1)


@frozen
class Changes:
    """What an error changes of later columns. Columns are in the order in which they are rounded."""

    matrix: NDArray[np.float32]
    """`T`, of shape [in, in]. Only what is above its diagonal counts."""
    costs: NDArray[np.float32]
    """`c`, of shape [in]."""
    order: NDArray[np.int32]
    """The numbers of the blocks in the order in which they are rounded, of shape [in/16]."""
    pairs: NDArray[np.float32]
    """What `local_hessian` compares by, see `nvfp4.encode`, in the order of `order`."""


def encode(weight: NDArray[Any], scale_2: np.float32, search: str, changes: Changes) -> Encoded[NDArray[Any]]:
    """Encode a weight, or any run of its rows.

    Args:
        weight: Finite numbers of shape [out, in], BF16, FP16 or FP32.
        scale_2: As for `nvfp4.encode`.
        search: One of `format_names.SCALE_SEARCHES`.
        changes: Of the inputs.

    Raises:
        ValueError: The shape is not two-dimensional with whole blocks in each row.
    """
    e2m1.check_shape("NVFP4", BLOCK, weight.shape)
    rows, columns = weight.shape
    codes = np.empty((rows, columns), np.uint8)
    scales = np.empty((rows, columns // BLOCK), ml_dtypes.float8_e4m3fn)
    rest = weight.astype(np.float32).reshape(rows, -1, BLOCK)[:, changes.order].reshape(rows, columns)
    for first, block in zip(range(0, columns, BLOCK), changes.order, strict=True):
        scale = scales[:, block : block + 1] = _scales(rest, first, scale_2, search, changes)
        for column in range(first, first + BLOCK):
            numbers = rest[:, column]
            code = codes[:, block * BLOCK + column - first] = _codes(numbers, scale, scale_2)
            off = numbers - e2m1.VALUES[code] * nvfp4.steps_of(scale, scale_2).reshape(-1)
            rest[:, column + 1 :] -= off[:, np.newaxis] * changes.matrix[column, column + 1 :]
    return Encoded(e2m1.pack(codes), scales)


def _scales(rest: NDArray[np.float32], first: int, scale_2: np.float32, search: str, changes: Changes) -> NDArray[Any]:
    """Return the scales of the block that begins with a column, of shape [out, 1]."""
    here = slice(first, first + BLOCK)
    numbers = rest[:, here]
    if search != WEIGHTED:
        pairs = changes.pairs[[first // BLOCK]] if search == LOCAL_HESSIAN else None
        return nvfp4.chosen_scales(numbers[:, np.newaxis], scale_2, search, pairs)
    chosen = nvfp4.chosen_scales(numbers[:, np.newaxis], scale_2, MAX, None)
    matrix, costs = changes.matrix[here, here], changes.costs[here]
    # As in `nvfp4.chosen_scales`, a number far above the scale may become infinite.
    with np.errstate(over="ignore", invalid="ignore"):
        units = np.divide(numbers, scale_2, dtype=np.float32)
        least = _cost(units, chosen, matrix, costs)
        for scales in nvfp4.candidates(chosen):
            cost = _cost(units, scales, matrix, costs)
            better = cost < least
            chosen = np.where(better[:, np.newaxis], scales, chosen)
            least = np.where(better, cost, least)
    return chosen


def _cost(
    units: NDArray[np.float32], scales: NDArray[Any], matrix: NDArray[np.float32], costs: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return what rounding a block costs in each row."""
    rest, total = units.copy(), np.zeros(len(units), np.float32)
    steps = nvfp4.steps_of(scales, _UNIT).reshape(-1)
    for column in range(BLOCK):
        off = rest[:, column] - e2m1.VALUES[_codes(rest[:, column], scales, _UNIT)] * steps
        total += off * off * costs[column]
        rest[:, column + 1 :] -= off[:, np.newaxis] * matrix[column, column + 1 :]
    return total


def _codes(numbers: NDArray[np.float32], scales: NDArray[Any], scale_2: np.float32) -> NDArray[np.uint8]:
    return nvfp4.codes_of(numbers[:, np.newaxis, np.newaxis], scales, scale_2).reshape(-1)
