"""Makes of the products of inputs what GPTQ changes later columns by, see `formats.gptq`.

For the Hessian `H`, the sum of `x xᵀ`, it needs the upper triangular `U` of `UᵀU = H⁻¹`. With the rows and columns of
`H` in reverse order, `L Lᵀ` is its Cholesky factorization, and `U` is `L⁻¹` in reverse order: one factorization and one
triangular inverse. Both are FP32, where the products are.

Blocks of columns are put in the order of their inputs' size first, the largest first: their errors count most, and all
other columns are left to make up for them.

`H` is damped, too: `OWN_DAMPING` of each number of its diagonal, and `DAMPING` of their mean, are added to it. The
first makes less of what inputs had to do with each other, which other text repeats least; the second counts inputs that
the calibration hardly used, and gives `H` an inverse. If the factorization fails nevertheless, more is added, tenfold
each time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.quantization.formats.gptq import Changes
from orchestrator.quantization.formats.nvfp4 import BLOCK, pairs_of
from orchestrator.quantization.torch_arrays import as_array

if TYPE_CHECKING:
    from orchestrator.quantization.torch_types import Tensor, Torch

OWN_DAMPING, DAMPING = 0.2, 0.1
"""Measured on text unlike the calibration's: GPTQ's own default, 0.01 of the mean alone, keeps less of the model."""
_MORE = 10


def changes_of(torch: Torch, sums: Tensor) -> Changes:
    """Return what the errors of a module with these products change.

    Args:
        torch: The library.
        sums: `H`, finite and not zero, with whole blocks in each row.
    """
    blocks = np.arange(len(sums) // BLOCK)
    products = as_array(sums.reshape(len(blocks), BLOCK, len(blocks), BLOCK)[blocks, :, blocks])
    sizes = np.einsum("bii->b", products.astype(np.float64))
    order = np.argsort(-sizes, kind="stable")
    backwards = (order[:, np.newaxis] * BLOCK + np.arange(BLOCK)).reshape(-1)[::-1].copy()
    damping = DAMPING * float(sizes.sum()) / len(sums)
    with torch.inference_mode():  # in which the products were summed
        damped = sums[backwards][:, backwards]
        damped.diagonal().mul_(1 + OWN_DAMPING)
        while True:
            damped.diagonal().add_(damping)
            factor, failed = torch.linalg.cholesky_ex(damped)
            if not int(failed):
                break
            damping *= _MORE
        del damped
        costs = np.square(as_array(factor.diagonal()).astype(np.float64))[::-1]
        inverse = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
        inverse = torch.linalg.solve_triangular(factor, inverse, upper=False)
        del factor
        inverse /= inverse.diagonal().clone().unsqueeze(1)
        matrix = as_array(inverse.flip(0, 1))
    pairs = pairs_of(products)[order]
    return Changes(matrix, (costs / costs.max()).astype(np.float32), order.astype(np.int32), pairs)
