"""Searches the scales of NVFP4's blocks with operations of torch, where a tensor is; the bytes are those of `nvfp4`.

Every operation is one of FP32 with one rounding. Divisors are tensors on the same device, because a GPU multiplies with
the rounded reciprocal of a number of Python.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from orchestrator.quantization.format_names import FOUR_OVER_SIX
from orchestrator.quantization.formats import e2m1, fp8, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.torch_arrays import as_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from orchestrator.quantization.torch_types import Tensor

_ELEMENTS_AT_ONCE = 1 << 24
"""Bounds the temporary memory: about 20 bytes an element."""


def encode(weight: Tensor, scale_2: np.float32, search: str, importance: NDArray[np.float32] | None) -> Encoded[Tensor]:
    """Encode as `nvfp4.encode` does, with a search other than `max`.

    Args:
        weight: BF16 of shape [out, in], with whole blocks in each row.
        scale_2: See there.
        search: See there.
        importance: See there.
    """
    torch, (rows, columns) = load_torch(), weight.shape
    codes = torch.empty((rows, columns // 2), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((rows, columns // nvfp4.BLOCK), dtype=torch.float8_e4m3fn, device=weight.device)
    weights = None if importance is None else as_tensor(importance.reshape(-1, nvfp4.BLOCK), weight.device)
    step = max(1, _ELEMENTS_AT_ONCE // max(1, columns))
    for first in range(0, rows, step):
        some = slice(first, first + step)
        blocks = weight[some].float().unflatten(-1, (-1, nvfp4.BLOCK))
        scales[some] = _chosen(blocks, _number(scale_2, blocks), search, weights)
        codes[some] = _packed(blocks, scales[some], _number(scale_2, blocks))
    return Encoded(codes, scales)


def _number(value: float | np.float32, beside: Tensor) -> Tensor:
    return as_tensor(np.array([value], np.float32), beside.device)


def _chosen(blocks: Tensor, scale_2: Tensor, search: str, weights: Tensor | None) -> Tensor:
    torch, magnitudes = load_torch(), blocks.abs()
    units = magnitudes / scale_2
    chosen = _block_scales(magnitudes, scale_2, e2m1.LARGEST)
    least = _errors(magnitudes, units, chosen, scale_2, weights)
    for scales in _others(magnitudes, chosen, scale_2, search):
        errors = _errors(magnitudes, units, scales, scale_2, weights)
        better = errors < least
        chosen = torch.where(better, scales.view(torch.uint8), chosen.view(torch.uint8)).view(torch.float8_e4m3fn)
        least = torch.where(better, errors, least)
    return chosen


def _block_scales(magnitudes: Tensor, scale_2: Tensor, becomes: float) -> Tensor:
    torch = load_torch()
    scales = magnitudes.amax(-1) / (scale_2 * becomes)
    scales = torch.where(scales.eq(0.0), 1.0, scales)
    return scales.clamp(min=2.0**-9, max=fp8.LARGEST).to(torch.float8_e4m3fn)


def _others(magnitudes: Tensor, largest: Tensor, scale_2: Tensor, search: str) -> Iterator[Tensor]:
    torch = load_torch()
    if search == FOUR_OVER_SIX:
        yield _block_scales(magnitudes, scale_2, nvfp4.FOUR)
        return
    codes = largest.view(torch.uint8).int()
    for offset in nvfp4.OFFSETS[1:]:
        moved = (codes + offset).clamp(min=nvfp4.FIRST_BYTE, max=nvfp4.LAST_BYTE)
        yield moved.to(torch.uint8).view(torch.float8_e4m3fn)


def _errors(magnitudes: Tensor, units: Tensor, scales: Tensor, scale_2: Tensor, weights: Tensor | None) -> Tensor:
    wide = scales.float().unsqueeze(-1)
    off = _rounded(magnitudes / (wide * scale_2)) * wide - units
    terms = off * off
    if weights is not None:
        terms = terms * weights
    for half in (8, 4, 2, 1):
        terms = terms[..., :half] + terms[..., half:]
    return terms[..., 0]


def _rounded(quotients: Tensor) -> Tensor:
    """Round to the nearest magnitude of E2M1, ties to the even code. 0 / 0, where a step underflows, becomes 0."""
    torch = load_torch()
    size = torch.where(quotients.ne(quotients), 0.0, quotients).clamp(max=e2m1.LARGEST)
    twos = torch.where(size < 4, size.round(), (size * 0.5).round() * 2)  # noqa: PLR2004 - the distance doubles here
    return torch.where(size < 2, (size * 2).round() * 0.5, twos)  # noqa: PLR2004


def _packed(blocks: Tensor, scales: Tensor, scale_2: Tensor) -> Tensor:
    """Return the codes, two a byte."""
    torch = load_torch()
    quotients = blocks / (scales.float().unsqueeze(-1) * scale_2)
    magnitudes = _rounded(quotients.abs())
    above_2 = torch.where(magnitudes < 4, magnitudes + 2, magnitudes * 0.5 + 4)  # noqa: PLR2004 - the distance doubles
    codes = torch.where(magnitudes < 2, magnitudes * 2, above_2)  # noqa: PLR2004
    signed = (codes + (quotients < 0).float() * 8).to(torch.uint8).flatten(-2)
    return signed[..., 0::2] | (signed[..., 1::2] << 4)
