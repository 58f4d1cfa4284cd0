"""E2M1, the 4-bit numbers of NVFP4 and MXFP4: a sign and one of eight magnitudes, two numbers a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 6.0

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The value of each code."""

HALFWAY = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""Midpoint between code i and code i + 1."""


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack two codes into a byte, the even column in the low half: [rows, columns] to [rows, columns / 2]."""
    return codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))


def unpack(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Unpack bytes: [rows, columns / 2] to [rows, columns]."""
    rows, half = packed.shape
    codes = np.empty((rows, half * 2), np.uint8)
    codes[:, 0::2] = packed & 0x0F
    codes[:, 1::2] = packed >> 4
    return codes
