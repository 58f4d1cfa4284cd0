"""Chooses the range of a module's inputs in NVFP4 by how large their blocks are, with headroom for larger ones.

An input is rounded in blocks of 16. The scale of a block is `amax / (6 * input_scale)` in E4M3, whose normal numbers
are 2^-6 to 448, so one `input_scale` serves blocks whose largest magnitudes differ up to 28672-fold. With `max`, the
largest of calibration gets 448: blocks that are larger are cut off, and those below 1/28672 of it lose digits. With
headroom, the small blocks decide (ModelOpt's `nvfp4_act_headroom`):

    range = max(16384 * anchor, upper)

`anchor` and `upper` are percentiles of the blocks' largest magnitudes. Blocks of zeros do not count, nor do those below
`upper / 1e6` for the anchor. A percentile is that of a histogram over the logarithm to base 2: the middle of its bin.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.quantization.formats.nvfp4 import BLOCK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from orchestrator.quantization.torch_types import Tensor, Torch

BINS, LOWEST, HIGHEST = 512, -40.0, 40.0
"""Of the histogram."""
_ANCHOR, _UPPER = 1.0, 99.99
_HEADROOM = 16384.0
_FLOOR = 1e6


def range_of(counts: NDArray[np.int64], largest: float) -> float:
    """Return the largest magnitude of an input that is represented.

    Args:
        counts: How many blocks have their largest magnitude in each bin.
        largest: The largest magnitude of calibration.
    """
    upper = _percentile(counts, _UPPER)
    if not upper:
        return largest
    lowest = bin_of(upper / _FLOOR)
    anchor = _percentile(np.where(np.arange(BINS) < lowest, 0, counts), _ANCHOR)
    return max(_HEADROOM * anchor, upper)


def bin_of(magnitude: float) -> int:
    """Return the bin of a magnitude above 0."""
    share = (np.log2(np.float32(magnitude)) - LOWEST) / (HIGHEST - LOWEST)
    return int(np.clip(np.floor(share * BINS), 0, BINS - 1))


def _percentile(counts: NDArray[np.int64], percent: float) -> float:
    """Return a percentile; 0 of no blocks."""
    total = int(counts.sum())
    if not total:
        return 0.0
    target = np.float32(percent / 100) * np.float32(total)
    reached = int(np.searchsorted(counts.cumsum().astype(np.float32), target))
    return float(2.0 ** (LOWEST + (min(reached, BINS - 1) + 0.5) / BINS * (HIGHEST - LOWEST)))


@dataclass
class InputRanges:
    """Counts how large the blocks of inputs are, by the first module that gets them. Padding is given as zeros."""

    _counts: dict[str, Tensor] = field(default_factory=dict)
    """I64 of shape [BINS + 1], on the device; the last one counts blocks of zeros."""
    _powers: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """By module, the factors of its inputs."""

    def divide(self, modules: Sequence[str], exponents: NDArray[np.int8]) -> None:
        """Count inputs that are divided by 2^exponents."""
        for module in modules:
            self._powers[module] = np.exp2(-exponents.astype(np.float32))

    def saw(self, torch: Torch, first: str, tokens: Tensor) -> None:
        """Count the blocks of tokens of shape [tokens, in]; of no whole blocks, none."""
        if tokens.shape[-1] % BLOCK:
            return
        numbers = tokens.float()
        if first in self._powers:
            numbers = numbers * torch.from_numpy(self._powers[first]).to(numbers.device)
        largest = numbers.abs().unflatten(-1, (-1, BLOCK)).amax(-1).flatten()
        share = (largest.log2() - LOWEST) / (HIGHEST - LOWEST)
        bins = (share * BINS).floor().clamp(0, BINS - 1).long()
        bins = torch.where(largest > 0, bins, BINS)
        if first not in self._counts:
            self._counts[first] = torch.zeros((BINS + 1,), dtype=torch.int64, device=bins.device)
        self._counts[first].scatter_add_(0, bins, torch.where(largest >= 0, 1, 0))

    def counts(self) -> dict[str, NDArray[np.int64]]:
        """Return the counts by module."""
        return {first: counts.cpu().numpy()[:BINS] for first, counts in self._counts.items()}
