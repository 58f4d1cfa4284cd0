"""Hidden states in a file; tensors are arrays here."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.quantization.activations import Spilled, hidden_states
from orchestrator.quantization.torch_types import Tensor
from tests.support.tensors import ArrayTensor, array_torch

FIRST = np.arange(6).astype(ml_dtypes.bfloat16).reshape(1, 2, 3)
SECOND = np.arange(8).astype(np.float16).reshape(2, 4)


@pytest.fixture(autouse=True)
def _torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", cast("Any", array_torch()))


def tensor(array: NDArray[Any]) -> Tensor:
    return cast("Tensor", ArrayTensor(array, "cpu"))


def spilled(folder: Path) -> Spilled:
    states = Spilled("cuda:0", folder)
    states.extend([tensor(FIRST), tensor(SECOND)])
    return states


def open_files(folder: Path) -> list[Path]:
    """List this process's open files of a folder, also those without a name."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            if link.readlink().is_relative_to(folder):
                found.append(link)
    return found


def described(states: Spilled) -> list[tuple[Any, ...]]:
    found = [cast("ArrayTensor", state) for state in states]
    return [(each.device, each.array.dtype, each.array.tolist()) for each in found]


def row(array: NDArray[Any]) -> tuple[Any, ...]:
    return ("cuda:0", array.dtype, array.tolist())


def test_tensors_come_back_from_a_file_without_a_name(tmp_path: Path) -> None:
    states = spilled(tmp_path / "new" / "folder")
    assert len(states) == 2
    assert described(states) == [row(FIRST), row(SECOND)]
    assert list((tmp_path / "new" / "folder").iterdir()) == []


def test_one_tensor_is_replaced_in_its_place(tmp_path: Path) -> None:
    states = spilled(tmp_path)
    states[0] = tensor(FIRST + FIRST)
    assert described(states) == [row(FIRST + FIRST), row(SECOND)]


@pytest.mark.parametrize("other", [FIRST.reshape(2, 3), FIRST.astype(np.float16), SECOND])
def test_a_tensor_of_another_shape_or_type_is_refused(tmp_path: Path, other: NDArray[Any]) -> None:
    states = spilled(tmp_path)
    with pytest.raises(ValueError, match=r"in the place of torch\.bfloat16 \[1, 2, 3\]"):
        states[0] = tensor(other)
    assert described(states) == [row(FIRST), row(SECOND)]


def test_an_empty_list_is_filled_from_the_beginning(tmp_path: Path) -> None:
    states = spilled(tmp_path)
    states.clear()
    assert described(states) == []
    states.append(tensor(SECOND))
    assert described(states) == [row(SECOND)]


def test_a_file_that_lost_bytes_is_an_error(tmp_path: Path) -> None:
    states = spilled(tmp_path)
    os.truncate(open_files(tmp_path)[0], 5)
    with pytest.raises(OSError, match="became shorter"):
        list(states)


def test_the_file_is_closed_with_its_list(tmp_path: Path) -> None:
    states = spilled(tmp_path)
    assert len(open_files(tmp_path)) == 1
    del states
    assert open_files(tmp_path) == []


def test_hidden_states_stay_in_memory_unless_they_must_not(tmp_path: Path) -> None:
    assert isinstance(hidden_states("cpu", spill=False, folder=tmp_path), list)
    assert isinstance(hidden_states("cpu", spill=True, folder=None), Spilled)
