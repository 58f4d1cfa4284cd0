"""Compiles `kernels.cu` for the present GPU with torch's NVRTC, and calls it through the driver.

As with `kernels.c`, nothing is installed or kept. Without NVRTC or the driver there are no compiled loops, and
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
"""Compiler options that the exact bytes depend on."""
_FUNCTIONS = ("largest_bf16", "nvfp4_bf16", "fp8_bf16", "mxfp4_bf16", "nvfp4_error", "fp8_error")
_THREADS = 256
_BLOCKS_PER_PROCESSOR = 128
"""Measured on an H100: fewer leave the end to a few processors, many more cost start-up time."""

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
        """Return the number of thread blocks for a number of groups of eight values."""
        return max(1, min(-(-eights // _THREADS), self.most_blocks))

    def run(self, name: str, eights: int, *arguments: Any) -> None:  # noqa: ANN401 - tensors and numbers of C
        """Call a loop on torch's current stream. It may still run when this returns.

        Args:
            name: One of `_FUNCTIONS`.
            eights: Number of groups of eight values.
            arguments: Tensors, which are passed as addresses, and numbers of C.
        """
        values = [ctypes.c_void_p(given.data_ptr()) if hasattr(given, "data_ptr") else given for given in arguments]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        stream = ctypes.c_void_p(self.torch.cuda.current_stream(self.device).cuda_stream)
        _checked(self.driver.cuCtxSetCurrent(self.context), "cuCtxSetCurrent")
        grid, threads = (self.blocks(eights), 1, 1), (_THREADS, 1, 1)
        launched = self.driver.cuLaunchKernel(self.functions[name], *grid, *threads, 0, stream, places, None)
        _checked(launched, f"the launch of {name}")


def loops(torch: Any, device: int) -> Loops | None:  # noqa: ANN401 - the library
    """Return the loops on a device, compiled at the first call; None if that fails."""
    with _LOCK:
        if device not in _LOADED:
            _LOADED[device] = _compiled(torch, device)
        return _LOADED[device]


def forget() -> None:
    """Compile again at the next call."""
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
    """The driver or NVRTC reports an error."""


def _checked(status: int, what: str) -> None:
    if status:
        message = f"{what}: status {status}"
        raise _CudaError(message)


def _nvrtc(torch: Any) -> ctypes.CDLL:  # noqa: ANN401 - the library
    for place in _places(torch):
        with suppress(OSError):
            for part in Path(place).parent.glob("libnvrtc-builtins.so*") if "/" in place else ():
                ctypes.CDLL(str(part))  # it finds this by name when it compiles
            return ctypes.CDLL(place)
    message = "no libnvrtc"
    raise _CudaError(message)


def _places(torch: Any) -> Iterator[str]:  # noqa: ANN401 - the library
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
    made = nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"kernels.cu", 1, headers, names)
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
