"""Encodes torch tensors on their device, with the same bytes as the definitions, on processors and GPUs.

On NVIDIA GPUs, BF16 is encoded by compiled loops that read the memory once (see `cuda`). Everything else uses
operations of torch, with some dozens of passes over pieces of bounded size.

On a GPU, torch divides by a number by multiplying with the reciprocal. It divides exactly if the
divisor is a tensor of one dimension, so divisors here are such tensors.
"""

from __future__ import annotations

import ctypes
import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.quantization.formats import cuda, e2m1, fp8, mxfp4, nvfp4

if TYPE_CHECKING:
    from types import ModuleType

    from orchestrator.quantization.torch_types import Tensor

_ELEMENTS_AT_ONCE = 1 << 22
_EIGHT = 8
_HALF = 1 << 22
"""Bits of the smallest normal FP32 number."""
_ALIGNED = 16
"""Bytes that the compiled loops read at once."""


def encode_nvfp4(weight: Tensor, scale_2: np.float32) -> nvfp4.Encoded:
    """Encode as `nvfp4.encode` does.

    Args:
        weight: A tensor of finite numbers, shape [out, in].
        scale_2: `nvfp4.tensor_scale` of the largest magnitude of the whole tensor or group.

    Returns:
        Codes as uint8 and scales as float8_e4m3fn, on the weight's device.

    Raises:
        ValueError: The shape is not two-dimensional with whole blocks in each row.
    """
    nvfp4.check_shape(tuple(weight.shape))
    torch = _torch()
    rows, columns = weight.shape
    codes = torch.empty((rows, columns // 2), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((rows, columns // nvfp4.BLOCK), dtype=torch.float8_e4m3fn, device=weight.device)
    loops = _loops(weight)
    if loops is not None:
        eights = weight.numel() // _EIGHT
        loops.run("nvfp4_bf16", eights, weight, ctypes.c_longlong(eights), _float(scale_2), codes, scales)
        return nvfp4.Encoded(codes, scales)
    divisor = _divisor(weight, np.float32(e2m1.LARGEST) * scale_2)
    for some in _pieces(weight):
        blocks = weight[some].float().reshape(-1, columns // nvfp4.BLOCK, nvfp4.BLOCK)
        found = blocks.abs().amax(-1) / divisor
        found = torch.where(found.eq(0), 1.0, found).clamp(2.0**-9, fp8.LARGEST)
        scales[some] = found.to(torch.float8_e4m3fn)
        steps = scales[some].float() * _divisor(weight, scale_2)
        values = blocks / steps.unsqueeze(-1)
        found = _codes(values.abs(), to_even=True) | ((values < 0).to(torch.uint8) << 3)
        codes[some] = _packed(found.reshape(-1, columns))
    return nvfp4.Encoded(codes, scales)


def encode_fp8(weight: Tensor, scale: np.float32) -> Tensor:
    """Encode as `fp8.encode` does: float8_e4m3fn of the weight's shape, on its device."""
    torch = _torch()
    encoded: Tensor = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    loops = _loops(weight)
    if loops is not None:
        eights = weight.numel() // _EIGHT
        loops.run("fp8_bf16", eights, weight, ctypes.c_longlong(eights), _float(scale), encoded)
        return encoded
    flat, divisor = weight.reshape(-1), _divisor(weight, scale)
    for first in range(0, flat.numel(), _ELEMENTS_AT_ONCE):
        some = slice(first, first + _ELEMENTS_AT_ONCE)
        quotients = (flat[some].float() / divisor).to(weight.dtype).float()
        encoded.view(-1)[some] = quotients.clamp(-fp8.LARGEST, fp8.LARGEST).to(torch.float8_e4m3fn)
    return encoded


def encode_mxfp4(weight: Tensor) -> mxfp4.Encoded:
    """Encode as `mxfp4.encode` does: codes and scales as uint8, on the weight's device.

    Raises:
        ValueError: The shape is not two-dimensional with whole blocks in each row.
    """
    mxfp4.check_shape(tuple(weight.shape))
    torch = _torch()
    rows, columns = weight.shape
    codes = torch.empty((rows, columns // 2), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((rows, columns // mxfp4.BLOCK), dtype=torch.uint8, device=weight.device)
    loops = _loops(weight)
    if loops is not None:
        eights = weight.numel() // _EIGHT
        loops.run("mxfp4_bf16", eights, weight, ctypes.c_longlong(eights), codes, scales)
        return mxfp4.Encoded(codes, scales)
    for some in _pieces(weight):
        blocks = weight[some].float().reshape(-1, columns // mxfp4.BLOCK, mxfp4.BLOCK)
        found = _mx_exponents(blocks.abs().amax(-1) / _divisor(weight, np.float32(e2m1.LARGEST)))
        scales[some] = found.to(torch.uint8)
        factors = ((254 - found) << 23).to(torch.int32).view(torch.float32)
        values = blocks * factors.unsqueeze(-1)
        found = _codes(values.abs(), to_even=False) | ((~(values > 0)).to(torch.uint8) << 3)
        codes[some] = _packed(found.reshape(-1, columns))
    return mxfp4.Encoded(codes, scales)


def largest_magnitude(weight: Tensor) -> float:
    """Return the largest magnitude, which is not finite if a number is not finite; 0 for an empty tensor."""
    torch = _torch()
    if not weight.numel():
        return 0.0
    loops = _loops(weight)
    if loops is None:
        return max(float(piece.abs().amax()) for piece in weight.reshape(-1).split(_ELEMENTS_AT_ONCE))
    eights = weight.numel() // _EIGHT
    bits = torch.zeros(1, dtype=torch.int32, device=weight.device)
    loops.run("largest_bf16", eights, weight, ctypes.c_longlong(eights), bits)
    return float((bits << 16).view(torch.float32))


def nvfp4_error(weight: Tensor, encoded: Any, scale_2: np.float32) -> tuple[float, float]:  # noqa: ANN401 - tensors
    """Return the sums of squares of a weight and of its encoding error."""
    loops = _loops(weight)
    if loops is not None:
        return _summed(loops, "nvfp4_error", weight, scale_2, encoded.codes, encoded.scales)
    torch = _torch()
    columns = weight.shape[1]
    signal = noise = 0.0
    values = torch.from_numpy(e2m1.VALUES).to(weight.device)
    for some in _pieces(weight):
        packed = encoded.codes[some].int()
        found = values[torch.stack((packed & 15, packed >> 4), -1)].reshape(-1, columns // nvfp4.BLOCK, nvfp4.BLOCK)
        found *= (encoded.scales[some].float() * _divisor(weight, scale_2)).unsqueeze(-1)
        piece = _squares(weight[some].float(), found.reshape(-1, columns))
        signal, noise = signal + piece[0], noise + piece[1]
    return signal, noise


def fp8_error(weight: Tensor, encoded: Tensor, scale: np.float32) -> tuple[float, float]:
    """Return the sums of squares of a weight and of its encoding error."""
    loops = _loops(weight)
    if loops is not None:
        return _summed(loops, "fp8_error", weight, scale, encoded)
    signal = noise = 0.0
    for some in _pieces(weight):
        piece = _squares(weight[some].float(), encoded[some].float() * _divisor(weight, scale))
        signal, noise = signal + piece[0], noise + piece[1]
    return signal, noise


def _torch() -> ModuleType:
    """Import the library, which is there where a tensor is."""
    return importlib.import_module("torch")


def _loops(weight: Tensor) -> cuda.Loops | None:
    """Return the compiled loops if they take this weight."""
    if weight.device.type != "cuda" or weight.dtype != _torch().bfloat16 or not weight.is_contiguous():
        return None
    if not weight.numel() or weight.numel() % _EIGHT or weight.data_ptr() % _ALIGNED:
        return None
    return cuda.loops(_torch(), weight.device.index or 0)


def _float(number: np.float32) -> ctypes.c_float:
    return ctypes.c_float(float(number))


def _divisor(weight: Tensor, number: np.float32) -> Tensor:
    """Make a tensor of one number and one dimension, so that torch divides exactly."""
    torch = _torch()
    divisor: Tensor = torch.full((1,), float(number), dtype=torch.float32, device=weight.device)
    return divisor


def _pieces(weight: Tensor) -> list[slice]:
    """Split rows into runs of bounded size."""
    step = max(1, _ELEMENTS_AT_ONCE // max(1, weight.shape[-1]))
    return [slice(first, first + step) for first in range(0, weight.shape[0], step)]


def _codes(magnitudes: Tensor, *, to_even: bool) -> Tensor:
    """Return E2M1 codes. Ties go to the even code or toward zero."""
    torch = _torch()
    codes: Tensor = torch.zeros(magnitudes.shape, dtype=torch.uint8, device=magnitudes.device)
    for number, point in enumerate(e2m1.HALFWAY):
        codes += magnitudes >= point if to_even and number % 2 else magnitudes > point
    return codes


def _packed(codes: Tensor) -> Tensor:
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def _mx_exponents(sixths: Tensor) -> Tensor:
    """Return exponents plus 127 of the smallest powers of two that are not below these, as 64-bit integers."""
    torch = _torch()
    bits = sixths.view(torch.int32).long()
    exponents, mantissas = bits >> 23, bits & 0x7FFFFF
    found: Tensor = torch.where(exponents.eq(0), (mantissas > _HALF).long(), exponents + mantissas.ne(0))
    return found


def _squares(exact: Tensor, decoded: Tensor) -> tuple[float, float]:
    return float(exact.double().square().sum()), float((exact - decoded).double().square().sum())


def _summed(loops: cuda.Loops, name: str, weight: Tensor, scale: np.float32, *encoded: Tensor) -> tuple[float, float]:
    torch = _torch()
    eights = weight.numel() // _EIGHT
    sums = torch.empty((loops.blocks(eights), 2), dtype=torch.float32, device=weight.device)
    loops.run(name, eights, weight, ctypes.c_longlong(eights), _float(scale), *encoded, sums)
    signal, noise = sums.double().sum(0).tolist()
    return signal, noise
