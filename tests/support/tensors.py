"""Arrays that look like torch's tensors, for code that only moves their bytes."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class ArrayTensor:
    """An array that looks like a tensor on a device."""

    array: NDArray[Any]
    device: object

    @property
    def dtype(self) -> str:
        return f"torch.{self.array.dtype.name}"

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def numel(self) -> int:
        return self.array.size

    def cpu(self) -> ArrayTensor:
        return ArrayTensor(self.array, "cpu")

    contiguous = cpu

    def to(self, device: object) -> ArrayTensor:
        return ArrayTensor(self.array, device)

    def reshape(self, *shape: int | tuple[int, ...]) -> ArrayTensor:
        return ArrayTensor(np.reshape(self.array, shape[0]), self.device)

    def view(self, dtype: str) -> ArrayTensor:
        return ArrayTensor(self.array.view(np.dtype(dtype.removeprefix("torch."))), self.device)

    def numpy(self) -> NDArray[Any]:
        return self.array


def array_torch(**more: object) -> SimpleNamespace:
    """Return a torch of such tensors, and of what else a test gives it."""
    types = {name: f"torch.{name}" for name in ("uint8", "bfloat16", "float16", "float8_e4m3fn")}
    return SimpleNamespace(**types, from_numpy=lambda array: ArrayTensor(array, "cpu"), **more)
