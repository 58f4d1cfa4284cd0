"""What may go wrong is said, and does not stop anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.recipe.model import Recipe

Change = Callable[[Mapping[str, object]], Recipe]
Edits = dict[str, object]
NEMOTRON: Edits = {"model.architecture": "NemotronHForCausalLM", "image": "tensorrt-llm-1.3.0rc13"}
LLAMA: Edits = {"model.repo": "nvidia/Llama-3.3-70B-Instruct-FP8", "quantization.format": "fp8"}

CASES: list[tuple[str, Edits, Edits]] = [
    # code, what is warned of, the change that needs no warning
    (
        "GPT_OSS_UNSTABLE",
        {"model.architecture": "GptOssForCausalLM", "quantization.format": "mxfp4"},
        {"image": "tensorrt-llm-1.3.0rc13"},
    ),
    ("HOST_FREEZE", NEMOTRON | {"image": "tensorrt-llm-1.2.0rc6"}, {"image": "tensorrt-llm-1.3.0rc9"}),
    ("ENGINE_MEMORY", {"backend": "tensorrt", "model.parameters": 70e9}, {"backend": "pytorch"}),
    ("ENGINE_MEMORY", {"backend": "tensorrt", "model.parameters": 70e9}, {"model.parameters": 8e9}),
    ("LOAD_MEMORY", LLAMA, {"target": "b200"}),
    ("LOAD_MEMORY", LLAMA, {"serve.environment": {"TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "1"}}),
    ("LOAD_MEMORY", LLAMA, {"model.repo": "nvidia/Llama-3.3-70B-Instruct-NVFP4", "quantization.format": "nvfp4"}),
    ("MEMORY_TIGHT", {"model.parameters": 200e9}, {"model.parameters": 180e9}),
    (
        "UNIFIED_MEMORY",
        {"serve.kv_cache.free_gpu_memory_fraction": 0.95},
        {"serve.kv_cache.free_gpu_memory_fraction": 0.9},
    ),
    ("UNIFIED_MEMORY", {"serve.kv_cache.free_gpu_memory_fraction": 0.95}, {"target": "b200"}),
    ("HYBRID_BLOCK_REUSE", NEMOTRON, {"serve.kv_cache.enable_block_reuse": False}),
    ("ENGINE_OPTIONS_UNUSED", {"engine.build.workers": 1}, {"backend": "tensorrt"}),
    ("PARAMETERS_DIFFER", LLAMA | {"model.parameters": 8.03e9}, {"model.parameters": 70.6e9}),
    ("PARAMETERS_DIFFER", LLAMA | {"model.parameters": 74.5e9}, {"model.parameters": 70e9}),
    ("IDLE_GPUS", {"target": "dgx-spark-x2"}, {"serve.tensor_parallel_size": 2}),
    ("IDLE_GPUS", {"target": "dgx-spark-x2"}, {"target": "cpu"}),
]


@pytest.mark.parametrize(("code", "doubtful", "cure"), CASES)
def test_what_may_go_wrong_is_a_warning_and_no_refusal(
    catalog: Catalog, changed: Change, code: str, doubtful: Edits, cure: Edits
) -> None:
    del cure
    assert code in [warning.code for warning in warnings(rule_input(changed(doubtful), catalog))]
    assert refusals(rule_input(changed(doubtful), catalog)) == ()


@pytest.mark.parametrize(("code", "doubtful", "cure"), CASES)
def test_the_change_that_avoids_it_is_not_warned_of(
    catalog: Catalog, changed: Change, code: str, doubtful: Edits, cure: Edits
) -> None:
    assert code not in [warning.code for warning in warnings(rule_input(changed(doubtful | cure), catalog))]


def test_a_healthy_recipe_has_no_warning(catalog: Catalog, changed: Change) -> None:
    assert warnings(rule_input(changed({}), catalog)) == ()
