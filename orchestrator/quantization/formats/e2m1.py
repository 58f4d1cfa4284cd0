"""E2M1, the 4-bit numbers of NVFP4 and MXFP4: a sign and one of eight magnitudes, two numbers a byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.values import frozen

if TYPE_CHECKING:
    from orchestrator.quantization.torch_types import Tensor

Numbers = TypeVar("Numbers", NDArray[Any], "Tensor")
"""An array, or a tensor of torch."""

LARGEST = 6.0

VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""The value of each code."""

HALFWAY = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""Midpoint between code i and code i + 1."""


@frozen
class Encoded(Generic[Numbers]):
    """A weight, or some of its rows, in NVFP4 or MXFP4, without the scale of the whole tensor."""

    codes: Numbers
    """Two a byte: uint8 of shape [out, in/2]."""
    scales: Numbers
    """Shape [out, in/block]: E4M3 in NVFP4; exponents plus 127 as uint8 in MXFP4."""


def check_shape(name: str, block: int, shape: tuple[int, ...]) -> None:
    """Refuse a weight that is not two-dimensional with whole blocks in each row.

    Raises:
        ValueError: It is not.
    """
    if len(shape) != 2 or shape[1] % block:  # noqa: PLR2004 - rows and columns
        message = f"{name} needs shape [out, in] with in a multiple of {block}, not {list(shape)}"
        raise ValueError(message)


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
