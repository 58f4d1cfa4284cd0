"""Do the encoders for GPUs and for tensors give the bytes of the definitions?

The text that the GPU's compiler gets is compiled here for the processor as well: the operations are the same and so are
their roundings. What only a GPU can show is in `benchmarks/encode_gpu.py`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.quantization.formats import cuda
from tests.support.encoders import differences
from tests.support.environments import oracle_python

_ROOT = Path(__file__).parents[2]


class Compiled:
    """The GPU's arithmetic, compiled for this processor."""

    def __init__(self, folder: Path) -> None:
        library = folder / "arithmetic.so"
        source = Path(__file__).with_name("gpu_arithmetic.c")
        flags = ["-O3", "-std=c11", "-shared", "-fPIC", "-ffp-contract=off", "-march=native"]
        command: list[str | Path] = ["cc", *flags, f"-I{cuda.SOURCE.parent}", "-o", library, source, "-lm"]
        subprocess.run(command, check=True)
        self._functions = ctypes.CDLL(str(library))

    def nvfp4(self, weight: NDArray[Any], scale_2: np.float32) -> tuple[bytes, bytes]:
        """See `Encoder`."""
        return self._blocks(self._functions.nvfp4, weight, 16, ctypes.c_float(float(scale_2)))

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
        self, function: Callable[..., None], weight: NDArray[Any], block: int, *scale: ctypes.c_float
    ) -> tuple[bytes, bytes]:
        codes, scales = np.empty(weight.size // 2, np.uint8), np.empty(weight.size // block, np.uint8)
        bits = np.ascontiguousarray(weight)
        function(_at(bits), ctypes.c_int64(len(scales)), *scale, _at(codes), _at(scales))
        return codes.tobytes(), scales.tobytes()


def _at(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def test_the_arithmetic_of_gpus_gives_the_bytes_of_the_definitions(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert list(differences(Compiled(tmp_path))) == []


def test_three_operations_divide_every_number_of_bf16_exactly(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert Compiled(tmp_path).wrong_quotients() == 0


@pytest.mark.oracle
@pytest.mark.timeout(600)
def test_tensors_are_encoded_to_the_bytes_of_the_definitions() -> None:
    python = oracle_python()
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    command: list[str | Path] = [python, "-m", "tests.support.encoders", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
