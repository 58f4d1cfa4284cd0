"""Compiles `kernels.cu` for the present GPU with NVRTC, which comes with torch, and runs it through the driver.

As with `kernels.c`, nothing is installed or kept.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.quantization.libraries import load_torch
from orchestrator.values import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestrator.quantization.torch_types import Tensor, Torch

    Argument = Tensor | ctypes.c_float | ctypes.c_longlong

SOURCE = Path(__file__).with_name("kernels.cu")

EXACT = (b"--fmad=false", b"--prec-div=true", b"--ftz=false", b"--std=c++17")
"""Compiler options that the exact bytes depend on."""
_FUNCTIONS = (
    "largest_bf16",
    "nvfp4_bf16",
    "nvfp4_search_bf16",
    "nvfp4_search_pairs_bf16",
    "fp8_bf16",
    "mxfp4_bf16",
    "nvfp4_error",
    "fp8_error",
)
_THREADS = 256
_BLOCKS_PER_PROCESSOR = 128
"""Measured on an H100: fewer leave the end to a few processors, many more cost start-up time."""

_LOCK = threading.Lock()
_LOADED: dict[int, Functions | CudaError] = {}


class CudaError(Exception):
    """The functions cannot be compiled or loaded; the message says why."""


@frozen
class Functions:
    """The compiled functions on one device."""

    torch: Torch
    device: int
    driver: ctypes.CDLL
    context: ctypes.c_void_p
    handles: Mapping[str, ctypes.c_void_p]
    most_blocks: int

    def blocks(self, groups: int) -> int:
        """Return the number of thread blocks for a number of groups of eight values."""
        return max(1, min(-(-groups // _THREADS), self.most_blocks))

    def run(self, name: str, groups: int, *arguments: Argument) -> None:
        """Run a function on torch's current stream. It may still run when this returns.

        Args:
            name: One of `_FUNCTIONS`.
            groups: Number of groups of eight values.
            arguments: Tensors, which are passed as addresses, and numbers of C.
        """
        numbers = ctypes.c_float | ctypes.c_longlong
        values = [one if isinstance(one, numbers) else ctypes.c_void_p(one.data_ptr()) for one in arguments]
        addresses = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(self.torch.cuda.current_stream(self.device).cuda_stream)
        _check(self.driver.cuCtxSetCurrent(self.context), "cuCtxSetCurrent")
        grid, threads = (self.blocks(groups), 1, 1), (_THREADS, 1, 1)
        status = self.driver.cuLaunchKernel(self.handles[name], *grid, *threads, 0, stream, addresses, None)
        _check(status, f"the launch of {name}")


def functions(device: int) -> Functions | CudaError:
    """Return the functions on a device, compiled at the first call, or why they are not available."""
    with _LOCK:
        if device not in _LOADED:
            try:
                _LOADED[device] = _load(load_torch(), device)
            except (OSError, AttributeError, CudaError) as error:  # no library, an older one, or a refusal
                _LOADED[device] = error if isinstance(error, CudaError) else CudaError(str(error))
        return _LOADED[device]


def _load(torch: Torch, device: int) -> Functions:
    properties = torch.cuda.get_device_properties(device)
    image = _binary(_nvrtc(torch), f"sm_{properties.major}{properties.minor}")
    driver = ctypes.CDLL("libcuda.so.1")
    torch.zeros((1,), dtype=torch.uint8, device=f"cuda:{device}")  # torch creates the context
    context, module, ordinal = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    _check(driver.cuDeviceGet(ctypes.byref(ordinal), device), "cuDeviceGet")
    _check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal), "cuDevicePrimaryCtxRetain")
    _check(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
    _check(driver.cuModuleLoadData(ctypes.byref(module), image), "cuModuleLoadData")
    handles = {name: ctypes.c_void_p() for name in _FUNCTIONS}
    for name, handle in handles.items():
        _check(driver.cuModuleGetFunction(ctypes.byref(handle), module, name.encode()), name)
    most_blocks = properties.multi_processor_count * _BLOCKS_PER_PROCESSOR
    return Functions(torch, device, driver, context, handles, most_blocks)


def _check(status: int, what: str) -> None:
    if status:
        message = f"{what}: status {status}"
        raise CudaError(message)


def _nvrtc(torch: Torch) -> ctypes.CDLL:
    for path in _paths(torch):
        with suppress(OSError):
            for part in Path(path).parent.glob("libnvrtc-builtins.so*") if "/" in path else ():
                ctypes.CDLL(str(part))  # NVRTC finds it by name when it compiles
            return ctypes.CDLL(path)
    message = "found no libnvrtc"
    raise CudaError(message)


def _paths(torch: Torch) -> Iterator[str]:
    """Yield possible paths of NVRTC: the loader's, those of torch's wheels, torch's own, the toolkit's."""
    name = f"libnvrtc.so.{str(torch.version.cuda).partition('.')[0]}"
    yield name
    inside = Path(torch.__file__).parent
    for folder, pattern in ((inside.parent / "nvidia", f"*/lib/{name}"), (inside / "lib", "libnvrtc*.so*")):
        yield from (str(found) for found in sorted(folder.glob(pattern)) if "builtins" not in found.name)
    yield f"/usr/local/cuda/lib64/{name}"


def _binary(nvrtc: ctypes.CDLL, architecture: str) -> bytes:
    """Compile for one architecture. NVRTC takes no folder for headers here, so the one header is passed as text."""
    program = ctypes.c_void_p()
    header = SOURCE.with_name("arithmetic.h")
    headers, names = (ctypes.c_char_p * 1)(header.read_bytes()), (ctypes.c_char_p * 1)(header.name.encode())
    status = nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"kernels.cu", 1, headers, names)
    _check(status, "nvrtcCreateProgram")
    try:
        options = (f"--gpu-architecture={architecture}".encode(), *EXACT)
        given = (ctypes.c_char_p * len(options))(*options)
        _check(nvrtc.nvrtcCompileProgram(program, len(options), given), "nvrtcCompileProgram")
        size = ctypes.c_size_t()
        _check(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "nvrtcGetCUBINSize")
        image = ctypes.create_string_buffer(size.value)
        _check(nvrtc.nvrtcGetCUBIN(program, image), "nvrtcGetCUBIN")
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
