"""What may go wrong is said, and does not stop anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.errors import Refusal
from orchestrator.models import shape_of
from orchestrator.planner.known import Sizes
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.recipe.model import Recipe
from tests.unit.planner.byte_configs import LLAMA as LLAMA_8B

Change = Callable[[Mapping[str, object]], Recipe]
Edits = dict[str, object]
NEMOTRON: Edits = {"model.architecture": "NemotronHForCausalLM", "image": "tensorrt-llm-1.3.0rc13"}
QWEN35: Edits = {"model.architecture": "Qwen3_5ForConditionalGeneration", "image": "tensorrt-llm-1.3.0rc13"}
LLAMA: Edits = {"model.repo": "nvidia/Llama-3.3-70B-Instruct-FP8", "quantization.format": "fp8"}

CASES: list[tuple[str, Edits, Edits]] = [
    # code, what is warned of, the change that needs no warning
    (
        "GPT_OSS_UNSTABLE",
        {"model.architecture": "GptOssForCausalLM", "quantization.format": "mxfp4"},
        {"image": "tensorrt-llm-1.3.0rc13"},
    ),
    ("MODEL_UNLISTED", QWEN35, {"image": "tensorrt-llm-1.3.0rc24"}),
    ("MODEL_UNLISTED", {"model.architecture": "Glm4MoeLiteForCausalLM"}, {"model.architecture": "Glm4MoeForCausalLM"}),
    ("HOST_FREEZE", NEMOTRON | {"image": "tensorrt-llm-1.2.0rc6"}, {"image": "tensorrt-llm-1.3.0rc9"}),
    ("ENGINE_MEMORY", {"backend": "tensorrt", "model.parameters": 70e9}, {"backend": "pytorch"}),
    ("ENGINE_MEMORY", {"backend": "tensorrt", "model.parameters": 70e9}, {"model.parameters": 8e9}),
    ("LOAD_MEMORY", LLAMA, {"target": "b200"}),
    ("LOAD_MEMORY", LLAMA, {"serve.environment": {"TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "1"}}),
    ("LOAD_MEMORY", LLAMA, {"model.repo": "nvidia/Llama-3.3-70B-Instruct-NVFP4", "quantization.format": "nvfp4"}),
    ("SERVING_MEMORY", {"model.parameters": 200e9}, {"model.parameters": 180e9}),
    ("SERVING_MEMORY", {"model.parameters": 193e9}, {"model.parameters": 188e9}),
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


@pytest.mark.parametrize(
    "architecture",
    [
        "Gemma3ForConditionalGeneration",
        "Gemma4ForConditionalGeneration",
        "Glm4MoeForCausalLM",
        "Glm4MoeLiteForCausalLM",
        "KimiK25ForConditionalGeneration",
        "MiniMaxM2ForCausalLM",
        "NemotronH_Nano_Omni_Reasoning_V3",
        "NoSuchModelForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen3VLForConditionalGeneration",
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5MoeForConditionalGeneration",
    ],
)
def test_a_class_that_may_load_is_not_refused(catalog: Catalog, changed: Change, architecture: str) -> None:
    assert refusals(rule_input(changed({"model.architecture": architecture}), catalog)) == ()


def found(catalog: Catalog, recipe: Recipe, code: str) -> Refusal:
    (only,) = (warning for warning in warnings(rule_input(recipe, catalog)) if warning.code == code)
    return only


def test_a_class_that_is_not_in_the_list_is_warned_of_with_the_date_and_an_image_that_has_it(
    catalog: Catalog, changed: Change
) -> None:
    warning = found(catalog, changed(QWEN35), "MODEL_UNLISTED")
    assert "for image tensorrt-llm-1.3.0rc13 (read on 2026-11-27 from 1.3.0rc13)" in warning.message
    assert warning.hint == "use image tensorrt-llm-1.3.0rc24, whose list has it"


def test_a_class_for_autodeploy_only_is_called_so(catalog: Catalog, changed: Change) -> None:
    flash: Edits = {"model.architecture": "Glm4MoeLiteForCausalLM", "image": "tensorrt-llm-1.3.0rc13"}
    warning = found(catalog, changed(flash), "MODEL_UNLISTED")
    assert warning.message.endswith("has Glm4MoeLiteForCausalLM for AutoDeploy only, not for backend pytorch")
    assert "may load" in warning.hint


def test_an_image_whose_version_was_not_read_says_so(catalog: Catalog, changed: Change) -> None:
    recipe = changed({"image": "tensorrt-llm-1.3.0rc13"})
    given = rule_input(recipe, catalog)
    newer = replace(given, image=given.image.model_copy(update={"version": "9.0.0"}))
    (warning,) = warnings(newer)
    assert warning.message == "no list of model classes was read for TensorRT-LLM 9.0.0 of image tensorrt-llm-1.3.0rc13"


@pytest.mark.parametrize(
    ("model_type", "image", "is_read"),
    [
        ("gemma4", "tensorrt-llm-1.3.0rc13", False),
        ("gemma4", "tensorrt-llm-1.3.0rc24", True),
        ("qwen3_5_moe", "tensorrt-llm-1.2.1", False),
        ("qwen3_5_moe", "tensorrt-llm-1.3.0rc13", True),
        ("kimi_k2", "tensorrt-llm-1.2.1", True),  # TensorRT-LLM reads it itself
        (None, "tensorrt-llm-1.2.1", True),
    ],
)
def test_a_type_that_the_transformers_of_an_image_does_not_know_is_warned_of(
    catalog: Catalog, changed: Change, model_type: str | None, image: str, *, is_read: bool
) -> None:
    sizes = Sizes(replace(shape_of(LLAMA_8B), model_type=model_type), None, "a test")
    given = rule_input(changed({"image": image}), catalog, lambda _: sizes)
    codes = [warning.code for warning in warnings(given)]
    assert ("MODEL_TYPE_UNLISTED" not in codes) == is_read


def test_a_model_that_brings_its_own_code_has_no_type_for_transformers_to_know() -> None:
    config = {**LLAMA_8B, "model_type": "llama"}
    assert shape_of(config).model_type == "llama"
    assert shape_of({**config, "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}).model_type is None
