"""The fastest way to encode that this machine has; every way gives the bytes that the definitions give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization.formats import fp8, nvfp4

if TYPE_CHECKING:
    from numpy.typing import NDArray

encode_nvfp4 = nvfp4.encode
encode_fp8 = fp8.encode


def largest_magnitude(weight: NDArray[Any]) -> np.float32:
    """Return the largest magnitude, NaN where there is one; 0 for nothing."""
    largest: np.float32 = np.abs(weight.astype(np.float32)).max(initial=0)  # NaN wins over every number
    return largest
