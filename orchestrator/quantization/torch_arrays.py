"""Converts between arrays of NumPy and tensors of torch, bit for bit, for every type of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization.libraries import load_torch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from orchestrator.quantization.torch_types import Device, Tensor


def as_array(tensor: Tensor) -> NDArray[Any]:
    """Return a tensor as an array. On the CPU they share memory if the tensor is contiguous."""
    raw = tensor.cpu().contiguous().reshape(-1).view(load_torch().uint8).numpy()
    kind: np.dtype[Any] = np.dtype(str(tensor.dtype).removeprefix("torch."))
    return raw.view(kind).reshape(tuple(tensor.shape))


def as_tensor(array: NDArray[Any], device: Device | str) -> Tensor:
    """Return an array as a tensor on a device. On the CPU they share memory if the array is contiguous."""
    torch = load_torch()
    raw = torch.from_numpy(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return raw.view(getattr(torch, array.dtype.name)).reshape(array.shape).to(device)


def numbers(values: NDArray[Any] | Tensor) -> NDArray[np.float32]:
    """Return an array or a tensor as FP32 in the processor's memory."""
    array = values if isinstance(values, np.ndarray) else as_array(values)
    return array.astype(np.float32)
