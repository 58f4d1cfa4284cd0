"""The command line of trtllm-serve: whose option wins, and what an engine cannot do."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bundle.gateway.config_file import write_config
from orchestrator.bundle.gateway.documents import Limits, Serve
from orchestrator.bundle.gateway.errors import ContradictionError, DocumentError, GatewayError, UsageError
from orchestrator.bundle.gateway.launch import Launch, decide_launch
from orchestrator.bundle.gateway.settings import read_settings
from orchestrator.bundle.gateway.starting import ConfigChanges, Key, Scalar
from orchestrator.bundle.gateway.variables import Environment
from tests.support.gateway import example_serve, serve_options, write_model

_CONFIG = "kv_cache_config:\n  free_gpu_memory_fraction: 0.8\n  enable_block_reuse: true\ncuda_graph_config:\n  a: 1\n"


class World:
    """A folder with a model and a configuration file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_model(folder / "model", "trtllm_engine")
        (folder / "trtllm_config.yaml").write_text(_CONFIG)

    def serve(self, **changes: Any) -> Serve:  # noqa: ANN401 - any field
        places = {"model": str(self.folder / "model"), "config": str(self.folder / "trtllm_config.yaml")}
        return example_serve(**{**places, **changes})

    def decide_launch(self, *arguments: str, serve: Serve | None = None, **values: str) -> Launch:
        return self.decide_by(values, *arguments, serve=serve)

    def decide_by(self, values: Mapping[str, str], *arguments: str, serve: Serve | None = None) -> Launch:
        serve, environment = serve or self.serve(), Environment(values)
        return decide_launch(serve, read_settings(environment, serve), environment, arguments)

    def value(self, flag: str, *arguments: str, **values: str) -> str:
        argv = self.decide_by(values, *arguments).argv
        assert argv.count(flag) == 1
        return argv[argv.index(flag) + 1]


def config_of(launch: Launch) -> ConfigChanges:
    """Give the configuration file, which TensorRT-LLM always has."""
    assert launch.config is not None
    return launch.config


def changes(launch: Launch) -> Mapping[Key, Scalar]:
    """Give the changes for a copy of it."""
    return config_of(launch).changes


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_recipe_alone_starts_its_own_command_on_loopback(world: World) -> None:
    launch = world.decide_launch()
    assert launch.command(Path("/c.yaml")) == (
        "trtllm-serve", "serve", str(world.folder / "model"), "--host", "127.0.0.1", "--port", "8001",
        "--backend", "pytorch", "--max_batch_size", "8", "--max_num_tokens", "2048", "--config", "/c.yaml",
    )  # fmt: skip
    assert not changes(launch)


def test_the_command_line_wins_over_passthrough_over_variables_over_the_recipe(world: World) -> None:
    recipe = dataclasses.replace(world.serve(), arguments=("--max_seq_len", "1"))
    given = {"NIM_MAX_MODEL_LEN": "2", "NIM_PASSTHROUGH_ARGS": "--max_seq_len 3"}

    def length(*arguments: str, **values: str) -> str:
        argv = world.decide_by(values, *arguments, serve=recipe).argv
        return argv[argv.index("--max_seq_len") + 1]

    assert length() == "1"
    assert length(NIM_MAX_MODEL_LEN="2") == "2"
    assert length(**given) == "3"
    assert length("--max_seq_len=4", **given) == "4"


def test_spellings_of_one_option_are_one_option(world: World) -> None:
    argv = world.decide_launch("--tp_size", "2", NIM_TENSOR_PARALLEL_SIZE="4").argv
    assert "--tensor_parallel_size" not in argv
    assert argv[argv.index("--tp_size") + 1] == "2"


def test_an_engine_is_opened_in_its_folder_with_the_tokenizer_beside_it(world: World) -> None:
    serve = world.serve(engine="trtllm_engine", backend="tensorrt")
    argv = world.decide_launch(serve=serve).argv
    assert argv[2] == str(world.folder / "model" / "trtllm_engine")
    assert argv[argv.index("--tokenizer") + 1] == str(world.folder / "model")


@pytest.mark.parametrize(
    ("values", "arguments", "reason"),
    [
        (
            {"NIM_TENSOR_PARALLEL_SIZE": "2"},
            (),
            "SIZE=2 asks for .* the TensorRT engine was built for 1",
        ),
        ({"NIM_PIPELINE_PARALLEL_SIZE": "2"}, (), "the TensorRT engine was built for 1"),
        ({"NIM_PASSTHROUGH_ARGS": "--tp_size 2"}, (), "NIM_PASSTHROUGH_ARGS asks for"),
        ({"NIM_MAX_MODEL_LEN": "8192"}, (), "the TensorRT engine was built for 4096 at most"),
        ({}, ("--max_batch_size", "64"), "the command line asks for --max_batch_size 64"),
    ],
)
def test_an_engine_does_only_what_it_was_built_for(
    world: World, values: dict[str, str], arguments: tuple[str, ...], reason: str
) -> None:
    limits = Limits(tensor_parallel_size=1, pipeline_parallel_size=1, max_seq_len=4096, max_batch_size=8)
    serve = world.serve(engine="trtllm_engine", backend="tensorrt", limits=limits)
    with pytest.raises(ContradictionError, match=reason):
        world.decide_by(values, *arguments, serve=serve)


