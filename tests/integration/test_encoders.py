"""Do the encoders for GPUs and for tensors give the bytes of the definitions?

The text that the GPU's compiler gets is compiled here for the processor as well: the operations are the same and so are
their roundings. What only a GPU can show is in `benchmarks/encode_gpu.py`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.encoders import GpuArithmetic, differences
from tests.support.oracle import find_environment


def test_the_arithmetic_of_gpus_gives_the_bytes_of_the_definitions(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert list(differences(GpuArithmetic(tmp_path))) == []


def test_three_operations_divide_every_number_of_bf16_exactly(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    assert GpuArithmetic(tmp_path).wrong_quotients() == 0


@pytest.mark.oracle
@pytest.mark.timeout(600)
def test_tensors_are_encoded_to_the_bytes_of_the_definitions() -> None:
    find_environment().run("-m", "tests.support.encoders", "cpu")
