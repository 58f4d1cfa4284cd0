"""Makes of the products of inputs what GPTQ changes later columns by, see `formats.gptq`.

For the Hessian `H`, the sum of `x xᵀ`, it needs the upper triangular `U` of `UᵀU = H⁻¹`. With the rows and columns of
`H` in reverse order, `L Lᵀ` is its Cholesky factorization, and `U` is `L⁻¹` in reverse order: one factorization and one
triangular inverse. Both are FP32, where the products are.

`H` is damped first: `DAMPING` of its mean diagonal is added to its diagonal. So it always has an inverse, and text
unlike that of the calibration counts a little. If the factorization fails nevertheless, more is added, tenfold each
time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.quantization.torch_arrays import as_array

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DAMPING = 0.05
"""Measured on a text that is unlike the calibration's: 0.01, GPTQ's own default, keeps less of the model."""
_MORE = 10


def changes_of(torch: Any, sums: Any) -> NDArray[np.float32]:  # noqa: ANN401 - the library, and its tensor
    """Return `T` of `formats.gptq`.

    Args:
        torch: The library.
        sums: `H`, finite and not zero. It is damped in place.
    """
    with torch.inference_mode():  # in which the products were summed
        damping = DAMPING * float(sums.diagonal().double().mean())
        while True:
            sums.diagonal().add_(damping)
            factor, failed = torch.linalg.cholesky_ex(sums.flip(0, 1))
            if not int(failed):
                break
            damping *= _MORE
        inverse = torch.eye(len(sums), dtype=sums.dtype, device=sums.device)
        inverse = torch.linalg.solve_triangular(factor, inverse, upper=False)
        del factor
        inverse /= inverse.diagonal().clone().unsqueeze(1)
        changes: NDArray[np.float32] = as_array(inverse.flip(0, 1))
    return changes
