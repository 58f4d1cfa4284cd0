"""Encodes in the fastest way of this machine. Every way gives the bytes of the definitions.

NumPy is always available. If the machine has a C compiler, `compile_meanwhile` compiles `kernels.c` for
its processor in some two seconds, again for each process. Nothing is installed, kept or trusted from an earlier
run.
The compiled loops support BF16, the type of nearly every checkpoint, and run on several threads.

A tensor on a GPU is encoded there, see `gpu`. Where that is not possible, it is copied to the processor, which encodes
it, and the result is copied back.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from orchestrator.quantization.format_names import FOUR_OVER_SIX, LOCAL_HESSIAN, MAX, MSE, WEIGHTED
from orchestrator.quantization.formats import e2m1, fp8, gptq, mxfp4, nvfp4
from orchestrator.quantization.formats.e2m1 import Encoded, Numbers
from orchestrator.quantization.formats.gpu import GpuWeight
from orchestrator.quantization.torch_arrays import as_array, as_tensor
from orchestrator.quantization.torch_types import Tensor
from orchestrator.values import frozen

Empty = Callable[[tuple[int, ...], Any], NDArray[Any]]
"""Returns an uninitialized array of a shape and type."""

SOURCE = Path(__file__).with_name("kernels.c")

_COMPILERS = ("cc", "gcc", "clang")
_EXACT = ("-O3", "-std=c11", "-fPIC", "-shared", "-ffp-contract=off", "-fno-fast-math", "-fno-trapping-math")
_PROCESSORS = (("-march=native",), ("-mcpu=native",), ())
"""Older compilers on Arm use the second name for the first."""
_SECONDS_TO_COMPILE = 60
_SMALLEST_PART = 1 << 16
"""Elements below which another thread is not worth it."""
_LANES = 32
"""Blocks that a search compares side by side, and rows that GPTQ's loop works on."""
SEARCHES = {MAX: 0, FOUR_OVER_SIX: 1, MSE: 2, WEIGHTED: 3, LOCAL_HESSIAN: 4}
"""As `enum search` of `arithmetic.h` has them."""


