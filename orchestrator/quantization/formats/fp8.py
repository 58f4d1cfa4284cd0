"""FP8: 8-bit floating point (E4M3) with one scale a tensor.

A weight `w` of shape [out, in] becomes two tensors (names as in a ModelOpt checkpoint):

| tensor | type | shape | is |
|---|---|---|---|
| `weight` | E4M3 | [out, in] | the numbers |
| `weight_scale` | FP32 | [] | the scale of the whole tensor |

and stands for `weight * weight_scale`:

1. `weight_scale = amax / 448` in FP32, where `amax` is the largest magnitude of the tensor, or of all tensors that are
   to share a scale, and 448 is the largest number of E4M3.
2. `q = w / weight_scale` in FP32, then rounded to the type of the weight, ties to even: a BF16 weight has a BF16
   quotient.
3. `q` is rounded to E4M3, ties to even; a magnitude above 448 becomes 448.

The second step makes two roundings of one, so 0.7 % of the numbers of a BF16 weight are the farther of the two
neighbours in E4M3. It is part of the format as NVIDIA's Model Optimizer 0.47 writes it on the CPU, where dividing a
BF16 tensor by an FP32 scalar gives BF16 (`modelopt/torch/export/quant_utils.py`).

Rules for zeros: negative zero stays negative zero. A tensor of zeros has the scale 1 and decodes to zeros; ModelOpt
writes the scale 0 there, and NaN for every number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 448.0

_ELEMENTS_AT_ONCE = 1 << 18


def tensor_scale(amax: float, largest: float = LARGEST) -> np.float32:
    """Return `weight_scale` for a tensor, or a group of tensors, with the given largest magnitude.

    Args:
        amax: Finite and not negative; 0 for a tensor of zeros.
        largest: What `amax` becomes.
    """
    if not (np.isfinite(amax) and amax >= 0):
        message = f"the largest magnitude of a tensor is finite and not negative, not {amax}"
        raise ValueError(message)
    scale = np.float32(amax) / np.float32(largest)
    return scale if scale > 0 else np.float32(1)


def encode(weight: NDArray[Any], scale: np.float32) -> NDArray[Any]:
    """Encode a weight, or any run of its rows, as `ml_dtypes.float8_e4m3fn`; temporary memory is bounded.

    Args:
        weight: Finite numbers, BF16, FP16 or FP32.
        scale: `tensor_scale` of the largest magnitude of the whole tensor or group. A magnitude above it saturates.
    """
    flat = weight.reshape(-1)
    encoded = np.empty(flat.shape, ml_dtypes.float8_e4m3fn)
    for first in range(0, len(flat), _ELEMENTS_AT_ONCE):
        some = slice(first, first + _ELEMENTS_AT_ONCE)
        with np.errstate(over="ignore"):  # an infinite quotient saturates like any that is too large
            quotients = (flat[some].astype(np.float32) / scale).astype(weight.dtype).astype(np.float32)
        encoded[some] = np.clip(quotients, -LARGEST, LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return encoded.reshape(weight.shape)


def decode(encoded: NDArray[Any], scale: np.float32) -> NDArray[np.float32]:
    """Decode a weight, or some of its rows, to FP32."""
    decoded: NDArray[np.float32] = encoded.astype(np.float32) * scale
    return decoded
