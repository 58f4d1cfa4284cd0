from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.payloads import generate
from orchestrator.quantization.checkpoint import Checkpoint
from orchestrator.quantization.files import read_json, write_json
from orchestrator.quantization.tensors import DTYPES, TensorSpec
from orchestrator.quantization.writer import CheckpointWriter

Tensors = Mapping[str, NDArray[Any]]
Save = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated model of two layers in two shards; not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    sizes = {"hidden-size": 64, "intermediate-size": 96, "layers": 2, "heads": 2, "kv-heads": 1, "vocab-size": 261}
    generate.main(["--output", str(folder), *(word for key, size in sizes.items() for word in (f"--{key}", str(size)))])
    return folder


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write tensors as a checkpoint with so many tensors a file."""

    def write(tensors: Tensors, *, per_file: int = 1000, name: str = "checkpoint") -> Path:
        names = {dtype: key for key, dtype in DTYPES.items()}
        specs = [TensorSpec(key, names[value.dtype], value.shape) for key, value in tensors.items()]
        shards = [specs[first : first + per_file] for first in range(0, len(specs), per_file)]
        with CheckpointWriter(tmp_path / name, shards) as writer:
            for key, value in tensors.items():
                writer.write(key, value)
        return tmp_path / name

    return write


@pytest.fixture
def altered(tiny: Path, save: Save) -> Callable[..., Path]:
    """The tiny model with some tensors replaced, added or, where None, left out, and its configuration changed."""

    def alter(tensors: dict[str, NDArray[Any] | None] | None = None, **config: object) -> Path:
        original = Checkpoint.open(tiny)
        changed = {name: original.read(name) for name in original.tensors} | (tensors or {})
        folder = save({name: value for name, value in changed.items() if value is not None}, name="altered")
        write_json(folder / "config.json", {**read_json(tiny / "config.json"), **config})
        return folder

    return alter


@pytest.fixture
def numbers() -> np.random.Generator:
    return np.random.default_rng(0)
