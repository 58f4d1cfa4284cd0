"""Weights on a GPU whose functions cannot be compiled are encoded by the processor; a GPU is not needed here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.events import Event, Warned
from orchestrator.quantization.formats import cuda, fp8, gpu, kernels, mxfp4, nvfp4
from orchestrator.quantization.torch_types import Tensor
from tests.support.tensors import ArrayTensor, array_torch

GPU = SimpleNamespace(type="cuda", index=0)
SCALE = np.float32(0.001)


@pytest.fixture(autouse=True)
def torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A torch whose GPU is there and whose compiler is not."""
    properties = SimpleNamespace(major=12, minor=1, multi_processor_count=48)
    of_gpu = SimpleNamespace(get_device_properties=lambda _device: properties, is_available=lambda: True)
    version = SimpleNamespace(cuda="9999.0")
    file = str(tmp_path / "torch" / "__init__.py")
    found = array_torch(cuda=of_gpu, version=version, __file__=file)
    monkeypatch.setitem(sys.modules, "torch", cast("Any", found))
    monkeypatch.setattr(cuda, "_LOADED", {})
    return found


@pytest.fixture(params=[ml_dtypes.bfloat16, np.float16, np.float32])
def weight(request: pytest.FixtureRequest) -> NDArray[Any]:
    numbers = np.random.default_rng(3).standard_normal((8, 64)).astype(np.float32)
    return numbers.astype(request.param)


def _tensor(array: NDArray[Any]) -> Tensor:
    return cast("Tensor", ArrayTensor(array, GPU))


def _array(tensor: Tensor) -> NDArray[Any]:
    stands_for = cast("ArrayTensor", tensor)
    assert stands_for.device == GPU
    return stands_for.array


def test_the_reason_is_known() -> None:
    assert str(cuda.functions(0)) == "found no libnvrtc"


def test_the_result_is_on_the_gpu_and_has_the_bytes_of_the_definitions(weight: NDArray[Any]) -> None:
    four, block = kernels.encode_nvfp4(_tensor(weight), SCALE), kernels.encode_mxfp4(_tensor(weight))
    defined = nvfp4.encode(weight, SCALE)
    assert _array(four.codes).tobytes() == defined.codes.tobytes()
    assert _array(four.scales).tobytes() == defined.scales.tobytes()
    assert _array(block.codes).tobytes() == mxfp4.encode(weight).codes.tobytes()
    assert _array(block.scales).tobytes() == mxfp4.encode(weight).scales.tobytes()
    assert _array(kernels.encode_fp8(_tensor(weight), SCALE)).tobytes() == fp8.encode(weight, SCALE).tobytes()


def test_a_search_has_the_bytes_of_the_definition(weight: NDArray[Any]) -> None:
    importance = np.linspace(0, 1, weight.shape[1], dtype=np.float32)
    found = kernels.encode_nvfp4(_tensor(weight), SCALE, search="mse", importance=importance)
    defined = nvfp4.encode(weight, SCALE, "mse", importance)
    assert _array(found.codes).tobytes() == defined.codes.tobytes()
    assert _array(found.scales).tobytes() == defined.scales.tobytes()


def test_magnitudes_and_errors_are_those_of_the_processor(weight: NDArray[Any]) -> None:
    tensor = _tensor(weight)
    assert kernels.largest_magnitude(tensor) == kernels.largest_magnitude(weight)
    four, eight = kernels.encode_nvfp4(tensor, SCALE), kernels.encode_fp8(tensor, SCALE)
    assert kernels.nvfp4_error(tensor, four, SCALE) == kernels.nvfp4_error(weight, nvfp4.encode(weight, SCALE), SCALE)
    assert kernels.fp8_error(tensor, eight, SCALE) == kernels.fp8_error(weight, fp8.encode(weight, SCALE), SCALE)


def test_the_shape_is_checked_first() -> None:
    with pytest.raises(ValueError, match=r"NVFP4 needs shape .* multiple of 16, not \[2, 40\]"):
        kernels.encode_nvfp4(_tensor(np.zeros((2, 40), np.float16)), SCALE)


def test_a_user_is_warned() -> None:
    events: list[Event] = []

    def observe(event: Event) -> None:
        events.append(event)

    gpu.warn_if_unavailable(observe)
    (event,) = events
    assert isinstance(event, Warned)
    assert event.message.startswith("the GPU cannot encode weights (found no libnvrtc)")