def test_a_checkpoint_may_be_spread_over_more_gpus_but_not_made_longer(world: World) -> None:
    assert world.value("--tensor_parallel_size", NIM_TENSOR_PARALLEL_SIZE="2") == "2"
    with pytest.raises(ContradictionError, match="the model allows 4096 at most"):
        world.decide_launch(NIM_MAX_MODEL_LEN="4097")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--bogus", "1"), r"trtllm-serve 1\.2\.1 has no option --bogus"),
        (("--max-seq-len", "1"), "did you mean --max_seq_len"),
        (("--max_seq_len",), "--max_seq_len needs a value"),
        (("--max_seq_len", "many"), "expected a value of type int"),
        (("--backend", "vllm"), "expected one of pytorch, tensorrt"),
        (("--trust_remote_code=1",), "takes no value"),
        (("model",), "expected an option of trtllm-serve, found 'model'"),
        (("--host", "0.0.0.0"), "--host is set by the server: trtllm-serve listens on 127.0.0.1"),
        (("--port=1",), "--port is set by the server"),
        (("--extra_llm_api_options", "x"), "change trtllm_config.yaml"),
    ],
)
def test_an_option_that_cannot_be_given_says_who_gave_it(world: World, words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=f"^the command line: .*{reason}"):
        world.decide_launch(*words)
    with pytest.raises(UsageError, match=f"^NIM_PASSTHROUGH_ARGS: .*{reason}"):
        world.decide_launch(NIM_PASSTHROUGH_ARGS=" ".join(words))


def test_the_served_name_is_given_where_the_version_takes_it(world: World) -> None:
    newer = world.serve(options=serve_options("trtllm-serve-2026-07"))
    argv = world.decide_launch(serve=newer, NIM_SERVED_MODEL_NAME="meta/llama,llama").argv
    assert argv[argv.index("--served_model_name") + 1] == "meta/llama"
    assert "--served_model_name" not in world.decide_launch(NIM_SERVED_MODEL_NAME="meta/llama").argv


def test_a_version_with_the_old_spelling_only_gets_that(world: World) -> None:
    renamed = [
        dataclasses.replace(each, flags=("--extra_llm_api_options",)) if "--config" in each.flags else each
        for each in serve_options()
    ]
    launch = world.decide_launch(serve=world.serve(options=tuple(renamed)))
    assert config_of(launch).flag == "--extra_llm_api_options"


def test_what_stands_in_the_file_is_changed_in_a_copy_of_it(world: World, tmp_path: Path) -> None:
    launch = world.decide_launch(
        NIM_KVCACHE_PERCENT="60", NIM_ENABLE_KV_CACHE_REUSE="0", NIM_DISABLE_CUDA_GRAPH="1",
        NIM_GUIDED_DECODING_BACKEND="xgrammar", NIM_PER_REQ_METRICS_ENABLE="1",
    )  # fmt: skip
    (tmp_path / "copy").mkdir()
    copy = write_config(config_of(launch), tmp_path / "copy")
    assert json.loads(copy.read_text()) == {
        "kv_cache_config": {"free_gpu_memory_fraction": 0.6, "enable_block_reuse": False},
        "cuda_graph_config": None,
        "guided_decoding_backend": "xgrammar",
        "return_perf_metrics": True,
        "enable_iter_perf_stats": True,
    }
    assert (world.folder / "trtllm_config.yaml").read_text() == _CONFIG


def test_answers_can_be_forced_into_a_format_where_the_file_or_a_variable_names_a_backend(world: World) -> None:
    assert not world.decide_launch().guided
    assert world.decide_launch(NIM_GUIDED_DECODING_BACKEND="xgrammar").guided
    (world.folder / "trtllm_config.yaml").write_text("guided_decoding_backend: xgrammar\n")
    assert world.decide_launch().guided


def test_an_option_that_the_file_decides_goes_there(world: World) -> None:
    launch = world.decide_launch("--kv_cache_free_gpu_memory_fraction", "0.5", NIM_KVCACHE_PERCENT="0.7")
    assert "--kv_cache_free_gpu_memory_fraction" not in launch.argv
    assert changes(launch) == {("kv_cache_config", "free_gpu_memory_fraction"): 0.5}
    launch = world.decide_launch("--enable_chunked_prefill")
    assert "--enable_chunked_prefill" in launch.argv
    assert not changes(launch)


def test_without_a_change_the_bundles_file_is_used(world: World, tmp_path: Path) -> None:
    assert write_config(config_of(world.decide_launch()), tmp_path) == world.folder / "trtllm_config.yaml"


