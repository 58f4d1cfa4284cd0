"""Which parameter of a transformers model a tensor of a checkpoint fills."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from orchestrator.errors import CheckpointError, ModelUnsupportedError
from orchestrator.quantization import parameter_mapping
from orchestrator.quantization.parameter_mapping import Names, Target, arrange, missing


@dataclass
class _Renaming:
    """As much of transformers' `WeightRenaming` as is asked for."""

    source_patterns: list[str]
    replacement: str

    def rename_source_key(self, name: str) -> tuple[str, str | None]:
        for pattern in self.source_patterns:
            found = re.search(re.escape(pattern).replace(r"\*", r"\d+"), name)
            if found:
                return name.replace(found.group(0), self.replacement, 1), pattern
        return name, None


class MergeModulelist:
    """Of transformers; only its name counts."""


class Concatenate:
    """Of transformers; only its name counts."""


class Transpose:
    """Of transformers; only its name counts."""


@dataclass
class _Converter(_Renaming):
    operations: list[Any] = field(default_factory=list)


_MIXTRAL = [
    _Converter(
        [".experts.*.w1.weight", ".experts.*.w3.weight"], ".experts.gate_up_proj", [MergeModulelist(), Concatenate()]
    ),
    _Converter([".experts.*.w2.weight"], ".experts.down_proj", [MergeModulelist()]),
]
_PARAMETERS = (
    "model.layers.0.mlp.gate.weight",
    "model.layers.0.mlp.experts.gate_up_proj",
    "model.layers.0.mlp.experts.down_proj",
)


def _mixtral() -> Names:
    return Names(_PARAMETERS, "model", [_Renaming([".block_sparse_moe."], ".mlp.")], _MIXTRAL)


def test_experts_are_gathered_as_transformers_says() -> None:
    names, block = _mixtral(), "model.layers.0.block_sparse_moe"
    assert names.target(f"{block}.gate.weight") == Target("model.layers.0.mlp.gate.weight")
    gate_up = "model.layers.0.mlp.experts.gate_up_proj"
    assert names.target(f"{block}.experts.3.w1.weight") == Target(gate_up, 3, 0, 2)
    assert names.target(f"{block}.experts.12.w3.weight") == Target(gate_up, 12, 1, 2)
    assert names.target(f"{block}.experts.3.w2.weight") == Target("model.layers.0.mlp.experts.down_proj", 3, 0, 1)


def test_dots_that_transformers_escapes_in_a_pattern_are_dots() -> None:
    @dataclass
    class Escaped(_Converter):
        def rename_source_key(self, name: str) -> tuple[str, str | None]:
            return name.replace(".experts.7.w1.weight", ".experts.gate_up_proj"), self.source_patterns[0]

    escaped = Escaped([r"\.experts.*.w1.weight"], "", [MergeModulelist()])
    names = Names(_PARAMETERS, "model", (), [escaped])
    assert names.target("model.layers.0.mlp.experts.7.w1.weight") == Target(_PARAMETERS[1], 7, 0, 1)


def test_a_renaming_that_hits_another_parameter_is_not_applied() -> None:
    names = Names(("model.norm.weight",), "model", [_Renaming([".norm."], ".kv_norm.")])
    assert names.target("model.norm.weight") == Target("model.norm.weight")


def test_tensors_that_transformers_puts_below_each_other_are_parts_of_one_parameter() -> None:
    converter = _Converter(["mlp.gate_proj.weight", "mlp.up_proj.weight"], "mlp.gate_up.weight", [Concatenate()])
    names = Names(("mlp.gate_up.weight",), "model", (), [converter])
    tensors: dict[str, Any] = {
        "mlp.up_proj.weight": np.full((3, 4), 2, np.float32),
        "mlp.gate_proj.weight": np.full((2, 4), 1, np.float32),
    }
    targets = {name: names.target(name) for name in tensors}
    assert targets["mlp.up_proj.weight"] == Target("mlp.gate_up.weight", None, 1, 2)
    arranged = arrange(targets, {"mlp.gate_up.weight": (5, 4)}, tensors)
    whole = arranged.parameters["mlp.gate_up.weight"]
    assert whole[:, 0].tolist() == [1, 1, 2, 2, 2]
    assert arranged.modules == {"mlp.gate_up": ["mlp.gate_proj", "mlp.up_proj"]}
    assert all(np.shares_memory(tensor, whole) for tensor in tensors.values())


def test_older_versions_of_transformers_keep_experts_apart() -> None:
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    assert Names((name,), "model").target(name) == Target(name)


def test_the_prefix_of_the_base_model_may_be_missing_or_in_addition() -> None:
    names = Names(("model.norm.weight", "other.weight"), "model")
    assert names.target("norm.weight") == Target("model.norm.weight")
    assert names.target("model.other.weight") == Target("other.weight")


