"""Where the tensors of a checkpoint go in the layers that transformers makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import CheckpointError
from orchestrator.quantization.parameter_mapping import arrange, gather


def test_experts_are_gathered_where_transformers_wants_them() -> None:
    names = {
        "block_sparse_moe.gate.weight": (4, 32),
        "block_sparse_moe.experts.3.w1.weight": (16, 32),
        "block_sparse_moe.experts.3.w3.weight": (16, 32),
        "block_sparse_moe.experts.3.w2.weight": (32, 16),
    }
    parameters = dict.fromkeys(("mlp.gate.weight", "mlp.experts.gate_up_proj", "mlp.experts.down_proj"))
    assert gather(names, parameters) == {
        "block_sparse_moe.gate.weight": ("mlp.gate.weight", None),
        "block_sparse_moe.experts.3.w1.weight": ("mlp.experts.gate_up_proj", (3, slice(0, 16))),
        "block_sparse_moe.experts.3.w3.weight": ("mlp.experts.gate_up_proj", (3, slice(16, 32))),
        "block_sparse_moe.experts.3.w2.weight": ("mlp.experts.down_proj", (3, slice(None))),
    }


def test_older_versions_of_transformers_keep_experts_apart() -> None:
    names = {"block_sparse_moe.experts.0.w1.weight": (16, 32)}
    assert gather(names, dict.fromkeys(names)) == {
        "block_sparse_moe.experts.0.w1.weight": ("block_sparse_moe.experts.0.w1.weight", None)
    }


@dataclass(frozen=True)
class _Layer:
    """As much of a module of torch as is asked for."""

    shapes: Mapping[str, tuple[int, ...]]

    def named_parameters(self) -> list[tuple[str, NDArray[Any]]]:
        return list(self.state_dict().items())

    def named_buffers(self) -> list[tuple[str, NDArray[Any]]]:
        return []

    def state_dict(self) -> dict[str, NDArray[Any]]:
        return {name: np.empty(shape, np.float32) for name, shape in self.shapes.items()}


def test_an_expert_that_is_stored_in_another_type_keeps_its_own_numbers() -> None:
    short, long = np.full((4, 8), 0.5, ml_dtypes.bfloat16), np.full((4, 8), 1.001, np.float32)
    tensors: dict[str, Any] = {"mlp.experts.0.down_proj.weight": short, "mlp.experts.1.down_proj.weight": long}
    arranged = arrange(_Layer({"mlp.experts.down_proj": (2, 4, 8)}), tensors)
    whole = arranged.parameters["mlp.experts.down_proj"]
    assert np.array_equal(whole[1], long.astype(ml_dtypes.bfloat16))
    assert np.shares_memory(tensors["mlp.experts.0.down_proj.weight"], whole)
    assert tensors["mlp.experts.1.down_proj.weight"] is long


def test_a_tensor_without_a_place_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"extra.weight: this transformers has no place for it"):
        gather({"extra.weight": (1,)}, {"other.weight": None})
