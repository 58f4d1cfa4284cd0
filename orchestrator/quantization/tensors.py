"""Describes a tensor: its name, type, shape and position in a file."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeGuard

import ml_dtypes
import numpy as np

from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    ReadRows = Callable[["StoredTensor", int, int | None], NDArray[Any]]

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


@frozen
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


@frozen
class StoredTensor(TensorSpec):
    """A tensor in a file."""

    file: Path
    begin: int
    """Offset of its first byte in the file."""

    @property
    def read_size(self) -> int:
        """Bytes that are read for it."""
        return self.size


@frozen(kw_only=True)
class PackedTensor(StoredTensor, ABC):
    """A tensor that is stored in parts, and decoded when it is read. `file` and `begin` are those of its codes."""

    codes: StoredTensor
    scales: StoredTensor

    @property
    def read_size(self) -> int:
        """Bytes of the parts."""
        return self.codes.size + self.scales.size

    @abstractmethod
    def decoded(self, read: ReadRows, first: int, last: int | None) -> NDArray[Any]:
        """Decode the rows `first` up to but not including `last`.

        Args:
            read: Reads rows of a part.
            first: The first row.
            last: The row after the last one; None: all others.

        Raises:
            CheckpointError: A value has no number in BF16.
        """


@frozen(kw_only=True)
class TransposedMatrix(StoredTensor):
    """A matrix that is stored as [inputs, outputs], such as those of GPT-2."""

    stored: StoredTensor

    @property
    def read_size(self) -> int:
        """Bytes that are read for it."""
        return self.stored.read_size

    @property
    def stored_rows(self) -> tuple[int, int | None]:
        """The rows of `stored` that hold the matrix: the first one, and the one after the last; None: all others."""
        return 0, None

    def straight(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the matrix, a view, from all its stored numbers."""
        return stored.reshape(self.stored.shape).T


@frozen(kw_only=True)
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
    def read_size(self) -> int:
        """Bytes that are read for it, of those of all matrices."""
        return self.stored.read_size * self.size // max(1, self.stored.size)

    @property
    def stored_rows(self) -> tuple[int, int | None]:
        """The rows of `stored` with all matrices of its expert."""
        return self.expert, self.expert + 1

    def straight(self, stored: NDArray[Any]) -> NDArray[Any]:
        """Return the matrix, a view, from all stored numbers of its expert."""
        own, whole = (
            slice(self.part * self.shape[0], (self.part + 1) * self.shape[0]),
            stored.reshape(self.stored.shape[1:]),
        )
        return whole[:, own].T if self.transposed else whole[own]


def is_derived(tensor: StoredTensor) -> TypeGuard[ExpertMatrix | TransposedMatrix]:
    """Tell whether a tensor's bytes are not those of a file in order: it is a part of another one, which is read."""
    of_packed = isinstance(tensor, ExpertMatrix) and (tensor.transposed or isinstance(tensor.stored, PackedTensor))
    return of_packed or isinstance(tensor, TransposedMatrix)


def is_in_order(tensor: StoredTensor) -> bool:
    """Tell whether a tensor's bytes are in a file as they are read."""
    return not isinstance(tensor, PackedTensor) and not is_derived(tensor)


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Order names so that numbers in them count as numbers."""
    parts = re.split(r"(\d+)", name)
    return tuple((part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts)
