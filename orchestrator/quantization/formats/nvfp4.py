"""NVFP4: 4-bit floating point in blocks of 16 with two levels of scale.

A weight `w` of shape [out, in] becomes three tensors (names as in a ModelOpt checkpoint):

| tensor | type | shape | is |
|---|---|---|---|
| `weight` | uint8 | [out, in/2] | two 4-bit codes a byte, the even column in the low half |
| `weight_scale` | E4M3 | [out, in/16] | the scale of each block of 16 consecutive inputs |
| `weight_scale_2` | FP32 | [] | the scale of the whole tensor |

and stands for `E2M1(code) * (weight_scale * weight_scale_2)`. All arithmetic is IEEE FP32, one rounding per operation:

1. `weight_scale_2 = amax / 2688`, where `amax` is the largest magnitude of the tensor, or of all tensors that a
   runtime fuses into one. 2688 = 6 * 448: the largest E2M1 number times the largest E4M3 number, so the block that
   holds `amax` gets the largest block scale.
2. `s = block_amax / (6 * weight_scale_2)`; 0 becomes 1; clamped to [2^-9, 448], the positive numbers of E4M3;
   rounded to E4M3, ties to even.
3. `v = w / (s * weight_scale_2)`, the product first, then the division.
4. The code's lower three bits are the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 to `|v|`, ties to the even code, 6 for
   anything larger; its high bit is set where `v < 0`.

Rules for zeros:

- A block of zeros has the scale 1 (byte 0x38) and codes 0.
- Negative zero has code 0; a negative number that rounds to zero has code 8, which is negative zero.
- A tensor of zeros has `weight_scale_2` 1, so it is a tensor of zero blocks and decodes to zeros. The same holds where
  `amax / 2688` underflows, which no BF16 or FP16 number does. ModelOpt 0.47 writes 0 there, and NaN for every block.

The second step is the search `max`. The others compare several scales of each block and take the one with the least
error; `weight_scale_2` stays. With E4M3's positive numbers in order, as their bytes 1 to 126 are, and `s` of step 2:

- `mse`: the 13 bytes from 4 below that of `s` to 8 above it, as far as they exist;
- `four_over_six`: `s`, and what step 2 gives with 4 in place of 6, so that the largest number becomes 4 and not 6;
- `weighted`: the bytes of `mse`, but each number's error counts as much as the mean square of its input;
- `local_hessian`: the bytes of `mse`, by what errors of a block together change in outputs.

The error of a block, in units of `weight_scale_2`, is the sum of `h * (E2M1(code) * s - |w| / weight_scale_2)^2`, with
the magnitude of the code of step 4, and with `h` 1 or the input's importance. All of it is FP32, one rounding per
operation. The sixteen terms are added in halves: the first eight to the last eight, four to four, two to two. Of equal
errors the byte nearest to that of `s` wins, of two as near the smaller one; with `four_over_six`, `s` does.

For `local_hessian` the error is `e H e` instead. `e` has the block's differences with the signs of `w`, and `H` is the
sum of `x x^T` over the block's inputs `x` of calibration. So the error is the sum over `i` of `e[i] * (h[i, i] * e[i] +
h[i, i + 1] * e[i + 1] + ... + h[i, 15] * e[15])`, all added one after the other, with `h[i, j]` twice `H[i, j]` for `i`
below `j`. ModelOpt's algorithm of this name compares all 126 numbers and adds in another order.

The definition of `max` is that of NVIDIA's Model Optimizer 0.47
(`modelopt/torch/quantization/qtensor/nvfp4_tensor.py`); other than for a tensor of zeros the bytes are the same, which
a test against the real thing checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from orchestrator.quantization.format_names import FOUR_OVER_SIX, MAX
from orchestrator.quantization.formats import e2m1, fp8
from orchestrator.quantization.formats.e2m1 import Encoded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK = 16
"""Consecutive inputs that share one E4M3 scale."""

FOUR = 4.0
"""What `four_over_six` makes of a block's largest magnitude, besides 6."""