def test_a_tensor_without_a_parameter_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"extra.weight: this transformers has no parameter for it"):
        Names(("other.weight",), "model").target("extra.weight")


def test_a_conversion_that_calculates_is_refused_by_name() -> None:
    converter = _Converter(["w.weight"], "v.weight", [Transpose()])
    with pytest.raises(ModelUnsupportedError, match=r"w.weight: transformers makes v.weight of it by Transpose"):
        Names(("v.weight",), "model", (), [converter]).target("w.weight")


def test_an_expert_that_is_stored_in_another_type_keeps_its_own_numbers() -> None:
    short, long = np.full((4, 8), 0.5, ml_dtypes.bfloat16), np.full((4, 8), 1.001, np.float32)
    tensors: dict[str, Any] = {"mlp.experts.0.down_proj.weight": short, "mlp.experts.1.down_proj.weight": long}
    targets = {name: Target("mlp.experts.down_proj", number) for number, name in enumerate(tensors)}
    arranged = arrange(targets, {"mlp.experts.down_proj": (2, 4, 8)}, tensors)
    whole = arranged.parameters["mlp.experts.down_proj"]
    assert np.array_equal(whole[1], long.astype(ml_dtypes.bfloat16))
    assert np.shares_memory(tensors["mlp.experts.0.down_proj.weight"], whole)
    assert tensors["mlp.experts.1.down_proj.weight"] is long


class _OnGpu(np.ndarray[Any, Any]):
    """An array with what a tensor on a GPU has besides: its memory belongs to the stream that brought it."""

    is_cuda, used_by = True, ""
    device = "cuda:0"  # type: ignore[assignment]  # of torch

    def record_stream(self, stream: str) -> None:
        self.used_by = stream


@pytest.mark.parametrize(
    ("targets", "parameter", "dropped"),
    [
        ({"experts.0.w2": Target("whole", 0), "experts.1.w2": Target("whole", 1)}, (2, 4, 8), True),
        ({"gate": Target("whole", None, 0, 2), "up": Target("whole", None, 1, 2)}, (8, 8), True),
        ({"gate": Target("one"), "up": Target("other")}, (4, 8), False),
    ],
)
def test_memory_of_a_copied_tensor_is_kept_until_the_gpu_has_copied_it(
    targets: dict[str, Target], parameter: tuple[int, ...], dropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(current_stream=lambda device: f"what runs on {device}"))
    monkeypatch.setattr(parameter_mapping, "load_torch", lambda: torch)
    parts = {name: np.ones((4, 8), np.float32).view(_OnGpu) for name in targets}
    monkeypatch.setattr(parameter_mapping, "_empty_like", lambda part, shape: np.empty(shape, part.dtype))
    arrange(targets, dict.fromkeys(("whole", "one", "other"), parameter), dict(parts))
    assert [part.used_by for part in parts.values()] == (["what runs on cuda:0"] if dropped else [""]) * 2


def test_gate_and_up_lie_below_each_other_and_keep_their_names() -> None:
    gate, up = np.full((2, 8), 1, np.float32), np.full((2, 8), 2, np.float32)
    targets = {
        f"moe.experts.1.{leaf}.weight": Target("mlp.experts.gate_up_proj", 1, part, 2)
        for part, leaf in enumerate(("w1", "w3"))
    }
    arranged = arrange(targets, {"mlp.experts.gate_up_proj": (2, 4, 8)}, dict(zip(targets, (gate, up), strict=True)))
    assert arranged.parameters["mlp.experts.gate_up_proj"][1, :, 0].tolist() == [1, 1, 2, 2]
    assert arranged.experts["mlp.experts"].leaves == {"gate_up_proj": {0: "moe.experts.{}.w1", 1: "moe.experts.{}.w3"}}


def test_a_transposed_matrix_of_an_expert_keeps_its_name_and_is_arranged_as_the_parameter_has_it() -> None:
    matrix = np.arange(32, dtype=np.float32).reshape(4, 8)
    name = "mlp.experts.down_proj.1.weight"
    tensors = {name: matrix}
    targets = {name: Target("mlp.experts.down_proj", 1, transposed=True)}
    arranged = arrange(targets, {"mlp.experts.down_proj": (2, 8, 4)}, tensors)
    assert np.array_equal(arranged.parameters["mlp.experts.down_proj"][1], matrix.T)
    assert arranged.experts["mlp.experts"].leaves == {"down_proj": {0: "mlp.experts.down_proj.{}"}}
    assert np.array_equal(tensors[name], matrix)


def test_parameters_that_nothing_fills_are_found() -> None:
    assert missing(["a", "b", "c"], [Target("b"), Target("c", 1)]) == ["a"]