@pytest.mark.parametrize(("values", "reason"), [
    ({"NIM_KVCACHE_PERCENT": "0"}, "expected a share"),
    ({"NIM_KVCACHE_PERCENT": "101"}, "expected a share"),
    ({"NIM_MODEL_PATH": "hf://meta-llama/x"}, "nothing is downloaded; set it to a local folder"),
    ({"NIM_MODEL_NAME": "/nowhere"}, "/nowhere/config.json is missing"),
    ({"NIM_MODEL_PATH": "/a", "NIM_MODEL_NAME": "/b"}, "contradict each other"),
    ({"NIM_MODEL_PROFILE": "vllm"}, "this server has the profile abab"),
    ({"NIM_TENSOR_PARALLEL_SIZE": "0"}, "at least 1"),
    ({"NIM_GUIDED_DECODING_BACKEND": "outlines"}, "expected one of xgrammar, llguidance"),
])  # fmt: skip
def test_what_cannot_be_served_is_refused(world: World, values: dict[str, str], reason: str) -> None:
    with pytest.raises(GatewayError, match=reason):
        world.decide_by(values)


@pytest.mark.parametrize("profile", ["ab" * 32, "tensorrt_llm-nvfp4-tp1-pp1", "default", "tensorrt_llm"])
def test_the_profile_has_names(world: World, profile: str) -> None:
    assert world.decide_launch(NIM_MODEL_PROFILE=profile).argv == world.decide_launch().argv


@pytest.mark.parametrize("name", ["NIM_PASSTHROUGH_ARGS", "NIM_GATEWAY_LAUNCHER"])
def test_a_quotation_without_an_end_is_named(world: World, name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} cannot be split into words: No closing quotation"):
        world.decide_by({name: '--chat_template "a'})


def test_the_longest_text_is_what_was_asked_for_or_what_the_model_allows(world: World) -> None:
    assert world.decide_launch().max_model_len == 4096
    assert world.decide_launch(NIM_MAX_MODEL_LEN="1024").max_model_len == 1024


def test_a_model_elsewhere_is_opened_there(world: World, tmp_path: Path) -> None:
    write_model(tmp_path / "model-store")
    place = str(tmp_path / "model-store")
    assert world.decide_launch(NIM_MODEL_PATH=place, NIM_MODEL_NAME=place).argv[2] == place


def test_a_draft_is_looked_for_where_the_model_is(world: World, tmp_path: Path) -> None:
    serve = world.serve(draft="draft")
    config = _CONFIG + f"speculative_config:\n  speculative_model_dir: {serve.model}/draft\n"
    (world.folder / "trtllm_config.yaml").write_text(config)
    write_model(world.folder / "model" / "draft")
    assert not changes(world.decide_launch(serve=serve))
    write_model(tmp_path / "elsewhere")
    with pytest.raises(DocumentError, match=r"draft/config\.json is missing"):
        world.decide_launch(serve=serve, NIM_MODEL_PATH=str(tmp_path / "elsewhere"))
    write_model(tmp_path / "elsewhere" / "draft")
    launch = world.decide_launch(serve=serve, NIM_MODEL_PATH=str(tmp_path / "elsewhere"))
    written = json.loads(write_config(config_of(launch), tmp_path).read_text())
    assert written["speculative_config"] == {"speculative_model_dir": str(tmp_path / "elsewhere" / "draft")}


def test_a_section_without_a_line_takes_changes_and_one_that_is_none_is_refused(world: World, tmp_path: Path) -> None:
    launch = world.decide_launch(NIM_KVCACHE_PERCENT="60")
    file = world.folder / "trtllm_config.yaml"
    file.write_text("kv_cache_config:\n")
    written = json.loads(write_config(config_of(launch), tmp_path).read_text())
    assert written == {"kv_cache_config": {"free_gpu_memory_fraction": 0.6}}
    file.write_text("kv_cache_config: 7\n")
    with pytest.raises(DocumentError, match="kv_cache_config: expected a mapping"):
        write_config(config_of(launch), tmp_path)


def test_a_launcher_comes_before_the_command(world: World) -> None:
    argv = world.decide_launch(NIM_GATEWAY_LAUNCHER="mpirun -n 2 trtllm-llmapi-launch").argv
    assert argv[:5] == ("mpirun", "-n", "2", "trtllm-llmapi-launch", "trtllm-serve")


def test_levels_of_nim_are_levels_of_tensorrt_llm(world: World) -> None:
    assert world.value("--log_level", NIM_LOG_LEVEL="CRITICAL") == "error"
    assert world.value("--log_level", NIM_LOG_LEVEL="DEFAULT") == "info"
    assert world.value("--log_level", NIM_LOG_LEVEL="debug") == "debug"


def test_a_configuration_that_is_no_mapping_is_named(world: World, tmp_path: Path) -> None:
    (world.folder / "trtllm_config.yaml").write_text("[")
    with pytest.raises(DocumentError, match=r"trtllm_config\.yaml"):
        write_config(config_of(world.decide_launch(NIM_KVCACHE_PERCENT="0.5")), tmp_path)
