"""The command line of `vllm serve`: whose option wins, what is refused, and what vLLM must not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.bundle.gateway.documents import parse_serve
from orchestrator.bundle.gateway.errors import ContradictionError, GatewayError
from tests.support.gateway import LaunchWorld, example_vllm, serve_options, write_model


@pytest.fixture
def world(tmp_path: Path) -> LaunchWorld:
    return LaunchWorld(tmp_path, example_vllm())


def test_the_document_says_which_runtime_it_is_by_the_key_of_its_version() -> None:
    text = example_vllm().to_json()
    assert json.loads(text)["vllm"] == "0.27.1"
    assert "tensorrt_llm" not in json.loads(text)
    assert parse_serve(text, "serve.json") == example_vllm()


def test_the_recipe_alone_starts_its_own_command_on_loopback_without_a_file(world: LaunchWorld) -> None:
    launch = world.launch({})
    assert launch.command() == (
        "vllm", "serve", str(world.folder / "model"), "--host", "127.0.0.1", "--port", "8001", "--max-num-seqs", "8",
        "--max-num-batched-tokens", "2048", "--kv-cache-memory-bytes", "1024M", "--served-model-name", "tiny",
    )  # fmt: skip
    assert launch.config is None
    assert (launch.max_model_len, launch.max_batch_size, launch.guided) == (4096, 8, True)


def test_it_reports_to_nobody_downloads_nothing_and_keeps_its_caches_on_the_volume(world: LaunchWorld) -> None:
    given = world.launch({"NIM_CACHE_PATH": "/opt/nim/.cache", "NIM_LOG_LEVEL": "DEFAULT"}).environment
    assert given["VLLM_NO_USAGE_STATS"] == given["DO_NOT_TRACK"] == given["HF_HUB_OFFLINE"] == "1"
    assert given["VLLM_CACHE_ROOT"] == "/opt/nim/.cache/vllm"
    assert given["TRITON_CACHE_DIR"].startswith("/opt/nim/.cache/")
    assert given["VLLM_LOGGING_LEVEL"] == "INFO"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"NIM_MAX_MODEL_LEN": "2048"}, ("--max-model-len", "2048")),
        ({"NIM_TENSOR_PARALLEL_SIZE": "2"}, ("--tensor-parallel-size", "2")),
        ({"NIM_TRUST_CUSTOM_CODE": "1"}, ("--trust-remote-code",)),
        ({"NIM_DISABLE_CUDA_GRAPH": "1"}, ("--enforce-eager",)),
        ({"NIM_ENABLE_KV_CACHE_REUSE": "0"}, ("--no-enable-prefix-caching",)),
        ({"NIM_PER_REQ_METRICS_ENABLE": "0"}, ("--disable-log-stats",)),
        ({"NIM_GUIDED_DECODING_BACKEND": "llguidance"}, ("--structured-outputs-config", '{"backend": "guidance"}')),
        ({"NIM_PASSTHROUGH_ARGS": "--kv-cache-memory-bytes 20G"}, ("--kv-cache-memory-bytes", "20G")),
    ],
)
def test_variables_of_a_nim_are_options_of_vllm(
    world: LaunchWorld, values: dict[str, str], words: tuple[str, ...]
) -> None:
    argv = world.launch(values).argv
    place = argv.index(words[0])
    assert argv[place : place + len(words)] == words
    assert argv.count(words[0]) == 1


@pytest.mark.parametrize("table", ["vllm-serve-0.27.1", "vllm-serve-0.29-0.31", "vllm-serve-0.33.0"])
def test_every_option_of_a_variable_is_in_the_tables(world: LaunchWorld, table: str) -> None:
    values = {
        "NIM_MAX_MODEL_LEN": "9", "NIM_PIPELINE_PARALLEL_SIZE": "1", "NIM_TENSOR_PARALLEL_SIZE": "1",
        "NIM_TRUST_CUSTOM_CODE": "1", "NIM_DISABLE_CUDA_GRAPH": "1", "NIM_ENABLE_KV_CACHE_REUSE": "0",
        "NIM_PER_REQ_METRICS_ENABLE": "0", "NIM_GUIDED_DECODING_BACKEND": "xgrammar",
    }  # fmt: skip
    assert world.launch(values, serve=world.serve(options=serve_options(table))).argv


@pytest.mark.parametrize(
    ("values", "arguments", "reason"),
    [
        ({"NIM_KVCACHE_PERCENT": "80"}, (), "takes bytes here"),
        ({"VLLM_NVFP4_GEMM_BACKEND": "cutlass"}, (), "write --linear-backend"),
        ({"VLLM_USE_FLASHINFER_MOE_FP4": "1"}, (), "write --moe-backend"),
        ({"VLLM_API_KEY": "nimg-1"}, (), "NIM_GATEWAY_API_KEYS_FILE"),
        ({"VLLM_SERVER_DEV_MODE": "1"}, (), "control the server"),
        ({}, ("--api-key", "nimg-1"), "NIM_GATEWAY_API_KEYS_FILE"),
        ({}, ("--host", "0.0.0.0"), "vllm serve listens on 127.0.0.1"),
        ({}, ("--swap-space", "4"), "has no option --swap-space any more: leave it out"),
        ({}, ("--guided-decoding-backend", "xgrammar"), "set NIM_GUIDED_DECODING_BACKEND"),
        ({}, ("--max_num_seq", "4"), "did you mean --max-num-seqs"),
        ({}, ("--max-model-len", "99999"), "the model allows 4096 at most"),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_to_do_instead(
    world: LaunchWorld, values: dict[str, str], arguments: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(GatewayError, match=reason) as raised:
        world.launch(values, *arguments)
    assert "nimg-1" not in str(raised.value)


def test_a_length_that_vllm_chooses_has_no_number(world: LaunchWorld) -> None:
    assert world.launch({}, "--max-model-len", "auto").max_model_len is None


def test_a_draft_is_looked_for_where_the_model_is(world: LaunchWorld, tmp_path: Path) -> None:
    config = json.dumps({"method": "eagle3", "model": "/opt/nim/model/draft", "num_speculative_tokens": 5})
    serve = world.serve(draft="draft", arguments=("--speculative-config", config))
    write_model(tmp_path / "elsewhere")
    write_model(tmp_path / "elsewhere" / "draft")
    argv = world.launch({"NIM_MODEL_PATH": str(tmp_path / "elsewhere")}, serve=serve).argv
    moved = json.loads(argv[argv.index("--speculative-config") + 1])
    assert moved == {**json.loads(config), "model": str(tmp_path / "elsewhere" / "draft")}


@pytest.mark.parametrize("profile", ["tensorrt_llm", "ef" * 32])
def test_a_profile_of_another_runtime_is_refused(world: LaunchWorld, profile: str) -> None:
    assert world.launch({"NIM_MODEL_PROFILE": "vllm"}).argv
    with pytest.raises(ContradictionError, match="this server has the profile"):
        world.launch({"NIM_MODEL_PROFILE": profile})
