"""Intervals of 95 % for means of few measurements.

They are Student's (Biometrika 6, 1908): mean ± t s / √n, for measurements that are independent and about normal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST = 3
"""Measurements for an interval."""
_T = (
    4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045,
)  # fmt: skip
"""Student's 97.5 % quantiles for 2 to 29 degrees of freedom."""
_NORMAL = 1.959964


def student(count: int) -> float:
    """Return Student's 97.5 % quantile for a number of measurements, at least `LEAST`.

    Beyond the table it is the normal one's and two terms of its expansion (Abramowitz and Stegun, 26.7.5).
    """
    if count - LEAST < len(_T):
        return _T[count - LEAST]
    freedom, z = count - 1, _NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def half_width_of_ratio(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> float | None:
    """Return the half width of the interval of a mean over tokens, which come in sequences; None for too few.

    Tokens of one sequence resemble each other, so sequences count as the measurements. The mean is a ratio of two sums,
    whose error is linearized (Cochran, Sampling Techniques, third edition, 6.4).

    Args:
        sums: Of the tokens of each sequence.
        counts: Tokens of each sequence.
    """
    number = len(sums)
    if number < LEAST:
        return None
    rest = sums - sums.sum() / counts.sum() * counts
    return student(number) * math.sqrt(number / (number - 1) * float(np.square(rest).sum())) / int(counts.sum())
