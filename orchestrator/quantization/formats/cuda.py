"""The loops of `kernels.cu`, compiled for the very GPU by the NVRTC that torch brings, and called by the driver.

As with `kernels.c` nothing is installed or kept. Where NVRTC or the driver is not to be found, there are no loops, and
`devices` encodes with the operations of torch.
"""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SOURCE = Path(__file__).with_name("kernels.cu")

EXACT = (b"--fmad=false", b"--prec-div=true", b"--ftz=false", b"--std=c++17")
"""Options of the compiler without which bytes would differ."""
_FUNCTIONS = ("largest_bf16", "nvfp4_bf16", "fp8_bf16", "mxfp4_bf16", "nvfp4_error", "fp8_error")
_THREADS = 256
_BLOCKS_PER_PROCESSOR = 128
"""Measured on an H100: fewer leave the end to a few processors, many more cost their start."""

_LOCK = threading.Lock()
_LOADED: dict[int, Loops | None] = {}


@dataclass(frozen=True)
class Loops:
    """The compiled loops on one device."""

    torch: Any
    device: int
    driver: ctypes.CDLL
    context: ctypes.c_void_p
    functions: Mapping[str, ctypes.c_void_p]
    most_blocks: int

    def blocks(self, eights: int) -> int:
        """Say how many blocks of threads run over so many groups of eight numbers."""
        return max(1, min(-(-eights // _THREADS), self.most_blocks))

    def run(self, name: str, eights: int, *arguments: Any) -> None:  # noqa: ANN401 - tensors and numbers of C
        """Call a loop on torch's current stream; it has not ended when this returns.

        Args:
            name: One of `_FUNCTIONS`.
            eights: How many groups of eight numbers it goes over.
            arguments: What it takes: tensors, for which their address is passed, and numbers of C.
        """
        values = [ctypes.c_void_p(given.data_ptr()) if hasattr(given, "data_ptr") else given for given in arguments]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(self.torch.cuda.current_stream(self.device).cuda_stream)
        _checked(self.driver.cuCtxSetCurrent(self.context), "cuCtxSetCurrent")
        grid, threads = (self.blocks(eights), 1, 1), (_THREADS, 1, 1)
        launched = self.driver.cuLaunchKernel(self.functions[name], *grid, *threads, 0, stream, places, None)
        _checked(launched, f"the launch of {name}")


def loops(torch: Any, device: int) -> Loops | None:  # noqa: ANN401 - the library
    """Return the loops on a device, compiled at the first call; None where that cannot be done."""
    with _LOCK:
        if device not in _LOADED:
            _LOADED[device] = _compiled(torch, device)
        return _LOADED[device]


def forget() -> None:
    """Compile anew at the next call."""
    with _LOCK:
        _LOADED.clear()


def _compiled(torch: Any, device: int) -> Loops | None:  # noqa: ANN401 - the library
    properties = torch.cuda.get_device_properties(device)
    try:
        image = _binary(_nvrtc(torch), f"sm_{properties.major}{properties.minor}")
        driver = ctypes.CDLL("libcuda.so.1")
        torch.zeros(1, device=f"cuda:{device}")  # torch makes the context
        context, module, ordinal = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
        _checked(driver.cuDeviceGet(ctypes.byref(ordinal), device), "cuDeviceGet")
        _checked(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal), "cuDevicePrimaryCtxRetain")
        _checked(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        _checked(driver.cuModuleLoadData(ctypes.byref(module), image), "cuModuleLoadData")
        functions = {}
        for name in _FUNCTIONS:
            functions[name] = ctypes.c_void_p()
            _checked(driver.cuModuleGetFunction(ctypes.byref(functions[name]), module, name.encode()), name)
    except (OSError, AttributeError, _CudaError):
        return None
    most_blocks = properties.multi_processor_count * _BLOCKS_PER_PROCESSOR
    return Loops(torch, device, driver, context, functions, most_blocks)


class _CudaError(Exception):
    """The driver or NVRTC says no."""


def _checked(status: int, what: str) -> None:
    if status:
        message = f"{what}: status {status}"
        raise _CudaError(message)


def _nvrtc(torch: Any) -> ctypes.CDLL:  # noqa: ANN401 - the library
    for place in _places(torch):
        with suppress(OSError):
            for part in Path(place).parent.glob("libnvrtc-builtins.so*") if "/" in place else ():
                ctypes.CDLL(str(part))  # it looks for this by name only, once it compiles
            return ctypes.CDLL(place)
    message = "no libnvrtc"
    raise _CudaError(message)


def _places(torch: Any) -> Iterator[str]:  # noqa: ANN401 - the library
    """Yield where NVRTC may be: where the loader looks, with torch's wheels, in torch, in the toolkit."""
    name = f"libnvrtc.so.{str(torch.version.cuda).partition('.')[0]}"
    yield name
    inside = Path(torch.__file__).parent
    for folder, pattern in ((inside.parent / "nvidia", f"*/lib/{name}"), (inside / "lib", "libnvrtc*.so*")):
        yield from (str(found) for found in sorted(folder.glob(pattern)) if "builtins" not in found.name)
    yield f"/usr/local/cuda/lib64/{name}"


def _binary(nvrtc: ctypes.CDLL, architecture: str) -> bytes:
    """Compile for one architecture; NVRTC takes no folder for headers here, so the one header is handed over."""
    program = ctypes.c_void_p()
    header = SOURCE.with_name("arithmetic.h")
    texts, names = (ctypes.c_char_p * 1)(header.read_bytes()), (ctypes.c_char_p * 1)(header.name.encode())
    made = nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"kernels.cu", 1, texts, names)
    _checked(made, "nvrtcCreateProgram")
    try:
        options = (f"--gpu-architecture={architecture}".encode(), *EXACT)
        given = (ctypes.c_char_p * len(options))(*options)
        _checked(nvrtc.nvrtcCompileProgram(program, len(options), given), "nvrtcCompileProgram")
        size = ctypes.c_size_t()
        _checked(nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size)), "nvrtcGetCUBINSize")
        image = ctypes.create_string_buffer(size.value)
        _checked(nvrtc.nvrtcGetCUBIN(program, image), "nvrtcGetCUBIN")
        return image.raw
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
