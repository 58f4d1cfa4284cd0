"""Do encoders give the bytes of the definitions? Weights on which they could differ, and the comparison.

`python -m tests.support.encoders cpu` compares what runs on tensors of torch; with `cuda`, on a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from orchestrator.quantization.format_names import FOUR_OVER_SIX, LOCAL_HESSIAN, MAX, MSE
from orchestrator.quantization.formats import cuda, e2m1, fp8, kernels, mxfp4, nvfp4
from orchestrator.quantization.torch_arrays import as_array, as_tensor
from orchestrator.quantization.torch_types import Tensor

_EVERY = np.arange(1 << 16, dtype=np.uint16)
FINITE = _EVERY[(_EVERY & 0x7F80) != 0x7F80]
"""The bits of all finite BF16 numbers: 65 280 of them."""
_E4M3 = np.arange(0x7F, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
_EXPONENTS = (-133, -126, -100, -96, -60, -20, -11, -7, -1, 0, 3, 15, 16, 100)
_SCALES = 40
SEARCHES = (
    ("nvfp4 mse", MSE, 0),
    ("nvfp4 four_over_six", FOUR_OVER_SIX, 0),
    ("nvfp4 weighted", MSE, 1),
    ("nvfp4 local_hessian", MSE, 2),
)
"""By a name: the search, and whether nothing, inputs or pairs of inputs have an importance."""
_SEARCHED = 10
"""One of so many cases is searched: thirteen candidates take their time."""


class Encoder(Protocol):
    """What is compared; weights are arrays of BF16, results arrays."""

    def nvfp4(
        self,
        weight: NDArray[Any],
        scale_2: np.float32,
        search: str = MAX,
        importance: NDArray[np.float32] | None = None,
    ) -> tuple[bytes, bytes]:
        """Return codes and scales."""

    def fp8(self, weight: NDArray[Any], scale: np.float32) -> bytes:
        """Return codes."""

    def mxfp4(self, weight: NDArray[Any]) -> tuple[bytes, bytes]:
        """Return codes and scales."""


class Defined:
    """The definitions themselves."""

    def nvfp4(
        self,
        weight: NDArray[Any],
        scale_2: np.float32,
        search: str = MAX,
        importance: NDArray[np.float32] | None = None,
    ) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        encoded = nvfp4.encode(weight, scale_2, search, importance)
        return encoded.codes.tobytes(), encoded.scales.tobytes()

    def fp8(self, weight: NDArray[Any], scale: np.float32) -> bytes:
        """See `Encoder`."""
        return fp8.encode(weight, scale).tobytes()

    def mxfp4(self, weight: NDArray[Any]) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        encoded = mxfp4.encode(weight)
        return encoded.codes.tobytes(), encoded.scales.tobytes()


class GpuArithmetic:
    """The GPU's arithmetic, compiled for this processor."""

    def __init__(self, folder: Path) -> None:
        """Compile into a folder."""
        library = folder / "arithmetic.so"
        source = Path(__file__).with_name("gpu_arithmetic.c")
        flags = ["-O3", "-std=c11", "-shared", "-fPIC", "-ffp-contract=off", "-march=native"]
        command: list[str | Path] = ["cc", *flags, f"-I{cuda.SOURCE.parent}", "-o", library, source, "-lm"]
        subprocess.run(command, check=True)
        self._functions = ctypes.CDLL(str(library))

    def nvfp4(
        self,
        weight: NDArray[Any],
        scale_2: np.float32,
        search: str = MAX,
        importance: NDArray[np.float32] | None = None,
    ) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        scale, columns = ctypes.c_float(float(scale_2)), weight.shape[1]
        if search == MAX:
            return self._blocks(self._functions.nvfp4, weight, 16, scale)
        weights = np.ones(columns, np.float32) if importance is None else importance
        how = kernels.SEARCHES[search if weights.ndim == 1 else LOCAL_HESSIAN]
        row = ctypes.c_int64(columns // nvfp4.BLOCK)
        return self._blocks(self._functions.nvfp4_search, weight, 16, scale, _at(weights), row, ctypes.c_int(how))

    def mxfp4(self, weight: NDArray[Any]) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        return self._blocks(self._functions.mxfp4, weight, 32)

    def fp8(self, weight: NDArray[Any], scale: np.float32) -> bytes:
        """See `Encoder`; what is not a whole group of eight is filled up with zeros and cut off again."""
        filled = np.zeros(-(-weight.size // 8) * 8, np.uint16)
        filled[: weight.size] = weight.reshape(-1).view(np.uint16)
        codes = np.empty(filled.size, np.uint8)
        number = ctypes.c_float(float(scale))
        self._functions.fp8(_at(filled), ctypes.c_int64(filled.size // 8), number, _at(codes))
        return codes[: weight.size].tobytes()

    def wrong_quotients(self) -> int:
        """Divide every mantissa of BF16 by every mantissa of FP32 and count what is not as division has it."""
        self._functions.wrong_quotients.restype = ctypes.c_int64
        wrong: int = self._functions.wrong_quotients()
        return wrong

    def _blocks(
        self, function: Callable[..., None], weight: NDArray[Any], block: int, *given: object
    ) -> tuple[bytes, bytes]:
        codes, scales = np.empty(weight.size // 2, np.uint8), np.empty(weight.size // block, np.uint8)
        bits = np.ascontiguousarray(weight)
        function(_at(bits), ctypes.c_int64(len(scales)), *given, _at(codes), _at(scales))
        return codes.tobytes(), scales.tobytes()


class CompiledLoops:
    """The loops for the processor's compiler, which `kernels.compile_here` has compiled; they know no MXFP4."""

    def nvfp4(
        self,
        weight: NDArray[Any],
        scale_2: np.float32,
        search: str = MAX,
        importance: NDArray[np.float32] | None = None,
    ) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        encoded = kernels.encode_nvfp4(weight, scale_2, search=search, importance=importance)
        return encoded.codes.tobytes(), encoded.scales.tobytes()

    def fp8(self, weight: NDArray[Any], scale: np.float32) -> bytes:
        """See `Encoder`."""
        return kernels.encode_fp8(weight, scale).tobytes()

    def mxfp4(self, weight: NDArray[Any]) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        return Defined().mxfp4(weight)


class OnTensors:
    """What runs on tensors of torch."""

    def __init__(self, device: str) -> None:
        """Encode on a device, as torch names it."""
        self._device = device

    def nvfp4(
        self,
        weight: NDArray[Any],
        scale_2: np.float32,
        search: str = MAX,
        importance: NDArray[np.float32] | None = None,
    ) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        encoded = kernels.encode_nvfp4(self._tensor(weight), scale_2, search=search, importance=importance)
        return self._bytes(encoded.codes), self._bytes(encoded.scales)

    def fp8(self, weight: NDArray[Any], scale: np.float32) -> bytes:
        """See `Encoder`."""
        return self._bytes(kernels.encode_fp8(self._tensor(weight), scale))

    def mxfp4(self, weight: NDArray[Any]) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        encoded = kernels.encode_mxfp4(self._tensor(weight))
        return self._bytes(encoded.codes), self._bytes(encoded.scales)

    def _tensor(self, weight: NDArray[Any]) -> Tensor:
        return as_tensor(weight, self._device)

    @staticmethod
    def _bytes(tensor: Tensor) -> bytes:
        return as_array(tensor).tobytes()


def digests(encoder: Encoder) -> dict[str, str]:
    """Return a digest of all that an encoder makes of the cases, by format."""
    searched = (name for name, *_ in SEARCHES)
    found = {name: hashlib.sha256() for name in ("nvfp4", "fp8", "mxfp4", *searched)}
    with np.errstate(over="ignore"):  # what is far above a scale saturates, by way of infinity
        for _, weight, scale in _nvfp4_cases():
            for part in encoder.nvfp4(weight, scale):
                found["nvfp4"].update(part)
        for name, weight, scale, search, importance in _search_cases():
            for part in encoder.nvfp4(weight, scale, search, importance):
                found[name.partition(",")[0]].update(part)
        for _, weight, scale in _fp8_cases():
            found["fp8"].update(encoder.fp8(weight, scale))
        for _, weight in _mxfp4_cases():
            for part in encoder.mxfp4(weight):
                found["mxfp4"].update(part)
    return {name: digest.hexdigest() for name, digest in found.items()}


def differences(encoder: Encoder) -> Iterator[str]:
    """Compare an encoder with the definitions and name the cases in which a byte differs."""
    defined = Defined()
    with np.errstate(over="ignore"):  # what is far above a scale saturates, by way of infinity
        for name, weight, scale in _nvfp4_cases():
            yield from _compared(f"NVFP4, {name}", encoder.nvfp4, defined.nvfp4, weight, scale)
        for name, *given in _search_cases():
            yield from _compared(f"NVFP4, {name}", encoder.nvfp4, defined.nvfp4, *given)
        for name, weight, scale in _fp8_cases():
            yield from _compared(f"FP8, {name}", encoder.fp8, defined.fp8, weight, scale)
        for name, weight in _mxfp4_cases():
            yield from _compared(f"MXFP4, {name}", encoder.mxfp4, defined.mxfp4, weight)


def _compared(
    name: str,
    encode: Callable[..., tuple[bytes, ...] | bytes],
    define: Callable[..., tuple[bytes, ...] | bytes],
    *given: Any,  # noqa: ANN401 - what both take
) -> Iterator[str]:
    if encode(*given) != define(*given):
        yield name


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _bf16(bits: NDArray[np.uint16]) -> NDArray[Any]:
    return np.ascontiguousarray(bits).view(ml_dtypes.bfloat16)


def _scales() -> Iterator[np.float32]:
    """Some at the ends of what loops treat alike, and some at random."""
    for exponent in _EXPONENTS:
        yield np.float32(2.0**exponent)
        yield np.float32(2.0**exponent * 1.37)
    drawn = np.random.PCG64(7).random_raw(_SCALES)
    for number in drawn.tolist():
        yield np.float32(2.0 ** (number % 38 - 30) * (1 + (number >> 40) / 2**24))


def _disordered(source: np.random.PCG64) -> NDArray[np.uint16]:
    """Shuffle the numbers in an order that no version of a library changes."""
    shuffled: NDArray[np.uint16] = FINITE[np.argsort(source.random_raw(len(FINITE)), kind="stable")]
    return shuffled


def _nvfp4_cases() -> Iterator[tuple[str, NDArray[Any], np.float32]]:
    drawn = np.random.PCG64(1)
    for scale in _scales():
        yield f"every number in order, scale {scale}", _bf16(FINITE.reshape(-1, 16)), scale
        yield f"every number in disorder, scale {scale}", _bf16(_disordered(drawn).reshape(-1, 48)), scale
        yield f"ties, scale {scale}", _ties(scale), scale
    yield "zeros", _bf16(np.array([[0, 0x8000] * 16], np.uint16)), np.float32(1)


def _search_cases() -> Iterator[tuple[str, NDArray[Any], np.float32, str, NDArray[np.float32] | None]]:
    for case, weight, scale in islice(_nvfp4_cases(), 0, None, _SEARCHED):
        columns = weight.shape[1]
        raw = np.random.PCG64(columns).random_raw
        drawn = (raw((columns,)) % 1000).astype(np.float32) / np.float32(1000)
        pairs = (raw((columns // 16, 136)) % 2001).astype(np.float32) / np.float32(1000) - np.float32(1)
        for name, search, kind in SEARCHES:
            yield f"{name}, {case}", weight, scale, search, (None, drawn, pairs)[kind]


def _ties(scale: np.float32) -> NDArray[Any]:
    """For every scale of a block: a number that asks for it, halfway points between codes and their neighbours."""
    steps = _E4M3 * scale
    rows = np.zeros((len(steps), 32), np.float32)
    rows[:, 0] = rows[:, 16] = 6 * steps
    for column, point in enumerate(e2m1.HALFWAY, start=1):
        rows[:, column], rows[:, 16 + column] = point * steps, -point * steps
    with np.errstate(invalid="ignore"):
        bits = rows.astype(ml_dtypes.bfloat16).view(np.uint16)
    bits[(bits & 0x7F80) == 0x7F80] = 0
    neighbours = [bits]
    for off in (-1, 1):
        moved = bits.copy()
        moved[:, 1:8] = np.maximum(bits[:, 1:8].astype(np.int32) + off, 0)
        neighbours.append(moved.astype(np.uint16))
    return _bf16(np.concatenate(neighbours))


def _fp8_cases() -> Iterator[tuple[str, NDArray[Any], np.float32]]:
    halves = (_E4M3[:-1] + _E4M3[1:]) / 2
    bits = np.concatenate([_E4M3, halves, -halves]).astype(ml_dtypes.bfloat16).view(np.uint16)
    boundaries = np.concatenate([bits, bits + 1, np.maximum(bits, 1) - 1])
    for scale in _scales():
        yield f"every number, scale {scale}", _bf16(FINITE.reshape(-1, 8)), scale
        yield f"boundaries, scale {scale}", _bf16(boundaries.reshape(1, -1)), scale
        near = (boundaries.view(ml_dtypes.bfloat16).astype(np.float32) * scale).astype(ml_dtypes.bfloat16)
        yield f"scaled boundaries, scale {scale}", near[np.isfinite(near.astype(np.float32))].reshape(1, -1), scale


def _mxfp4_cases() -> Iterator[tuple[str, NDArray[Any]]]:
    alone = np.zeros((len(FINITE), 32), np.uint16)
    alone[:, 5] = FINITE
    yield "every number alone", _bf16(alone)
    yield "every number in order", _bf16(FINITE.reshape(-1, 32))
    drawn = np.random.PCG64(2)
    for _ in range(8):
        yield "every number in disorder", _bf16(_disordered(drawn).reshape(-1, 96))
    for exponent in (-133, -127, -20, 0, 100):
        beside = np.zeros((len(FINITE), 32), np.float32)
        beside[:, 0], beside[:, 1] = 6 * 2.0**exponent, FINITE.view(ml_dtypes.bfloat16)
        kept = beside[np.abs(beside[:, 1]) <= beside[:, 0]]
        yield f"every smaller number beside 6 * 2^{exponent}", kept.astype(ml_dtypes.bfloat16)


if __name__ == "__main__":
    found = list(differences(OnTensors(sys.argv[1])))
    sys.exit("\n".join(found[:20]) if found else None)
