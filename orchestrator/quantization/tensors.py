"""Describes a tensor: its name, type, shape and position in a file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
"""Names in a header -> NumPy types, in the order that the safetensors library ranks them (see `header.build`)."""
FLOATS = ("BF16", "F16", "F32")
"""Types of a model that is not quantized."""


@dataclass(frozen=True)
class TensorSpec:
    """What a tensor is, before it has any data."""

    name: str
    dtype: str
    """A key of `DTYPES`."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes of one row: of everything below the first dimension."""
        return math.prod(self.shape[1:]) * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        """Name, type and shape, for messages."""
        return f"{self.name} {self.dtype} {list(self.shape)}"


@dataclass(frozen=True)
class StoredTensor(TensorSpec):
    """A tensor in a file."""

    file: Path
    begin: int
    """Offset of its first byte in the file."""


@dataclass(frozen=True, kw_only=True)
class TransposedMatrix(StoredTensor):
    """A matrix that is stored as [inputs, outputs], such as those of GPT-2."""

    stored: StoredTensor

    @property
    def stored_bytes(self) -> int:
        """Bytes from `begin` on that hold the matrix."""
        return self.stored.size

    def straight(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the matrix, a view, from all its stored numbers."""
        return stored.reshape(self.stored.shape).T


@dataclass(frozen=True, kw_only=True)
class ExpertMatrix(StoredTensor):
    """A matrix of one expert in a stored tensor that holds a matrix for each."""

    stored: StoredTensor
    expert: int
    part: int
    """Which of the matrices that are one for each expert, such as gate and up."""
    parts: int
    transposed: bool
    """Stored as [inputs, outputs], with the parts side by side. `begin` is then that of the expert."""
    whole: bool = False
    """A quantized checkpoint has the matrices of all experts in one tensor, too, stored as these are."""

    @property
    def stored_bytes(self) -> int:
        """Bytes of all matrices of its expert, which are from `begin` on if it is transposed."""
        return self.stored.row_bytes

    def straight(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the matrix, a view, from all stored numbers of its expert if it is transposed."""
        outputs = self.shape[0]
        return stored.reshape(self.stored.shape[1:])[:, self.part * outputs : (self.part + 1) * outputs].T


def is_transposed(tensor: StoredTensor) -> TypeGuard[ExpertMatrix | TransposedMatrix]:
    """Tell whether a tensor is stored with its axes swapped, so that its bytes are not in order."""
    return isinstance(tensor, TransposedMatrix) or (isinstance(tensor, ExpertMatrix) and tensor.transposed)


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Order names so that numbers in them count as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)
