from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from orchestrator.errors import DiskFullError
from orchestrator.models.weight_files import INDEX, SINGLE
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.tensors import TensorSpec
from orchestrator.quantization.writer import CheckpointWriter, plan_shards

Save = Callable[..., Path]

_MIXED: dict[str, NDArray[Any]] = {
    "codes": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "scalar": np.array(1.5, np.float32),
    "wide": np.arange(3, dtype=np.float64),
    "b": np.arange(4, dtype=np.float32),
    "a": np.arange(4, dtype=np.float32),
    "none": np.zeros((0, 4), np.float32),
    "größe": np.zeros(3, np.float16),
}


def test_a_file_is_the_one_that_the_safetensors_library_writes(save: Save, tmp_path: Path) -> None:
    save_file(_MIXED, tmp_path / "theirs", metadata={"format": "pt"})
    assert (save(_MIXED) / SINGLE).read_bytes() == (tmp_path / "theirs").read_bytes()


def test_every_tensor_is_aligned_to_its_type(save: Save) -> None:
    tensors = Checkpoint.open(save(_MIXED)).tensors
    assert all(tensor.begin % _MIXED[name].itemsize == 0 for name, tensor in tensors.items())


def test_rows_can_come_in_any_order(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, [[TensorSpec("a", "U8", (3, 2))]]) as writer:
        writer.write("a", np.array([[4, 5]], np.uint8), 2)
        writer.write("a", np.array([[0, 1], [2, 3]], np.uint8))
    assert Checkpoint.open(tmp_path).read("a").tolist() == [[0, 1], [2, 3], [4, 5]]


def test_several_files_have_numbers_and_an_index(save: Save) -> None:
    folder = save({"a": np.zeros(3, np.uint8), "b": np.zeros(4, np.uint8)}, per_file=1)
    assert json.loads((folder / INDEX).read_text()) == {
        "metadata": {"total_size": 7},
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"},
    }
    assert sorted(path.name for path in folder.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]


def test_a_failure_leaves_no_file_that_looks_complete(tmp_path: Path) -> None:
    def fail() -> None:
        with CheckpointWriter(tmp_path, [[TensorSpec("a", "U8", (2,))]]) as writer:
            writer.write("a", np.zeros(1, np.uint8))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == [f"{SINGLE}.part"]


def test_a_file_gets_its_name_as_soon_as_it_is_complete(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, [[TensorSpec(name, "U8", (1,))] for name in "ab"]) as writer:
        writer.write("a", np.zeros(1, np.uint8))
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors.part",
        ]
        writer.write("b", np.zeros(1, np.uint8))


def test_data_that_was_forgotten_is_a_defect(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=f"data of {SINGLE} was not written"):
        CheckpointWriter(tmp_path, [[TensorSpec("a", "U8", (2,))]]).__enter__().__exit__(None, None, None)


@pytest.mark.parametrize(
    ("data", "first"),
    [
        (np.zeros((1, 3), np.float32), 0),
        (np.zeros((1, 4), np.uint8), 0),
        (np.zeros((3, 3), np.uint8), 0),
        (np.zeros((1, 3), np.uint8), 2),
    ],
)
def test_data_of_another_type_or_shape_is_a_defect(tmp_path: Path, data: NDArray[Any], first: int) -> None:
    def write() -> None:
        with CheckpointWriter(tmp_path, [[TensorSpec("a", "U8", (2, 3))]]) as writer:
            writer.write("a", data, first)

    with pytest.raises(ValueError, match="a U8"):
        write()


def test_units_stay_together_and_files_stay_below_the_limit() -> None:
    units = [[TensorSpec(f"{unit}{part}", "U8", (4,)) for part in range(2)] for unit in "abc"]
    assert [[spec.name for spec in shard] for shard in plan_shards(units, 20)] == [
        ["a0", "a1", "b0", "b1"],
        ["c0", "c1"],
    ]


def test_a_unit_above_the_limit_gets_a_file_of_its_own() -> None:
    units = [[TensorSpec(name, "U8", (size,))] for name, size in (("a", 1), ("b", 100), ("c", 1))]
    assert [[spec.name for spec in shard] for shard in plan_shards(units, 10)] == [["a"], ["b"], ["c"]]


def test_a_full_disk_is_named_with_file_and_tensor_and_a_retry_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    shards, data = [[TensorSpec("model.a", "F32", (4, 4))]], np.ones((4, 4), np.float32)

    def write() -> None:
        with CheckpointWriter(tmp_path, shards) as writer, monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            writer.write("model.a", data)

    with pytest.raises(DiskFullError) as caught:
        write()
    assert str(caught.value).startswith(f"{tmp_path / SINGLE}: no space is left on the disk for model.a")
    assert [path.name for path in tmp_path.iterdir()] == [f"{SINGLE}.part"]
    with CheckpointWriter(tmp_path, shards) as writer:
        writer.write("model.a", data)
    assert [path.name for path in tmp_path.iterdir()] == [SINGLE]
