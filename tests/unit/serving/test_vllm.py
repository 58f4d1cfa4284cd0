"""vLLM's command line, held against the tables of its options, and what is refused in a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.bundle.gateway import vllm as gateway
from orchestrator.catalog.image import Image
from orchestrator.catalog.load import Option
from orchestrator.errors import Refusal
from orchestrator.planner.rule_input import rule_input
from orchestrator.planner.rules import refusals, warnings
from orchestrator.recipe.load import RecipeBook
from orchestrator.serving import vllm
from orchestrator.serving.server import Places
from orchestrator.steps.registry import build_steps
from orchestrator.steps.shape import Shape
from tests.unit.steps.recipes import CATALOG, DRAFT, HUB, recipe, steps, value

IMAGES = [name for name, image in CATALOG.images.items() if image.runtime == "vllm"]
BOOK = RecipeBook(CATALOG.project.recipes)
RECIPES = [name for name in BOOK.names if BOOK.load(name).recipe.image in IMAGES]
PLACES = Places("/checkpoint", "127.0.0.1", 8000)
QWEN = {**HUB, "architecture": "Qwen3ForCausalLM"}
SERVES: list[dict[str, Any]] = [
    {},
    {"max_seq_len": 4096, "served_model_name": "tiny", "tensor_parallel_size": 1},
    {"tool_parser": "hermes", "reasoning_parser": "qwen3"},
    {"kv_cache": {"dtype": "fp8", "enable_block_reuse": False}},
    {"speculative": {"type": "draft_target", "draft": DRAFT, "max_draft_len": 3}},
    {"speculative": {"type": "eagle3", "draft": DRAFT}},
    {"speculative": {"type": "mtp"}},
    {"options": {"moe-backend": "marlin", "enforce_eager": True, "enable-chunked-prefill": False}},
    {"options": {"compilation-config": {"mode": 3}, "safetensors-load-strategy": "lazy", "seed": 7}},
]


def command(image: str, target: str = "dgx-spark", **serve: Any) -> tuple[str, ...]:  # noqa: ANN401 - any field of `serve`
    server = Shape(recipe(image=image, target=target, serve=serve), CATALOG).server
    return tuple(map(str, vllm.command(server, PLACES)))


def refused(image: str = "vllm-0.27.1", **changes: Any) -> dict[str, Refusal]:  # noqa: ANN401 - any field of a recipe
    return {each.code: each for each in refusals(rule_input(recipe(image=image, **changes), CATALOG))}


def unknown(words: tuple[str, ...], options: dict[str, Option]) -> Iterator[str]:
    """Name what is no option, has a value of another type, or lacks one."""
    rest = list(words)
    while rest:
        flag = rest.pop(0)
        option = options.get(flag)
        if option is None:
            yield flag
            continue
        if option.type == "flag":
            continue
        given = rest.pop(0)
        number = {"int": int, "float": float}.get(option.type, str)
        try:
            number(given)
        except ValueError:
            yield f"{flag} {given}"
        if option.choices and given not in option.choices:
            yield f"{flag} {given}"


@pytest.mark.parametrize("target", ["dgx-spark", "h100"])
@pytest.mark.parametrize("serve", SERVES)
@pytest.mark.parametrize("image", IMAGES)
def test_every_option_that_is_written_is_in_the_table_of_the_version(
    image: str, serve: dict[str, Any], target: str
) -> None:
    line = command(image, target, **serve)
    assert line[:3] == ("vllm", "serve", "/checkpoint")
    assert list(unknown(line[3:], dict(CATALOG.options(CATALOG.image(image), "vllm")))) == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_of_a_recipe_starts_the_server_with_known_options(name: str) -> None:
    loaded = BOOK.load(name).recipe
    options = dict(CATALOG.options(CATALOG.image(loaded.image), "vllm"))
    served = [words for step in build_steps(loaded, CATALOG) for words in step.commands if words[0] == "vllm"]
    assert len(served) == 2  # for the check and for the benchmark
    for words in served:
        assert list(unknown(tuple(map(str, words[3:])), options)) == []


def test_memory_that_is_shared_is_given_in_bytes_of_the_plan_and_other_memory_as_a_share() -> None:
    line = command("vllm-0.27.1", kv_cache={"free_gpu_memory_fraction": 0.5})
    whole = command("vllm-0.27.1", kv_cache={"free_gpu_memory_fraction": 0.9})
    assert "--gpu-memory-utilization" not in line
    half, most = (int(dict(pairwise(each))["--kv-cache-memory-bytes"].removesuffix("M")) for each in (line, whole))
    assert half / most == pytest.approx(0.5 / 0.9, rel=1e-3)
    assert most * 2**20 < 101 * 2**30 - 16e9  # what CUDA sees, less 8 billion parameters in BF16
    discrete = dict(pairwise(command("vllm-0.27.1", "h100")))
    assert "--kv-cache-memory-bytes" not in discrete
    assert 0.8 < float(discrete["--gpu-memory-utilization"]) < 1.0


def test_a_draft_is_found_where_it_is_mounted() -> None:
    line = command("vllm-0.27.1", speculative={"type": "eagle3", "draft": DRAFT})
    config = json.loads(dict(pairwise(line))["--speculative-config"])
    assert config == {"method": "eagle3", "model": "/draft", "num_speculative_tokens": 5}


def test_tools_are_called_only_with_a_parser() -> None:
    assert "--enable-auto-tool-choice" in command("vllm-0.27.1", tool_parser="hermes")
    assert "--enable-auto-tool-choice" not in command("vllm-0.27.1")


@pytest.mark.parametrize("step", ["verify", "benchmark"])
def test_nothing_is_reported_to_others_and_nothing_is_downloaded(step: str) -> None:
    found = steps(image="vllm-0.27.1", model=QWEN)[step]
    wanted = {"VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    assert {name for name, text in found.environment.items() if text == "1"} >= wanted
    assert found.files == {}


def test_the_benchmark_measures_each_level_with_one_server() -> None:
    step = steps(image="vllm-0.27.1", model=QWEN, benchmark={"concurrency": [1, 8]})["benchmark"]
    assert step.argv[2] == "orchestrator.payloads.measure"
    assert [word for before, word in pairwise(step.argv) if before == "--concurrency"] == ["1", "8"]
    assert len(step.commands) == 2
    assert value(step.commands[0], "--tool") == "vLLM"


@pytest.mark.parametrize(
    ("code", "changes", "said", "instead"),
    [
        ("BACKEND_UNSUPPORTED", {"backend": "pytorch"}, "runs vLLM", "remove backend"),
        ("BACKEND_UNSUPPORTED", {"backend": "tensorrt"}, "runs vLLM", "TensorRT-LLM"),
        ("BACKEND_UNSUPPORTED", {"engine": {"build": {"gemm_plugin": "auto"}}}, "runs vLLM", "remove"),
        ("MULTI_NODE_UNSUPPORTED", {"target": "dgx-spark-x2"}, "over the 2 machines", "TensorRT-LLM"),
        ("FORMAT_UNSUPPORTED", {"quantization": {"format": "int4_awq", "method": "none"}}, "int4_awq", "nvfp4"),
        ("KV_CACHE_UNSUPPORTED", {"serve": {"kv_cache": {"dtype": "nvfp4"}}}, "SM 121", "fp8"),
        ("OPTION_VALUE", {"serve": {"kv_cache": {"max_tokens": 9}}}, "in bytes", "free_gpu_memory_fraction"),
        ("OPTION_VALUE", {"serve": {"options": {"gpu-memory-utilization": 0.8}}}, "set elsewhere", "fraction"),
        ("OPTION_VALUE", {"serve": {"options": {"api-key": "nimg-1234"}}}, "set elsewhere", "from a file"),
        ("OPTION_VALUE", {"serve": {"options": {"moe-backend": "fast"}}}, "does not take", "one of"),
        ("OPTION_VALUE", {"serve": {"options": {"speculative-config": "{}"}}}, "set elsewhere", "serve.speculative"),
        ("OPTION_UNKNOWN", {"serve": {"options": {"swap-space": 4}}}, "any more", "leave it out"),
        ("OPTION_UNKNOWN", {"serve": {"options": {"guided-decoding-backend": "xgrammar"}}}, "any more", "structured"),
        ("OPTION_UNKNOWN", {"serve": {"options": {"max-num-queued-reqs": 9}}}, "has no", "vllm-openai-0.33.0"),
        ("OPTION_UNKNOWN", {"serve": {"options": {"cuda_graph_config": {}}}}, "has no option", "mean"),
        ("OPTION_UNKNOWN", {"serve": {"environment": {"VLLM_NVFP4_GEMM_BACKEND": "cutlass"}}}, "any more", "linear-b"),
        ("OPTION_UNKNOWN", {"serve": {"environment": {"VLLM_USE_FLASHINFER_MOE_FP4": "1"}}}, "any more", "moe-backend"),
        ("OPTION_UNKNOWN", {"serve": {"environment": {"TLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}}}, "TensorRT", "remove"),
        ("OPTION_VALUE", {"serve": {"environment": {"VLLM_API_KEY": "nimg-1234"}}}, "not for a", "from a file"),
        ("OPTION_VALUE", {"serve": {"environment": {"VLLM_SERVER_DEV_MODE": "1"}}}, "not for a", "control"),
    ],
)  # fmt: skip
def test_what_vllm_does_not_have_is_refused_with_what_to_write_instead(
    code: str, changes: dict[str, Any], said: str, instead: str
) -> None:
    found = refused(**changes)[code]
    assert said in found.message
    assert instead in found.hint
    assert "nimg-1234" not in found.message + found.hint


def test_an_option_that_newer_versions_dropped_is_refused_there_and_taken_where_it_is() -> None:
    serve = {"options": {"calculate-kv-scales": True}}
    assert "OPTION_UNKNOWN" not in refused("vllm-0.27.1", serve=serve)
    for image in ("vllm-0.29.0", "vllm-0.31.0", "vllm-openai-0.33.0"):
        assert "kv_cache: fp8" in refused(image, serve=serve)["OPTION_UNKNOWN"].hint


def test_weight_only_nvfp4_takes_the_kernels_that_it_has_on_a_spark() -> None:
    weights = {"format": "w4a16_nvfp4", "method": "onepass"}
    other = refused(quantization=weights, serve={"options": {"linear-backend": "cutlass"}})["OPTION_VALUE"]
    assert "marlin" in other.hint
    assert refused(quantization=weights, serve={"options": {"linear-backend": "marlin"}}) == {}


def test_a_slow_kernel_is_warned_of_until_it_is_disabled() -> None:
    weights = {"format": "nvfp4", "method": "onepass"}
    plain = rule_input(recipe(image="vllm-0.27.1", quantization=weights), CATALOG)
    assert "KERNEL_SLOW" in {each.code for each in warnings(plain)}
    serve = {"environment": {"VLLM_DISABLED_KERNELS": "FlashInferCuteDslNvFp4W4A16LinearKernel"}}
    without = rule_input(recipe(image="vllm-0.27.1", quantization=weights, serve=serve), CATALOG)
    assert "KERNEL_SLOW" not in {each.code for each in warnings(without)}


def test_the_gateway_and_the_plan_know_the_same_of_vllm() -> None:
    assert gateway.LABEL == vllm.LABEL
    assert gateway.PROGRAM == vllm.SERVER
    assert gateway.KERNELS == vllm.KERNELS
    assert set(gateway.GONE_OPTIONS) == set(vllm.GONE_OPTIONS)
    assert set(gateway.GONE_VARIABLES) == {*vllm.GONE_VARIABLES, *vllm.FORBIDDEN_VARIABLES}


def test_an_option_of_the_newest_version_is_not_called_gone() -> None:
    def table(image: Image) -> set[str]:
        return set(CATALOG.options(image, "vllm"))

    newest = table(CATALOG.image("vllm-openai-0.33.0"))
    assert set(vllm.GONE_OPTIONS) & newest <= {"--disable-log-requests"}  # accepted there, and refused in 0.27.1