@frozen
class _Library:
    """The compiled loops, and threads to run them on."""

    functions: ctypes.CDLL
    threads: int
    pool: ThreadPoolExecutor

    def each(self, elements: int, work: Callable[[int, int], Any], whole: int = nvfp4.BLOCK) -> list[Any]:
        """Call `work` with the first and last element of several parts in parallel.

        Args:
            elements: All of them.
            work: What to call.
            whole: Parts begin at multiples of this.
        """
        step = max(_SMALLEST_PART, -(-elements // self.threads))
        step = -(-step // whole) * whole
        parts = [(first, min(first + step, elements)) for first in range(0, elements, step)]
        if len(parts) == 1:
            return [work(*parts[0])]
        return list(self.pool.map(lambda part: work(*part), parts))


_LOADED: list[Future[_Library | None]] = []


def compile_meanwhile(threads: int | None = None) -> None:
    """Start to compile the loops for this processor, if there is a compiler.

    The first user waits for them. They are used from then on.

    Args:
        threads: Number of threads; by default as many as this process may use.
    """
    compiling = ThreadPoolExecutor(1, "compile")
    _LOADED[:] = [compiling.submit(_library, threads)]
    compiling.shutdown(wait=False)


def compile_here(threads: int | None = None) -> bool:
    """Compile, wait for it, and return whether the loops are used."""
    compile_meanwhile(threads)
    return _LOADED[0].result() is not None


def _library(threads: int | None) -> _Library | None:
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(prefix="kernels-") as folder:
        file = Path(folder) / "kernels.so"
        built = any(_compiled(compiler, file, processor) for processor in _PROCESSORS)
        try:
            functions = ctypes.CDLL(str(file)) if built else None
        except OSError:  # the temporary folder does not allow execution
            functions = None
    if functions is None:
        return None
    functions.largest_bf16.restype = ctypes.c_uint16
    count = threads_for(threads)
    return _Library(functions, count, ThreadPoolExecutor(count))


def threads_for(wanted: int | None) -> int:
    """Return the number of threads: the given one, or as many as this process may use."""
    if wanted is not None:
        return wanted
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def forget() -> None:
    """Use NumPy again."""
    _LOADED.clear()


def encode_nvfp4(
    weight: Numbers,
    scale_2: np.float32,
    empty: Empty = np.empty,
    search: str = MAX,
    importance: NDArray[np.float32] | None = None,
) -> Encoded[Numbers]:
    """Encode as `nvfp4.encode` does, where the weight is; the compiled loops write to what `empty` gives."""
    e2m1.check_shape("NVFP4", nvfp4.BLOCK, tuple(weight.shape))
    if not isinstance(weight, np.ndarray):
        on_gpu = GpuWeight.of(weight)
        if on_gpu is None:
            here = as_array(weight)
            return _returned(encode_nvfp4(here, scale_2, search=search, importance=importance), weight)
        return on_gpu.encode_nvfp4(scale_2, search, importance)
    library = _library_for(weight)
    if library is None:
        return nvfp4.encode(weight, scale_2, search, importance)
    rows, columns = weight.shape
    codes = empty((rows, columns // 2), np.uint8)
    scales = empty((rows, columns // nvfp4.BLOCK), ml_dtypes.float8_e4m3fn)
    scalar = ctypes.c_float(float(scale_2))
    weights = np.ones(columns, np.float32) if importance is None else importance
    how = search if weights.ndim == 1 else LOCAL_HESSIAN
    if weights.ndim > 1:  # the pairs of blocks side by side, and of the first ones again behind the last
        weights = weights[np.arange(len(weights) + _LANES) % len(weights)].T
    weights = np.ascontiguousarray(weights, np.float32)

    def work(first: int, last: int) -> None:
        begin, blocks = _at(weight, first * 2), ctypes.c_int64((last - first) // nvfp4.BLOCK)
        results = (_at(codes, first // 2), _at(scales, first // nvfp4.BLOCK))
        if search == MAX:
            library.functions.nvfp4_bf16(begin, blocks, scalar, *results)
            return
        place = (
            ctypes.c_int64(first // nvfp4.BLOCK),
            ctypes.c_int64(columns // nvfp4.BLOCK),
            ctypes.c_int(SEARCHES[how]),
        )
        library.functions.nvfp4_search_bf16(begin, blocks, scalar, _at(weights, 0), *place, *results)

    library.each(weight.size, work)
    return Encoded(codes, scales)


def encode_gptq(weight: Numbers, scale_2: np.float32, search: str, changes: gptq.Changes) -> Encoded[Numbers]:
    """Encode as `gptq.encode` does, on the processor, wherever the weight is."""
    e2m1.check_shape("NVFP4", nvfp4.BLOCK, tuple(weight.shape))
    if not isinstance(weight, np.ndarray):
        return _returned(encode_gptq(as_array(weight), scale_2, search, changes), weight)
    library = _library_for(weight)
    if library is None:
        return gptq.encode(weight, scale_2, search, changes)
    rows, columns = weight.shape
    codes = np.empty((rows, columns // 2), np.uint8)
    scales = np.empty((rows, columns // nvfp4.BLOCK), ml_dtypes.float8_e4m3fn)
    known: tuple[NDArray[Any], ...] = (changes.order, changes.costs, changes.matrix, changes.pairs)
    known = tuple(map(np.ascontiguousarray, known))

    def work(first: int, last: int) -> None:
        rest = np.empty((columns, _LANES), np.float32)
        count = (ctypes.c_int64((last - first) // columns), ctypes.c_int64(columns), ctypes.c_float(float(scale_2)))
        how = (*(_at(array, 0) for array in known), ctypes.c_int(SEARCHES[search]), _at(rest, 0))
        results = (_at(codes, first // 2), _at(scales, first // nvfp4.BLOCK))
        library.functions.nvfp4_gptq_bf16(_at(weight, first * 2), *count, *how, *results)

    library.each(weight.size, work, whole=_LANES * columns)
    return Encoded(codes, scales)


def encode_mxfp4(weight: Numbers) -> Encoded[Numbers]:
    """Encode as `mxfp4.encode` does, where the weight is; there are no compiled loops for processors."""
    e2m1.check_shape("MXFP4", mxfp4.BLOCK, tuple(weight.shape))
    if isinstance(weight, np.ndarray):
        return mxfp4.encode(weight)
    on_gpu = GpuWeight.of(weight)
    return on_gpu.encode_mxfp4() if on_gpu else _returned(mxfp4.encode(as_array(weight)), weight)


def encode_fp8(weight: Numbers, scale: np.float32, empty: Empty = np.empty) -> Numbers:
    """Encode as `fp8.encode` does, where the weight is; the compiled loops write to what `empty` gives."""
    if not isinstance(weight, np.ndarray):
        on_gpu = GpuWeight.of(weight)
        return on_gpu.encode_fp8(scale) if on_gpu else as_tensor(encode_fp8(as_array(weight), scale), weight.device)
    library = _library_for(weight)
    if library is None:
        return fp8.encode(weight, scale)
    codes = empty(weight.shape, ml_dtypes.float8_e4m3fn)
    scalar = ctypes.c_float(float(scale))

    def work(first: int, last: int) -> None:
        library.functions.fp8_bf16(_at(weight, first * 2), ctypes.c_int64(last - first), scalar, _at(codes, first))

    library.each(weight.size, work)
    return codes


def largest_magnitude(weight: Numbers) -> np.float32:
    """Return the largest magnitude, which is not finite if a number is not finite; 0 for an empty array."""
    if not isinstance(weight, np.ndarray):
        on_gpu = GpuWeight.of(weight)
        return np.float32(on_gpu.largest_magnitude()) if on_gpu else largest_magnitude(as_array(weight))
    library = _library_for(weight)
    if library is None:
        largest: np.float32 = np.abs(weight.astype(np.float32)).max(initial=0)  # NaN wins over every number
        return largest

    def work(first: int, last: int) -> int:
        bits: int = library.functions.largest_bf16(_at(weight, first * 2), ctypes.c_int64(last - first))
        return bits

    bits = max(library.each(weight.size, work))
    return np.float32(np.array(bits, np.uint16).view(ml_dtypes.bfloat16))


def nvfp4_error(weight: Numbers, encoded: Encoded[Numbers], scale_2: np.float32) -> tuple[float, float]:
    """Return the sums of squares of a weight and of its encoding error."""
    if not isinstance(weight, np.ndarray):
        on_gpu = GpuWeight.of(weight)
        if on_gpu:
            return on_gpu.nvfp4_error(encoded, scale_2)
        here = Encoded(as_array(encoded.codes), as_array(encoded.scales))
        return nvfp4_error(as_array(weight), here, scale_2)
    library = _library_for(weight)
    if library is None:
        return _error(weight, nvfp4.decode(encoded, scale_2))
    codes, scales, scalar = encoded.codes, encoded.scales, ctypes.c_float(float(scale_2))

    def work(first: int, last: int) -> tuple[float, float]:
        blocks = ctypes.c_int64((last - first) // nvfp4.BLOCK)
        addresses = (_at(codes, first // 2), _at(scales, first // nvfp4.BLOCK))
        return _sums(partial(library.functions.nvfp4_error, _at(weight, first * 2), blocks, scalar, *addresses))

    return _total(library.each(weight.size, work))


def fp8_error(weight: Numbers, encoded: Numbers, scale: np.float32) -> tuple[float, float]:
    """Return the sums of squares of a weight and of its encoding error."""
    if not isinstance(weight, np.ndarray):
        on_gpu = GpuWeight.of(weight)
        if on_gpu:
            return on_gpu.fp8_error(encoded, scale)
        return fp8_error(as_array(weight), as_array(encoded), scale)
    library = _library_for(weight)
    if library is None:
        return _error(weight, fp8.decode(encoded, scale))
    scalar = ctypes.c_float(float(scale))

    def work(first: int, last: int) -> tuple[float, float]:
        count = ctypes.c_int64(last - first)
        return _sums(partial(library.functions.fp8_error, _at(weight, first * 2), count, scalar, _at(encoded, first)))

    return _total(library.each(weight.size, work))


def _returned(encoded: Encoded[NDArray[Any]], weight: Tensor) -> Encoded[Tensor]:
    """Copy what the processor encoded to the weight's device."""
    return Encoded(as_tensor(encoded.codes, weight.device), as_tensor(encoded.scales, weight.device))


def _library_for(weight: NDArray[Any]) -> _Library | None:
    """Return the compiled loops if they support this weight."""
    if not _LOADED or weight.dtype != ml_dtypes.bfloat16 or not weight.flags.c_contiguous or not weight.size:
        return None
    return _LOADED[0].result()


def _compiled(compiler: str, file: Path, processor: tuple[str, ...]) -> bool:
    command = [compiler, *_EXACT, *processor, "-o", str(file), str(SOURCE), "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS_TO_COMPILE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _at(array: NDArray[Any], offset: int) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data + offset)


def _sums(call: Callable[[Any], Any]) -> tuple[float, float]:
    sums = (ctypes.c_double * 2)()
    call(sums)
    return sums[0], sums[1]


def _total(parts: list[tuple[float, float]]) -> tuple[float, float]:
    return sum(part[0] for part in parts), sum(part[1] for part in parts)


def _error(weight: NDArray[Any], decoded: NDArray[np.float32]) -> tuple[float, float]:
    exact = weight.astype(np.float32)
    off = exact - decoded
    return float(np.square(exact, dtype=np.float64).sum()), float(np.square(off, dtype=np.float64).sum())
