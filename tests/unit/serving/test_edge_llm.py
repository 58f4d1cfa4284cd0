"""TensorRT Edge-LLM's command lines, held against the tables of its options, and what is refused in a recipe."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.bundle.gateway import edge_llm as gateway
from orchestrator.catalog.image import Tool
from orchestrator.errors import RecipeInvalidError, Refusal
from orchestrator.payloads import _engine_cache
from orchestrator.planner.constants import default_constants
from orchestrator.planner.disk import disk_of_steps
from orchestrator.planner.estimate import decode_of
from orchestrator.planner.kernels import arithmetic
from orchestrator.planner.known import in_catalogue, known_model
from orchestrator.planner.rule_input import RuleInput, rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.planner.scheme import Algorithm
from orchestrator.recipe.load import RecipeBook
from orchestrator.recipe.model import Recipe
from orchestrator.serving import edge_llm
from orchestrator.serving.server import Places
from orchestrator.steps import edge_engine
from orchestrator.steps.registry import build_steps
from orchestrator.steps.shape import Shape
from tests.unit.serving.test_vllm import unknown
from tests.unit.steps.recipes import CATALOG, DRAFT, HUB, recipe, steps, value, words

IMAGE = "edge-llm-0.11.0"
BOOK = RecipeBook(CATALOG.project.recipes)
RECIPES = [name for name in BOOK.names if BOOK.load(name).recipe.image == IMAGE]
PLACES = Places("/checkpoint", "127.0.0.1", 8000, engine="/engine")
CACHE = {"enable_block_reuse": False}
SERVE: dict[str, Any] = {"max_seq_len": 8192, "max_num_tokens": 4096, "max_batch_size": 4, "kv_cache": CACHE}
FP8 = {"format": "fp8", "method": "none"}
NVFP4 = {"format": "nvfp4", "method": "none"}
AUTO = {"format": "auto", "method": "onepass", "budget": {"bits_per_weight": 5.0}}
W4A16 = {"format": "w4a16_nvfp4", "method": "onepass"}
EAGLE3 = {"type": "eagle3", "draft": DRAFT}
QWEN = {**HUB, "repo": "Qwen/Qwen3-8B", "architecture": "Qwen3ForCausalLM", "parameters": 8.2e9}
EXPERTS = {**HUB, "architecture": "Qwen3MoeForCausalLM", "parameters": 30.5e9, "active_parameters": 3.3e9}


def other(architecture: str) -> dict[str, Any]:
    return {"model": {**HUB, "architecture": architecture}}


def edge_recipe(serve: dict[str, Any] | None = None, **changes: Any) -> Recipe:  # noqa: ANN401 - any field of a recipe
    return recipe(**{"image": IMAGE, "backend": "tensorrt", "serve": SERVE | (serve or {}), **changes})


def refused(serve: dict[str, Any] | None = None, **changes: Any) -> tuple[Refusal, ...]:  # noqa: ANN401 - any field of a recipe
    return refusals(rule_input(edge_recipe(serve, **changes), CATALOG))


def command(**serve: Any) -> tuple[str, ...]:  # noqa: ANN401 - any field of `serve`
    return tuple(map(str, edge_llm.command(Shape(edge_recipe(serve), CATALOG).server, PLACES)))


@pytest.mark.parametrize(
    "serve",
    [
        {},
        {"max_batch_size": 1, "served_model_name": "tiny"},
        {"tool_parser": "hermes", "reasoning_parser": "qwen3", "kv_cache": {"enable_block_reuse": True}},
        {"options": {"max-queued-requests": 4, "queue_timeout": 5.5, "log-level": "debug"}},
    ],
)
def test_every_option_that_is_written_is_in_the_table_of_the_version(serve: dict[str, Any]) -> None:
    line = command(**serve)
    assert line[:2] == ("tensorrt-edgellm-serve", "/checkpoint")
    assert list(unknown(line[2:], dict(CATALOG.options(CATALOG.image(IMAGE), "tensorrt-edgellm-serve")))) == []
    assert [each for each in refused(serve) if each.code.startswith("OPTION")] == []


@pytest.mark.parametrize("name", RECIPES)
def test_builder_and_server_of_a_recipe_get_the_same_sizes_and_never_the_builders_defaults(name: str) -> None:
    assert len(RECIPES) >= 2
    built: dict[Tool, list[dict[str, str]]] = {"tensorrt-edgellm-build": [], "tensorrt-edgellm-serve": []}
    for step in build_steps(BOOK.load(name).recipe, CATALOG):
        for line in map(words, step.commands):
            for tool, sizes in built.items():
                if line[0] == tool:
                    known = dict(CATALOG.options(CATALOG.image(IMAGE), tool))
                    assert list(unknown(line[1 + (line[1] == "/checkpoint") :], known)) == []
                    sizes.append({flag: size for flag, size in pairwise(line) if flag[2:] in edge_llm.SIZES})
    (builder,), servers = built["tensorrt-edgellm-build"], built["tensorrt-edgellm-serve"]
    assert len(servers) == 2  # for the check and for the benchmark
    assert all(server == builder for server in servers)
    assert builder == {"--max-input-len": "4096", "--max-kv-cache-capacity": "8192", "--max-batch-size": "8"}


def test_a_prompt_is_no_longer_than_a_sequence() -> None:
    assert edge_llm.sizes(edge_recipe({"max_num_tokens": 8192, "max_seq_len": 2048}))["max-input-len"] == 2048


def test_more_requests_than_one_are_answered_at_once_only_in_flight() -> None:
    assert "--enable-in-flight-batching" in command(max_batch_size=2)
    assert "--enable-in-flight-batching" not in command(max_batch_size=1)


def test_the_engine_step_has_what_decides_its_bytes() -> None:
    step = steps(image=IMAGE, backend="tensorrt", serve=SERVE)["engine"]
    assert step.identity == {
        "edge_llm": "0.11.0", "tensorrt": "10.16.1.11", "cuda": "13.0", "architecture": "arm64", "gpu": "NVIDIA GB10",
        "sm": "121",
    }  # fmt: skip
    assert [(mount.step, mount.target) for mount in step.inputs] == [("download", "/checkpoint")]
    assert step.gpus == 1
    own = steps(
        image=IMAGE, backend="tensorrt", serve=SERVE, engine={"build": {"dense": "fp16", "fp8-embedding": True}}
    )
    assert value(own["engine"].commands[1], "--dense") == "fp16"
    assert "--fp8-embedding" in own["engine"].argv
    assert "convert" not in own


@pytest.mark.parametrize("step", ["verify", "benchmark"])
def test_what_starts_the_server_gets_checkpoint_and_engine(step: str) -> None:
    found = steps(image=IMAGE, backend="tensorrt", serve=SERVE, benchmark={"concurrency": [1, 4]})[step]
    assert {mount.target for mount in found.inputs} >= {"/checkpoint", "/engine"}
    assert value(found.commands[0], "--engine") == "/engine"
    assert "--engine" not in words(found.commands[1])
    assert found.identity["tensorrt"] == "10.16.1.11"


def test_the_benchmark_sends_conversations_to_one_server_for_each_level() -> None:
    step = steps(image=IMAGE, backend="tensorrt", serve=SERVE, benchmark={"concurrency": [1, 4]})["benchmark"]
    assert step.argv[2] == "orchestrator.payloads.measure"
    assert "--conversations" in step.argv
    assert [word for before, word in pairwise(step.argv) if before == "--concurrency"] == ["1", "4"]


@pytest.mark.parametrize(
    ("code", "changes", "said", "instead"),
    [
        ("BACKEND_UNSUPPORTED", {"backend": "pytorch"}, "TensorRT engines only", "set backend: tensorrt"),
        ("MODEL_UNSUPPORTED", other("GptOssForCausalLM"), "LlamaForCausalLM", "use image vllm"),
        ("MODEL_UNSUPPORTED", other("JambaForCausalLM"), "Qwen3ForCausalLM", "use image vllm"),
        ("MODEL_UNSUPPORTED", other("DeepseekV2ForCausalLM"), "it has", "use image vllm"),
        ("MODEL_UNSUPPORTED", other("MixtralForCausalLM"), "it has", "use image vllm"),
        ("FORMAT_UNSUPPORTED", {"quantization": W4A16}, "scale is 1.0", "nvfp4"),
        ("FORMAT_UNSUPPORTED", {"quantization": {"format": "int4_awq", "method": "none"}}, "no kernels", "nvfp4"),
        ("FORMAT_UNSUPPORTED", {"quantization": FP8, "model": EXPERTS}, "experts in nvfp4 only", "use format nvfp4"),
        ("FORMAT_UNSUPPORTED", {"quantization": AUTO, "model": EXPERTS}, "experts in nvfp4 only", "use image vllm"),
        ("KV_CACHE_UNSUPPORTED", {"serve": {"kv_cache": {**CACHE, "dtype": "fp8"}}}, "does not reach", "to fp8"),
        ("TENSOR_PARALLEL", {"serve": {"tensor_parallel_size": 2}}, "has 1 GPU", "to 1"),
        ("MULTI_NODE_UNSUPPORTED", {"target": "dgx-spark-x2"}, "over the 2 machines", "TensorRT-LLM"),
        ("SPECULATIVE_UNSUPPORTED", {"serve": {"speculative": {"type": "mtp"}}}, "no TensorRT engine", "image vllm"),
        ("SPECULATIVE_UNSUPPORTED", {"serve": {"speculative": EAGLE3}}, "no TensorRT engine", "image vllm"),
        ("METHOD_UNSUPPORTED", {"quantization": {"format": "fp8", "method": "trtllm"}}, "no quantize.py", "modelopt"),
        ("OPTION_UNKNOWN", {"engine": {"convert": {"dtype": "float16"}}}, "as it is", "engine.build"),
        ("OPTION_UNKNOWN", {"engine": {"build": {"gemm_plugin": "auto"}}}, "no option --gemm_plugin", "there are"),
        ("OPTION_VALUE", {"engine": {"build": {"dense": "fast"}}}, "does not take", "one of"),
        ("OPTION_VALUE", {"engine": {"build": {"max-input-len": 32}}}, "set elsewhere", "serve.max_num_tokens"),
        ("OPTION_VALUE", {"engine": {"build": {"max-lora-rank": 8}}}, "set elsewhere", "adapters (LoRA)"),
        ("OPTION_VALUE", {"engine": {"build": {"num-decoder-layer": 2}}}, "set elsewhere", "nonsense"),
        ("OPTION_VALUE", {"serve": {"max_seq_len": None}}, "is missing", "for example to 8192"),
        ("OPTION_VALUE", {"serve": {"kv_cache": {**CACHE, "max_tokens": 9}}}, "for each of its requests", "remove"),
        ("OPTION_VALUE", {"serve": {"kv_cache": {**CACHE, "free_gpu_memory_fraction": 0.9}}}, "no effect", "remove"),
        ("OPTION_VALUE", {"serve": {"tool_parser": "llama3_json"}}, "does not take", "one of"),
        ("OPTION_VALUE", {"serve": {"reasoning_parser": "qwen"}}, "does not take", "qwen3"),
        ("OPTION_VALUE", {"serve": {"options": {"api-key": "nimg-1234"}}}, "set elsewhere", "from a file"),
        ("OPTION_VALUE", {"serve": {"options": {"max_input_len": 4}}}, "set elsewhere", "serve.max_num_tokens"),
        ("OPTION_VALUE", {"serve": {"options": {"log-level": "loud"}}}, "does not take", "one of"),
        ("OPTION_VALUE", {"serve": {"options": {"log-level": {"root": "info"}}}}, "log-level is {", "takes one value"),
        ("OPTION_UNKNOWN", {"serve": {"options": {"max-num-seqs": 4}}}, "has no option --max-num-seqs", "there are"),
        ("OPTION_VALUE", {"serve": {"environment": {"EDGELLM_FORCE_TOKENS_FILE": "x"}}}, "not for a", "replaces"),
        ("OPTION_UNKNOWN", {"serve": {"environment": {"VLLM_USE_V1": "1"}}}, "another runtime", "remove"),
        ("OPTION_VALUE", {"checks": {"chat_template": False}}, "conversations only", "leave it out"),
        ("DOES_NOT_FIT", {"serve": {"max_batch_size": 512}, "model": QWEN}, "reserves", "max_batch_size"),
    ],
)  # fmt: skip
def test_what_it_does_not_have_is_refused_with_one_error_that_says_what_instead(
    code: str, changes: dict[str, Any], said: str, instead: str
) -> None:
    (found,) = refused(**changes)
    assert found.code == code
    assert said in found.message
    assert instead in found.hint
    assert "nimg-1234" not in str(found)


def test_a_machine_with_more_gpus_is_told_that_one_serves() -> None:
    server = Shape(edge_recipe({"tensor_parallel_size": 2}), CATALOG).server
    assert server.target.gpu is not None
    two = server.target.model_copy(update={"gpu": server.target.gpu.model_copy(update={"count": 2})})
    (found,) = edge_llm.refusals(dataclasses.replace(server, target=two), lambda _: ())
    assert (found.code, found.hint[:11]) == ("TENSOR_PARALLEL", "set it to 1")


def test_a_mixed_checkpoint_with_some_layers_in_w4a16_is_refused() -> None:
    given = rule_input(
        edge_recipe(quantization=NVFP4, model={**HUB, "repo": "meta-llama/Llama-3.1-8B-Instruct"}), CATALOG
    )
    known = known_model(given.recipe, in_catalogue)
    assert known is not None
    right: dict[str, Algorithm] = {"model.layers.0.mlp.up_proj": "NVFP4"}
    mixed: dict[str, Algorithm] = {**right, "model.layers.1.mlp.up_proj": "W4A16_NVFP4"}
    for modules, expected in ((mixed, 1), (right, 0)):
        served = dataclasses.replace(known.served, algorithm="FP8", modules=modules)
        found = refusals(_with(given, dataclasses.replace(known, served=served)))
        assert len(found) == expected, found
        assert all("which some layers of this checkpoint have" in each.message for each in found)


def _with(given: RuleInput, known: Any) -> RuleInput:  # noqa: ANN401 - a Known
    return dataclasses.replace(given, model=dataclasses.replace(given.model, known=known))


@pytest.mark.parametrize("quantization", [FP8, NVFP4, AUTO, {"format": "bf16", "method": "none"}])
def test_formats_that_its_readers_take_are_planned_as_experimental(quantization: dict[str, Any]) -> None:
    given = rule_input(edge_recipe(quantization=quantization), CATALOG)
    assert refusals(given) == ()
    (first, *_) = warnings(given)
    assert first.code == "EXPERIMENTAL"
    assert "never ran" in first.message


@pytest.mark.parametrize(("parameters", "count"), [(8e9, 0), (70.6e9, 1)])
def test_a_dense_model_above_what_its_maker_supports_is_warned_about(parameters: float, count: int) -> None:
    given = rule_input(edge_recipe(quantization=NVFP4, model={**HUB, "parameters": parameters}), CATALOG)
    found = [each for each in warnings(given) if each.code == "SIZE_UNVALIDATED"]
    assert len(found) == count
    assert all("below 30 billion" in each.message for each in found)


def test_a_recipe_of_another_runtime_is_compared_with_what_this_one_must_be_told() -> None:
    other = recipe(quantization=FP8, serve={"kv_cache": {"free_gpu_memory_fraction": 0.9}})
    fields = {**other.model_dump(exclude_unset=True, exclude={"backend"}), "image": IMAGE}
    assert refusals(rule_input(Recipe.model_validate(edge_llm.adopted(fields)), CATALOG)) == ()


def test_a_plan_says_which_arithmetic_runs_and_that_no_speed_was_measured() -> None:
    given = rule_input(edge_recipe(quantization=NVFP4, model=QWEN), CATALOG)
    assert "computed in FP16" in arithmetic(given.image, given.target, "nvfp4")
    decode = decode_of(given.model)
    assert decode is not None
    assert decode.band is not None
    assert decode.band[0] == pytest.approx(0.65 * decode.value)
    assert "no measurement is published" in default_constants().runtime(edge_llm.COSTS).basis


def test_nothing_is_converted_so_no_disk_is_planned_for_it() -> None:
    given = rule_input(edge_recipe(quantization=NVFP4, model=QWEN), CATALOG)
    assert [each.step for each in disk_of_steps(given.model)] == ["download", "engine"]


def test_options_that_are_set_elsewhere_never_reach_a_command_line() -> None:
    with pytest.raises(RecipeInvalidError, match=r"serve\.options\.api-key"):
        command(options={"api-key": "nimg-1234"})


def test_every_option_is_the_recipes_or_somebody_elses() -> None:
    table = CATALOG.options(CATALOG.image(IMAGE), "tensorrt-edgellm-serve")
    assert set(edge_llm.OWN_OPTIONS) <= set(table)
    assert set(gateway.OWN_OPTIONS) <= set(table)
    build = CATALOG.options(CATALOG.image(IMAGE), "tensorrt-edgellm-build")
    assert {f"--{name}" for name in edge_llm.BUILD_OWN} <= set(build)


def test_both_halves_agree() -> None:
    assert edge_llm.LABEL == gateway.LABEL
    assert edge_llm.SERVER == gateway.PROGRAM
    assert gateway.CACHE_ENTRY == _engine_cache.CACHE_ENTRY == edge_engine.CACHE_ENTRY
