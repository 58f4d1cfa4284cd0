"""Each rule refuses what cannot work, and lets the nearest thing that works pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from orchestrator.catalog.load import Catalog
from orchestrator.errors import ImageUnknownError
from orchestrator.planner.known import Sizes, known_repo
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals
from orchestrator.planner.scheme import scheme_of
from orchestrator.recipe.model import Recipe

Change = Callable[[Mapping[str, object]], Recipe]
Edits = dict[str, object]

DRAFT = {"repo": "example/draft", "license": "mit", "architecture": "LlamaForCausalLM", "parameters": 1e9}
ENGINE: Edits = {"backend": "tensorrt"}
MODELOPT: Edits = {"quantization.method": "modelopt"}
GPT_OSS: Edits = {"model.architecture": "GptOssForCausalLM", "quantization.format": "mxfp4"}
AWQ: Edits = {"quantization.format": "int4_awq", "image": "tensorrt-llm-1.3.0rc20"}
ONEPASS: Edits = {
    "quantization.format": "w4a16_nvfp4",
    "quantization.method": "onepass",
    "image": "tensorrt-llm-1.3.0rc24",
}
AUTO: Edits = {
    "quantization.format": "auto",
    "quantization.method": "onepass",
    "quantization.budget": {"bits_per_weight": 5.0},
    "image": "tensorrt-llm-1.2.1",
}
NEMOTRON: Edits = {"model.architecture": "NemotronHForCausalLM"}
MTP: Edits = {"serve.speculative": {"type": "mtp"}}
EAGLE3: Edits = {"serve.speculative": {"type": "eagle3", "draft": DRAFT}}
CPU: Edits = {"target": "cpu", "model.parameters": 1e6}
TRTLLM_ON_H100: Edits = {
    "target": "h100",
    "backend": "tensorrt",
    "quantization.method": "trtllm",
    "quantization.format": "fp8",
}

CASES: list[tuple[str, Edits, Edits, str]] = [
    # code, what is refused, the change that makes it work, what the hint names
    (
        "ARCHITECTURE_MISMATCH",
        {"image": "tensorrt-llm-spark-single-gpu-dev", "target": "rtx-pro-6000"},
        {"image": "tensorrt-llm-1.2.1"},
        "tensorrt-llm-1.2.1",
    ),
    (
        "ARCHITECTURE_MISMATCH",
        MODELOPT | {"target": "b200", "quantization.image": "quantizer-0.45.0"},
        {"quantization.image": "quantizer-0.46.0"},
        "quantizer-0.46.0",
    ),
    ("ENGINE_UNSUPPORTED", ENGINE | {"image": "tensorrt-llm-1.3.0rc22"}, {"image": "tensorrt-llm-1.2.1"}, "1.2.1"),
    ("ENGINE_UNSUPPORTED", ENGINE | {"image": "tensorrt-llm-1.3.0rc22"}, {"backend": "pytorch"}, "pytorch"),
    (
        "MODEL_UNSUPPORTED",
        {"model.architecture": "JambaForCausalLM"},
        {"model.architecture": "MistralForCausalLM"},
        "vllm-0.27.1",
    ),
    (
        "MODEL_UNSUPPORTED",
        {"model.architecture": "DeepseekV2ForCausalLM"},
        {"model.architecture": "Qwen3ForCausalLM"},
        "qwen3-30b-a3b-nvfp4",
    ),
    ("MODEL_UNSUPPORTED", GPT_OSS | ENGINE, {"backend": "pytorch"}, "pytorch"),
    (
        "MODEL_UNSUPPORTED",
        GPT_OSS | {"image": "tensorrt-llm-1.2.0rc0"},
        {"image": "tensorrt-llm-1.3.0rc13"},
        "tensorrt-llm-1.3.0rc13",
    ),
    ("REQUANTIZE", GPT_OSS | MODELOPT, {"quantization.method": "none"}, "method none"),
    (
        "REQUANTIZE",
        ONEPASS | {"model.architecture": "GptOssForCausalLM"},
        {"model.architecture": "Qwen3MoeForCausalLM"},
        "method none",
    ),
    (
        "METHOD_UNSUPPORTED",
        AWQ | {"quantization.method": "onepass"},
        {"quantization.method": "modelopt", "quantization.image": "quantizer-0.46.0"},
        "modelopt",
    ),
    (
        "METHOD_UNSUPPORTED",
        MODELOPT | {"quantization.image": "tensorrt-llm-1.2.1"},
        {"quantization.image": "quantizer-0.46.0"},
        "quantizer-0.46.0",
    ),
    ("METHOD_UNSUPPORTED", CPU | MODELOPT, {"quantization.method": "none"}, "onepass"),
    ("METHOD_UNSUPPORTED", TRTLLM_ON_H100 | {"backend": "pytorch"}, {"backend": "tensorrt"}, "modelopt"),
    (
        "METHOD_UNSUPPORTED",
        TRTLLM_ON_H100 | {"image": "tensorrt-llm-1.3.0rc24"},
        {"image": "tensorrt-llm-1.2.1"},
        "modelopt",
    ),
    (
        "METHOD_UNSUPPORTED",
        TRTLLM_ON_H100 | {"quantization.format": "w4a16_nvfp4"},
        {"quantization.format": "fp8"},
        "modelopt",
    ),
    ("QUANTIZER_UNSUPPORTED", TRTLLM_ON_H100 | {"target": "dgx-spark"}, {"target": "h100"}, "modelopt"),
    ("FORMAT_UNSUPPORTED", {"target": "h100"}, {"target": "b200"}, "fp8"),
    (
        "FORMAT_UNSUPPORTED",
        ONEPASS | {"image": "tensorrt-llm-1.3.0rc22"},
        {"image": "tensorrt-llm-1.3.0rc24"},
        "tensorrt-llm-1.3.0rc24",
    ),
    ("FORMAT_UNSUPPORTED", AUTO | ENGINE, {"backend": "pytorch"}, "backend pytorch"),
    ("FORMAT_UNSUPPORTED", AUTO | ENGINE, {"quantization.format": "nvfp4", "quantization.budget": None}, "nvfp4"),
    ("FORMAT_UNSUPPORTED", {"quantization.format": "mxfp4"}, {"quantization.format": "nvfp4"}, "nvfp4"),
    ("FORMAT_UNSUPPORTED", AWQ | {"image": "tensorrt-llm-1.2.1"}, {"image": "tensorrt-llm-1.3.0rc20"}, "1.3.0rc20"),
    ("FORMAT_UNSUPPORTED", AWQ | {"model.active_parameters": 1e9}, {"model.active_parameters": None}, "nvfp4"),
    (
        "FP8_BLOCK_SCALE",
        {"quantization.format": "fp8", "model.repo": "Qwen/Qwen3-8B-FP8"},
        {"model.repo": "nvidia/Qwen3-8B-FP8"},
        "nvidia/",
    ),
    (
        "FP8_BLOCK_SCALE",
        {"quantization.format": "fp8", "model.repo": "deepseek-ai/anything"},
        {"target": "h100"},
        "one scale per tensor",
    ),
    (
        "FP8_BLOCK_SCALE",
        {
            "quantization.format": "fp8",
            "model.repo": "Qwen/Qwen3-30B-A3B-FP8",
            "model.architecture": "Qwen3MoeForCausalLM",
            "target": "h100",
            "image": "tensorrt-llm-1.3.0rc24",
        },
        {"image": "tensorrt-llm-1.3.0rc22"},
        "nvfp4",
    ),
    ("KV_CACHE_UNSUPPORTED", {"serve.kv_cache.dtype": "nvfp4"}, {"serve.kv_cache.dtype": "fp8"}, "fp8"),
    ("KV_CACHE_UNSUPPORTED", {"quantization.kv_cache": "nvfp4"}, {"target": "b200"}, "fp8"),
    ("KV_CACHE_UNSUPPORTED", ONEPASS | {"quantization.kv_cache": "nvfp4"}, {"quantization.kv_cache": "fp8"}, "fp8"),
    (
        "MODEL_UNSUPPORTED",
        ONEPASS | {"model.architecture": "InklingForConditionalGeneration"},
        {"model.architecture": "Qwen3MoeForCausalLM"},
        "modelopt",
    ),
    (
        "MODEL_UNSUPPORTED",
        ONEPASS | {"model.architecture": "ZambaForCausalLM", "quantization.kv_cache": "fp8"},
        {"quantization.kv_cache": "none"},
        "modelopt",
    ),
    (
        "MODEL_UNSUPPORTED",
        ONEPASS | {"model.architecture": "LaraMiniForCausalLM", "quantization.format": "nvfp4"},
        {"quantization.format": "w4a16_nvfp4"},
        "modelopt",
    ),
    (
        "MODEL_UNSUPPORTED",
        ONEPASS | {"model.architecture": "MllamaForConditionalGeneration", "checks.held_out": {"dataset": "random"}},
        {"checks.held_out": None},
        "held_out",
    ),
    ("SPECULATIVE_UNSUPPORTED", EAGLE3 | ENGINE, {"backend": "pytorch"}, "pytorch"),
    ("SPECULATIVE_UNSUPPORTED", MTP, NEMOTRON, "draft_target"),
    ("SPECULATIVE_UNSUPPORTED", EAGLE3 | NEMOTRON, MTP, "mtp"),
    (
        "SPECULATIVE_UNSUPPORTED",
        MTP | NEMOTRON | {"image": "tensorrt-llm-1.3.0rc15"},
        {"image": "tensorrt-llm-1.3.0rc17"},
        "tensorrt-llm-1.3.0rc17",
    ),
    (
        "MULTI_NODE_UNSUPPORTED",
        {"target": "dgx-spark-x2", "image": "tensorrt-llm-1.3.0rc10"},
        {"image": "tensorrt-llm-1.3.0rc5"},
        "tensorrt-llm-1.3.0rc5",
    ),
    ("MULTI_NODE_UNSUPPORTED", ENGINE | {"target": "dgx-spark-x2"}, {"backend": "pytorch"}, "pytorch"),
    (
        "MULTI_NODE_UNSUPPORTED",
        {"target": "dgx-spark-x2", "image": "tensorrt-llm-1.3.0rc5", "serve.cluster.replicas": 2},
        {"serve.cluster.replicas": 1},
        "serve.cluster",
    ),
    ("TENSOR_PARALLEL", {"serve.tensor_parallel_size": 2}, {"target": "dgx-spark-x2"}, "dgx-spark-x2"),
    ("TENSOR_PARALLEL", ENGINE | {"engine.convert.tp_size": 2}, {"engine.convert.tp_size": 1}, "tp_size"),
    (
        "DOES_NOT_FIT",
        {"model.parameters": 70e9, "quantization.format": "bf16"},
        {"quantization.format": "fp8"},
        "format fp8",
    ),
    (
        "DOES_NOT_FIT",
        {"model.parameters": 235e9},
        {"target": "dgx-spark-x2", "serve.tensor_parallel_size": 2},
        "dgx-spark-x2",
    ),
    (
        "DOES_NOT_FIT",
        {"model.parameters": 235e9, "target": "dgx-spark-x2"},
        {"serve.tensor_parallel_size": 2},
        "dgx-spark-x2",
    ),
    ("DOES_NOT_FIT", MODELOPT | {"model.parameters": 70e9}, {"quantization.method": "none"}, "method none"),
    (
        "DOES_NOT_FIT",
        ONEPASS | MODELOPT | {"model.parameters": 70e9},
        {"quantization.method": "onepass"},
        "onepass",
    ),
    (
        "DOES_NOT_FIT",
        MODELOPT | {"model.parameters": 70e9},
        {
            "quantization.options": {
                "offload_folder": "/tmp/offload",
                "max_gpu_memory_gb": 40,
                "max_cpu_memory_gb": 20,
            }
        },
        "method none",
    ),
    (
        "DOES_NOT_FIT",
        MODELOPT | {"model.parameters": 70e9},
        {"quantization.options": {"low_memory_mode": True}},
        "method none",
    ),
    (
        "OPTION_UNKNOWN",
        ENGINE | {"engine.build.max_batch": 8},
        {"engine.build": {"max_batch_size": 8}},
        "max_batch_size",
    ),
    (
        "OPTION_UNKNOWN",
        ENGINE | {"engine.convert.use_nvfp": True},
        {"engine.convert": {"use_nvfp4": True}},
        "use_nvfp4",
    ),
    (
        "OPTION_UNKNOWN",
        MODELOPT | {"quantization.options.skip_generat": True},
        {"quantization.options": {"skip_generate": True}},
        "skip_generate",
    ),
    (
        "OPTION_UNKNOWN",
        MODELOPT | {"quantization.options.offload_folder": "/x", "quantization.image": "quantizer-0.45.0"},
        {"quantization.image": "quantizer-0.46.0"},
        "there are",
    ),
    ("OPTION_UNKNOWN", {"quantization.options.seed": 1}, {"quantization.options": {}}, "remove it"),
    (
        "OPTION_UNKNOWN",
        {"serve.served_model_name": "llama"},
        {"image": "tensorrt-llm-1.3.0rc22"},
        "tensorrt-llm-1.3.0rc22",
    ),
    (
        "OPTION_UNKNOWN",
        {"serve.options.cuda_graph": {}},
        {"serve.options": {"cuda_graph_config": {}}},
        "cuda_graph_config",
    ),
    (
        "REQUANTIZE",
        ONEPASS | {"model.repo": "nvidia/Llama-3.3-70B-Instruct-FP8"},
        {"model.repo": "meta-llama/Llama-3.3-70B-Instruct"},
        "the unquantized meta-llama/Llama-3.3-70B-Instruct",
    ),
    (
        "REQUANTIZE",
        MODELOPT | {"model.repo": "nvidia/Qwen3-32B-NVFP4", "quantization.format": "fp8"},
        {"quantization.method": "none"},
        "the unquantized Qwen/Qwen3-32B",
    ),
    (
        "REQUANTIZE",
        AUTO | {"model.repo": "Qwen/Qwen3-14B-AWQ"},
        {"model.repo": "Qwen/Qwen3-14B"},
        "the unquantized Qwen/Qwen3-14B",
    ),
    (
        "REQUANTIZE",
        ONEPASS | {"model.repo": "somebody/Tuned-7B-w8a8", "quantization.format": "nvfp4"},
        {"model.repo": "somebody/Tuned-7B"},
        "method none",
    ),
    (
        "REQUANTIZE",
        ONEPASS | {"model.repo": "unsloth/Tuned-7B-bnb-4bit"},
        {"model.repo": "google/Tuned-7B-qat-int4-unquantized"},
        "method none",
    ),
    ("OPTION_UNKNOWN", ENGINE | {"serve.options.moe_config": {}}, {"backend": "pytorch"}, "pytorch"),
    ("OPTION_VALUE", {"serve.reasoning_parser": "qwen"}, {"serve.reasoning_parser": "qwen3"}, "qwen3"),
    ("OPTION_VALUE", {"serve.tool_parser": "glm4"}, {"image": "tensorrt-llm-1.3.0rc24"}, "one of"),
    ("OPTION_VALUE", {"serve.options.max_batch_size": 4}, {"serve.options": {}}, "serve.max_batch_size"),
    (
        "OPTION_VALUE",
        {"serve.options.kv_cache_config": {"dtype": "fp8"}},
        {"serve.options": {"kv_cache_config": {"mamba_ssm_cache_dtype": "float16"}}},
        "serve.kv_cache.dtype",
    ),
    (
        "OPTION_VALUE",
        {"serve.options.moe_config": {"backend": "TRTLLM"}},
        {"serve.options": {"moe_config": {"backend": "CUTLASS"}}},
        "CUTLASS",
    ),
    ("OPTION_VALUE", ENGINE | {"engine.build.workers": "two"}, {"engine.build": {"workers": 2}}, "a whole number"),
    ("OPTION_VALUE", ENGINE | {"engine.build.workers": True}, {"engine.build": {"workers": 1}}, "a whole number"),
    ("OPTION_VALUE", ENGINE | {"engine.build.strip_plan": 1}, {"engine.build": {"strip_plan": True}}, "true or false"),
    ("OPTION_VALUE", ENGINE | {"engine.build.lora_dir": True}, {"engine.build": {"lora_dir": "/lora"}}, "text"),
    (
        "OPTION_VALUE",
        ENGINE | {"engine.convert.rotary_base": "x"},
        {"engine.convert": {"rotary_base": 5e5}},
        "a number",
    ),
    ("OPTION_VALUE", ENGINE | {"engine.build.output_dir": "/x"}, {"engine.build": {}}, "the plan"),
    (
        "OPTION_VALUE",
        ENGINE | {"engine.build.gemm_plugin": "nvfp"},
        {"engine.build": {"gemm_plugin": "nvfp4"}},
        "nvfp4",
    ),
    (
        "OPTION_VALUE",
        TRTLLM_ON_H100 | {"quantization.kv_cache": "nvfp4", "target": "b200"},
        {"quantization.kv_cache": "fp8"},
        "fp8",
    ),
    (
        "OPTION_VALUE",
        MODELOPT | {"quantization.options.recipe": "general/ptq/nvfp4_default"},
        {"quantization.options": {"recipe": "general/ptq/nvfp4_default-kv_fp8"}},
        "general/ptq/nvfp4_default-kv_fp8",
    ),
]
IDS = [f"{number}-{case[0]}" for number, case in enumerate(CASES)]


REFUSED = [(code, refused, named) for code, refused, _, named in CASES]
CURED = [(code, refused | cure) for code, refused, cure, _ in CASES]


@pytest.mark.parametrize(("code", "edits", "named"), REFUSED, ids=IDS)
def test_what_cannot_work_is_refused_with_its_code_and_the_nearest_thing_that_works(
    catalog: Catalog, changed: Change, code: str, edits: Edits, named: str
) -> None:
    found = [refusal for refusal in refusals(rule_input(changed(edits), catalog)) if refusal.code == code]
    assert any(named in refusal.hint for refusal in found), found


@pytest.mark.parametrize(("code", "edits"), CURED, ids=IDS)
def test_the_change_that_makes_it_work_is_not_refused(
    catalog: Catalog, changed: Change, code: str, edits: Edits
) -> None:
    assert [refusal for refusal in refusals(rule_input(changed(edits), catalog)) if refusal.code == code] == []


@pytest.mark.parametrize("declared", ["fp8", "nvfp4", "int4_awq"])
def test_what_the_files_declare_is_quantized_whatever_the_name_says(
    catalog: Catalog, changed: Change, declared: str
) -> None:
    shape = known_repo("Qwen/Qwen3-8B").shape  # type: ignore[union-attr]

    def find(_: object) -> Sizes:
        return Sizes(shape, scheme_of(declared), "models/x/config.json")

    local = {"model": {"path": "models/x", "architecture": "Qwen3ForCausalLM", "parameters": 8e9}}
    (found,) = refusals(rule_input(changed(ONEPASS | local), catalog, find))
    assert found.code == "REQUANTIZE"
    assert found.message.startswith("models/x is quantized: ")
    assert "models/x/config.json" in found.message


@pytest.mark.parametrize(("method", "refused"), [(ONEPASS, False), (MODELOPT, True)])
def test_block_scales_are_decoded_by_our_own_quantizer_alone(
    catalog: Catalog, changed: Change, method: Edits, refused: bool
) -> None:
    sizes = Sizes(known_repo("Qwen/Qwen3-8B").shape, scheme_of("fp8_block_scale"), "config.json")  # type: ignore[union-attr]
    given = rule_input(changed(method | {"model.repo": "Qwen/Qwen3-8B-FP8"}), catalog, lambda _: sizes)
    found = [refusal for refusal in refusals(given) if refusal.code == "REQUANTIZE"]
    assert bool(found) == refused
    assert all("or method onepass, which decodes it" in refusal.hint for refusal in found)
    assert given.model.source.value < 0.6 * 2 * 8.19e9


def test_a_name_is_not_believed_against_the_files(catalog: Catalog, changed: Change) -> None:
    shape = known_repo("Qwen/Qwen3-8B").shape  # type: ignore[union-attr]
    recipe = changed(ONEPASS | {"model.repo": "somebody/Tuned-FP8", "model.architecture": "Qwen3ForCausalLM"})
    unquantized = Sizes(shape, scheme_of("bf16"), "the headers of its files")
    assert refusals(rule_input(recipe, catalog, lambda _: unquantized)) == ()


def test_a_healthy_recipe_is_not_refused(catalog: Catalog, changed: Change) -> None:
    assert refusals(rule_input(changed({}), catalog)) == ()


@pytest.mark.parametrize("edits", [ONEPASS | CPU, AWQ, TRTLLM_ON_H100, GPT_OSS, MODELOPT, MTP | NEMOTRON, EAGLE3])
def test_what_works_is_not_refused_at_all(catalog: Catalog, changed: Change, edits: Edits) -> None:
    assert refusals(rule_input(changed(edits), catalog)) == ()


def test_kernels_are_not_asked_for_where_there_is_no_gpu(catalog: Catalog, changed: Change) -> None:
    assert refusals(rule_input(changed(CPU | {"image": "tensorrt-llm-spark-single-gpu-dev"}), catalog)) == ()


def test_every_reason_is_listed(catalog: Catalog, changed: Change) -> None:
    recipe = changed(ENGINE | {"image": "tensorrt-llm-1.3.0rc24", "target": "h100", "serve.tensor_parallel_size": 4})
    assert [refusal.code for refusal in refusals(rule_input(recipe, catalog))] == [
        "ENGINE_UNSUPPORTED",
        "FORMAT_UNSUPPORTED",
        "TENSOR_PARALLEL",
    ]


def test_the_fault_that_refuses_is_quoted_with_its_source(catalog: Catalog, changed: Change) -> None:
    recipe = changed(TRTLLM_ON_H100 | {"target": "dgx-spark"})
    assert any("/issues/15021" in refusal.message for refusal in refusals(rule_input(recipe, catalog)))


def test_an_image_that_is_not_in_the_catalogue_is_an_error(catalog: Catalog, changed: Change) -> None:
    with pytest.raises(ImageUnknownError):
        refusals(rule_input(changed({"image": "tensorrt-llm-9"}), catalog))


@pytest.mark.parametrize("named", ["MistralForCausalLM", "Qwen2ForCausalLM"])
def test_an_architecture_that_the_files_contradict_is_refused(catalog: Catalog, changed: Change, named: str) -> None:
    recipe = changed({"model.repo": "Qwen/Qwen3-8B", "model.architecture": named})
    found = {refusal.code: refusal for refusal in refusals(rule_input(recipe, catalog))}["ARCHITECTURE_DIFFERS"]
    assert named in found.message
    assert found.hint == "set model.architecture to Qwen3ForCausalLM"


def test_a_rounding_whose_products_do_not_fit_is_refused_before_anything_runs(
    catalog: Catalog, changed: Change
) -> None:
    shape = known_repo("Qwen/Qwen3-30B-A3B").shape  # type: ignore[union-attr]
    layer = [tensor for tensor in shape.tensors if tensor.layer == 0]
    wide = [replace(tensor, shape=(tensor.shape[0], 16 * tensor.shape[-1])) for tensor in layer if tensor.quantizable]
    sizes = Sizes(replace(shape, tensors=(*shape.tensors, *wide)), scheme_of("bf16"), "the headers of its files")
    asked = ONEPASS | {"model.repo": "somebody/Tuned", "model.architecture": "Qwen3MoeForCausalLM"}
    (refused,) = refusals(rule_input(changed(asked | {"quantization.rounding": "gptq"}), catalog, lambda _: sizes))
    assert refused.code == "DOES_NOT_FIT"
    assert refused.message.startswith("quantizing")
    assert "leave rounding out" in refused.hint
    assert refusals(rule_input(changed(asked), catalog, lambda _: sizes)) == ()
