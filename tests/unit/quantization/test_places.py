"""Where the tensors of a checkpoint go in the layers that transformers makes."""

from __future__ import annotations

import pytest

from orchestrator.errors import CheckpointError
from orchestrator.quantization.places import gather


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


def test_a_tensor_without_a_place_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"extra.weight: this transformers has no place for it"):
        gather({"extra.weight": (1,)}, {"other.weight": None})
