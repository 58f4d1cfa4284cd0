"""Encodes BF16 weights on an NVIDIA GPU, with the same bytes as the definitions. Each weight is read once.

The functions of `kernels.cu` do the work, see `cuda`. They process groups of eight numbers, which are 16 bytes.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.events import Warned
from orchestrator.quantization.format_names import FOUR_OVER_SIX, MAX
from orchestrator.quantization.formats import cuda, mxfp4, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded
from orchestrator.quantization.libraries import load_torch
from orchestrator.quantization.torch_arrays import as_tensor
from orchestrator.values import frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.events import Observer
    from orchestrator.quantization.torch_types import Dtype, Tensor, Torch

_EIGHT = 8
_WARP = 32
"""Threads that work side by side."""
_ALIGNED = 16
"""The address of a group must be a multiple of this."""


@frozen
class GpuWeight:
    """A weight, or some of its rows, that the GPU encodes where it is."""

    numbers: Tensor
    """BF16, contiguous and aligned; a whole number of groups."""
    functions: cuda.Functions

    @classmethod
    def of(cls, weight: Tensor) -> GpuWeight | None:
        """Prepare a weight; None if the GPU's functions do not support it or cannot be compiled here."""
        torch = load_torch()
        if weight.device.type != "cuda" or weight.dtype != torch.bfloat16:
            return None
        if not weight.numel() or weight.numel() % _EIGHT:
            return None
        functions = cuda.functions(weight.device.index or 0)
        if isinstance(functions, cuda.CudaError):
            return None
        numbers = weight.contiguous()
        return cls(numbers.clone() if numbers.data_ptr() % _ALIGNED else numbers, functions)

    def encode_nvfp4(
        self, scale_2: np.float32, search: str = MAX, importance: NDArray[np.float32] | None = None
    ) -> Encoded[Tensor]:
        """Encode as `nvfp4.encode` does."""
        torch, (rows, columns) = self._torch, self.numbers.shape
        codes = self._empty((rows, columns // 2), torch.uint8)
        scales = self._empty((rows, columns // nvfp4.BLOCK), torch.float8_e4m3fn)
        if search == MAX:
            self._run("nvfp4_bf16", _float(scale_2), codes, scales)
            return Encoded(codes, scales)
        weights = as_tensor(np.ones(columns, np.float32) if importance is None else importance, codes.device)
        row, paired = columns // nvfp4.BLOCK, weights.dim() > 1
        name = "nvfp4_search_pairs_bf16" if paired else "nvfp4_search_bf16"
        steps = row * (-(-rows // _WARP) * _WARP if paired else rows)
        how = ctypes.c_longlong(rows if paired else search == FOUR_OVER_SIX)
        given = (ctypes.c_longlong(steps), _float(scale_2), weights, ctypes.c_longlong(row), how)
        self.functions.run(name, steps, self.numbers, *given, codes, scales)
        return Encoded(codes, scales)

    def encode_fp8(self, scale: np.float32) -> Tensor:
        """Encode as `fp8.encode` does."""
        codes = self._empty(self.numbers.shape, self._torch.float8_e4m3fn)
        self._run("fp8_bf16", _float(scale), codes)
        return codes

    def encode_mxfp4(self) -> Encoded[Tensor]:
        """Encode as `mxfp4.encode` does."""
        torch, (rows, columns) = self._torch, self.numbers.shape
        codes = self._empty((rows, columns // 2), torch.uint8)
        scales = self._empty((rows, columns // mxfp4.BLOCK), torch.uint8)
        self._run("mxfp4_bf16", codes, scales)
        return Encoded(codes, scales)

    def largest_magnitude(self) -> float:
        """Return the largest magnitude, which is not finite if a number is not finite."""
        torch = self._torch
        bits = torch.zeros((1,), dtype=torch.int32, device=self.numbers.device)
        self._run("largest_bf16", bits)
        return float((bits << 16).view(torch.float32))

    def nvfp4_error(self, encoded: Encoded[Tensor], scale_2: np.float32) -> tuple[float, float]:
        """Return the sums of squares of the weight and of its encoding error."""
        return self._sums("nvfp4_error", scale_2, encoded.codes, encoded.scales)

    def fp8_error(self, encoded: Tensor, scale: np.float32) -> tuple[float, float]:
        """Return the sums of squares of the weight and of its encoding error."""
        return self._sums("fp8_error", scale, encoded)

    @property
    def _torch(self) -> Torch:
        return load_torch()

    @property
    def _groups(self) -> int:
        return self.numbers.numel() // _EIGHT

    def _empty(self, shape: tuple[int, ...], kind: Dtype) -> Tensor:
        return self._torch.empty(shape, dtype=kind, device=self.numbers.device)

    def _run(self, name: str, *arguments: Tensor | ctypes.c_float) -> None:
        self.functions.run(name, self._groups, self.numbers, ctypes.c_longlong(self._groups), *arguments)

    def _sums(self, name: str, scale: np.float32, *encoded: Tensor) -> tuple[float, float]:
        sums = self._empty((self.functions.blocks(self._groups), 2), self._torch.float32)
        self._run(name, _float(scale), *encoded, sums)
        signal, noise = sums.double().sum(0).tolist()
        return signal, noise


def warn_if_unavailable(observer: Observer) -> None:
    """Report once that the first GPU cannot encode, and why."""
    functions = cuda.functions(0)
    if isinstance(functions, cuda.CudaError):
        observer(Warned(f"the GPU cannot encode weights ({functions}), so the processor does: slower, the same bytes"))


def _float(number: np.float32) -> ctypes.c_float:
    return ctypes.c_float(float(number))