OFFSETS = (0, -1, 1, -2, 2, -3, 3, -4, 4, 5, 6, 7, 8)
"""Distances of candidates from the byte of `max`, in the order in which the first of equal errors wins."""
PAIRS = np.triu_indices(BLOCK)
"""The pairs of inputs of a block, row by row: each with itself, and then with all behind it."""
FIRST_BYTE, LAST_BYTE = 1, 126
"""E4M3's smallest positive number and its largest."""

_E4M3_MIN = 2.0**-9

# At a tie the even code wins: the lower one at every other halfway point, the upper one between.
_TIES_TO_LOWER = e2m1.HALFWAY[0::2]
_TIES_TO_UPPER = e2m1.HALFWAY[1::2]

# Elements encoded at once: the temporaries of one round (about 13 bytes an element) stay near the processor.
_ELEMENTS_AT_ONCE = 1 << 18


def tensor_scale(amax: float) -> np.float32:
    """Return `weight_scale_2` for a tensor, or a group of fused tensors, with the given largest magnitude.

    Args:
        amax: Finite and not negative; 0 for a tensor of zeros.
    """
    return fp8.tensor_scale(amax, e2m1.LARGEST * fp8.LARGEST)


def encode(
    weight: NDArray[Any], scale_2: np.float32, search: str = MAX, importance: NDArray[np.float32] | None = None
) -> Encoded[NDArray[Any]]:
    """Encode a weight, or any run of its rows.

    Rows do not depend on each other, so a large weight can be encoded in pieces. Temporary memory is bounded.

    Args:
        weight: Finite numbers of shape [out, in], BF16, FP16 or FP32.
        scale_2: `tensor_scale` of the largest magnitude of the whole tensor or group. A magnitude above it saturates.
        search: The candidates for the scales of blocks: `max`, `mse` or `four_over_six`.
        importance: By default all errors count alike. With `mse`, weights of the errors of each column, of shape [in],
            make the search `weighted`; `h` of `PAIRS` in each block, of shape [in/16, 136], makes it `local_hessian`.

    Raises:
        ValueError: The shape is not two-dimensional with whole blocks in each row.
    """
    e2m1.check_shape("NVFP4", BLOCK, weight.shape)
    rows, columns = weight.shape
    codes = np.empty((rows, columns // 2), np.uint8)
    scales = np.empty((rows, columns // BLOCK), ml_dtypes.float8_e4m3fn)
    step = max(1, _ELEMENTS_AT_ONCE // max(1, columns))
    for first in range(0, rows, step):
        some = slice(first, first + step)
        blocks = weight[some].astype(np.float32).reshape(-1, columns // BLOCK, BLOCK)
        scales[some] = chosen_scales(blocks, scale_2, search, importance)
        codes[some] = e2m1.pack(codes_of(blocks, scales[some], scale_2).reshape(-1, columns))
    return Encoded(codes, scales)


def pairs_of(products: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return what `local_hessian` takes as importance, of shape [in/16, 136].

    Args:
        products: The sum of `x x^T` over the inputs `x` of each block, of shape [in/16, 16, 16]; finite and not all 0.
    """
    exact = products.astype(np.float64)
    exact /= np.einsum("bii->bi", exact).max()
    rows, columns = PAIRS
    pairs = exact[:, rows, columns].astype(np.float32)
    pairs[:, rows < columns] *= 2
    return pairs


def decode(encoded: Encoded[NDArray[Any]], scale_2: np.float32) -> NDArray[np.float32]:
    """Decode a weight, or some of its rows, to FP32 of shape [out, in]."""
    rows, half = encoded.codes.shape
    blocks = e2m1.VALUES[e2m1.unpack(encoded.codes)].reshape(rows, -1, BLOCK)
    blocks *= steps_of(encoded.scales, scale_2)
    return blocks.reshape(rows, half * 2)


def chosen_scales(
    blocks: NDArray[np.float32], scale_2: np.float32, search: str, importance: NDArray[np.float32] | None
) -> NDArray[Any]:
    """Return the scale of each block, of shape [out, in/16], for blocks of shape [out, in/16, 16]."""
    chosen = _block_scales(blocks, scale_2)
    if search == MAX:
        return chosen
    weights = importance.reshape(-1, BLOCK) if importance is not None and importance.ndim == 1 else importance
    # A number far above the scale may become infinite here. Then no candidate is better than `max`.
    with np.errstate(over="ignore", invalid="ignore"):
        units = np.divide(np.abs(blocks), scale_2, dtype=np.float32)
        least = _errors(blocks, units, chosen, scale_2, weights)
        others = [_block_scales(blocks, scale_2, FOUR)] if search == FOUR_OVER_SIX else candidates(chosen)
        for scales in others:
            errors = _errors(blocks, units, scales, scale_2, weights)
            better = errors < least
            chosen = np.where(better, scales, chosen)
            least = np.where(better, errors, least)
    return chosen


def candidates(largest: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the scales that `mse` compares with those of `max`."""
    codes = largest.view(np.uint8).astype(np.int16)
    for offset in OFFSETS[1:]:
        yield np.clip(codes + offset, FIRST_BYTE, LAST_BYTE).astype(np.uint8).view(largest.dtype)


def _errors(
    blocks: NDArray[np.float32],
    units: NDArray[np.float32],
    scales: NDArray[Any],
    scale_2: np.float32,
    weights: NDArray[np.float32] | None,
) -> NDArray[np.float32]:
    """Return the error of each block with its scale."""
    magnitudes = np.abs(e2m1.VALUES)[codes_of(blocks, scales, scale_2)]
    off = magnitudes * scales.astype(np.float32)[..., np.newaxis] - units
    if weights is not None and weights.shape[-1] != BLOCK:
        return _products(np.where(blocks < 0, -off, off), weights)
    terms = np.square(off)
    if weights is not None:
        terms = terms * weights
    for half in (8, 4, 2, 1):
        terms = terms[..., :half] + terms[..., half:]
    errors: NDArray[np.float32] = terms[..., 0]
    return errors


def _products(off: NDArray[np.float32], pairs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sum over the pairs of each block: the product of both errors and of their weight."""
    columns, weights = np.moveaxis(off, -1, 0).copy(), iter(pairs.T)
    total = np.zeros(off.shape[:-1], np.float32)
    for number, column in enumerate(columns):
        part = column * next(weights)
        for other in columns[number + 1 :]:
            part += other * next(weights)
        total += column * part
    return total


def _block_scales(blocks: NDArray[np.float32], scale_2: np.float32, becomes: float = e2m1.LARGEST) -> NDArray[Any]:
    """Return the scale of each block with which its largest magnitude becomes `becomes`."""
    scales = np.abs(blocks).max(axis=-1) / (np.float32(becomes) * scale_2)
    scales[scales == 0] = 1
    np.clip(scales, _E4M3_MIN, fp8.LARGEST, out=scales)
    rounded: NDArray[Any] = scales.astype(ml_dtypes.float8_e4m3fn)
    return rounded


def steps_of(scales: NDArray[Any], scale_2: np.float32) -> NDArray[np.float32]:
    """Return the unit of E2M1 in each block, of shape [out, in/16, 1]."""
    return (scales.astype(np.float32) * scale_2)[..., np.newaxis]


def codes_of(blocks: NDArray[np.float32], scales: NDArray[Any], scale_2: np.float32) -> NDArray[np.uint8]:
    """Return the code of each number, for blocks of shape [out, in/16, any] and their scales."""
    # A step underflows to 0 only for FP32 weights below 2^-140. Any code of theirs decodes to 0.
    with np.errstate(divide="ignore", invalid="ignore"):
        values = blocks / steps_of(scales, scale_2)
    codes = (values < 0).astype(np.uint8) << np.uint8(3)
    np.abs(values, out=values)
    for point in _TIES_TO_LOWER:
        codes += values > point
    for point in _TIES_TO_UPPER:
        codes += values >= point
    return codes
